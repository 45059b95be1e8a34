"""`vault fill`, `vault override` and `vault packages`: the inputs of variants, filled."""

from __future__ import annotations

import itertools
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from serving_factory.commands.preflight import filled_page, override_page, packages_page
from serving_factory.commands.shared import Asked, print_json, width, write
from serving_factory.docker.git import commit_of, fetch_source, git_folder
from serving_factory.errors import CompileError, MissingInputsError, OverrideError, UsageError
from serving_factory.output.text import count
from serving_factory.pipeline.build_lock import hold_matrix_lock
from serving_factory.pipeline.job import Job, Site
from serving_factory.pipeline.offline.fill import Filled, Filler, Result, archives_in
from serving_factory.pipeline.offline.mirrors import Mirror, archive_address, find_mirrors
from serving_factory.pipeline.offline.overrides import (
    Labels,
    Override,
    Top,
    labels_of,
    make_override,
    override_from_git,
)
from serving_factory.pipeline.offline.packages import download_packages
from serving_factory.pipeline.offline.unpacking import unpack
from serving_factory.pipeline.preflight import (
    Declared,
    Missing,
    Report,
    declared_by_name,
    only_cached,
    preflight_folder,
    run_preflight,
)
from serving_factory.pipeline.records import build_folder
from serving_factory.recipes.recipe import recipes_for


def fill(asked: Asked, variants: Sequence[str], *, mirrors: str, archives: str, overrides: bool, json: bool) -> None:
    """Ask what is missing and make what can be made, until nothing is missing or nothing more can be made.

    Raises:
        UsageError: a folder is not there, or the matrix names none to fill.
        RecipeError, BazelTooOldError: a variant cannot be built as the matrix has it.
        MissingInputsError: something is left.
        CompileError: the analysis fails, and nothing is missing.
    """
    if not mirrors and not archives:
        raise UsageError(
            "vault fill is not told where to look", remedy="name a folder of git repositories: --mirrors DIR"
        )
    found = find_mirrors(_folder("--mirrors", mirrors), _report) if mirrors else ()
    if mirrors and not found:
        raise UsageError(
            f"there is no git repository in {mirrors}", remedy="name a folder that holds clones or mirrors"
        )
    sources = _Sources(found, archives_in(_folder("--archives", archives)) if archives else {}, overrides)
    jobs = _jobs(asked, variants)
    for job in jobs:
        _check_folders(job, asked, overrides=overrides)
    results: list[FilledVariant] = []
    try:
        with hold_matrix_lock(jobs[0].site.build):
            results.extend(_fill_one(asked, job.recipe.variant.id, sources) for job in jobs)
    finally:
        if results:  # also what was done before another variant's error
            _show_filled(results, json=json)
    left = {one.name for result in results for one in result.left}
    if left:
        raise MissingInputsError(
            f"{count(len(left), 'input')} left to be filled",
            remedy="take the next step that is told for each, and run the same command again",
        )
    failed = next((result for result in results if result.errors), None)
    if failed:
        raise CompileError(
            f"{failed.variant}: Bazel's analysis fails, and not for want of an input",
            why="\n".join(failed.errors),
            remedy=f"`./factory preflight {failed.variant}` leaves Bazel's whole log",
        )


def _show_filled(results: Sequence[FilledVariant], *, json: bool) -> None:
    documents = [asdict(one) for one in results]
    if json:
        print_json(documents)
    else:
        write("\n".join(filled_page(document, width=width()) for document in documents))


def _check_folders(job: Job, asked: Asked, *, overrides: bool) -> None:
    inputs = job.recipe.inputs
    if inputs.distdir is None:
        raise UsageError(
            f"{job.recipe.variant.id}: {asked.file} names no folder for archives",
            remedy="name one at bazel.distdir in the matrix file, such as `distdir: archives`",
        )
    if overrides and inputs.overrides_folder is None:
        raise UsageError(
            f"{job.recipe.variant.id}: {asked.file} names no folder for all overrides",
            remedy="name one at bazel.overrides in the matrix file: `overrides: overrides`",
        )


@dataclass(frozen=True, slots=True)
class _Sources:
    """Where inputs are looked for, and whether folders may take the place of what is pinned."""

    mirrors: Sequence[Mirror]
    archives: Mapping[str, Path]
    overrides: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FilledVariant:
    """What became of one variant's inputs.

    Args:
        variant: its id.
        rounds: how often Bazel was asked.
        made: what was made or copied.
        left: what is missing still.
        errors: what Bazel says is wrong where nothing is missing.
    """

    variant: str
    rounds: int
    made: tuple[Filled, ...]
    left: tuple[Filled, ...]
    errors: tuple[str, ...]


def _fill_one(asked: Asked, variant: str, sources: _Sources) -> FilledVariant:
    made: dict[str, Filled] = {}
    for round_number in itertools.count(1):
        _report(f"{variant}: asking Bazel what is missing, round {round_number}")
        (job,) = _jobs(asked, [variant])  # again: overrides that were made are part of the recipe
        report = run_preflight(job, _report)
        missing = (*report.missing, *only_cached(report, declared_by_name(preflight_folder(job))))
        # What was filled and is missing still would be filled for ever.
        vain = [_in_vain(one, made[one.name]) for one in missing if one.name in made]
        filled = _filler(asked, job, sources).fill([one for one in missing if one.name not in made])
        new = {one.name: one for one in filled if one.result is not Result.LEFT}
        made |= new
        if not new:
            break
    gone = {one.name for one in vain}
    return FilledVariant(
        variant=variant,
        rounds=round_number,
        made=tuple(one for one in made.values() if one.name not in gone),
        left=(*(one for one in filled if one.result is Result.LEFT), *vain, *_programs(report)),
        errors=report.errors if report.failed and not report.missing else (),
    )


def _in_vain(one: Missing, made: Filled) -> Filled:
    return Filled.left(
        one,
        f"it was {made.result} from {made.source}, and Bazel still says: {one.problem}",
        "see the log of the preflight, bazel.log",
    )


def _filler(asked: Asked, job: Job, sources: _Sources) -> Filler:
    declared, inputs = declared_by_name(preflight_folder(job)), job.recipe.inputs

    def make(name: str, mirror: Path, commit: str) -> Override:
        rule, folder = declared.get(name), inputs.overrides_folder
        if rule is None or folder is None:
            raise OverrideError(f"nothing tells how the repository {name} is made")
        return override_from_git(rule, mirror, commit, folder / name, labels_of(job.recipe, declared))

    return Filler(
        distdir=inputs.distdir or Path(),
        mirrors=sources.mirrors,
        archives=sources.archives,
        declared=declared,
        override=make if sources.overrides else None,
        command=lambda name, source: _override_command(asked, job.recipe.variant.id, name, source),
        progress=_report,
    )


def _override_command(asked: Asked, variant: str, name: str, source: str) -> str:
    words = ["./factory", "vault", "override", name, "--from", source, "--variant", variant]
    return shlex.join([*words, *(["--matrix", asked.matrix] if asked.matrix else [])])


def _programs(report: Report) -> tuple[Filled, ...]:
    """Programs of the host that the toolchain lacks; no archive helps with them."""
    return tuple(
        Filled(
            name=one.name,
            file="",
            result=Result.LEFT,
            why=f"{', '.join(one.rules[:3])} calls this program, and the toolchain has none",
            next_step=f"toolchain: {{packages: [{one.package or 'the package that has it'}]}} in the matrix file",
        )
        for one in report.programs
    )


def override(
    asked: Asked, name: str, *, source: str, debian_source: str, variant: str, output: str, json: bool
) -> None:
    """Make the folder that takes an external repository's place.

    Raises:
        UsageError: the options make no sense, or nothing declares the repository.
        RecipeError, BazelTooOldError: the variant cannot be built as the matrix has it.
        OverrideError: sources, patch or BUILD file do not fit.
        GitError, FetchError: the sources cannot be had.
    """
    if bool(source) == bool(debian_source):
        raise UsageError(
            "vault override needs one place for the sources",
            remedy="give --from ARCHIVE, --from GIT_DIR#REF, or --debian-source PACKAGE",
        )
    if not variant:
        raise UsageError("vault override needs a variant, whose sources declare the repository", remedy="--variant ID")
    (job,) = _jobs(asked, [variant])
    declared = declared_by_name(preflight_folder(job))
    if name not in declared:
        raise UsageError(
            f"nothing declares a repository {name}" if declared else f"{variant} has not been looked at yet",
            why=", ".join(sorted(declared)),
            remedy=f"run `./factory preflight {variant}`, which reads what the sources declare",
        )
    place = _place_of(job, asked, name, output)
    with hold_matrix_lock(job.site.build):
        made = _made_override(declared[name], place, labels_of(job.recipe, declared), source, debian_source)
    document = {"name": name, **asdict(made), "folder": str(made.folder), "in_matrix": _is_named(job, name, place)}
    if json:
        print_json(document)
    else:
        write(override_page(document))


def _place_of(job: Job, asked: Asked, name: str, output: str) -> Path:
    """Where it goes: into the folder that was asked for, where the matrix has it, or into `overrides` beside that."""
    if output:
        return Path(output).resolve() / name
    overrides = dict(job.recipe.inputs.overrides)
    if name in overrides:
        return overrides[name]
    folder = job.recipe.inputs.overrides_folder or asked.file.resolve().parent / "overrides"
    return folder / name


def _is_named(job: Job, name: str, place: Path) -> bool:
    """Whether the matrix file names the folder already."""
    return dict(job.recipe.inputs.overrides).get(name) == place or place.parent == job.recipe.inputs.overrides_folder


def _made_override(declared: Declared, place: Path, labels: Labels, source: str, debian_source: str) -> Override:
    """Make the folder out of what the user names."""
    if debian_source:
        return make_override(declared, partial(_bring_package, debian_source), place, labels, top=Top.ANY)
    where, _, ref = source.partition("#")
    given = Path(where)
    mirror = git_folder(given)
    if ref and not mirror:
        mirror = _only_mirror(given)
    if mirror:
        ref = ref or _declared_ref(declared) or "HEAD"
        commit = commit_of(mirror, ref)
        if commit is None:
            raise UsageError(
                f"--from {where}: nothing of the name {ref} is there",
                remedy=f"name a tag or a commit: --from {where}#REF",
            )
        made = override_from_git(declared, mirror, commit, place, labels)
        return replace(made, followed=((f"commit {commit}", ref), *made.followed))
    if given.is_dir():
        return make_override(declared, partial(_bring_folder, given), place, labels, top=Top.NONE)
    if not given.exists():
        raise UsageError(
            f"--from {where}: there is no such thing", remedy="name an archive, a folder or a git repository"
        )
    return make_override(declared, partial(unpack, given), place, labels)


def _bring_package(name: str, folder: Path) -> None:
    downloads = folder.with_name("downloads")
    downloads.mkdir()
    unpack(fetch_source(name, downloads), folder)


def _bring_folder(given: Path, folder: Path) -> None:
    try:
        shutil.copytree(given, folder, symlinks=True)
    except shutil.Error as error:
        raise OverrideError(
            f"{given} cannot be copied", why=str(error), remedy="take out what is no file, folder or link"
        ) from None


def _only_mirror(folder: Path) -> Path:
    """The git repository that is somewhere in a folder."""
    found = find_mirrors(folder, _report) if folder.is_dir() else ()
    if len(found) != 1:
        raise UsageError(
            f"--from {folder}#...: {'more than one' if found else 'no'} git repository is there",
            remedy="name the repository itself: --from GIT_DIR#REF",
        )
    return found[0].folder


def _declared_ref(declared: Declared) -> str:
    """The commit or tag that a rule names, in words or in the address of its archive."""
    for name in ("commit", "tag"):
        if isinstance(ref := declared.attributes.get(name), str):
            return ref
    return next((address.ref for url in declared.urls if (address := archive_address(url))), "")


def packages(asked: Asked, variants: Sequence[str], *, json: bool) -> None:
    """Fill the matrix's folder of packages.

    Raises:
        UsageError: the matrix names no folder.
        RecipeError, BazelTooOldError: a variant cannot be built as the matrix has it.
        FetchError, CompileError: the packages cannot be had.
    """
    jobs = _jobs(asked, variants)
    folder = jobs[0].recipe.inputs.apt
    if folder is None:
        raise UsageError(
            f"{asked.file} names no folder for packages",
            remedy="name one at network.apt.mirror in the matrix file, such as `apt: {mirror: packages}`",
        )
    bases = {job.recipe.base_image for job in jobs}
    if len(bases) > 1:
        raise UsageError(
            f"these variants stand on several bases: {', '.join(sorted(bases))}",
            why="one folder serves one base: packages of several would be mixed up",
            remedy="name variants of one base, and another matrix file for the others",
        )
    with hold_matrix_lock(jobs[0].site.build):
        done = [(job, download_packages(job, folder, progress=_report)) for job in jobs]
    documents = [
        {
            "variant": job.recipe.variant.id,
            **asdict(one),
            "folder": str(one.folder),
            "wheel": str(one.wheel) if one.wheel else None,
        }
        for job, one in done
    ]
    if json:
        print_json(documents)
    else:
        write("".join(packages_page(document) for document in documents))


def _jobs(asked: Asked, variants: Sequence[str]) -> list[Job]:
    matrix = asked.load()
    recipes, unbuildable = recipes_for(replace(asked, variants=variants).choose(matrix), matrix)
    if unbuildable:
        raise unbuildable[0].error
    folder = build_folder(asked.file, asked.checkout.root, asked.checkout.build)
    return [Job(recipe=recipe, site=Site(build=folder, models=asked.checkout.models)) for recipe in recipes]


def _folder(option: str, name: str) -> Path:
    folder = Path(name)
    if not folder.is_dir():
        raise UsageError(f"{option} {name}: there is no such folder", remedy="name one that is there")
    return folder.resolve()


def _report(what: str) -> None:
    sys.stderr.write(f"{what}\n")
    sys.stderr.flush()
