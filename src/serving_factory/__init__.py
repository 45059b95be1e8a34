"""A pipeline for TensorFlow Serving images: compile, inspect, package, smoke-test and publish."""

from __future__ import annotations

__version__ = "0.1.0"
