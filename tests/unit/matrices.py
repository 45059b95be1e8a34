"""Matrix files for tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving_factory.errors import MatrixError
from serving_factory.matrix.load import load_matrix
from serving_factory.matrix.matrix import Matrix

ROOT = Path(__file__).parents[2]
SHIPPED = (ROOT / "matrix.yaml", ROOT / "samples" / "matrix.yaml")

SAMPLE = SHIPPED[1]

SMALL = """\
image:
  repository: team/serving
releases: ["2.19.1"]
targets:
  standard:
    flavour: cpu
    levels: [x86-64]
"""


def document(**sections: object) -> dict[str, Any]:
    """A small matrix as a document, with sections added or replaced."""
    loaded: dict[str, Any] = yaml.safe_load(SMALL)
    return {**loaded, **sections}


def write(folder: Path, text: str | Mapping[str, object] = SMALL) -> Path:
    file = folder / "matrix.yaml"
    file.write_text(text if isinstance(text, str) else yaml.safe_dump(dict(text)), encoding="utf-8")
    return file


def checkout(folder: Path) -> Path:
    """A checkout whose matrix names its releases one by one: a new one in the catalogue changes nothing for it."""
    text = SHIPPED[0].read_text(encoding="utf-8")
    latest = 'releases: ["latest-patches,>=2.18"]'
    assert latest in text
    write(folder, text.replace(latest, 'releases: ["2.18.1", "2.19.1", "2.20.0"]'))
    for name in ("dockerfiles", "docs", "matrix.schema.json", "samples"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def tree(folder: Path) -> Path:
    """An empty source tree."""
    folder.mkdir(exist_ok=True)
    (folder / "WORKSPACE").touch()
    return folder


def load(folder: Path, text: str | Mapping[str, object] = SMALL) -> Matrix:
    return load_matrix(write(folder, text))


def problems(folder: Path, text: str | Mapping[str, object]) -> list[str]:
    """The line of each problem of a matrix file, without the file's name."""
    file = write(folder, text)
    with pytest.raises(MatrixError) as caught:
        load_matrix(file)
    first, *lines = str(caught.value).split("\n")
    assert first.startswith(f"{file}: ")
    assert all(line.startswith(str(file)) for line in lines)
    return [line.removeprefix(f"{file}:") for line in lines]
