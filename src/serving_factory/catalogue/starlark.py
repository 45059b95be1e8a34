"""Reading Starlark, whose syntax is Python's: WORKSPACE, BUILD and .bzl files, and what `bazel query` prints."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

__all__ = ["build_files", "parse_starlark"]

_NAMES = re.compile(
    r"(?:BUILD(?:\..+)?|.+\.BUILD|.+\.bzl|WORKSPACE|CROSSTOOL.*|.+\.BUILD\.(?:oss|tpl)|.+\.bzl\.(?:oss|tpl))"
)


def build_files(folder: Path) -> Iterator[Path]:
    """Find the files of a source tree that say how it is built, and the templates of such files; sorted."""
    return (path for path in sorted(folder.rglob("*")) if _NAMES.fullmatch(path.name) and path.is_file())


def parse_starlark(text: str) -> Iterator[ast.Module]:
    """Parse a text as a whole; where Python cannot read that, those of its top-level calls that it can."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a `\.` in a shell command is no escape of Python's
        try:
            yield ast.parse(text)
        except (SyntaxError, ValueError):
            for part in re.split(r"(?m)(?<=^\))$", text):
                with suppress(SyntaxError, ValueError):
                    yield ast.parse(part)
