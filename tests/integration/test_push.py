"""Pushing what the line has proven, to a real registry with a password."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from serving_factory.engine.registry import Registry

from .line import BUILD_STAGES, V1, Checkout, docker
from .registry import FaultyProxy, LocalRegistry, write_docker_config

NOTHING_TO_DO = dict.fromkeys((*BUILD_STAGES, "push"), "up-to-date")
ALIASES = ("2.19.1-cpu-v1", "2.19.1-cpu-standard")
MANIFEST = re.compile(r"/manifests/(?P<tag>[^/]+)$")


@pytest.fixture
def pushed(checkout: Checkout) -> Checkout:
    """A checkout whose images go to a repository of their own, so that no test meets another one's."""
    name = f"{checkout.repository}-{checkout.folder.parent.name[-12:].strip('_').replace('_', '-')}"
    checkout.edit("samples/matrix.yaml", f"repository: {checkout.repository}", f"repository: {name}")
    return checkout


def repository(checkout: Checkout) -> str:
    text = (checkout.folder / "samples" / "matrix.yaml").read_text(encoding="utf-8")
    return text.partition("repository: ")[2].partition("\n")[0]
