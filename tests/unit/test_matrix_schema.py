"""matrix/schema.py: what an editor is told is what the file's reader checks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from serving_factory.matrix.schema import SCHEMA_FILE, matrix_schema

from .matrices import ROOT, SHIPPED

SCHEMA: dict[str, Any] = json.loads(matrix_schema())


def section(name: str) -> dict[str, Any]:
    found: dict[str, Any] = SCHEMA["$defs"][name]
    return found


def test_the_committed_schema_is_current() -> None:
    assert (ROOT / SCHEMA_FILE).read_text(encoding="utf-8") == matrix_schema(), "run ./factory generate"


@pytest.mark.parametrize("file", SHIPPED, ids=lambda path: path.parent.name)
def test_the_shipped_files_name_it(file: Path) -> None:
    first = file.read_text(encoding="utf-8").partition("\n")[0]
    path = first.removeprefix("# yaml-language-server: $schema=")
    assert (file.parent / path).resolve() == ROOT / SCHEMA_FILE


def test_every_key_is_explained() -> None:
    sections = [SCHEMA, *(found for found in SCHEMA["$defs"].values() if "properties" in found)]
    assert len(sections) > 8
    for found in sections:
        assert found["additionalProperties"] is False
        assert found["description"]
        for name, key in found["properties"].items():
            assert key.get("description") or "$ref" in key, name


def test_nothing_may_be_null() -> None:
    assert "null" not in matrix_schema()


def test_axes_are_listed() -> None:
    assert section("Flavour")["enum"] == ["cpu", "mkl", "gpu"]
    assert "x86-64-v3" in section("Level")["enum"]
    assert "linux/amd64" in section("Platform")["enum"]
    assert set(SCHEMA["required"]) == {"image", "releases", "targets"}
    assert section("RequireSection")["required"] == ["reason", "where", "only"]
