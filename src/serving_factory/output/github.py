"""GitHub Actions: folds, annotations, and the step summary.

Source: docs.github.com, "Workflow commands for GitHub Actions"; the escapes are those that the runner undoes
(actions/runner, ActionCommand.cs).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from serving_factory.output.outcomes import counts, figures
from serving_factory.output.text import clean, clean_lines, label
from serving_factory.pipeline.events import VariantResult


def escape_data(text: str) -> str:
    """Escape a command's message."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def escape_property(text: str) -> str:
    """Escape a value of a command's property."""
    return escape_data(text).replace(":", "%3A").replace(",", "%2C")


def fold(title: str, lines: Sequence[str]) -> str:
    """A block that the log's reader opens by its title; the lines are made harmless."""
    body = "".join(f"{clean(line)}\n" for line in lines)
    return f"::group::{escape_data(clean(title))}\n{body}::endgroup::\n"


def annotation(title: str, message: str, *, level: Literal["error", "warning"] = "error") -> str:
    """An error or a warning that GitHub shows on the run's page."""
    text = "\n".join(clean_lines(message))
    return f"::{level} title={escape_property(clean(title))}::{escape_data(text)}\n"


def markdown_summary(results: Sequence[VariantResult]) -> str:
    """The result table in Markdown, for `$GITHUB_STEP_SUMMARY`."""
    lines = [
        "### serving-factory",
        "",
        "| variant | result | time | binary | image | image name, or reason |",
        "|---|---|--:|--:|--:|---|",
    ]
    for result in results:
        cells = (result.variant, label(result.status), *figures(result))
        lines.append(f"| {' | '.join(_markdown(cell) for cell in cells)} |")
    return "\n".join([*lines, "", counts(results), "", ""])


def _markdown(text: str) -> str:
    text = clean(text).replace("&", "&amp;").replace("<", "&lt;").replace("\\", "\\\\")
    for mark in "|`*_[]":
        text = text.replace(mark, f"\\{mark}")
    return text
