"""smoke: run the real image, ask it everything that a user would, and stop it."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

from serving_factory.pipeline.events import StageName
from serving_factory.pipeline.job import Job, Outputs, Progress, Stage
from serving_factory.pipeline.records import file_digest, write_atomically
from serving_factory.recipes.recipe import key_of
from serving_factory.smoke.plan import SmokePlan

_SUITE = (Path(__file__).parents[2] / "smoke",)
"""The code that checks an image: the checks, and the clients whose answers they look at."""

_MODEL = "half_plus_two"
_NEXT_MODEL = "half_plus_two_next"


def _key(job: Job) -> str:
    return key_of(
        image=job.record(StageName.PACKAGE).outputs["image"],
        models=[job.site.tree(job.site.models / name) for name in (_MODEL, _NEXT_MODEL)],
        suite=_suite_digests(),
    )


@cache
def _suite_digests() -> list[str]:
    return [file_digest(path) for room in _SUITE for path in sorted(room.glob("*.py"))]


def _run(job: Job, progress: Progress) -> Outputs:
    # gRPC takes a quarter of a second to import: only a run that smokes waits for it.
    from serving_factory.smoke.report import to_json, to_junit
    from serving_factory.smoke.run import run_checks

    variant = job.recipe.variant
    plan = SmokePlan(
        variant=variant.id,
        model=job.site.models / _MODEL,
        next_model=job.site.models / _NEXT_MODEL,
        reported_version=job.recipe.release.reported,
        server=job.recipe.release.server,
        owner=job.site.owner,
        scratch=_scratch(job),
    )
    report = run_checks(
        job.site.engine,
        job.record(StageName.PACKAGE).outputs["image"],
        plan=plan,
        cancel=job.cancel,
        emit_check=lambda check: progress(f"{check.name}: {check.text}"),
    )
    job.cancel.check()  # a report of a run that was ended would tell of a failure that none was
    write_atomically(job.folder / "smoke-report.json", to_json(report))
    write_atomically(job.folder / "smoke-report.junit.xml", to_junit(report))
    if report.error:
        raise report.error
    return {
        "checks": {check.name: round(check.seconds, 3) for check in report.checks},
        "rest": list(report.answers.get("REST", ())),
        "grpc": list(report.answers.get("gRPC", ())),
    }


def _scratch(job: Job) -> Path:
    """An empty folder for the copies of the models; what a killed run left in it goes."""
    folder = job.folder / "scratch"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


SMOKE = Stage(name=StageName.SMOKE, key=_key, run=_run)
