"""The inputs of a build without a network."""
