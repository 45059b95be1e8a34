"""Which packages of images their distributions have in higher versions: by the images' own records of packages."""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving_factory.docker.buildx import BuildFailed, BuildRequest
from serving_factory.errors import EngineError, FactoryError, FetchError, NotBuiltError, PackageError
from serving_factory.matrix.lockfile import base_name
from serving_factory.pipeline.failures import NAME_CERTIFICATES, Kind, classify
from serving_factory.pipeline.inputs import secret_files, secrets_of
from serving_factory.pipeline.job import Job, Progress
from serving_factory.pipeline.records import write_atomically
from serving_factory.pipeline.stages.compile import logged_build
from serving_factory.pipeline.stages.package import PACKAGE
from serving_factory.proofs.described import DPKG_RECORDS, IMAGE_JSON, Package, packages_in
from serving_factory.recipes.recipe import CONTEXT

_NO_CHANGELOG = "-"  # as newer.sh writes it


@dataclass(frozen=True, slots=True, kw_only=True)
class Outdated:
    """A package of an image that the distribution has in a higher version."""

    package: str
    installed: str
    available: str
    cves: tuple[str, ...] | None  # that the changelog names since; None where there is no changelog to be had


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """An image, compared with its base's distribution."""

    variant: str
    image: str
    base: str  # as Dockerfiles name it
    packages: int
    outdated: tuple[Outdated, ...]
    unknown: tuple[str, ...]  # packages that none of the base's sources has, such as NVIDIA's


def compare_images(jobs: Sequence[Job], progress: Progress) -> tuple[Compared, ...]:
    """Compare the image of each job; its package record must be there."""
    bases: dict[str, list[tuple[Job, tuple[Package, ...]]]] = {}
    for job in jobs:
        bases.setdefault(job.recipe.runtime_base.image, []).append((job, read_packages(job)))
    return tuple(found for held in bases.values() for found in _compared(held, progress))


def read_packages(job: Job) -> tuple[Package, ...]:
    """Read which packages a job's image holds, from its own records."""
    variant, image = job.recipe.variant.id, job.record(PACKAGE).outputs.image
    if job.site.image_id(image) is None:
        raise EngineError(
            f"{variant}: the engine has no longer the image that was packaged",
            why=image,
            remedy=f"make it again: ./factory package --variant {variant}, with the same --matrix",
        )
    files = dict(job.site.engine.read_files(image, *DPKG_RECORDS, IMAGE_JSON, owner=job.site.owner))
    base, now = json.loads(files.pop(IMAGE_JSON, b"{}")).get("base"), base_name(job.recipe.runtime_base.name)
    if base and base_name(base) != now:  # another distribution's versions say nothing of its packages
        raise NotBuiltError(
            f"{variant}: its image stands on {base_name(base)}, and the matrix file says {now}",
            remedy=f"make the image again: ./factory build --variant {variant}, with the same --matrix",
        )
    found = packages_in(files)
    if not found:
        raise PackageError(
            f"{variant}: the image has no records of packages",
            why=f"{image} has nothing in {' or '.join(DPKG_RECORDS)}",
            remedy="images on a base of Debian or Ubuntu have them: name one at image.base",
        )
    return found


def _compared(held: Sequence[tuple[Job, tuple[Package, ...]]], progress: Progress) -> Iterator[Compared]:
    """Compare images that stand on the same base."""
    first, packages = held[0][0], sorted({package for _, packages in held for package in packages})
    newer, unknown = _ask(first, packages, progress)
    for job, own in held:
        yield Compared(
            variant=job.recipe.variant.id,
            image=job.record(PACKAGE).outputs.image,
            base=job.recipe.runtime_base.name,
            packages=len(own),
            outdated=tuple(newer[one.name, one.version] for one in own if (one.name, one.version) in newer),
            unknown=tuple(one.name for one in own if one.name in unknown),
        )


def _ask(
    job: Job, packages: Sequence[Package], progress: Progress
) -> tuple[Mapping[tuple[str, str], Outdated], frozenset[str]]:
    """Ask the sources of a job's base: what is outdated, by name and version, and what they do not have."""
    recipe, log = job.recipe, job.log("refresh")
    progress(f"Asking the sources of packages of {recipe.runtime_base.image} about {len(packages)} packages")
    with tempfile.TemporaryDirectory(prefix="serving-factory-packages-") as scratch:
        out, given = Path(scratch, "out"), Path(scratch, "given")
        lines = (f"{one.name} {one.version} {one.source_version}\n" for one in packages)
        write_atomically(given / "packages", "".join(lines))
        with secret_files(Path(scratch), secrets_of(recipe.inputs)) as secrets:
            request = BuildRequest(
                dockerfile=CONTEXT / "newer.Dockerfile",
                context=CONTEXT,
                build_args=(("BASE", recipe.runtime_base.image), ("RUN_ID", uuid.uuid4().hex), *recipe.inputs.apt_args),
                contexts=(("packages", str(given)), *((("apt", str(recipe.inputs.apt)),) if recipe.inputs.apt else ())),
                secrets=secrets,
                network="none" if recipe.inputs.offline else None,
                output=out,
            )
            try:
                logged_build(request, log, progress=lambda _text: None, cancel=job.cancel)
            except BuildFailed as failed:
                raise _error(job, failed, log) from None
        rows = [line.split() for line in (out / "newer").read_text(encoding="utf-8").splitlines()]
        unknown = frozenset((out / "unknown").read_text(encoding="utf-8").split())
    newer = {
        (name, installed): Outdated(
            package=name,
            installed=installed,
            available=available,
            cves=None if _NO_CHANGELOG in cves else tuple(cves),
        )
        for name, installed, available, *cves in rows
    }
    return newer, unknown


def _error(job: Job, failed: BuildFailed, log: Path) -> FactoryError:
    text = log.read_text(encoding="utf-8", errors="replace")
    failure = classify(f"{text}\n{failed.text}", exit_code=failed.exit_code, place=failed.place)
    fetch = failure.kind in {Kind.FETCH, Kind.UNTRUSTED}
    remedy = (
        NAME_CERTIFICATES
        if failure.kind is Kind.UNTRUSTED
        else "see whether this machine reaches its sources of packages, or name mirrors at network.apt (docs/matrix.md)"
    )
    return (FetchError if fetch else PackageError)(
        f"what the distribution of {job.recipe.runtime_base.image} has now could not be read",
        why="\n".join((failure.lines if fetch else ()) or failed.tail),
        remedy=f"{remedy}; the whole log is {log}",
    )
