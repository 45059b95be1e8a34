"""Fills a folder with the apt packages of toolchains, and the distdir with their wheels."""

from __future__ import annotations

import gzip
import lzma
import re
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from serving_factory.catalogue.distributions import slim_base
from serving_factory.docker.buildx import BuildFailed, BuildRequest
from serving_factory.errors import CompileError, FactoryError, FetchError
from serving_factory.pipeline.failures import NAME_CERTIFICATES, Kind, classify
from serving_factory.pipeline.inputs import secret_files, secrets_of
from serving_factory.pipeline.job import Job
from serving_factory.pipeline.records import copy_atomically, write_atomically
from serving_factory.pipeline.stages.compile import logged_build
from serving_factory.recipes.dockerfile import stages
from serving_factory.recipes.recipe import CONTEXT, Recipe

_INDEX = "Packages"
_FILENAME = re.compile(r"^Filename: (?:\./)*(.+)$", re.MULTILINE)
_PACKED: Mapping[str, Callable[[bytes], bytes]] = {".gz": gzip.decompress, ".xz": lzma.decompress}


@dataclass(frozen=True, slots=True, kw_only=True)
class Downloaded:
    """A folder with packages and their index: how many are there now, how many of them are new, and their size."""

    folder: Path
    packages: int
    new: int
    bytes: int
    wheels: tuple[Path, ...]  # places of the wheels in the distdir; empty where none is required


def download_packages(job: Job, folder: Path, *, progress: Callable[[str], None]) -> Downloaded:
    """Download what a variant's toolchain installs, by way of the base image's own lists of sources."""
    # What the folder holds already stays. The files are put in their places first, the index that names them last.
    recipe, wheels, distdir = job.recipe, job.recipe.toolchain.wheels, job.recipe.inputs.distdir
    args = {"BASE": recipe.base.image, "PACKAGES": " ".join(_required_packages(recipe)), "RUN_ID": uuid.uuid4().hex}
    lines = [" ".join((one.file, one.sha256, one.requirement, *one.pip_options)) for one in wheels]
    args |= {"WHEELS": "\n".join(lines)} if lines else {}
    with tempfile.TemporaryDirectory(prefix="serving-factory-packages-") as scratch:
        out = Path(scratch, "out")
        with secret_files(Path(scratch), secrets_of(recipe.inputs)) as secrets:
            request = BuildRequest(
                dockerfile=CONTEXT / "packages.Dockerfile",
                context=CONTEXT,
                build_args=(*args.items(), *recipe.inputs.apt_args),
                secrets=secrets,
                output=out,
            )
            log = job.log("packages")
            try:
                logged_build(request, log, progress=progress)
            except BuildFailed as failed:
                raise _error(job, failed, log) from None
        before = {file.name for file in folder.glob("*.deb")}
        folder.mkdir(parents=True, exist_ok=True)
        for deb in (out / "packages").glob("*.deb"):
            copy_atomically(deb, folder / deb.name)
        _merge_index(folder, out / "packages" / _INDEX)
        wheel_files = tuple(distdir / one.file for one in wheels) if distdir else ()
        for file in wheel_files:
            copy_atomically(out / "wheels" / file.name, file)
    there = list(folder.glob("*.deb"))
    return Downloaded(
        folder=folder,
        packages=len(there),
        new=len({file.name for file in there} - before),
        bytes=sum(file.stat().st_size for file in there),
        wheels=wheel_files,
    )


def _required_packages(recipe: Recipe) -> Iterator[str]:
    """What the Dockerfiles install from the distribution of the compile, without LLVM's and NVIDIA's own packages."""
    llvm, gpu = recipe.toolchain.llvm, recipe.toolchain.gpu
    elsewhere: set[str | None] = set(llvm.packages if llvm else ())
    if gpu:
        elsewhere |= {*gpu.cuda.packages, gpu.compat}
        elsewhere |= {*gpu.tensorrt.packages, gpu.tensorrt.repository} if gpu.tensorrt else set()
    named = [package for stage in stages(recipe.devel).values() for package in stage.packages]
    if recipe.runtime_base.image == recipe.base.image:
        named += [one.partition("=")[0] for one in recipe.upgrades]
        named += slim_base().packages if recipe.slim else ()
    yield from (package for package in dict.fromkeys(named) if package not in elsewhere)


def _error(job: Job, failed: BuildFailed, log: Path) -> FactoryError:
    text = log.read_text(encoding="utf-8", errors="replace")
    failure = classify(f"{text}\n{failed.text}", exit_code=failed.exit_code, place=failed.place)
    error = FetchError if failure.kind is Kind.FETCH else CompileError
    remedy = (
        NAME_CERTIFICATES
        if failure.kind is Kind.UNTRUSTED
        else f"see whether the base image {job.recipe.base.image} has lists of sources that this machine reaches, or "
        "name mirrors in the environment (docs/matrix.md, The network)"
    )
    return error(
        f"{job.recipe.variant.id}: the packages could not be downloaded",
        why="\n".join(failure.lines or failed.tail),
        remedy=f"{remedy}; the whole log is {log}",
    )


def _merge_index(folder: Path, new: Path) -> None:
    """Write an index of all packages that are there: what the new one says of each, else what the old ones said."""
    # An old one that is packed goes: apt would read it first.
    old = [folder / name for name in (_INDEX, *(f"{_INDEX}{ending}" for ending in _PACKED))]
    entries: dict[str, str] = {}
    for entry in (entry for path in (*old, new) if path.is_file() for entry in re.split(r"\n{2,}", _text(path))):
        if found := _FILENAME.search(entry):
            entries[found[1]] = entry.strip("\n")
    there = [entry for name, entry in sorted(entries.items()) if (folder / name).is_file()]
    write_atomically(folder / _INDEX, "".join(f"{entry}\n\n" for entry in there))
    for path in old[1:]:
        path.unlink(missing_ok=True)


def _text(index: Path) -> str:
    return _PACKED.get(index.suffix, bytes)(index.read_bytes()).decode("utf-8", errors="replace")
