"""Reading Starlark, whose syntax is Python's: WORKSPACE, BUILD and .bzl files, and what `bazel query` prints."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from contextlib import suppress

__all__ = ["parse_starlark"]


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
