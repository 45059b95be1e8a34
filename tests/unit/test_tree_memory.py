"""pipeline/digests.py: what is remembered, and which changes are seen all the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from serving_factory.pipeline import digests
from serving_factory.pipeline.digests import TreeMemory, tree_digest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    (folder / "inner").mkdir(parents=True)
    (folder / "one").write_text("1")
    (folder / "inner" / "two").write_text("2")
    (folder / "link").symlink_to("one")
    return folder


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that were read; every folder counts as settled."""
    found: list[Path] = []

    def read(folder: Path) -> str:
        found.append(folder)
        return tree_digest(folder)

    monkeypatch.setattr(digests, "tree_digest", read)
    monkeypatch.setattr(digests, "_SETTLED", -1.0)
    return found


def again(file: Path, folder: Path) -> str:
    """The digest as another run sees it."""
    memory = TreeMemory(file)
    digest = memory.digest(folder)
    memory.save()
    return digest


def test_an_untouched_folder_is_read_once(tmp_path: Path, folder: Path, reads: list[Path]) -> None:
    file = tmp_path / "memory"
    assert {again(file, folder) for _ in range(3)} == {tree_digest(folder)}
    assert reads == [folder]


def rewrite_with_the_same_times(path: Path) -> None:
    before = path.stat()
    path.write_text("x")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "one").write_text("another"),
        lambda folder: rewrite_with_the_same_times(folder / "inner" / "two"),
        lambda folder: (folder / "inner" / "two").chmod(0o755),
        lambda folder: (folder / "one").rename(folder / "three"),
        lambda folder: (folder / "inner" / "two").unlink(),
        lambda folder: (folder / "link").unlink() or (folder / "link").symlink_to("inner/two"),
    ],
    ids=["content", "content, times put back", "mode", "name", "removed", "link"],
)
def test_whatever_changes_is_seen(
    tmp_path: Path, folder: Path, reads: list[Path], change: Callable[[Path], object]
) -> None:
    file = tmp_path / "memory"
    before = again(file, folder)
    change(folder)
    after = again(file, folder)
    assert before != after == tree_digest(folder)
    assert len(reads) == 2


def test_what_has_just_changed_is_not_remembered(tmp_path: Path, folder: Path) -> None:
    file = tmp_path / "memory"
    again(file, folder)
    assert not file.exists(), "a second change within the same tick of the clock could not be seen"


def test_nothing_is_written_before_it_may_be(tmp_path: Path, folder: Path, reads: list[Path]) -> None:
    memory = TreeMemory(tmp_path / "memory")
    memory.digest(folder)
    assert list(tmp_path.iterdir()) == [folder]
    assert reads


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', '{"a": []}'])
def test_a_broken_memory_is_no_memory(tmp_path: Path, folder: Path, reads: list[Path], text: str) -> None:
    file = tmp_path / "memory"
    file.write_text(text)
    assert again(file, folder) == again(file, folder) == tree_digest(folder)
    assert len(reads) == 1


def test_folders_that_are_gone_are_forgotten(tmp_path: Path, folder: Path, reads: list[Path]) -> None:
    file = tmp_path / "memory"
    again(file, folder)
    moved = folder.rename(tmp_path / "moved")
    again(file, moved)
    assert str(folder) not in file.read_text()
    assert len(reads) == 2


def test_a_memory_that_cannot_be_written_stops_nothing(tmp_path: Path, folder: Path, reads: list[Path]) -> None:
    (tmp_path / "memory").mkdir()
    assert again(tmp_path / "memory", folder) == tree_digest(folder)
    assert reads
