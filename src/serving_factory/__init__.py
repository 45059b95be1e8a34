"""A factory line for TensorFlow Serving images: compile, prove, package, smoke-test and publish."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
