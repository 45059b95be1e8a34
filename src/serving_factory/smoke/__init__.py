"""Serves the models with an image and checks the answers."""
