"""smoke: run the real image, ask it everything that a user would, and stop it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass

from serving_factory.pipeline.job import Job, Progress, Stage
from serving_factory.pipeline.records import Outputs, write_atomically
from serving_factory.pipeline.stages.package import PACKAGE
from serving_factory.smoke.plan import SmokePlan

_MODELS = ("half_plus_two", "half_plus_two_next")


@dataclass(frozen=True, slots=True, kw_only=True)
class Smoked(Outputs):
    """An image's checks, all passed."""

    checks: Mapping[str, float]  # check's name → seconds
    rest: tuple[float, ...]  # what the server answered over REST; `grpc` over gRPC
    grpc: tuple[float, ...]

    def summary(self) -> Mapping[str, object]:
        """The answers."""
        return {"rest": self.rest, "grpc": self.grpc}


SERVER_FACTS = ("rest", "model_status", "version_flag")
"""What the checks need to know of a release's server. They are in a module that takes long to import."""


def _inputs(job: Job) -> Mapping[str, object]:
    release = job.recipe.release
    return {
        "image": job.record(PACKAGE).outputs.image,
        "models": [job.site.tree(job.site.models / name) for name in _MODELS],
        "reported": release.reported,
        "server": [getattr(release.server, fact) for fact in SERVER_FACTS],
    }


def _run(job: Job, progress: Progress) -> Smoked:
    # gRPC takes a quarter of a second to import: only a run that smokes waits for it.
    from serving_factory.smoke.report import to_json, to_junit
    from serving_factory.smoke.run import run_checks

    job.site.strays  # noqa: B018 - looking removes them
    variant = job.recipe.variant
    model, next_model = (job.site.models / name for name in _MODELS)
    scratch = job.folder / "scratch"  # for copies of the models
    shutil.rmtree(scratch, ignore_errors=True)  # what a killed run left
    scratch.mkdir(parents=True)
    plan = SmokePlan(
        variant=variant.id,
        model=model,
        next_model=next_model,
        reported_version=job.recipe.release.reported,
        server=job.recipe.release.server,
        owner=job.site.owner,
        scratch=scratch,
    )
    report = run_checks(
        job.site.engine,
        job.record(PACKAGE).outputs.image,
        plan=plan,
        cancel=job.cancel,
        emit_check=lambda check: progress(f"{check.name}: {check.text}"),
    )
    job.cancel.check()  # a report of a run that was ended would show a failure that none was
    write_atomically(job.folder / "smoke-report.json", to_json(report))
    write_atomically(job.folder / "smoke-report.junit.xml", to_junit(report))
    if report.error:
        raise report.error
    return Smoked(
        checks={check.name: round(check.seconds, 3) for check in report.checks},
        rest=tuple(report.answers.get("REST", ())),
        grpc=tuple(report.answers.get("gRPC", ())),
    )


SMOKE = Stage(name="smoke", version=1, outputs=Smoked, inputs=_inputs, run=_run, needs=(PACKAGE,), engine=True)
