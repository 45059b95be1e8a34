"""Fixtures around `registry.py`; conftest.py imports them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .registry import FaultyProxy, LocalRegistry, write_docker_config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def local_registry() -> Iterator[LocalRegistry]:
    """A registry with a password, one for all tests: use a repository name of your own."""
    with LocalRegistry.run() as registry:
        yield registry


@pytest.fixture
def faulty_proxy(local_registry: LocalRegistry) -> Iterator[FaultyProxy]:
    """A proxy in front of the registry, with nothing planned yet."""
    with FaultyProxy.run(local_registry.host) as proxy:
        yield proxy


@pytest.fixture
def logged_in(
    local_registry: LocalRegistry,
    faulty_proxy: FaultyProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """DOCKER_CONFIG with the account of the registry, also by way of the proxy."""
    folder = write_docker_config(tmp_path / "docker", local_registry, local_registry.host, faulty_proxy.host)
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    return folder
