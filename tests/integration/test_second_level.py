"""A second level of a release downloads nothing, where the first had something to download."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .line import V1, V3, Checkout
from .tiny import archives, tiny_checkout


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    with tiny_checkout(tmp_path_factory.mktemp("tiny") / "factory") as checkout:
        yield checkout


def compiled(checkout: Checkout, variant: str) -> dict[str, Any]:
    checkout.run(*checkout.line("compile", "--variant", variant)).built()
    outputs: dict[str, Any] = checkout.record(variant, "compile")["outputs"]
    return outputs


def test_only_the_first_level_downloads(tiny: Checkout) -> None:
    with archives() as server, server.depend(tiny):
        first, second = compiled(tiny, V1), compiled(tiny, V3)
    assert first["bytes_fetched"] > 0
    assert (second["bazel_ran"], second["bytes_fetched"]) == (True, 0)
