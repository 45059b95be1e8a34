"""Fixtures that several modules share."""

from __future__ import annotations

import os

import pytest

from serving_factory.pipeline.stages import compile as compile_stage

from .fake_compile import FakeDocker


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what the environment sets for the factory: no test may depend on who runs it."""
    for name in list(os.environ):
        if name.startswith(("SERVING_FACTORY_", "COSIGN_")):
            monkeypatch.delenv(name)


@pytest.fixture
def fake_docker(monkeypatch: pytest.MonkeyPatch) -> FakeDocker:
    """Docker, as far as the stages from compile to package need it."""
    docker = FakeDocker()
    monkeypatch.setattr(compile_stage, "build", docker.build)
    return docker
