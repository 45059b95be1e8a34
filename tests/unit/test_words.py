"""Standard words of the field only: retired words are looked for in everything that a reader or a user sees."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
READ = [
    *("src", "docs", "dockerfiles/templates", "dockerfiles/context", "scripts", "tasks.py", "factory"),
    *("README.md", "CONTRIBUTING.md", "matrix.yaml", "samples/matrix.yaml"),
]
SUFFIXES = {".py", ".md", ".j2", ".sh", ".yaml", ".c", ".Dockerfile", ""}

RETIRED = {
    "anew": "again",
    "door": "input",
    "doors": "input",
    "foretell": "estimate",
    "foretold": "estimate",
    "forecast": "estimate",
    "forecasts": "estimate",
    "house": "layout",
    "judge": "check",
    "judges": "check",
    "lacking": "missing",
    "mend": "fix, patch",
    "mended": "fix, patch",
    "mends": "fix, patch",
    "nobody": "none, no one",
    "outlook": "estimate",
    "room": "module, space",
    "rooms": "module, space",
    "tell": "report, print, say",
    "tells": "report, print, say",
    "told": "report, print, say",
    "the line runs": "the pipeline",
    "the whole line": "the pipeline",
    "truth": "actual",
    "vault": "offline inputs",
    "wanted": "required, expected",
    "whoever": "anyone who",
}
PATTERN = re.compile(r"(?<![a-z])(" + "|".join(map(re.escape, RETIRED)) + r")(?![a-z])", re.IGNORECASE)
OTHERS = re.compile(r"but wanted|\bdoors\.sh\b|\"doors\"")
"""What other programs print, by which failures are recognised; the names of files that an old factory left."""


def texts() -> dict[Path, str]:
    """Every text that is read, by its path."""
    found = [path for name in READ for path in ([ROOT / name] if (ROOT / name).is_file() else (ROOT / name).rglob("*"))]
    return {
        path: path.read_text(encoding="utf-8")
        for path in found
        if path.is_file() and path.suffix in SUFFIXES and "__pycache__" not in path.parts
    }


def retired(text: str) -> list[tuple[int, str]]:
    """The retired words of a text, each with its line."""
    return [
        (number, match[1].lower())
        for number, line in enumerate(text.splitlines(), 1)
        for match in PATTERN.finditer(OTHERS.sub("", line))
    ]


def test_retired_words_are_gone() -> None:
    assert [
        f"{path.relative_to(ROOT)}:{number}: '{word}': use {RETIRED[word]}"
        for path, text in texts().items()
        for number, word in retired(text)
    ] == []


@pytest.mark.parametrize("text", ["it tells all", "def judge_clock():", "_told = 1", "# The line runs"])
def test_a_retired_word_is_found_in_prose_and_in_names(text: str) -> None:
    assert retired(f"first\n{text}\n")[0][0] == 2


@pytest.mark.parametrize("text", ["a line of the log", "download", "Checksum was 12 but wanted 34"])
def test_other_words_are_not(text: str) -> None:
    assert retired(text) == []
