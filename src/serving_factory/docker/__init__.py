"""The only modules that talk to the outside."""
