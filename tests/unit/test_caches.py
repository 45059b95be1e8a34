"""engine/caches.py: what `docker buildx du --verbose` prints, read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from serving_factory.engine import process
from serving_factory.engine.caches import CacheMount, cache_mounts, drop_cache_mounts, parse_disk_usage
from serving_factory.errors import EngineUnavailableError

PRINTED = """\
ID:		x7c1
Created at:	2026-11-20 23:10:00 +0000 UTC
Mutable:	true
Reclaimable:	true
Shared:		false
Size:		16.5MB
Description:	cached mount /cache/disk from exec /bin/bash -euo pipefail -c bazel --disk_cache="/cache/disk/$(cat x)" with id "/serving-factory-bazel-disk"
Usage count:	3
Last used:	2 minutes ago
Type:		exec.cachemount

ID:		y8
Mutable:	true
Size:		0B
Description:	cached mount /root/.cache from exec /bin/sh -c pip install x with id "someone-elses"
Type:		exec.cachemount

ID:		z9
Parent:		y8
Size:		120MB
Description:	mount / from exec /bin/sh -c echo cached mount with no name
Type:		regular

Shared:		0B
Private:	136.5MB
Reclaimable:	136.5MB
Total:		136.5MB
"""  # noqa: E501 - as it is printed

DISK = CacheMount(record="x7c1", id="serving-factory-bazel-disk", size="16.5MB")


def test_cache_mounts_are_told_from_other_records() -> None:
    assert list(parse_disk_usage(PRINTED)) == [DISK, CacheMount(record="y8", id="someone-elses", size="0B")]


@pytest.mark.parametrize(
    "text",
    ["", "\n\n\n", "Total:\t0B", "ID:\tx", 'Description:\tcached mount /c from exec x with id "no-record"', "ID\nSize"],
)
def test_where_there_is_no_mount_none_is_found(text: str) -> None:
    assert list(parse_disk_usage(text)) == []


def test_a_size_that_is_not_told() -> None:
    text = 'ID:\tx\nDescription:\tcached mount /c from exec x with id "a"'
    assert list(parse_disk_usage(text)) == [CacheMount(record="x", id="a", size="")]


def fake_buildx(monkeypatch: pytest.MonkeyPatch, *, code: int = 0) -> list[list[str]]:
    calls: list[list[str]] = []

    def run(argv: Sequence[str], *, on_line: Callable[[str], None]) -> int:
        calls.append(list(argv))
        for line in PRINTED.splitlines() if argv[2] == "du" else ["nothing"]:
            on_line(line)
        return code

    monkeypatch.setattr(process, "run", run)
    return calls


def test_only_mounts_with_our_prefix_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_buildx(monkeypatch)
    assert cache_mounts("serving-factory-") == (DISK,)
    calls.clear()
    assert drop_cache_mounts("serving-factory-") == (DISK,)
    assert calls == [
        ["docker", "buildx", "du", "--verbose"],
        ["docker", "buildx", "prune", "--force", "--filter", "id=x7c1"],
    ]


def test_a_buildx_that_fails_is_told_with_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_buildx(monkeypatch, code=1)
    with pytest.raises(EngineUnavailableError, match="docker buildx du failed") as caught:
        cache_mounts("x")
    assert "serving-factory-bazel-disk" in caught.value.why
