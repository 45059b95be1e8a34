"""What a run will take, what it took, and what became of it: errors, the table of variants, how to use its images."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from serving_factory.output.text import cell, clean, count, duration, label, size, table, words
from serving_factory.pipeline.estimates import Estimate, RunEstimate
from serving_factory.pipeline.events import Status, VariantResult, counts_of


def estimate_line(estimate: RunEstimate) -> str:
    """What a run will take: `Estimated: about 28 min 00 s, ...`; empty where it has nothing to do."""
    if not estimate.variants:
        return ""
    if estimate.seconds is None:
        return "Estimated: unknown; no earlier run is like this one.\n"
    basis = "in part from the release's size" if estimate.estimated else "from earlier runs"
    return f"Estimated: about {_figures(estimate)}, {basis}{_unknown(estimate)}.\n"


def actual_line(estimate: RunEstimate, taken: RunEstimate | None) -> str:
    """The estimate and what the run took, a line each; empty where there is nothing to compare."""
    if taken is None:
        return ""
    known = estimate.seconds is not None
    estimated = f"about {_figures(estimate)}{_unknown(estimate)}" if known else "unknown"
    return f"Estimated: {estimated}.\nActual:    {_figures(taken)}.\n"


def _unknown(estimate: RunEstimate) -> str:
    return f"; without {count(estimate.unknown, 'variant')} of unknown size" if estimate.unknown else ""


def _figures(run: RunEstimate) -> str:
    memory, download = ("unknown" if number is None else size(number) for number in (run.memory, run.download))
    time = "time unknown" if run.seconds is None else duration(run.seconds)
    return f"{time}, peak memory {memory}, downloads {download}"


def needs_text(downloads: Sequence[tuple[str, str]], *, disk: int, free: int | None, estimate: RunEstimate) -> str:
    """What a first build of upstream's sources downloads (what, from where) and needs; `free` bytes may be unknown."""
    margin = max(len(what) for what, _ in downloads)
    lines = "".join(f"  {what:<{margin}}  {place}\n" for what, place in dict.fromkeys(downloads))
    needs = [f"{size(disk)} of disk" + (f" ({size(free)} free)" if free is not None else "")]
    needs += [f"{size(estimate.memory)} of memory"] if estimate.memory else []
    needs += [duration(estimate.seconds)] if estimate.seconds else []
    return (
        f"Downloads, where the cache does not have them:\n{lines}"
        f"Needs about {', '.join(needs)}. Ctrl-C stops it; the same command continues it.\n"
    )


ESTIMATE_HEADS = (">time", ">peak memory", ">downloads", "estimated from")


def estimate_cells(estimate: Estimate | None) -> tuple[str, str, str, str]:
    """Time, memory, downloads and their basis, as cells of a table."""
    if estimate is None:
        return ("", "", "", "")
    seconds, memory, download = estimate.seconds, estimate.memory, estimate.download
    return (cell(seconds, duration), cell(memory, size), cell(download, size), estimate.basis.value)


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
    found = words({label(status): number for status, number in counts_of(results).items()})
    return f"{count(len(results), 'variant')}: {found}."


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
    """What registries hold now, a name with its digest in each line; and aliases that stay at a later release."""
    lines: list[str] = []
    for fact, title in (("pushed", "Pushed:"), ("not_moved", "Not moved to an earlier release:")):
        found = [result.facts.get(fact) for result in results if result.error is None]
        names = [f"  {clean(name)}" for value in found if isinstance(value, list | tuple) for name in value]
        lines += ["", title, *names] if names else []
    return "".join(f"{line}\n" for line in lines)


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
