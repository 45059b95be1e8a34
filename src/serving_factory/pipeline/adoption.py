"""Records of an earlier factory: the binaries that they describe are taken over, so that nothing is compiled again.

A record of format 1 holds no key that could be compared with today's, but it says what was compiled. From that, and
from what else lies in the variant's folder, comes the key that the record would have now. Whether the sources or the
base image have changed since is then seen as always, by comparing keys. The other stages run again; they take seconds.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from serving_factory.catalogue.levels import Level
from serving_factory.errors import ArtifactError
from serving_factory.pipeline.digests import tree_digest
from serving_factory.pipeline.inputs import stage_inputs
from serving_factory.pipeline.job import Job
from serving_factory.pipeline.records import Record, decode_known, read_json, read_old_record, write_record
from serving_factory.pipeline.stages.compile import COMPILE, Compiled, decided_by, made_of, read_artifact
from serving_factory.pipeline.stages.extract import EXTRACT
from serving_factory.recipes.recipe import key_of

_STAGED = ("inputs", "doors")  # names of the folder that the inputs were put together in, below the variant's `recipe`

# Of the devel image's build context, as far as they are there, in the order that counted in keys
_FILES = (
    *("apply_patches.sh", "bazel.sh", "collect.sh", "inputs.sh", "doors.sh", "preflight.sh", "init.c"),
    *("apt_key.sh", "llvm-snapshot.asc"),
)
_ARGUMENTS = ("CUDA_CAPABILITIES", "TENSORRT", "APT_SNAPSHOT", "BAZEL_OPTIONS", "BAZEL_STARTUP_OPTIONS")
_RESOURCES = re.compile(r'^ARG BAZEL_RESOURCES=".*"$', re.MULTILINE)
_MOUNTS = re.compile(
    r"^RUN (?:--mount=type=secret,id=network )?(?:--mount=type=secret,id=ca )?"
    r"(--mount=type=tmpfs,target=/run/\w+ \\\n +)"
    r"(?:--mount=type=secret,id=bazelrc )?(?=--mount=type=bind,from=distdir)",
    re.MULTILINE,
)
_ALL_MOUNTS = r"RUN --mount=type=secret,id=network --mount=type=secret,id=ca \1--mount=type=secret,id=bazelrc "
_OTHER_BINARY = "their binaries are not the recorded ones"


def adopt_old_records(jobs: Sequence[Job]) -> list[str]:
    """Rewrite the records of an earlier factory; give the lines that say what became of them."""
    adopted: list[str] = []
    compiled_again: dict[str, list[str]] = {}
    for job in jobs:
        if old := read_old_record(job.folder, COMPILE.name):
            variant = job.recipe.variant.id
            if why := _adopt(job, old):
                compiled_again.setdefault(why, []).append(variant)
            else:
                adopted.append(variant)
    lines = [f"records of an earlier factory: the binaries of {_some(adopted)} are kept"] if adopted else []
    return lines + [
        f"records of an earlier factory: {_some(variants)} will be compiled again, because {why}"
        for why, variants in compiled_again.items()
    ]


def _some(variants: Sequence[str]) -> str:
    return ", ".join(variants[:3]) + (f" and {len(variants) - 3} more" if variants[3:] else "")


def _adopt(job: Job, old: Record[Any]) -> str:
    """Rewrite the record of a compile; give the reason where that cannot be done."""
    binary = read_old_record(job.folder, EXTRACT.name)
    try:
        artifact = read_artifact(job)
    except ArtifactError as error:
        return error.what.removeprefix(f"{job.recipe.variant.id}: ")
    if _is_todays(job, old):
        if old.outputs.get("binary_sha256") != artifact["binary_sha256"]:
            return _OTHER_BINARY
    elif why := _difference(job, old, binary, artifact):
        return why
    made = {name: list(value) if isinstance(value, tuple) else value for name, value in made_of(job).items()}
    try:
        outputs = decode_known(Compiled, {**old.outputs, **artifact, **made})
    except (TypeError, KeyError, ValueError):
        return "their records are not whole"
    key = COMPILE.key_for(decided_by(job, base_id=outputs.base_digest, source=outputs.source))
    write_record(job.folder, replace(old, key=key, outputs=outputs))
    return ""


def _is_todays(job: Job, old: Record[Any]) -> bool:
    """Whether the Dockerfile and the files that lie in the variant's folder, with today's recipe, give the old key."""
    # The Dockerfile lies there as that machine built it: with its resources, without the mounts of secrets it had not.
    recipe, folder = job.recipe, job.folder / "recipe" / "devel"
    names = [name for name in _FILES if (folder / name).exists()]
    names += [fix.script for fix in recipe.toolchain.fixes]
    try:
        dockerfile, *files = [(folder / name).read_text(encoding="utf-8") for name in ("Dockerfile", *names)]
    except (OSError, ValueError):
        return False
    given = dict(recipe.build_args)
    arguments = [("COPTS", " ".join(f"--copt={option}" for option in recipe.variant.all_copts))]
    arguments += [(name, given[name]) for name in _ARGUMENTS if name in given]
    compile_key = key_of(
        devel=_RESOURCES.sub('ARG BAZEL_RESOURCES=""', _MOUNTS.sub(_ALL_MOUNTS, dockerfile)),
        files=list(zip(names, files, strict=True)),
        arguments=arguments,
        base=recipe.base.image,
        source=None if isinstance(recipe.source, Path) else recipe.source,
        platform=recipe.variant.platform,
    )
    base_id, source = str(old.outputs.get("base_digest")), str(old.outputs.get("source"))
    decided = decided_by(job, base_id=base_id, source=source)
    return old.key == key_of(**{**decided, "recipe": compile_key})


def _difference(job: Job, old: Record[Any], binary: Record[Any] | None, artifact: Mapping[str, Any]) -> str:
    """Why it is not known, or not so, that today's recipe gives this binary; empty where it does."""
    recipe, found = job.recipe, binary.outputs if binary else {}
    sha256, bazel = artifact["binary_sha256"], artifact["facts"]["bazel"].split()[-1:]
    # What an image says of its binary was written together with the capabilities that it was compiled for.
    image = read_json(job.folder / "recipe" / "runtime" / "image.json", dict[str, Any]) or {}
    packaged = isinstance(image.get("binary"), dict) and image["binary"].get("sha256") == sha256
    checks: tuple[tuple[bool, str], ...] = (
        (recipe.variant.level is Level.NATIVE, "it is not recorded for which CPU they were compiled"),
        (old.outputs.get("binary_sha256") != sha256, _OTHER_BINARY),
        (found.get("sha256") != sha256, "it is not recorded with which options they were compiled"),
        (found.get("copts") != list(recipe.variant.all_copts), "they were compiled with other options"),
        (found.get("configs") != list(recipe.toolchain.configs), "they were compiled with other options"),
        (old.outputs.get("base") != recipe.base.image, "they were compiled from another base image"),
        (not bazel or not bazel[0].startswith(recipe.toolchain.bazel.version), "another Bazel compiled them"),
        (
            bool(recipe.variant.capabilities) and not (packaged and _capabilities(job) == recipe.variant.capabilities),
            "it is not recorded for which compute capabilities they were compiled",
        ),
        (bool(recipe.inputs.key_args), "it is not recorded which options of Bazel and which apt snapshot were used"),
        (not _same_inputs(job, old), "it is not recorded which overrides, patches and Bazel they were compiled with"),
    )
    return next((why for differs, why in checks if differs), "")


def _capabilities(job: Job) -> tuple[str, ...]:
    try:
        lines = (job.folder / "recipe" / "runtime" / "image.env").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ()
    return next((tuple(line.split('"')[1].split()) for line in lines if line.startswith('CAPABILITIES="')), ())


def _same_inputs(job: Job, old: Record[Any]) -> bool:
    """Whether the overrides, patches and Bazel that the compile got are those of today's recipe, unchanged since."""
    ended = datetime.fromisoformat(old.started).timestamp() + old.seconds
    staged = next((place for name in _STAGED if (place := job.folder / "recipe" / name).is_dir()), None)
    with tempfile.TemporaryDirectory(prefix=".staged-", dir=job.folder) as scratch:
        today = Path(scratch, "inputs")
        stage_inputs(replace(job.recipe.inputs, apt=None), today)
        if staged is None:
            return not today.exists()
        # Files are linked, not copied: one that was changed in place since is the same in both.
        times = [path.stat().st_mtime for path in (staged, *staged.rglob("*")) if path == staged or path.is_file()]
        return max(times) <= ended and tree_digest(staged) == tree_digest(today)
