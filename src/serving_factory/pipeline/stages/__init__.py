"""The stages, in their order. Each takes the previous one's record, does one thing, and writes its own."""

from __future__ import annotations

from serving_factory.pipeline.job import Stage
from serving_factory.pipeline.stages.compile import COMPILE
from serving_factory.pipeline.stages.extract import EXTRACT
from serving_factory.pipeline.stages.inspect import INSPECT
from serving_factory.pipeline.stages.package import PACKAGE
from serving_factory.pipeline.stages.smoke import SMOKE

BUILD: tuple[Stage, ...] = (COMPILE, EXTRACT, INSPECT, PACKAGE, SMOKE)
"""From the sources to an image that has passed its smoke test. `push` stands apart: only who pushes loads it."""
