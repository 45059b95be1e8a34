"""`which`: the image to run on a machine, by its CPU and its NVIDIA driver."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

from serving_factory.catalogue.cuda import Cuda, why_not_driver
from serving_factory.catalogue.facts import Flavour
from serving_factory.catalogue.levels import LEVELS, level_facts
from serving_factory.commands.images import Image, build_command, recorded_image
from serving_factory.commands.shared import Asked, show
from serving_factory.docker.host import GpuAccess
from serving_factory.doctor import probes
from serving_factory.doctor.checks import host_level
from serving_factory.errors import (
    CpuLevelError,
    FactoryError,
    GpuDriverError,
    GpuMissingError,
    NotBuiltError,
    UsageError,
)
from serving_factory.matrix.variant import Variant

_CPUINFO = Path("/proc/cpuinfo")
_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The machine that will serve, and where that was read."""

    flags: frozenset[str]  # of its CPU, as /proc/cpuinfo has them
    flags_from: str
    driver: str | None  # of NVIDIA's; None where there is none, or none was named
    driver_from: str


@dataclass(frozen=True, slots=True)
class Choice:
    """The variant to run, the best one that is not built, and why others do not run there."""

    variant: Variant
    better: Variant | None
    left_out: Mapping[str, str]  # id -> reason


def which(asked: Asked, *, cpuinfo: str, driver: str) -> tuple[dict[str, object], str]:
    """Find the image for a machine: as a document, and as text."""
    host = read_host(cpuinfo, driver)
    matrix = asked.load()
    chosen = {
        one: matrix.cuda_of(one) for one in asked.choose(matrix) if asked.flavour or one.flavour is not Flavour.MKL
    }
    images = {one.id: image for one in chosen if (image := recorded_image(asked.folder / one.id))}
    choice = choose(asked, chosen, host, images)
    return _document(choice, host, images[choice.variant.id]), _page(choice, host, images[choice.variant.id])


def show_which(asked: Asked, *, cpuinfo: str, driver: str, json: bool) -> None:
    """Print the image for a machine."""
    document, text = which(asked, cpuinfo=cpuinfo, driver=driver)
    show(document, text, json=json)


def read_host(cpuinfo: str, driver: str) -> Host:
    """Read this machine's CPU and driver, or those that are given: with another machine's CPU, only its own driver."""
    file = Path(cpuinfo) if cpuinfo else _CPUINFO
    flags = probes.cpu_flags(file)
    if flags is None:
        raise FactoryError(
            f"{file} lists no flags of an x86-64 CPU" if file.is_file() else f"there is no file {file}",
            remedy="copy /proc/cpuinfo of the machine that will serve, and name it: --cpuinfo FILE",
        )
    if driver:
        found, source = driver, "--driver"
    elif cpuinfo:
        found, source = None, "not named: --driver VERSION, as nvidia-smi prints it"
    else:
        found = probes.gpu_driver(_DRIVER)
        source = str(_DRIVER) if found else f"{_DRIVER} is not there"
    return Host(flags=flags, flags_from=str(file), driver=found, driver_from=source)


def choose(asked: Asked, variants: Mapping[Variant, Cuda | None], host: Host, images: Mapping[str, Image]) -> Choice:
    """Choose among variants, each with its CUDA: the newest release, on a GPU if it can, at the highest level."""
    found = {one.id: _why_not(one, cuda, host) for one, cuda in variants.items()}
    reasons = {id_: reason for id_, reason in found.items() if reason}
    fitting = sorted((one for one in variants if one.id not in reasons), key=_rank, reverse=True)
    if not fitting:
        raise _refusal(variants, host, reasons)
    built = [one for one in fitting if one.id in images]
    if not built:
        raise NotBuiltError(
            f"{fitting[0].id} would run on this machine, and it is not built; nor is any other that would",
            remedy=build_command(asked, fitting[0].id),
        )
    equal = [one.id for one in built if _rank(one) == _rank(built[0])]
    if len(equal) > 1:
        raise UsageError(f"these suit this machine alike: {', '.join(equal)}", remedy="choose one with --target")
    return Choice(built[0], fitting[0] if _rank(fitting[0]) > _rank(built[0]) else None, reasons)


def _rank(variant: Variant) -> tuple[Version, bool, int]:
    return Version(variant.release), variant.flavour is Flavour.GPU, LEVELS.index(variant.level)


def _why_not(variant: Variant, cuda: Cuda | None, host: Host) -> str:
    """Why a machine does not run a variant; empty where it does."""
    if variant.level not in LEVELS:
        return "it is made for the CPU of the machine that built it"
    if missing := [flag for flag in level_facts(variant.level).cpuinfo if flag not in host.flags]:
        return f"the CPU lacks {' '.join(missing)}"
    if cuda is None:
        return ""
    return why_not_driver(host.driver, cuda) if host.driver else "no NVIDIA driver"


def _refusal(variants: Iterable[Variant], host: Host, reasons: Mapping[str, str]) -> FactoryError:
    why = "\n".join(f"{id_}: {reason}" for id_, reason in reasons.items())
    why += f"\nread: {host.flags_from}; driver: {host.driver or host.driver_from}"
    gpu = [one for one in variants if one.cuda and "CPU" not in reasons[one.id]]
    if not gpu:
        level = host_level(host.flags)
        return CpuLevelError(
            f"none of the chosen variants runs on a CPU of level {level}",
            why=why,
            remedy=f"add a target of level {level} or a lower one to the matrix, and build it",
        )
    if not host.driver:
        return GpuMissingError(
            "the chosen variants need an NVIDIA driver", why=why, remedy="name it with --driver, or --flavour cpu"
        )
    return GpuDriverError(
        f"driver {host.driver} serves none of the chosen variants",
        why=why,
        remedy="`./factory doctor --driver VERSION` names the newest release that a driver serves; or --flavour cpu",
    )


def run_command(image: Image, *, gpu: bool) -> str:
    """The line that serves the model of a folder."""
    options = GpuAccess.RUNTIME.split() if gpu else ()
    ports = ("-p", "8500:8500", "-p", "8501:8501")
    mount = ("-v", "/path/to/model:/models/model:ro")
    return shlex.join(("docker", "run", "--rm", *options, *ports, *mount, image.name))


def _document(choice: Choice, host: Host, image: Image) -> dict[str, object]:
    return {
        "variant": choice.variant.id,
        "image": image.name,
        "published": image.published,
        "command": run_command(image, gpu=bool(choice.variant.cuda)),
        "cpu": {"level": host_level(host.flags), "read": host.flags_from},
        "driver": {"version": host.driver, "read": host.driver_from},
        "better": choice.better.id if choice.better else None,
        "left_out": [{"variant": id_, "reason": reason} for id_, reason in choice.left_out.items()],
    }


def _page(choice: Choice, host: Host, image: Image) -> str:
    place = "pushed, by its digest" if image.published else "in this machine's engine; not pushed"
    lines = [
        f"variant  {choice.variant.id}",
        f"image    {image.name} ({place})",
        f"CPU      {host_level(host.flags)} ({host.flags_from})",
        f"driver   {host.driver or 'none'} ({host.driver_from})",
    ]
    if choice.better:
        lines.append(f"better   {choice.better.id} would run too, and is not built")
    lines += [f"not      {id_}: {reason}" for id_, reason in choice.left_out.items()]
    if choice.variant.cuda:
        lines.append(f"GPU      where the engine gives GPUs by CDI, {GpuAccess.CDI} instead of {GpuAccess.RUNTIME}")
    return "".join(
        f"{line}\n" for line in [*(f"  {one}" for one in lines), "", run_command(image, gpu=bool(choice.variant.cuda))]
    )
