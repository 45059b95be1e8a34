"""smoke: run the real image, ask it everything that a user would, and stop it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass

from serving_factory.catalogue.cuda import cuda_in_image, why_not_driver
from serving_factory.catalogue.levels import emulated_cpus, level_below, level_facts
from serving_factory.docker.emulator import EMULATOR, GET_EMULATOR, NEWER_EMULATOR, Emulator
from serving_factory.docker.host import GPU_REMEDY, GpuAccess
from serving_factory.errors import EmulatorMissingError, GpuDriverError, GpuMissingError
from serving_factory.matrix.variant import Platform
from serving_factory.pipeline.job import Job, Progress, Stage, Use
from serving_factory.pipeline.records import Outputs, write_atomically
from serving_factory.pipeline.stages.extract import EXTRACT
from serving_factory.pipeline.stages.inspect import INSPECT
from serving_factory.pipeline.stages.package import PACKAGE
from serving_factory.smoke.emulate import Emulated, EmulationPlan, plan_emulation
from serving_factory.smoke.gpu import DENSE, OnGpu
from serving_factory.smoke.plan import GpuPlan, SmokePlan

_MODELS = ("half_plus_two", "half_plus_two_next")


@dataclass(frozen=True, slots=True, kw_only=True)
class Smoked(Outputs):
    """An image's checks, all passed."""

    checks: Mapping[str, float]  # check's name → seconds
    rest: tuple[float, ...]  # what the server answered over REST; `grpc` over gRPC
    grpc: tuple[float, ...]
    gpu: OnGpu | None = None  # what it did on a GPU; None where it was not tried on one
    emulated: Emulated | None = None  # what it did on emulated CPUs; None where it was not tried on one

    def summary(self) -> Mapping[str, object]:
        """The answers, and the GPU's name."""
        return {"rest": self.rest, "grpc": self.grpc, "gpu": self.gpu and self.gpu.name}


SERVER_FACTS = ("rest", "model_status", "version_flag")
"""What the checks need to know of a release's server. They are in a module that takes long to import."""


def _inputs(job: Job) -> Mapping[str, object]:
    release, models = job.recipe.release, (*_MODELS, DENSE.model) if job.recipe.variant.cuda else _MODELS
    return {
        "image": job.record(PACKAGE).outputs.image,
        "models": [job.site.tree(job.site.models / name) for name in models],
        "emulated": _emulated_cpus(job),
        "opened": job.record(INSPECT).outputs.opened,
        "reported": release.reported,
        "server": [getattr(release.server, fact) for fact in SERVER_FACTS],
    }


def _emulated_cpus(job: Job) -> list[list[str]]:
    # Not the emulator's version: another one emulates the same CPUs, and smokes nothing again.
    level = job.recipe.variant.level
    levels = [one for one in (level, level_below(level)) if one and one in emulated_cpus()]
    return [[emulated_cpus()[one], *level_facts(one).cpuinfo] for one in levels]


def can_emulate(job: Job) -> bool:
    """Whether there are CPUs to emulate for an image: there are of x86-64, and none of `native`."""
    variant = job.recipe.variant
    return variant.platform == Platform.LINUX_AMD64 and variant.level in emulated_cpus()


def _lacks(job: Job, found: Smoked) -> str:
    if job.gpu is Use.REQUIRE and job.recipe.variant.cuda and found.gpu is None:
        return "a GPU is required, and the last smoke had none"
    if job.emulate is Use.REQUIRE and can_emulate(job) and found.emulated is None:
        return "an emulated CPU is required, and the last smoke had none"
    return ""


def emulator(job: Job) -> Emulator:
    """This machine's emulator; EmulatorMissingError where it has none."""
    if found := job.site.emulator:
        return found
    raise EmulatorMissingError(
        f"{job.recipe.variant.id}: an emulated CPU is required, and there is no {EMULATOR} on this machine.",
        remedy=GET_EMULATOR,
    )


def _emulation_plan(job: Job) -> tuple[EmulationPlan | None, str]:
    """How the image is tried on emulated CPUs, or else why it is not."""
    variant = job.recipe.variant
    if job.emulate is Use.NEVER:
        return None, "--emulate never"
    if not can_emulate(job):
        return None, f"there is no emulated CPU of {variant.level} on {variant.platform}"
    if job.site.emulator is None and job.emulate is Use.AUTO:
        return None, f"there is no {EMULATOR} on this machine; `./factory setup` brings it"
    qemu = emulator(job)
    plan, why_not = plan_emulation(qemu, variant.level, job.record(INSPECT).outputs.cpu_flags)
    if why_not and job.emulate is Use.REQUIRE:
        raise EmulatorMissingError(
            f"{variant.id}: an emulated CPU is required, and {why_not}.",
            remedy=NEWER_EMULATOR,
        )
    return plan, why_not


def gpu_access(job: Job) -> tuple[GpuAccess | None, str | None]:
    """How the engine gives a gpu image a GPU, None where it can give none; and this machine's driver, None if unknown.

    Raises:
        GpuMissingError: a GPU is required, and the engine can give none.
        GpuDriverError: the driver is too old.
    """
    # It comes with the SDK, which takes half a second to import.
    from serving_factory.doctor.probes import gpu_driver

    variant, access, driver = job.recipe.variant, job.site.engine.gpu(), gpu_driver()
    if access is None and job.gpu is Use.REQUIRE:
        raise GpuMissingError(
            f"{variant.id}: a GPU is required, and the engine can give containers none.",
            why="Its `docker info` names no runtime nvidia, and no device nvidia.com/gpu=all of a CDI file.",
            remedy=GPU_REMEDY,
        )
    gpu = job.recipe.toolchain.gpu
    cuda = cuda_in_image(gpu.version, compat=gpu.compat is not None) if gpu else None
    if access and driver and cuda and (why := why_not_driver(driver, cuda)):
        other = "build a release that it serves (`./factory doctor` names the newest)"
        remedy = f"install a newer driver, or {other}; `--gpu never` tries the image without a GPU"
        raise GpuDriverError(f"{variant.id}: this machine's NVIDIA driver is too old.", why=f"{why}.", remedy=remedy)
    return access, driver


def _gpu_plan(job: Job) -> tuple[GpuPlan | None, str]:
    """How the image is tried on a GPU, or else why it is not; empty where it is no gpu image."""
    if not job.recipe.variant.cuda:
        return None, ""
    if job.gpu is Use.NEVER:
        return None, "--gpu never"
    access, driver = gpu_access(job)
    if access is None:
        return None, "the engine can give containers no GPU"
    plan = GpuPlan(
        access=access,
        driver=driver,
        model=job.site.models / DENSE.model,
        code=job.record(EXTRACT).outputs.device_code.throughout,
        library=any((job.artifact / "rootfs").rglob("libcublas.so*")),
    )
    return plan, ""


def _run(job: Job, progress: Progress) -> Smoked:
    # gRPC takes a quarter of a second to import: only a run that smokes waits for it.
    from serving_factory.smoke.report import to_json, to_junit
    from serving_factory.smoke.run import run_checks

    job.site.strays  # noqa: B018 - looking removes them
    variant = job.recipe.variant
    model, next_model = (job.site.models / name for name in _MODELS)
    gpu, no_gpu = _gpu_plan(job)
    if no_gpu:
        progress(f"not tried on a GPU: {no_gpu}")
    emulation, no_emulation = _emulation_plan(job)
    if no_emulation:
        progress(f"not tried on emulated CPUs: {no_emulation}")
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
        opened=job.record(INSPECT).outputs.opened,
        gpu=gpu,
        no_gpu=no_gpu,
        emulation=emulation,
        no_emulation=no_emulation,
    )
    report = run_checks(
        job.site.engine,
        job.record(PACKAGE).outputs.image,
        plan=plan,
        cancel=job.cancel,
        emit_check=lambda check: progress(f"{check.name}: {check.text}"),
        emit_note=progress,
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
        gpu=report.gpu,
        emulated=report.emulated,
    )


SMOKE = Stage(
    name="smoke",
    version=6,
    outputs=Smoked,
    inputs=_inputs,
    run=_run,
    needs=(INSPECT, PACKAGE),
    lacks=_lacks,
    engine=True,
)
