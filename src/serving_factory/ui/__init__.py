"""The only rooms that print."""
