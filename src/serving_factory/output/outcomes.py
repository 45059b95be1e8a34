"""What became of a run: errors, the table of variants, and how to use what was made."""

from __future__ import annotations

import csv
import io
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Self

from serving_factory.output.errors import read_tail, render_error
from serving_factory.output.estimates import actual_line
from serving_factory.output.text import Stream, cell, clean, count, duration, label, size, table, words
from serving_factory.pipeline.estimates import RunEstimate, actual
from serving_factory.pipeline.events import Event, Status, VariantResult


class Reporter(ABC):
    """What the reporters share: where the summary goes, the run's estimate, and the run's clock."""

    def __init__(self, out: Stream, estimate: RunEstimate, clock: Callable[[], float]) -> None:
        self._out, self._estimate, self._clock, self._began = out, estimate, clock, clock()

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    @abstractmethod
    def handle(self, event: Event) -> None:
        """Take in an event."""

    @abstractmethod
    def summary(self, results: Sequence[VariantResult]) -> None:
        """Print what became of the run."""

    @abstractmethod
    def _start(self) -> None: ...

    def _stop(self) -> None:  # noqa: B027 - JSON lines have nothing to stop
        pass

    @property
    def _seconds(self) -> float:
        return self._clock() - self._began


def write_summary(
    results: Sequence[VariantResult],
    estimate: RunEstimate,
    seconds: float,
    *,
    errors: Stream,
    out: Stream,
    reported: Collection[str] = (),
) -> None:
    """Print the errors but for variants whose error is reported already, then the table and what the run took."""
    for result in results:
        if result.error is not None and result.variant not in reported:
            tail = read_tail(result.log).lines
            errors.write("\n" + render_error(result.error, log_tail=tail, log_path=result.log))
    out.write("\n" + summary_table(results, expected=estimate.by_variant, width=out.width))
    out.write(actual_line(estimate, actual(estimate, results, seconds)))


def summary_table(
    results: Sequence[VariantResult], *, expected: Mapping[str, float] | None = None, width: int | None = None
) -> str:
    """A line for each variant, the built ones first, and one with the counts; `expected` seconds stand beside."""
    if not results:
        return "Nothing to do: no variant is chosen.\n"
    rows = [
        (label(result.status), result.variant, took, cell((expected or {}).get(result.variant), duration), *others)
        for status in Status
        for result in results
        if result.status is status
        for took, *others in [figures(result)]
    ]
    heads = ("result", "variant", ">time", ">estimated", ">binary", ">image", "image name, or reason")
    return f"{table(heads, rows, width=width)}\n{counts(results)}\n"


def figures(result: VariantResult) -> tuple[str, str, str, str]:
    """A variant's time, sizes of binary and image, and its image or the reason, as cells of a table."""
    binary, image = fact_text(result, "binary_size"), fact_text(result, "image_size")
    return (cell(result.seconds or None, duration), binary, image, detail(result))


def counts(results: Sequence[VariantResult]) -> str:
    """How many ended how: `3 variants: 2 built, 1 failed.`."""
    found = {label(status): sum(result.status is status for result in results) for status in Status}
    return f"{count(len(results), 'variant')}: {words(found)}."


def detail(result: VariantResult) -> str:
    """The image's name; or the error's first line; or why it was not worked on."""
    if result.error is not None:
        return clean(result.error.what.partition("\n")[0])
    return result.because or result.image or ""


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


def pushed_list(results: Sequence[VariantResult]) -> str:
    """What registries hold now: a name with its digest in each line."""
    found = [result.facts.get("pushed") for result in results if result.error is None]
    names = [name for value in found if isinstance(value, list | tuple) for name in value]
    return "".join(f"{line}\n" for line in ("", "Pushed:", *(f"  {clean(name)}" for name in names))) if names else ""


def demo_table(results: Sequence[VariantResult], *, models: Path, width: int | None = None) -> str:
    """What the demo made, and how to run one of its images; `models` is the absolute path of half_plus_two's folder."""
    heads = ("variant", ">binary", ">image", "REST answer", "gRPC answer", ">time", "image name")
    rows = [
        (
            result.variant,
            *(fact_text(result, name) for name in ("binary_size", "image_size", "rest", "grpc")),
            duration(result.seconds) if result.status is Status.BUILT else label(result.status),
            detail(result),
        )
        for result in results
    ]
    image = next((result.image for result in results if result.image and result.error is None), None)
    text = table(heads, rows, width=width)
    return f"{text}\n{run_commands(image, models=models)}" if image else text


def run_commands(image: str, *, models: Path) -> str:
    """How to run an image with half_plus_two and ask it, word for word as upstream documents it."""
    mount = io.StringIO()
    # docker reads --mount as one line of CSV: a comma or a quote in the path needs CSV's own quotes
    csv.writer(mount, lineterminator="").writerow(
        ["type=bind", f"source={models / 'half_plus_two'}", "target=/models/half_plus_two"]
    )
    run = ["docker", "run", "-p", "8501:8501", "--mount", mount.getvalue(), "-e", "MODEL_NAME=half_plus_two", image]
    ask = """curl -d '{"instances": [1.0, 2.0, 5.0]}' -X POST http://localhost:8501/v1/models/half_plus_two:predict"""
    return f"Run one of them:\n\n  {shlex.join(run)}\n\nand ask it, from another terminal:\n\n  {ask}\n"
