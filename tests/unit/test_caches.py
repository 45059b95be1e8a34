"""engine/caches.py: what `docker buildx du --verbose` prints, read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from serving_factory.docker import caches, process
from serving_factory.docker.buildx import BuildFailed, BuildRequest, BuildResult
from serving_factory.docker.caches import (
    CacheMount,
    cache_mounts,
    cache_sizes,
    drop_cache_mounts,
    parse_disk_usage,
    work_on_mounts,
)
from serving_factory.docker.solve_status import Step
from serving_factory.errors import DiskFullError, EngineUnavailableError

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


def test_cache_mounts_are_distinct_from_other_records() -> None:
    assert list(parse_disk_usage(PRINTED)) == [DISK, CacheMount(record="y8", id="someone-elses", size="0B")]


@pytest.mark.parametrize(("shared", "held"), [("", 136_500_000), ("Private:\t36.5MB\n", 36_500_000)])
def test_sizes_of_the_build_cache_and_of_our_mounts_in_it(
    monkeypatch: pytest.MonkeyPatch, shared: str, held: int
) -> None:
    """Without anything that an image shares, buildx prints no line for what is private."""
    printed = PRINTED.replace("Private:\t136.5MB\n", shared)
    monkeypatch.setattr(caches, "_usage", lambda: printed)
    assert cache_sizes("serving-factory-") == (held, 16_500_000)


@pytest.mark.parametrize(
    "text",
    ["", "\n\n\n", "Total:\t0B", "ID:\tx", 'Description:\tcached mount /c from exec x with id "no-record"', "ID\nSize"],
)
def test_where_there_is_no_mount_none_is_found(text: str) -> None:
    assert list(parse_disk_usage(text)) == []


def test_a_size_that_is_not_printed() -> None:
    text = 'ID:\tx\nDescription:\tcached mount /c from exec x with id "a"'
    assert list(parse_disk_usage(text)) == [CacheMount(record="x", id="a", size="")]


def fake_buildx(monkeypatch: pytest.MonkeyPatch, *, code: int = 0, used: bool = False) -> list[list[str]]:
    """A buildx with the build cache of PRINTED; what is used stays, and no one says so."""
    calls: list[list[str]] = []
    printed = [PRINTED]

    def run(argv: Sequence[str], *, on_line: Callable[[str], None], timeout: float) -> int:
        assert timeout
        calls.append(list(argv))
        for line in printed[0].splitlines() if argv[2] == "du" else ["Total: 0B"]:
            on_line(line)
        if argv[2] == "prune" and not used:
            # the mount of the same id is made again by the next build, with another record
            printed[0] = PRINTED.replace(argv[-1].removeprefix("id="), "new")
        return code

    monkeypatch.setattr(process, "run", run)
    return calls


def test_only_mounts_with_our_prefix_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_buildx(monkeypatch)
    assert cache_mounts("serving-factory-") == (DISK,)
    calls.clear()
    assert drop_cache_mounts("serving-factory-") == ([DISK], [])
    look = ["docker", "buildx", "du", "--verbose"]
    assert calls == [look, ["docker", "buildx", "prune", "--force", "--filter", "id=x7c1"], look]


def test_a_mount_that_a_build_uses_is_not_taken_for_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_buildx(monkeypatch, used=True)
    assert drop_cache_mounts("serving-factory-") == ([], [DISK])


def test_a_buildx_that_fails_is_reported_with_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_buildx(monkeypatch, code=1)
    with pytest.raises(EngineUnavailableError, match="does not answer") as caught:
        cache_mounts("x")
    assert "serving-factory-bazel-disk" in caught.value.why


def test_a_machine_without_the_docker_command_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineUnavailableError, match="The docker command is missing"):
        drop_cache_mounts("x")
    with pytest.raises(EngineUnavailableError, match="The docker command is missing"):
        work_on_mounts(tmp_path, ["show"], base="base:1")


@pytest.mark.parametrize("ended_by", [KeyboardInterrupt(), EngineUnavailableError("gone")])
def test_after_ctrl_c_a_silent_engine_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ended_by: BaseException
) -> None:
    waited: list[float] = []

    def silent(_argv: Sequence[str], *, timeout: float, **_more: object) -> int:
        waited.append(timeout)
        raise TimeoutError

    def build(*_: object, **__: object) -> BuildResult:
        raise ended_by

    monkeypatch.setattr(process, "run", silent)
    monkeypatch.setattr(caches, "build", build)
    with pytest.raises(type(ended_by)):
        work_on_mounts(tmp_path, ["show"], base="base:1")
    assert waited == [5.0]


def test_what_failed_is_reported_and_not_that_nothing_could_be_cleaned_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object, **__: object) -> BuildResult:
        raise DiskFullError("full")

    fake_buildx(monkeypatch, code=1)
    monkeypatch.setattr(caches, "build", full)
    with pytest.raises(DiskFullError):
        work_on_mounts(tmp_path, ["pack"], base="base:1")


LEFT = """\
ID:		a1
Description:	mount / from exec /bin/sh -c mkdir /out && bash /serving-factory-cache/cache.sh ${WORK}
Type:		regular

ID:		a2
Description:	cached mount /cache/disk from exec /bin/sh -c bash /serving-factory-cache/cache.sh with id "/disk"
Type:		exec.cachemount

ID:		a3
Description:	local source for parcel
Type:		source.local

ID:		a4
Description:	local source for context
Type:		source.local
"""


@pytest.mark.parametrize("fails", [False, True])
def test_work_on_mounts_leaves_nothing_but_the_mounts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, fails: bool
) -> None:
    pruned: list[str] = []
    requests: list[BuildRequest] = []

    def run(argv: Sequence[str], *, on_line: Callable[[str], None], timeout: float) -> int:
        assert timeout
        if argv[2] == "prune":
            pruned.append(argv[-1])
        for line in LEFT.splitlines():
            on_line(line)
        return 0

    def build(request: BuildRequest, *, on_step: Callable[[Step], None], log: object) -> BuildResult:
        del log
        requests.append(request)
        on_step(Step(name="[internal] load", kind="log", text="other"))
        on_step(Step(name="[work 1/1] RUN x", kind="log", text="cache repository 0 0 0 "))
        if fails:
            raise BuildFailed(step="x", tail=(), exit_code=1, text="")
        return BuildResult(digests=(), steps=1, cached=0)

    monkeypatch.setattr(process, "run", run)
    monkeypatch.setattr(caches, "build", build)
    if fails:
        with pytest.raises(BuildFailed):
            work_on_mounts(tmp_path, ["show"], base="base:1")
    else:
        lines = work_on_mounts(tmp_path, ["prune", "7"], base="base:1", parcel=tmp_path / "in", output=tmp_path / "out")
        assert lines == ("cache repository 0 0 0 ",)
        arguments = dict(requests[0].build_args)
        assert (arguments["BASE"], arguments["WORK"]) == ("base:1", "prune 7")
        assert requests[0].contexts == (("parcel", str(tmp_path / "in")),)
        assert requests[0].output == tmp_path / "out"
    assert pruned == ["id=a1", "id=a3"]
