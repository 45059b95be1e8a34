"""GitHub Actions' dialect: folds, annotations, and the step summary.

Source: docs.github.com, "Workflow commands for GitHub Actions"; the escapes are those that the runner undoes
(actions/runner, ActionCommand.cs).
"""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from serving_factory.output.text import Column, clean, count, duration, size, table
from serving_factory.pipeline.events import Status, VariantResult

if TYPE_CHECKING:
    from pathlib import Path


_WORDS: Mapping[Status, str] = {
    Status.BUILT: "built",
    Status.UP_TO_DATE: "up to date",
    Status.FAILED: "failed",
    Status.SKIPPED: "skipped",
    Status.CANCELLED: "cancelled",
}


def summary_table(
    results: Sequence[VariantResult], *, expected: Mapping[str, float] | None = None, width: int | None = None
) -> str:
    """What became of each variant, the built ones first, and a line of counts.

    Args:
        results: one per variant.
        expected: variant's id → seconds that were expected.
        width: columns of the terminal; None for no limit.
    """
    if not results:
        return "Nothing to do: no variant was chosen.\n"
    order = list(Status)
    rows = [
        (
            _WORDS[result.status],
            result.variant,
            duration(result.seconds) if result.seconds else "",
            duration(expected[result.variant]) if expected and result.variant in expected else "",
            fact_text(result, "binary_size"),
            fact_text(result, "image_size"),
            detail(result),
        )
        for result in sorted(results, key=lambda result: order.index(result.status))
    ]
    columns = (
        Column("result"),
        Column("variant"),
        Column("time", right=True),
        Column("estimated", right=True),
        Column("binary", right=True),
        Column("image", right=True),
        Column("image name, or why not"),
    )
    return f"{table(columns, rows, width=width)}\n{counts(results)}\n"


def pushed_list(results: Sequence[VariantResult]) -> str:
    """What registries hold now: a name with its digest in each line."""
    names = [name for result in results if result.error is None for name in _names(result.facts.get("pushed"))]
    return "".join(f"{line}\n" for line in ("", "Pushed:", *(f"  {clean(name)}" for name in names))) if names else ""


def _names(value: object) -> Sequence[str]:
    return value if isinstance(value, list | tuple) else ()


def counts(results: Sequence[VariantResult]) -> str:
    """How many ended how: `3 variants: 2 built, 1 failed.`."""
    found = {status: sum(result.status is status for result in results) for status in Status}
    told = ", ".join(f"{count} {_WORDS[status]}" for status, count in found.items() if count)
    return f"{count(len(results), 'variant')}: {told}."


def detail(result: VariantResult) -> str:
    """The image's name; or the error's first line; or what else stood in the way."""
    if result.error is not None:
        return clean(result.error.what.partition("\n")[0])
    return result.because or result.image or ""


def demo_table(results: Sequence[VariantResult], *, models: Path, width: int | None = None) -> str:
    """What the demo made: sizes, answers, times, image names, and how to run one of the images.

    Args:
        results: one per variant.
        models: absolute path of the folder that holds `half_plus_two`.
        width: columns of the terminal; None for no limit.
    """
    columns = (
        Column("variant"),
        Column("binary", right=True),
        Column("image", right=True),
        Column("REST answer"),
        Column("gRPC answer"),
        Column("time", right=True),
        Column("image name"),
    )
    rows = [
        (
            result.variant,
            fact_text(result, "binary_size"),
            fact_text(result, "image_size"),
            fact_text(result, "rest"),
            fact_text(result, "grpc"),
            _WORDS[result.status] if result.status is not Status.BUILT else duration(result.seconds),
            detail(result),
        )
        for result in results
    ]
    image = next((result.image for result in results if result.image and result.error is None), None)
    text = table(columns, rows, width=width)
    return f"{text}\n{run_commands(image, models=models)}" if image else text


def run_commands(image: str, *, models: Path) -> str:
    """How to run an image with half_plus_two and ask it, word for word as upstream documents it."""
    source = str(models / "half_plus_two")
    mount = io.StringIO()
    # docker reads --mount as one line of CSV: a comma or a quote in the path needs CSV's own quotes
    csv.writer(mount, lineterminator="").writerow(["type=bind", f"source={source}", "target=/models/half_plus_two"])
    run = shlex.join(
        [
            "docker",
            "run",
            "-p",
            "8501:8501",
            "--mount",
            mount.getvalue(),
            "-e",
            "MODEL_NAME=half_plus_two",
            image,
        ]
    )
    ask = """curl -d '{"instances": [1.0, 2.0, 5.0]}' -X POST http://localhost:8501/v1/models/half_plus_two:predict"""
    return f"Run one of them:\n\n  {run}\n\nand ask it, from another terminal:\n\n  {ask}\n"


def fact_text(result: VariantResult, name: str) -> str:
    """A fact as a cell: bytes as MiB, numbers joined by commas, what is absent as nothing."""
    value = result.facts.get(name)
    if value is None:
        return ""
    if name.endswith("_size") and isinstance(value, int):
        return size(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(str(item) for item in value)
    return str(value)
