"""push_devel: the devel image, by the rules of `push`."""

from __future__ import annotations

from serving_factory.pipeline.stages.devel import DEVEL
from serving_factory.pipeline.stages.push import push_stage

PUSH_DEVEL = push_stage("push_devel", DEVEL, version=2)
