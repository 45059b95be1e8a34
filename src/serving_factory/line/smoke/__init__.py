"""The smoke test of an image: its checks, and their report."""
