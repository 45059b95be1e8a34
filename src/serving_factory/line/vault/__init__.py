"""Filling the inputs of a build without a network: archives out of git mirrors, overrides, packages."""
