"""Records, and digests: what is on disk is whole, or counts as absent; and what differs has another digest."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from serving_factory.pipeline.digests import file_digest, tree_digest
from serving_factory.pipeline.records import (
    decode,
    last_stage,
    read_json,
    read_old_record,
    record_path,
    write_atomically,
    write_record,
)
from serving_factory.pipeline.stages import STAGES, reached, stage
from serving_factory.recipes.recipe import key_of, short

from .stage_records import OBSTACLES, OUTPUTS, record, write_records


def test_what_is_written_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there" / "yet"
    write_records(folder, *STAGES)
    assert {path.name for path in folder.iterdir()} == {
        *("compile.json", "binary.json", "libraries.json", "inspect.json", "package.json", "smoke.json", "push.json")
    }
    assert tuple(reached(folder)) == STAGES
    for name in STAGES:
        assert reached(folder)[name] == stage(name).read(folder) == record(name, variant=folder.name)
    tried = replace(record("smoke"), tried_again=("once more",))
    write_record(folder, tried)
    assert stage("smoke").read(folder) == tried


def test_behind_a_gap_nothing_is_reached(tmp_path: Path) -> None:
    write_records(tmp_path, *STAGES)
    assert last_stage(tmp_path, STAGES) == "push"
    record_path(tmp_path, "inspect").unlink()
    assert tuple(reached(tmp_path)) == ("compile", "extract", "libraries")
    assert last_stage(tmp_path, STAGES) == "libraries"


def test_an_image_that_was_packaged_after_its_smoke_test_has_reached_no_smoke_test(tmp_path: Path) -> None:
    """As `./factory package` alone leaves it."""
    write_records(tmp_path, *STAGES)
    for image, last in (("sha256:image", "push"), ("sha256:earlier", "package")):
        write_record(tmp_path, replace(record("smoke"), inputs={"image": short(key_of(part=image))}))
        assert last_stage(tmp_path, STAGES) == [*reached(tmp_path)][-1] == last


def test_absent_is_none(tmp_path: Path) -> None:
    assert stage("compile").read(tmp_path) is None
    assert stage("compile").read(tmp_path / "nowhere") is None
    (tmp_path / "file").touch()
    assert stage("compile").read(tmp_path / "file") is None
    assert last_stage(tmp_path / "nowhere", STAGES) == ""


def spoilt(whole: dict[str, Any], name: str) -> Iterator[object]:
    """Documents that are no record of this stage: without each field that its readers need, and with other types."""
    outputs = whole["outputs"]
    wrong: tuple[object, ...] = (None, [[]], {"a": []}, True)
    yield from ([], None, 42, "text", {}, {**whole, "outputs": {}}, {**whole, "outputs": {**outputs, "more": 1}})
    for head in ("variant", "stage", "key", "started", "seconds", "outputs", "format"):
        yield {key: value for key, value in whole.items() if key != head}
        yield from ({**whole, head: other} for other in wrong)
    for field in fields(OUTPUTS[name]):
        if "None" in str(field.type):
            continue
        yield {**whole, "outputs": {key: one for key, one in outputs.items() if key != field.name}}
        for other in (*wrong, "text", 7, 7.5):
            if type(other) is not type(outputs[field.name]):
                yield {**whole, "outputs": {**outputs, field.name: other}}


@pytest.mark.parametrize("name", STAGES)
def test_what_lacks_what_its_readers_need_counts_as_absent(tmp_path: Path, name: str) -> None:
    write_records(tmp_path, name)
    path = record_path(tmp_path, name)
    whole = json.loads(path.read_text(encoding="utf-8"))
    for document in spoilt(whole, name):
        path.write_text(json.dumps(document), encoding="utf-8")
        assert stage(name).read(tmp_path) is None, document
    path.write_text(json.dumps(whole), encoding="utf-8")
    assert stage(name).read(tmp_path) is not None


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b'{"stage": "compile"}']
)
def test_what_is_no_json_counts_as_absent(tmp_path: Path, data: bytes) -> None:
    record_path(tmp_path, "compile").write_bytes(data)
    assert stage("compile").read(tmp_path) is None
    assert read_json(record_path(tmp_path, "compile"), dict[str, tuple[str, ...]]) is None
    assert last_stage(tmp_path, STAGES) == ""


def test_a_whole_number_is_read_where_seconds_are_required() -> None:
    assert decode(dict[str, float], {"a": 1}) == {"a": 1.0}


def test_a_record_of_an_earlier_factory_is_none_and_its_outputs_can_be_read(tmp_path: Path) -> None:
    write_records(tmp_path, "compile")
    path = record_path(tmp_path, "compile")
    document = json.loads(path.read_text(encoding="utf-8"))
    assert read_old_record(tmp_path, "compile") is None
    del document["format"]
    path.write_text(json.dumps(document), encoding="utf-8")
    assert stage("compile").read(tmp_path) is None
    assert (old := read_old_record(tmp_path, "compile"))
    assert old.outputs["binary_sha256"] == "b" * 64
    path.write_text(json.dumps({**document, "outputs": 7}), encoding="utf-8")
    assert read_old_record(tmp_path, "compile") is None


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_what_is_no_file_counts_as_absent_and_is_not_waited_for(tmp_path: Path, obstacle: str) -> None:
    OBSTACLES[obstacle](record_path(tmp_path, "compile"))
    assert stage("compile").read(tmp_path) is None
    assert last_stage(tmp_path, STAGES) == ""
    assert reached(tmp_path) == {}
    assert stage("compile").ran_before(tmp_path)


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_a_file_replaces_whatever_is_no_folder(tmp_path: Path, obstacle: str) -> None:
    place = tmp_path / "file"
    OBSTACLES[obstacle](place)
    if obstacle != "a folder":
        write_atomically(place, "text")
        assert (place.read_text(encoding="utf-8"), place.is_symlink()) == ("text", False)
        return
    with pytest.raises(OSError, match="Is a directory") as caught:
        write_atomically(place, "text")
    assert caught.value.filename == str(place), "and not the name of a file that nobody knows"
    assert [*tmp_path.iterdir()] == [place]


def test_a_folder_that_is_closed_to_us_holds_no_records_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: object, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    write_records(tmp_path, *STAGES)
    monkeypatch.setattr(os, "stat", denied)
    assert reached(tmp_path) == {}
    assert last_stage(tmp_path, STAGES) == ""
    monkeypatch.undo()
    monkeypatch.setattr(tempfile, "mkstemp", lambda dir, prefix: denied(dir / prefix))  # noqa: A006
    with pytest.raises(PermissionError) as caught:
        write_atomically(tmp_path / "file", "text")
    assert caught.value.filename == str(tmp_path / "file")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("started", text) for text in ("", "then", "7", "2026-01-31", "2026-01-31T23:39:55", "0000-00-00T00:00Z")),
        *(("seconds", number) for number in (-1, -0.001, -1e308)),
    ],
)
def test_work_of_no_time_or_of_less_than_none_is_no_record(tmp_path: Path, name: str, value: object) -> None:
    write_records(tmp_path, "smoke")
    path = record_path(tmp_path, "smoke")
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**document, name: value}), encoding="utf-8")
    assert stage("smoke").read(tmp_path) is None


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
        write_record(tmp_path, record("push", places=tmp_path))
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


@pytest.mark.parametrize("seconds", ["NaN", "Infinity", "-Infinity", "1" + "0" * 400, "1e999"])
def test_a_number_that_is_none_makes_no_record(tmp_path: Path, seconds: str) -> None:
    write_record(tmp_path, replace(record("smoke"), seconds=7.125))
    path = record_path(tmp_path, "smoke")
    path.write_text(path.read_text(encoding="utf-8").replace("7.125", seconds), encoding="utf-8")
    assert stage("smoke").read(tmp_path) is None
