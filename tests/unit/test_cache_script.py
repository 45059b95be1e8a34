"""dockerfiles/context/cache.sh, on caches that are folders."""

from __future__ import annotations

import os
import subprocess
import tarfile
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "dockerfiles" / "context" / "cache.sh"
OLD, NEW = "0123456789abcdef", "fedcba9876543210"
STAGING = ".serving-factory-import"


@dataclass(frozen=True, slots=True)
class Box:
    """A root folder for the script."""

    root: Path

    @property
    def disk(self) -> Path:
        return self.root / "cache" / "disk"

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "FACTORY_TEST_ROOT": str(self.root)}
        argv = ["bash", str(SCRIPT), *words]
        return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)

    def lines(self, *words: str) -> list[str]:
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def write(self, name: str, size: int, used: int) -> None:
        path = self.root / "cache" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
        os.utime(path, (used, used))

    def files(self) -> set[str]:
        cache = self.root / "cache"
        return {path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file()}


@pytest.fixture
def box(tmp_path: Path) -> Box:
    for folder in ("cache/disk", "cache/repository", "out", "parcel"):
        (tmp_path / folder).mkdir(parents=True)
    return Box(tmp_path)


@pytest.fixture
def full(box: Box) -> Box:
    box.write("repository/content_addressable/sha256/aa/file", 100, 5000)
    box.write(f"disk/{OLD}/cas/a1/a1", 40, 1000)
    box.write(f"disk/{OLD}/ac/b1/b1", 10, 3000)
    box.write(f"disk/{NEW}/cas/c1/c1", 60, 4000)
    (box.disk / f"{OLD}.toolchain").write_text("gcc 9\nSome Linux\n")
    os.utime(box.disk / f"{OLD}.toolchain", (2000, 2000))
    return box


def test_caches_are_shown(full: Box) -> None:
    assert full.lines("show") == [
        "cache repository 100 1 5000 ",
        f"cache {OLD} 50 2 3000 gcc 9;Some Linux",
        f"cache {NEW} 60 1 4000 ",
    ]


def test_empty_caches_are_shown(box: Box) -> None:
    assert box.lines("show") == ["cache repository 0 0 0 "]


@pytest.mark.parametrize(
    ("most", "gone"),
    [
        (210, set()),
        (209, {f"disk/{OLD}/cas/a1/a1"}),
        (170, {f"disk/{OLD}/cas/a1/a1"}),
        (169, {f"disk/{OLD}/cas/a1/a1", f"disk/{OLD}/ac/b1/b1", f"disk/{OLD}.toolchain"}),
    ],
)
def test_what_was_used_least_recently_goes_first(full: Box, most: int, gone: set[str]) -> None:
    before = full.files()
    lines = full.lines("prune", str(most))
    assert before - full.files() == gone
    files = [name for name in gone if not name.endswith(".toolchain")]
    assert lines[0].split()[2] == str(len(files))
    assert [line for line in lines[1:] if OLD in line] == [] or f"disk/{OLD}.toolchain" not in gone


def test_reading_counts_as_use(full: Box) -> None:
    os.utime(full.disk / OLD / "cas" / "a1" / "a1", (9000, 1000))
    full.lines("prune", "209")
    assert f"disk/{OLD}/cas/a1/a1" in full.files()
    assert f"disk/{OLD}/ac/b1/b1" not in full.files()


def test_one_toolchain_is_pruned_alone(full: Box) -> None:
    assert full.lines("prune", "0", NEW)[0] == "pruned 60 1"
    assert not (full.disk / NEW).exists()
    assert len(full.files()) == 4


SHA = "0123456789abcdef" * 4
UUID = "b3d9c1de-7c0e-4a8e-a3f5-1f6d2f1d7c11"


@pytest.fixture
def in_use(box: Box) -> Box:
    """Caches as Bazels of all times lay them out, with what a Bazel is just writing."""
    for name in (
        f"disk/{OLD}/cas/01/{SHA}",
        f"disk/{OLD}/ac/01/{SHA}",
        f"disk/{NEW}/{SHA}",
        f"disk/{NEW}/ac_{SHA}",
        f"disk/{OLD}.toolchain",
        f"disk/{OLD}/{UUID}",
        f"disk/{OLD}/tmp/{UUID}",
        f"repository/content_addressable/sha256/{SHA}/file",
        f"repository/content_addressable/sha256/{SHA}/id-{SHA}",
    ):
        box.write(name, 10, 1000)
    return box


def test_the_disk_cache_is_emptied_under_a_bazel_that_writes_to_it(in_use: Box) -> None:
    before, folders = in_use.files(), {path for path in in_use.disk.rglob("*") if path.is_dir()}
    in_use.lines("empty", "disk")
    assert {Path(name).name for name in before - in_use.files()} == {SHA, f"ac_{SHA}"}
    assert len(before - in_use.files()) == 4
    assert {path for path in in_use.disk.rglob("*") if path.is_dir()} == folders, (
        "it writes into them, and does not look"
    )


def test_an_entry_that_is_a_folder_goes_too(in_use: Box) -> None:
    entry = in_use.disk / OLD / "cas" / "01" / SHA
    entry.unlink()
    (entry / "below").mkdir(parents=True)
    in_use.lines("empty", "disk")
    assert not entry.exists()


def test_the_repository_cache_is_emptied_of_whole_entries(in_use: Box) -> None:
    """An old Bazel takes the folder alone for an entry, and fails as there is no file in it."""
    before = in_use.files()
    in_use.lines("empty", "repository")
    assert before - in_use.files() == {name for name in before if name.startswith("repository/")}
    assert list((in_use.root / "cache/repository").rglob("*")) == [
        in_use.root / "cache/repository/content_addressable",
        in_use.root / "cache/repository/content_addressable/sha256",
    ]


@pytest.mark.parametrize("name", ["disk", "repository"])
def test_an_empty_cache_can_be_emptied(box: Box, name: str) -> None:
    assert box.lines("empty", name) == []


def test_caches_are_carried_and_merged(full: Box, tmp_path: Path) -> None:
    full.lines("pack")
    (contents,) = (full.root / "out").glob("contents.tar.*")
    (tmp_path / "parcel" / contents.name).write_bytes(contents.read_bytes())
    packed = full.files()
    (full.disk / NEW / "cas/c1/c1").unlink()
    full.write(f"disk/{OLD}/cas/a1/a1", 41, 7000)
    full.write(f"disk/{STAGING}/disk/half", 5, 1)
    assert full.lines("unpack")[0] == "added 60 1"
    assert full.files() == packed, "what an import left that was ended is gone"
    assert (full.disk / OLD / "cas/a1/a1").stat().st_size == 41, "what is there stays"
    assert not (full.disk / STAGING).exists()


def test_what_a_bazel_is_just_writing_is_not_carried(in_use: Box) -> None:
    in_use.lines("pack")
    (contents,) = (in_use.root / "out").glob("contents.tar.*")
    listed = subprocess.run(["tar", "-tf", contents], capture_output=True, text=True, check=True).stdout
    packed = {name for name in listed.splitlines() if not name.endswith("/")}
    assert packed == {name for name in in_use.files() if f"/{UUID}" not in name}


def test_caches_are_shown_and_packed_while_a_bazel_writes(full: Box) -> None:
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            files = [full.disk / OLD / str(uuid.uuid4()) for _ in range(200)]
            for file in files:
                file.write_bytes(b"x")
            for file in files:
                file.unlink()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for work in ("show", "pack") * 10:
            assert any(line.startswith(f"cache {NEW} 60 1 ") for line in full.lines(work))
    finally:
        ended.set()
        thread.join()


def test_what_a_running_import_unpacks_is_no_ones_cache(full: Box) -> None:
    shown = full.lines("show")
    full.write(f"disk/{STAGING}/disk/half", 5, 1)
    assert full.lines("show") == shown


def test_a_link_in_a_tarball_is_refused(full: Box, tmp_path: Path) -> None:
    before = full.files()
    (tmp_path / "link").symlink_to("/etc")
    with tarfile.open(tmp_path / "parcel" / "contents.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "cache" / "repository", "repository")
        tar.add(tmp_path / "cache" / "disk", "disk")
        tar.add(tmp_path / "link", "disk/link")
    done = full.run("unpack")
    assert done.returncode == 3
    assert "neither a file nor a folder" in done.stderr
    assert full.files() == before


def parcel(box: Box, name: str, kind: bytes, target: str = "") -> None:
    """Put a tarball of both caches there, with one member more."""
    with tarfile.open(box.root / "parcel" / "contents.tar.gz", "w:gz") as tar:
        tar.add(box.root / "cache" / "repository", "repository")
        tar.add(box.root / "cache" / "disk", "disk")
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        tar.addfile(member)


@pytest.mark.parametrize(
    ("name", "kind", "target"),
    [
        ("disk/../../escaped", tarfile.REGTYPE, ""),
        ("disk/input", tarfile.SYMTYPE, "../.."),
        ("disk/input", tarfile.LNKTYPE, "/etc/passwd"),
        ("disk/pipe", tarfile.FIFOTYPE, ""),
        ("repository/device", tarfile.CHRTYPE, ""),
    ],
)
def test_what_a_tarball_may_not_hold_is_refused_and_nothing_is_added(
    full: Box, name: str, kind: bytes, target: str
) -> None:
    parcel(full, name, kind, target)
    (full.disk / NEW / "cas/c1/c1").unlink()
    before = set(full.root.rglob("*"))
    done = full.run("unpack")
    assert done.returncode == 3, done.stderr
    assert set(full.root.rglob("*")) == before


def test_what_cannot_be_unpacked_is_refused(full: Box) -> None:
    before = full.files()
    for content in (b"", b"no tarball", (full.root / "cache/disk" / OLD / "cas/a1/a1").read_bytes()):
        (full.root / "parcel" / "contents.tar.gz").write_bytes(content)
        done = full.run("unpack")
        assert done.returncode == 3, done.stderr
        assert "cannot be unpacked" in done.stderr
        assert full.files() == before
