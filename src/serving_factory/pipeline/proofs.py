"""What travels with a pushed image: SBOM and provenance, made of the records and of the image, and signatures."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import serving_factory
from serving_factory.docker.buildx import BuildFailed
from serving_factory.docker.referrers import Artifact, attach
from serving_factory.docker.registry import Registry
from serving_factory.pipeline.digests import file_digest
from serving_factory.pipeline.job import Job
from serving_factory.pipeline.preflight import Declared, declared_by_bazel, declared_repositories, is_bazels_own
from serving_factory.pipeline.retry import asking_again
from serving_factory.pipeline.stages.compile import COMPILE, build_error, logged_build, ready_request
from serving_factory.pipeline.stages.extract import EXTRACT, server_version
from serving_factory.pipeline.stages.libraries import libraries_folder
from serving_factory.pipeline.stages.package import PACKAGE
from serving_factory.proofs.described import (
    DPKG_RECORDS,
    IN_TOTO,
    SBOM,
    Described,
    External,
    Higher,
    Library,
    Model,
    os_release,
    packages_in,
)
from serving_factory.proofs.provenance import CYCLONEDX, provenance, statement
from serving_factory.proofs.signatures import KeySigner, Signer, has_proofs
from serving_factory.recipes.recipe import decides, key_of, short

EXTERNALS = "externals"  # a target of the devel Dockerfile
_ANSWERS = ("query.build", "packages", "licences", "overrides")
_EXTERNAL = re.compile(r"@+([^/]+)//")
_OS_RELEASE = "/usr/lib/os-release"


def prove(
    job: Job, registry: Registry, repository: str, digest: str, signer: Signer, *, image: str, model: Model | None
) -> None:
    """Attach SBOM and provenance to an image, and sign them and then the image, each once; a fault repeats one step."""
    ask = partial(asking_again, report=job.report_retry, sleep=job.cancel.wait)
    if not ask(partial(has_proofs, registry, repository, digest, signer)):
        from serving_factory.proofs.sbom import sbom  # its libraries take longer to import than an unchanged push

        name = f"{registry.host}/{repository}"
        about = described(job, name, digest, image=image, model=model)
        for kind, content in {SBOM: sbom(about), IN_TOTO: provenance(about)}.items():
            artifact = Artifact(media_type=kind, content=content)
            attached = ask(partial(attach, registry, repository, digest, artifact))
            ask(partial(signer.sign, registry, repository, attached))
            if isinstance(signer, KeySigner) and signer.attestations:
                attested = content if kind == IN_TOTO else statement(name, digest, CYCLONEDX, json.loads(content))
                ask(partial(signer.attest, registry, repository, digest, attested))
    ask(partial(signer.sign, registry, repository, digest))


def described(job: Job, repository: str, digest: str, *, image: str, model: Model | None = None) -> Described:
    """Gather what is known of an image, by its id in the engine: a packaged one, or one with a model put into that."""
    recipe, variant = job.recipe, job.recipe.variant
    compile_record, package_record, read = job.record(COMPILE), job.record(PACKAGE), job.record(EXTRACT).outputs
    compiled = compile_record.outputs
    options = {"device_code": list(variant.device_code), "copts": list(variant.all_copts)}
    parameters: dict[str, object] = {"cuda": variant.cuda, **options}
    files = dict(job.site.engine.read_files(image, *DPKG_RECORDS, _OS_RELEASE, owner=job.site.owner))
    distribution = files.pop(_OS_RELEASE, b"").decode("utf-8", errors="replace")
    return Described(
        repository=repository,
        digest=digest,
        variant=variant.id,
        release=variant.release_name,
        flavour=variant.flavour.value,
        level=variant.level.value,
        platform=variant.platform.value,
        parameters=parameters,
        binary_sha256=read.sha256,
        binary_version=server_version(read.version),
        build_id=read.build_id,
        distribution=os_release(distribution),
        packages=packages_in(files),
        libraries=tuple(_libraries(job)),
        externals=externals_in(built_externals(job)),
        compiler=read.compiler,
        bazel=read.bazel,
        configs=compiled.configs,
        arguments=compiled.arguments,
        source=compiled.source,
        bases={compiled.base: compiled.base_digest, recipe.runtime_base.image: job.site.base_id(recipe.runtime_base)},
        compile_key=compile_record.key,
        package_key=package_record.key,
        factory=serving_factory.__version__,
        started=compile_record.started,
        higher=tuple(map(higher_binary, job.higher)),
        finished=model.finished if model else package_record.ended.isoformat(),
        model=model,
    )


def higher_binary(job: Job) -> Higher:
    """What SBOM and provenance say of a binary of a higher level in the same image."""
    return Higher(
        level=job.recipe.variant.level.value,
        copts=tuple(job.recipe.variant.all_copts),
        compile_key=job.record(COMPILE).key,
        binary_sha256=job.record(EXTRACT).outputs.sha256,
    )


def _libraries(job: Job) -> Iterator[Library]:
    """What was copied into the image to be linked or opened; links to a library are left out."""
    root = libraries_folder(job) / "rootfs"
    for path in sorted(root.rglob("*.so*")):
        if path.is_file() and not path.is_symlink():
            yield Library(path=f"/{path.relative_to(root)}", sha256=file_digest(path))


def built_externals(job: Job) -> Path:
    """Ask Bazel what of its external repositories is in the server, once for each compile; give the answer's folder."""
    # After a compile BuildKit has the sources and all that was fetched.
    decided = decides(job.recipe.devel, EXTERNALS)
    folder = job.folder / EXTERNALS / short(key_of(compile=job.record(COMPILE).key, **decided))
    if not folder.is_dir():
        shutil.rmtree(folder.parent, ignore_errors=True)
        log = job.log(EXTERNALS)
        with ready_request(job, target=EXTERNALS, output=folder, runs_bazel=False) as request:
            try:
                logged_build(request, log, progress=lambda _text: None, cancel=job.cancel)
            except BuildFailed as failed:
                raise build_error(job, failed, log) from None
    return folder


def externals_in(folder: Path) -> tuple[External, ...]:
    """Read what externals.sh left, whose comments say what that is; without Bazel's own repositories."""
    lines = {name: (folder / name).read_text(encoding="utf-8").splitlines() for name in _ANSWERS}
    query = "\n".join(lines["query.build"])
    declared, built_in = {one.name: one for one in declared_repositories(query)}, declared_by_bazel(query)
    licences: dict[str, list[tuple[str, str]]] = {}
    for line in lines["licences"]:
        digest, _, path = line.partition("  ")
        name, _, file = path.partition("/")
        licences.setdefault(name, []).append((file, digest))
    used = {match[1] for line in lines["packages"] if (match := _EXTERNAL.match(line))}
    found = [
        declared.get(name) or Declared(name=name, rule="")
        for name in sorted(used)
        if not is_bazels_own(name, declared.get(name), built_in)
    ]
    return tuple(
        External(
            name=one.name,
            urls=one.urls,
            sha256=one.sha256 or "",
            ref=one.ref,
            overridden=one.name in lines["overrides"],
            licences=tuple(sorted(licences.get(one.name, ()))),
        )
        for one in found
    )
