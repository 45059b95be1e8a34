"""What the tests on a real engine share."""

from __future__ import annotations

import os

from .fixtures_registry import faulty_proxy, local_registry, logged_in

__all__ = ["faulty_proxy", "local_registry", "logged_in"]

os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"  # its reaper is an image that no closed network has
