"""matrix/lockfile.py: the lock file as a value and as a text."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from serving_factory.errors import LockFileError
from serving_factory.matrix.load import load_matrix
from serving_factory.matrix.lockfile import EMPTY, Lock, lock_path, lock_text, read_lock

from .matrices import SMALL, write
from .stage_records import OBSTACLES

DIGEST = "sha256:" + "ab" * 32
SHA256 = "cd" * 32

hexes = st.text("0123456789abcdef", min_size=64, max_size=64)
bases = st.dictionaries(
    st.from_regex(r"([a-z]{1,5}\.example(:[1-9][0-9]{1,3})?/)?[a-z]{1,8}:[a-z0-9][a-z0-9.]{0,7}", fullmatch=True),
    hexes.map("sha256:{}".format),
    max_size=4,
)
bazels = st.dictionaries(st.from_regex(r"[0-9]\.[0-9]{1,2}(\.[0-9])?(rc[1-9])?", fullmatch=True), hexes, max_size=4)

versions = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9.+-]{1,9}", fullmatch=True),
    st.from_regex(r"([1-9]:)?[0-9][a-zA-Z0-9.+~-]{0,9}", fullmatch=True),
    min_size=1,
    max_size=3,
)
packages = st.dictionaries(st.sampled_from(["ubuntu:20.04", "debian:trixie-slim", "h:1/d"]), versions, max_size=2)


def read(folder: Path, text: str) -> Lock:
    (folder / "matrix.lock").write_text(text, encoding="utf-8")
    return read_lock(folder / "matrix.yaml")


@settings(max_examples=25)
@given(bases, bazels, packages)
def test_what_is_written_is_read_again(
    bases: dict[str, str], bazels: dict[str, str], packages: dict[str, dict[str, str]]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        written = Lock(file=Path(name) / "matrix.lock", bases=bases, bazel=bazels, packages=packages)
        assert read(Path(name), lock_text(written, matrix="matrix.yaml")) == written


def test_a_lock_is_sorted_and_says_what_it_is() -> None:
    text = lock_text(
        Lock(
            bases={"ubuntu:22.04": DIGEST, "debian:12": DIGEST, "ubuntu:20.04": DIGEST},
            bazel={"0.15.0": SHA256, "0.5.4": SHA256, "0.11.1": SHA256},
            packages={"ubuntu:20.04": {"zlib1g": "1:1.2", "libssl1.1": "1.1.1f-1"}},
        ),
        matrix="nightly.yaml",
    )
    assert [line for line in text.splitlines() if not line.startswith("#")] == [
        "bases:",
        f'  "debian:12": {DIGEST}',
        f'  "ubuntu:20.04": {DIGEST}',
        f'  "ubuntu:22.04": {DIGEST}',
        "bazel:",
        f'  "0.5.4": "{SHA256}"',
        f'  "0.11.1": "{SHA256}"',
        f'  "0.15.0": "{SHA256}"',
        "packages:",
        '  "ubuntu:20.04":',
        '    "libssl1.1": "1.1.1f-1"',
        '    "zlib1g": "1:1.2"',
    ]
    assert text.startswith("# What the builds of nightly.yaml start from")
    assert "./factory lock --update" in text
    assert yaml.safe_load(text)["bases"]["debian:12"] == DIGEST


def test_a_digest_of_digits_alone_stays_a_text(tmp_path: Path) -> None:
    assert read(tmp_path, lock_text(Lock(bazel={"3.0": "1" * 64}), matrix="m")).bazel == {"3.0": "1" * 64}


def test_without_a_file_nothing_is_locked(tmp_path: Path) -> None:
    assert read_lock(tmp_path / "matrix.yaml") == Lock(file=tmp_path / "matrix.lock")


def test_a_lock_lies_beside_its_matrix_and_is_never_the_matrix_itself() -> None:
    assert lock_path(Path("a/nightly.yaml")) == Path("a/nightly.lock")
    assert lock_path(Path("a/nightly.lock")) == Path("a/nightly.lock.lock")


def test_a_matrix_knows_what_is_locked_beside_it(tmp_path: Path) -> None:
    file = write(tmp_path, SMALL)
    assert load_matrix(file).lock.bases == {}
    (tmp_path / "matrix.lock").write_text(f'bases:\n  "ubuntu:20.04": {DIGEST}\n')
    assert load_matrix(file).lock.bases == {"ubuntu:20.04": DIGEST}


def test_a_base_is_pinned_where_it_is_locked() -> None:
    lock = Lock(bases={"ubuntu:20.04": DIGEST})
    assert lock.pinned("ubuntu:20.04") == f"ubuntu:20.04@{DIGEST}"
    assert lock.pinned("ubuntu:22.04") == "ubuntu:22.04"
    assert lock.pinned(f"ubuntu:20.04@{DIGEST}") == f"ubuntu:20.04@{DIGEST}"
    assert EMPTY.pinned("ubuntu:20.04") == "ubuntu:20.04"


# What stands in the file → the message, after the file's name.
WRONG = {
    "an unknown key": (f"base:\n  u:1: {DIGEST}\n", ":1:1: base: unknown key. Did you mean 'bases'?"),
    "a digest that is cut": (
        "# x\nbases:\n  u:1: sha256:abc\n",
        ":3:8: bases.u:1: 'sha256:abc': a digest is sha256: and 64 hex digits.",
    ),
    "a base without a tag": (f"bases:\n  ubuntu: {DIGEST}\n", ":2:3: bases.ubuntu: a base image stands here with its"),
    "a base with a digest": (f"bases:\n  u:1@{DIGEST}: {DIGEST}\n", f":2:3: bases.u:1@{DIGEST}: a base image stands"),
    "a base that is no image": (f"bases:\n  U:1: {DIGEST}\n", ":2:3: bases.U:1: an image is "),
    "a checksum that is none": ('bazel:\n  "3.0.0": "?"\n', ":2:12: bazel.3.0.0: '?': a sha256 is 64 hex digits."),
    "a version that is none": (f'bazel:\n  new: "{SHA256}"\n', ":2:3: bazel.new: a version begins with a digit"),
    "a package that is none": (
        'packages: {"u:1": {"a b": "1"}}\n',
        ":1:20: packages.u:1.a b: a Debian package's name is",
    ),
    "a version of a package that is none": (
        'packages: {"u:1": {ab: "1; x"}}\n',
        ":1:24: packages.u:1.ab: '1; x': a Debian package's version",
    ),
    "a pin twice": (f"bases:\n  u:1: {DIGEST}\n  u:1: {DIGEST}\n", ":3:3: bases.u:1: this key stands in line 2"),
    "no mapping": ("- x\n", ":1:1: the file is a list, not a mapping"),
    "nothing": ("", ":1:1: the file is empty"),
    "no YAML": ("bases: [\n", ":2:1: not YAML"),
    "what a merge leaves": (f"bases:\n  u:1: {DIGEST}\n<<<<<<< ours\n", ":4:1: not YAML"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_broken_lock_is_one_clear_error_with_its_place(tmp_path: Path, name: str) -> None:
    text, message = WRONG[name]
    (tmp_path / "matrix.lock").write_text(text, encoding="utf-8")
    with pytest.raises(LockFileError) as caught:
        load_matrix(write(tmp_path, SMALL))
    assert f"{tmp_path / 'matrix.lock'}{message}" in str(caught.value)
    assert "./factory lock" in caught.value.remedy
    assert "matrix.yaml" not in str(caught.value)


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_what_is_no_file_is_named_and_not_waited_for(tmp_path: Path, obstacle: str) -> None:
    OBSTACLES[obstacle](tmp_path / "matrix.lock")
    if obstacle in {"a link to nothing", "a link to itself"}:
        assert read_lock(tmp_path / "matrix.yaml") == Lock(file=tmp_path / "matrix.lock")
        return
    with pytest.raises(LockFileError, match=re.escape(f"{tmp_path / 'matrix.lock'}: this is not a file")) as caught:
        read_lock(tmp_path / "matrix.yaml")
    assert "delete it" in caught.value.remedy


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(LockFileError, match="2 problems"):
        read(tmp_path, 'bases:\n  u:1: x\nbazel:\n  "1": y\n')
