"""Reads the binary, and compares it with the variant."""
