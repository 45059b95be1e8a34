"""matrix/schema.py: the schema for editors accepts what the file's reader accepts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving_factory.errors import MatrixError
from serving_factory.matrix.model import SCHEMA_FILE, matrix_schema

from .matrices import ROOT, SHIPPED, document, load

SCHEMA: dict[str, Any] = json.loads(matrix_schema())


def sections(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A section, and all that are in it."""
    if "properties" in schema:
        yield schema
    below = [schema.get(name) for name in ("items", "additionalProperties")]
    for inner in [*schema.get("properties", {}).values(), *below]:
        if isinstance(inner, dict):
            yield from sections(inner)


def test_the_committed_schema_is_current() -> None:
    assert (ROOT / SCHEMA_FILE).read_text(encoding="utf-8") == matrix_schema(), "run ./factory generate"


@pytest.mark.parametrize("file", SHIPPED, ids=lambda path: path.parent.name)
def test_the_shipped_files_name_it(file: Path) -> None:
    first = file.read_text(encoding="utf-8").partition("\n")[0]
    path = first.removeprefix("# yaml-language-server: $schema=")
    assert (file.parent / path).resolve() == ROOT / SCHEMA_FILE


def test_every_key_is_explained() -> None:
    found = list(sections(SCHEMA))
    assert len(found) > 8
    for section in found:
        assert section["additionalProperties"] is False
        assert section["description"]
        for name, key in section["properties"].items():
            assert key["description"], name


def test_axes_are_listed() -> None:
    target = SCHEMA["properties"]["targets"]["additionalProperties"]["properties"]
    assert target["flavour"]["enum"] == ["cpu", "mkl", "gpu"]
    assert "x86-64-v3" in target["levels"]["items"]["enum"]
    assert "linux/amd64" in SCHEMA["properties"]["platforms"]["items"]["enum"]
    assert set(SCHEMA["required"]) == {"image", "releases", "targets"}
    assert SCHEMA["properties"]["require"]["items"]["required"] == ["reason", "where", "only"]


TARGET = SCHEMA["properties"]["targets"]["additionalProperties"]["properties"]


def accepted(schema: dict[str, Any], word: str) -> bool:
    """Whether an editor would take a word: enough of JSON schema for the words of a target."""
    if "anyOf" in schema:
        return any(accepted(one, word) for one in schema["anyOf"])
    return word in schema["enum"] if "enum" in schema else re.search(schema["pattern"], word) is not None


@pytest.mark.parametrize(
    ("key", "schema", "words"),
    [
        ("flags", TARGET["flags"], ("level", "avx2-fma", "avx2")),
        ("capabilities", TARGET["capabilities"]["items"], ("h100", "8.0", "sm_80", "compute_90", "a10O", "8", "sm80")),
        (
            "copts",
            TARGET["copts"]["items"],
            ("-O3", "-march=skylake", "-march=native", "-mtune=native", "-ofile", "--copt=-O3", "O3", "-a b"),
        ),
    ],
)
def test_an_editor_refuses_what_the_reader_refuses(
    tmp_path: Path, key: str, schema: dict[str, Any], words: tuple[str, ...]
) -> None:
    taken, refused = [], []
    for word in words:
        value: object = word if key == "flags" else [word]
        target = {"flavour": "gpu" if key == "capabilities" else "cpu", "levels": ["x86-64-v3"], key: value}
        try:
            load(tmp_path, document(targets={"t": target}))
        except MatrixError:
            assert not accepted(schema, word), word
            refused.append(word)
        else:
            assert accepted(schema, word), word
            taken.append(word)
    assert taken
    assert refused


def test_what_is_bounded_is_bounded_for_editors() -> None:
    assert SCHEMA["properties"]["targets"]["maxProperties"] == 500
    assert SCHEMA["properties"]["exclude"]["maxItems"] == 500
    assert TARGET["levels"]["maxItems"] == 200


def test_patterns_are_the_readers(tmp_path: Path) -> None:
    """A pattern says for an editor what the reader's own check says."""
    pattern = re.compile(SCHEMA["properties"]["image"]["properties"]["repository"]["pattern"])
    for name in ("team/serving", "Team/serving", "reg:5000/a", "a//b"):
        try:
            load(tmp_path, document(image={"repository": name}))
        except MatrixError:
            assert not pattern.search(name)
        else:
            assert pattern.search(name)


def leaves(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Every key of the file, as its page spells it: `network.apt.mirror`; those of lists' entries without a path."""
    for name, inner in schema["properties"].items():
        below = inner.get("items") or inner.get("additionalProperties")
        if "properties" in inner:
            yield from leaves(inner, f"{path}{name}.")
        elif isinstance(below, dict) and "properties" in below:
            yield f"{path}{name}"
            yield from leaves(below) if name == "targets" else ()
        else:
            yield f"{path}{name}"


def test_the_page_has_a_row_for_every_key() -> None:
    page = (ROOT / "docs" / "matrix.md").read_text(encoding="utf-8")
    cells = {cell for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for cell in re.findall("`([^`]+)`", row)}
    assert [key for key in leaves(SCHEMA) if key not in cells] == []
