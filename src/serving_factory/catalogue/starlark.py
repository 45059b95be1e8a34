"""Reading Starlark, whose syntax is Python's: WORKSPACE, BUILD and .bzl files, and what `bazel query` prints."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

# Texts and comments, which stay; a gap of a template; an octal number.
_ODD = re.compile(
    r"""(?P<kept>"{3}.*?"{3}|'{3}.*?'{3}|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|\#[^\n]*)"""
    r"|%\{(?P<gap>\w+)\}|(?<![\w.])0(?P<octal>[0-7]+)\b",
    re.DOTALL,
)
_NAMES = re.compile(
    r"(?:BUILD(?:\..+)?|.+\.BUILD|.+\.bzl|WORKSPACE|CROSSTOOL.*|.+\.BUILD\.(?:oss|tpl)|.+\.bzl\.(?:oss|tpl))"
)


def build_files(folder: Path) -> Iterator[Path]:
    """Find the files of a source tree that say how it is built, and the templates of such files; sorted."""
    return (path for path in sorted(folder.rglob("*")) if _NAMES.fullmatch(path.name) and path.is_file())


def parse_starlark(text: str) -> Iterator[ast.Module]:
    """Parse a text as a whole; where Python cannot read that, those of its top-level calls that it can."""
    return (block for _, block in parsed_parts(text) if block is not None)


def parsed_parts(text: str) -> Iterator[tuple[int, ast.Module | None]]:
    """Parse a text likewise; each part with the line that it begins in, None for one that cannot be read."""
    # What Starlark has and Python has not is put right: octal numbers as of Python 2. So are the gaps of templates.
    plain = text
    if (whole := _parsed(text)) is None:
        plain = _ODD.sub(_put_right, text)
        whole = _parsed(plain)
    if whole is not None:
        yield 1, whole
        return
    line = 1
    for part in re.split(r"(?m)(?<=^\))$", plain):
        block = _parsed(part)
        yield line, ast.increment_lineno(block, line - 1) if block else None
        line += part.count("\n")


def _put_right(odd: re.Match[str]) -> str:
    if odd["gap"]:
        return f"gap_{odd['gap']}"
    return f"0o{odd['octal']}" if odd["octal"] else odd.group()


def _parsed(text: str) -> ast.Module | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a `\.` in a shell command is no escape of Python's
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
