"""line/records.py and digests.py: what is on disk is whole, or not there; and what differs has another digest."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from serving_factory.pipeline.events import StageName
from serving_factory.pipeline.records import (
    Record,
    file_digest,
    read_record,
    record_path,
    tree_digest,
    write_atomically,
    write_record,
)

RECORD = Record(
    variant="v",
    stage=StageName.COMPILE,
    key="k" * 64,
    started="2026-01-01T00:00:00+00:00",
    seconds=1.5,
    outputs={"base": "ä", "runners": {"x": 1}, "steps": [1, 2]},
    tried_again=("once more",),
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there" / "yet"
    for stage in StageName:
        write_record(folder, replace(RECORD, stage=stage))
    assert {path.name for path in folder.iterdir()} == {
        *("compile.json", "binary.json", "inspect.json", "package.json", "smoke.json", "push.json")
    }
    for stage in StageName:
        assert read_record(folder, stage) == replace(RECORD, stage=stage)


def test_absent_is_none(tmp_path: Path) -> None:
    assert read_record(tmp_path, StageName.COMPILE) is None
    assert read_record(tmp_path / "nowhere", StageName.COMPILE) is None
    (tmp_path / "file").touch()
    assert read_record(tmp_path / "file", StageName.COMPILE) is None


WHOLE: dict[str, object] = {
    "variant": "v",
    "stage": "compile",
    "key": "k",
    "started": "s",
    "seconds": 1.0,
    "outputs": {},
}
WRONG: tuple[dict[str, object], ...] = (
    {"more": 1},
    {"stage": "extract"},
    {"stage": "bake"},
    {"stage": None},
    {"stage": []},
    {"key": None},
    {"key": 7},
    {"outputs": None},
    {"outputs": []},
    {"outputs": "x"},
)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        json.dumps(WHOLE).encode()[:-1],
        b"\xff\xfe",
        b"[]",
        b"null",
        b"42",
        b'"text"',
        b"{}",
        *(json.dumps({name: WHOLE[name] for name in WHOLE if name != left}).encode() for left in WHOLE),
        *(json.dumps({**WHOLE, **wrong}).encode() for wrong in WRONG),
    ],
)
def test_what_is_no_record_counts_as_absent(tmp_path: Path, data: bytes) -> None:
    path = record_path(tmp_path, StageName.COMPILE)
    path.write_text(json.dumps(WHOLE), encoding="utf-8")
    assert read_record(tmp_path, StageName.COMPILE) is not None
    path.write_bytes(data)
    assert read_record(tmp_path, StageName.COMPILE) is None


def test_a_folder_in_a_records_place_counts_as_absent(tmp_path: Path) -> None:
    record_path(tmp_path, StageName.COMPILE).mkdir()
    assert read_record(tmp_path, StageName.COMPILE) is None


@pytest.mark.parametrize("step", ["replace", "fsync", "chmod"])
@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_text_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")

    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(os, step, broken)
    with pytest.raises(type(error)):
        write_atomically(path, "new")
    monkeypatch.undo()
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]
    write_atomically(path, "new")
    assert path.read_text(encoding="utf-8") == "new"
    assert path.stat().st_mode & 0o777 == 0o644


def test_text_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_record(tmp_path, replace(RECORD, outputs={"path": tmp_path}))
    with pytest.raises(UnicodeEncodeError):
        write_atomically(tmp_path / "file", "\ud800")
    assert list(tmp_path.iterdir()) == []


# --- digests ----------------------------------------------------------------------------------------------------------


def plant(folder: Path) -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "a").write_text("1", encoding="utf-8")
    (folder / "sub" / "b").write_text("2", encoding="utf-8")
    (folder / "link").symlink_to("a")
    return folder


def test_a_files_digest(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    assert file_digest(tmp_path / "a") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_the_same_tree_elsewhere_has_the_same_digest(tmp_path: Path) -> None:
    one, other = plant(tmp_path / "one"), plant(tmp_path / "other")
    os.utime(other / "a", (0, 0))
    (other / "empty").mkdir()
    assert tree_digest(one) == tree_digest(other)


def retarget(link: Path, target: str) -> None:
    link.unlink()
    link.symlink_to(target)


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda tree: (tree / "a").write_text("3", encoding="utf-8"),
    "a new file": lambda tree: (tree / "c").touch(),
    "one file less": lambda tree: (tree / "sub" / "b").unlink(),
    "another name": lambda tree: (tree / "a").rename(tree / "aa"),
    "another folder": lambda tree: (tree / "sub").rename(tree / "bus"),
    "now a program": lambda tree: (tree / "a").chmod(0o755),
    "another target": lambda tree: retarget(tree / "link", "sub/b"),
    "a link into nothing": lambda tree: retarget(tree / "link", "nowhere"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_differs_has_another_digest(tmp_path: Path, change: Callable[[Path], object]) -> None:
    tree = plant(tmp_path / "tree")
    before = tree_digest(tree)
    change(tree)
    assert tree_digest(tree) != before


def test_names_of_any_bytes_and_links_in_circles(tmp_path: Path) -> None:
    tree = plant(tmp_path / "tree")
    (tree / "loop").symlink_to(tree)
    (tree / os.fsdecode(b"caf\xe9")).touch()
    before = tree_digest(tree)
    (tree / os.fsdecode(b"caf\xe9")).rename(tree / os.fsdecode(b"caf\xe8"))
    assert tree_digest(tree) != before


def test_no_name_passes_for_another_files_line(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / "b").touch()
    (one / "a").touch()
    digest = file_digest(one / "a")
    (other / f"a {digest}\nfile b").touch()
    (other / "b").unlink()
    assert tree_digest(one) != tree_digest(other)
