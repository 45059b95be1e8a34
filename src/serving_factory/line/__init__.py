"""The stages of the line, their records, and the scheduler that runs variants through them."""
