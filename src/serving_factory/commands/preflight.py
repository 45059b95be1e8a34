"""`preflight`: which inputs of variants are missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from serving_factory.commands.plan import jobs_of
from serving_factory.commands.shared import Asked, progress, show, width
from serving_factory.errors import CompileError, MissingInputsError, UsageError
from serving_factory.output.text import clean, count, table, words
from serving_factory.pipeline.build_lock import hold_matrix_lock
from serving_factory.pipeline.preflight import Report, preflight_document, preflight_folder, run_preflight

_ORIGINS = {
    "distdir": "from the distdir",
    "override": "from overrides",
    "cache": "from Bazel's cache",
    "download": "downloaded",
    "local": "without an archive",
}


def preflight(asked: Asked, variants: Sequence[str], *, json: bool) -> None:
    """Ask Bazel which inputs of each variant are missing, and print them."""
    if not variants:
        raise UsageError("`preflight` needs a variant's id", remedy="take one that `./factory list --ids` prints")
    jobs = jobs_of(asked, variants)
    with hold_matrix_lock(jobs[0].site.build):
        reports = [(job, run_preflight(job, progress)) for job in jobs]
    pages = ("\n".join(preflight_page(job.recipe.variant.id, report, width=width())) for job, report in reports)
    document = {"variants": [preflight_document(job, report) for job, report in reports]}
    show(document, "\n\n".join(pages) + "\n", json=json)
    names = {one.name for _, report in reports for one in report.missing}
    programs = {one.name for _, report in reports for one in report.programs}
    if names or programs:
        missing = [count(len(found), noun) for found, noun in ((names, "input"), (programs, "program")) if found]
        raise MissingInputsError(
            f"{' and '.join(missing)} missing",
            why="\n".join(f"{job.recipe.variant.id}: {preflight_folder(job) / 'report.json'}" for job, _ in reports),
            remedy="add archives to bazel.distdir or folders to bazel.overrides (`./factory inputs` does both), and "
            "the programs' packages to toolchain.packages; then run the preflight again",
        )
    for job, report in reports:
        if report.failed:
            raise CompileError(
                f"{job.recipe.variant.id}: Bazel's analysis fails, but no input is missing",
                why="\n".join(report.errors),
                remedy=f"read {preflight_folder(job) / 'bazel.log'}",
            )


def preflight_page(variant: str, report: Report, *, width: int | None = None) -> Iterator[str]:
    """Give lines: what is missing, a line each; what is available, in numbers."""
    origins = [one.origin for one in report.found]
    available = words({text: origins.count(name) for name, text in _ORIGINS.items()})
    yield f"{clean(variant)}: repositories available: {available or 'none'}"
    if report.missing:
        rows = [(one.name, one.file, one.sha256 or "", next(iter(one.urls), ""), one.problem) for one in report.missing]
        yield ""
        yield table(("missing", "file", "sha256", "URL", "why"), rows, width=width)
    if report.stopped:
        yield "Bazel stopped at these; what else is missing shows once they are available."
    elif report.missing:
        yield "What these depend on shows once they are available."
    if report.missing and report.unseen:
        yield f"WORKSPACE declares {len(report.unseen)} more that may or may not be needed; --json lists them."
    for one in report.programs:
        package = f" (package {one.package})" if one.package else ""
        yield f"The toolchain has no {clean(one.name)}{package}, which {clean(', '.join(one.rules[:3]))} calls"
    yield from map(clean, report.errors)
    if report.unasked:
        yield "No download is missing. Bazel could not list the programs that the rules call: see genrules.log."
    elif not report.failed and not report.programs and not report.missing:
        yield "Nothing is missing."
