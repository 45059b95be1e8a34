"""A preflight: Bazel is asked what of a variant's inputs is missing, before hours of building."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from serving_factory.engine.buildx import BuildFailed
from serving_factory.errors import FactoryError
from serving_factory.line.job import Job
from serving_factory.line.preflight_report import Report, read_report
from serving_factory.line.records import write_atomically
from serving_factory.line.stages.compile import build_error, devel_request, logged_build

__all__ = ["preflight_document", "preflight_folder", "run_preflight"]


def preflight_folder(job: Job) -> Path:
    """Where what a preflight found lies: the report, Bazel's log, and what both were made of."""
    return job.folder / "preflight"


def run_preflight(job: Job, tell: Callable[[str], None]) -> Report:
    """Build the toolchain, get the sources, and let Bazel analyse them; the report stays in the variant's folder.

    Args:
        job: the variant.
        tell: told what is being done.

    Raises:
        FactoryError: it did not come so far as to ask Bazel; of the same kind as if it were being built.
    """
    folder, log = preflight_folder(job), job.folder / "logs" / "preflight.log"

    def error(failed: BuildFailed) -> FactoryError:
        tell(f"Bazel could not be asked; the whole log is {log}")
        return build_error(job, failed, log)

    with devel_request(job, target="preflight", output=folder) as request:
        # Without a new value the engine would give the answer of the last time.
        asked = replace(request, build_args=(*request.build_args, ("PREFLIGHT", uuid.uuid4().hex)))
        logged_build(asked, log, tell=tell, error=error)
    report = read_report(folder)
    document = preflight_document(job, report)
    write_atomically(folder / "report.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return report


def preflight_document(job: Job, report: Report) -> dict[str, object]:
    """The report for machines."""
    document = {"variant": job.recipe.variant.id, **asdict(report)}
    for declared in document["unseen"]:
        del declared["attributes"], declared["unread"]
    return document
