"""pipeline/caches.py and its command, with a fake engine."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from serving_factory.commands import cache as caching
from serving_factory.commands.cache import caches_table
from serving_factory.commands.shared import Asked, CacheOptions, Checkout
from serving_factory.docker.buildx import BuildFailed
from serving_factory.errors import (
    CacheFileError,
    DiskFullError,
    EngineError,
    EngineUnavailableError,
    FactoryError,
    UnknownNameError,
    UsageError,
)
from serving_factory.pipeline import caches as bazel_caches
from serving_factory.pipeline.caches import Cache, empty_cache, export_caches, import_caches, prune_caches, show_caches

from .matrices import ROOT

SHOWN = ("cache repository 2048 3 0 ", "noise", "cache 0123456789abcdef 5000000 70 1795229868 gcc 9;Some Linux 12")
CACHES = (
    Cache(name="repository", bytes=2048, files=3, used=0, toolchain=""),
    Cache(name="0123456789abcdef", bytes=5_000_000, files=70, used=1795229868, toolchain="gcc 9;Some Linux 12"),
)
CONTENTS = b"packed caches" * 1000


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What the engine was asked."""
    asked: list[list[str]] = []

    def work(
        _context: Path, words: Sequence[str], *, base: str, parcel: Path | None = None, output: Path | None = None
    ) -> tuple[str, ...]:
        asked.append([base, *words])
        if words[0] == "pack":
            assert output
            folder = output / "serving-factory-cache"
            folder.mkdir(parents=True)
            (folder / "contents.tar.gz").write_bytes(CONTENTS)
            (folder / "contents.sha256").write_text(f"{hashlib.sha256(CONTENTS).hexdigest()}  contents.tar.gz\n")
        if words[0] == "unpack":
            assert parcel
            assert (parcel / "contents.tar.gz").read_bytes() == CONTENTS
        said = {"prune": ("pruned 900 4",), "unpack": ("added 800 2",)}
        return (*said.get(words[0], ()), *SHOWN)

    monkeypatch.setattr(bazel_caches, "work_on_mounts", work)
    return asked


def test_caches_are_read(calls: list[list[str]]) -> None:
    assert show_caches("base:1") == CACHES
    assert calls == [["base:1", "show"]]


def test_pruning_one_toolchain_needs_one(calls: list[list[str]]) -> None:
    assert prune_caches("b", most=7, toolchain="0123456789abcdef").files == 4
    assert calls[-1] == ["b", "prune", "7", "0123456789abcdef"]
    with pytest.raises(UnknownNameError, match="no toolchain repository"):
        prune_caches("b", most=7, toolchain="repository")


def test_one_cache_is_emptied(calls: list[list[str]]) -> None:
    empty_cache("b", "disk")
    assert calls == [["b", "empty", "disk"]]


def test_what_was_exported_can_be_imported(calls: list[list[str]], tmp_path: Path) -> None:
    file = tmp_path / "caches.tar"
    assert export_caches("b", file) == CACHES
    added = import_caches("b", file, scratch=tmp_path)
    assert (added.bytes, added.files, added.caches) == (800, 2, CACHES)
    assert [path.name for path in tmp_path.iterdir()] == ["caches.tar"]
    assert [call[1] for call in calls] == ["pack", "unpack"]


def test_an_import_needs_nothing_beside_the_file_and_takes_away_what_a_killed_one_left(
    calls: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file may lie on a disk that is read-only."""
    file = tmp_path / "shelf" / "caches.tar"
    file.parent.mkdir()
    export_caches("b", file)
    build = tmp_path / "build"
    (build / ".cache-import-killed" / "parcel").mkdir(parents=True)
    used: list[Path] = []

    def unpack(_context: Path, _words: Sequence[str], *, parcel: Path, **_options: object) -> tuple[str, ...]:
        used.append(parcel)
        assert list(file.parent.iterdir()) == [file]
        return ("added 800 2", *SHOWN)

    monkeypatch.setattr(bazel_caches, "work_on_mounts", unpack)
    assert import_caches("b", file, scratch=build).files == 2
    assert used[0].is_relative_to(build)
    assert list(build.iterdir()) == []
    assert len(calls) == 1


def repack(file: Path, change: Callable[[str, bytes], tuple[str, bytes]]) -> None:
    """Write the file again, with its members changed."""
    with tarfile.open(file) as tar:
        members = {one.name: stream.read() for one in tar if (stream := tar.extractfile(one))}
    with tarfile.open(file, "w") as tar:
        for name, content in members.items():
            new_name, new_content = change(name, content)
            part = file.with_name("part")
            part.write_bytes(new_content)
            tar.add(part, new_name)
            part.unlink()


def manifest(text: str) -> Callable[[str, bytes], tuple[str, bytes]]:
    return lambda name, content: (name, text.encode() if name.endswith(".json") else content)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda name, content: (name, content.replace(b"packed", b"hacked")), "expected: "),
        (lambda name, content: (f"x-{name}", content), "was not written by"),
        (manifest("no json"), "cannot be read"),
        (manifest("[]"), "cannot be read"),
        (manifest('{"format": 1}'), "cannot be read"),
        (manifest('{"format": 2, "sha256": "0"}'), "its format is 2"),
    ],
)
def test_a_file_that_is_not_as_it_was_exported_is_refused(
    calls: list[list[str]], tmp_path: Path, change: Callable[[str, bytes], tuple[str, bytes]], why: str
) -> None:
    file = tmp_path / "caches.tar"
    export_caches("b", file)
    repack(file, change)
    with pytest.raises(CacheFileError) as caught:
        import_caches("b", file, scratch=tmp_path)
    assert why in caught.value.why
    assert [call[1] for call in calls] == ["pack"], "the caches are not touched"


@pytest.mark.parametrize("content", [b"", b"no tarball" * 100])
def test_what_is_no_tarball_is_refused(calls: list[list[str]], tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "caches.tar"
    file.write_bytes(content)
    with pytest.raises(CacheFileError):
        import_caches("b", file, scratch=tmp_path)
    assert calls == []


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = "") -> bytes:
    """A member of a tarball, as its bytes."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, len(content)
    return info.tobuf() + content + b"\0" * (-len(content) % tarfile.BLOCKSIZE)


MANIFEST = "serving-factory-cache.json"


@pytest.mark.parametrize(
    "tarball",
    [
        member(MANIFEST, kind=tarfile.SYMTYPE, target="/etc/passwd"),
        member(MANIFEST, kind=tarfile.SYMTYPE, target=MANIFEST),
        member(MANIFEST, kind=tarfile.LNKTYPE, target="nothing"),
        member(MANIFEST, kind=tarfile.CHRTYPE),
        member(MANIFEST, kind=tarfile.DIRTYPE),
        member(MANIFEST, b"[" * 500_000),
        member(MANIFEST, b'{"format": 1, "sha256": "0"}')
        + member("contents.tar.gz", kind=tarfile.SYMTYPE, target="/etc/passwd"),
    ],
)
def test_what_no_one_exports_is_refused(calls: list[list[str]], tmp_path: Path, tarball: bytes) -> None:
    file = tmp_path / "caches.tar"
    file.write_bytes(tarball + member("contents.tar.gz", CONTENTS) + b"\0" * 10240)
    with pytest.raises(CacheFileError):
        import_caches("b", file, scratch=tmp_path)
    assert calls == []
    assert [path.name for path in tmp_path.iterdir()] == ["caches.tar"]


@pytest.mark.usefixtures("calls")
def test_what_the_step_cannot_unpack_is_reported_of_the_file_and_not_of_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "caches.tar"
    export_caches("b", file)

    def fail_with(exit_code: int, line: str = "cache: no such thing") -> None:
        def fail(*_arguments: object, **_options: object) -> None:
            raise BuildFailed(step="[work 2/2] RUN", tail=(line,), exit_code=exit_code, text="failed")

        monkeypatch.setattr(bazel_caches, "work_on_mounts", fail)

    fail_with(3)
    with pytest.raises(CacheFileError, match=r"caches\.tar") as refused:
        import_caches("b", file, scratch=tmp_path)
    assert refused.value.why == "cache: no such thing"
    fail_with(4)
    with pytest.raises(EngineError, match="from the image b"):
        import_caches("b", file, scratch=tmp_path)
    fail_with(3, "tar: disk/ac/1: Cannot write: No space left on device")
    with pytest.raises(DiskFullError, match="engine's disk"):
        import_caches("b", file, scratch=tmp_path)
    with pytest.raises(DiskFullError):
        prune_caches("b", most=0)


def test_a_base_image_that_is_not_there_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise BuildFailed(step="", tail=(), exit_code=1, text="pull access denied")

    monkeypatch.setattr(bazel_caches, "work_on_mounts", fail)
    with pytest.raises(EngineError, match="from the image base:1") as caught:
        show_caches("base:1")
    assert caught.value.why == "pull access denied"


# --- the command ------------------------------------------------------------------------------------------------------


def run(
    tmp_path: Path, verb: str, file: str = "", *, max_size: int | None = None, toolchain: str = "", json: bool = False
) -> None:
    asked = Asked(checkout=Checkout(ROOT, tmp_path / "build"), matrix=str(ROOT / "samples" / "matrix.yaml"))
    options = CacheOptions(asked=asked, verb=verb, file=file, max_size=max_size, toolchain=toolchain, json=json)
    caching.cache(options)


@pytest.mark.parametrize(
    ("arguments", "options", "what"),
    [
        (("",), {}, "needs a command"),
        (("list",), {}, "is no command"),
        (("export",), {}, "`cache export` needs a file"),
        (("import",), {}, "`cache import` needs a file"),
        (("import", "/nowhere/caches.tar"), {}, "there is no file /nowhere/caches.tar"),
        (("export", "/nowhere/caches.tar"), {}, "must be in a folder that exists, got '/nowhere/caches.tar'"),
        (("export", "/tmp"), {}, "must be a file, got the folder '/tmp'"),
        (("show", "x"), {}, "`cache show` takes no file"),
        (("show",), {"max_size": 2**30}, "belong to `cache prune`"),
        (("show",), {"max_size": 0}, "belong to `cache prune`"),
        (("prune",), {}, "how much may stay"),
    ],
)
def test_what_cannot_be_meant_is_explained(
    calls: list[list[str]], tmp_path: Path, arguments: tuple[str, ...], options: dict[str, int], what: str
) -> None:
    with pytest.raises(UsageError, match=what) as caught:
        run(tmp_path, *arguments, **options)  # type: ignore[arg-type] # sizes only
    assert isinstance(caught.value, FactoryError)
    assert caught.value.remedy
    assert calls == []


def test_sizes_and_toolchains_reach_the_engine(calls: list[list[str]], tmp_path: Path) -> None:
    run(tmp_path, "prune", max_size=20 * 2**30)
    run(tmp_path, "prune", max_size=0)
    run(tmp_path, "prune", toolchain="0123456789abcdef")
    last = ["prune", "0", "0123456789abcdef"]
    assert [call[1:] for call in calls] == [["prune", str(20 * 2**30)], ["prune", "0"], ["show"], last]
    assert calls[0][0] == "serving-factory/base:bookworm"


def test_caches_are_kept_within_the_bounds_of_the_matrix(calls: list[list[str]]) -> None:
    assert caching.cap_caches("base:1", "30GiB") == "Pruned Bazel's caches to 30GiB: removed 900 B in 4 files.\n"
    assert calls == [["base:1", "prune", str(30 * 2**30)]]


def test_bounds_that_cannot_be_kept_do_not_undo_what_was_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise EngineUnavailableError("it went away", remedy="start it")

    monkeypatch.setattr(bazel_caches, "work_on_mounts", fail)
    reported = caching.cap_caches("base:1", "30GiB")
    assert reported == "Bazel's caches could not be pruned to 30GiB: it went away\nWhat to do: start it\n"


def test_caches_as_json(calls: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, "show", json=True)
    assert [one["name"] for one in json.loads(capsys.readouterr().out)["caches"]] == ["repository", "0123456789abcdef"]
    run(tmp_path, "prune", max_size=2**20, json=True)
    assert json.loads(capsys.readouterr().out)["removed"]["files"] == 4
    assert len(calls) == 2


def test_caches_as_a_table() -> None:
    lines = caches_table(CACHES).splitlines()
    assert lines[2].split() == ["repository", "2", "KiB", "3", "all", "builds,", "for", "downloads"]
    assert lines[3].endswith("gcc 9; Some Linux 12")
    assert lines[4].split() == ["total", "4.8", "MiB", "73"]
