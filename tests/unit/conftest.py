"""Fixtures that several modules share."""

from __future__ import annotations

import pytest

from serving_factory.pipeline.stages import compile as compile_stage

from .fake_compile import FakeDocker


@pytest.fixture
def fake_docker(monkeypatch: pytest.MonkeyPatch) -> FakeDocker:
    """Docker, as far as the stages from compile to package need it."""
    docker = FakeDocker()
    monkeypatch.setattr(compile_stage, "build", docker.build)
    return docker
