"""`inputs`: fills what a build without a network needs: archives out of git mirrors, overrides, packages."""

from __future__ import annotations

import itertools
import json as json_module
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from serving_factory.catalogue.releases import releases
from serving_factory.commands.cli import parameters_of
from serving_factory.commands.plan import jobs_of
from serving_factory.commands.shared import Asked, InputsOptions, progress, show, width
from serving_factory.docker.git import ArchiveFormat, commit_of, fetch_source, git_folder
from serving_factory.errors import CompileError, MissingInputsError, OverrideError, PinnedDiffersError, UsageError
from serving_factory.output.text import clean, count, size, table, words
from serving_factory.pipeline.build_lock import hold_matrix_lock
from serving_factory.pipeline.job import Job
from serving_factory.pipeline.offline.fill import Filled, Filler, Result, archives_in, left
from serving_factory.pipeline.offline.mirrors import (
    Address,
    archive_address,
    find_mirrors,
    make_archive,
    mirror_of,
)
from serving_factory.pipeline.offline.overrides import Labels, Override, Top, make_override, override_from_git
from serving_factory.pipeline.offline.packages import download_packages
from serving_factory.pipeline.offline.unpacking import unpack
from serving_factory.pipeline.preflight import (
    Declared,
    Report,
    declared_by_name,
    only_cached,
    preflight_folder,
    run_preflight,
)

_PIN = re.compile(r"(?P<name>.+)=(?:sha256:)?(?P<sha256>[0-9a-f]{64})")
_SHOWN = 8
_NOTES = {"left_out": "left out, as the mirror does not have them", "absent": "named by the BUILD file, but absent"}
_MATCHES = {None: "not pinned", True: "as pinned", False: "NOT AS PINNED"}
_COMMANDS = {"archive": "GIT_DIR REF...", "fill": "VARIANT...", "override": "NAME", "packages": "VARIANT..."}


def inputs(typed: Sequence[str], options: InputsOptions) -> None:
    """Do what the words say: `archive GIT_DIR REF...`, `fill VARIANT...`, `override NAME` or `packages VARIANT...`."""
    work: Callable[[InputsOptions], None]
    match typed:
        case ["archive", mirror, *refs] if refs:
            work = partial(_archive, Path(mirror), refs)
        case ["fill", *variants] if variants:
            work = partial(_fill, variants)
        case ["override", name]:
            work = partial(_override, name)
        case ["packages", *variants] if variants:
            work = partial(_packages, variants)
        case [command, *rest] if command in _COMMANDS:
            raise UsageError(
                f"`inputs {command}` takes {_COMMANDS[command]}, got {' '.join(rest) or 'no word'}",
                remedy="`./factory inputs --help` shows examples",
            )
        case _:
            raise UsageError(
                f"`inputs {' '.join(typed)}` is no command" if typed else "`inputs` needs a command",
                why=f"the commands are: {', '.join(f'{name} {usage}' for name, usage in _COMMANDS.items())}",
                remedy="`./factory inputs --help` shows examples",
            )
    for one in parameters_of(InputsOptions):
        owners = one.help.partition(":")[0].split(", ")  # the help of an option that all verbs take begins otherwise
        if _COMMANDS.keys() >= set(owners) and typed[0] not in owners and getattr(options, one.name):
            raise UsageError(
                f"`inputs {typed[0]}` does not take {one.flag}",
                remedy=f"leave it out; it belongs to `inputs {owners[0]}`",
            )
    work(options)


# --- archive ----------------------------------------------------------------------------------------------------------


_Required = tuple[Address, str | None]  # an archive to make, and the sha256 that it must have, where it is pinned


def _archive(mirror: Path, refs: Sequence[str], options: InputsOptions) -> None:
    """Make archives, and print of each whether it is the pinned one; one that is not is not kept."""
    place = git_folder(mirror)
    if place is None:
        raise UsageError(f"{mirror} is no git repository", remedy="name a clone or a mirror (`git clone --mirror URL`)")
    required = [_required(place, ref, options) for ref in refs]
    output = Path(options.output or ".")
    made = [make_archive(place, address, output=output, pinned=sha256) for address, sha256 in required]
    rows = [
        (str(one.file), one.ref, one.commit[:12], one.folder, size(one.size), one.sha256, _MATCHES[one.matches])
        for one in made
    ]
    text = table(("file", "ref", "commit", "folder in it", ">size", "sha256", "pinned?"), rows, width=width())
    show({"archives": [{**asdict(one), "matches": one.matches} for one in made]}, text, json=options.json)
    if wrong := [one for one in made if one.matches is False]:
        raise PinnedDiffersError(
            f"{count(len(wrong), 'archive')} of {len(made)} not as pinned, and not kept",
            why="\n".join(
                f"{one.file.name}: pinned is {one.pinned}, made was {one.sha256}, in the folder {one.folder}"
                for one in wrong
            ),
            remedy="check that --repository is the name at the host; docs/closed-network.md lists what else changes "
            "the bytes, and how an override takes the archive's place",
        )


def _required(mirror: Path, ref: str, options: InputsOptions) -> _Required:
    """What the archive of a ref must be: from a preflight's report; else from options, mirror and catalogue."""
    pins: dict[str, str] = {}
    reported: list[_Required] = []
    for value in options.pinned:
        if match := _PIN.fullmatch(value):
            pins[match["name"]] = match["sha256"]
        else:
            reported += _read_report(Path(value))
    if reported:
        address, pinned = _reported(mirror, ref, reported, options)
    else:
        name = options.repository or next(iter(mirror_of(mirror).names), "")
        if not name:
            raise UsageError(f"the name of the repository in {mirror} is unknown", remedy="give --repository NAME")
        form = ArchiveFormat.ZIP if options.as_zip else ArchiveFormat.TAR_GZ
        address = Address(name=name, ref=ref, form=form)
        pinned = _catalogue_pins(name).get(address.file_name)
    return address, next((pins[key] for key in (address.file_name, ref) if key in pins), pinned)


def _reported(mirror: Path, ref: str, reported: Sequence[_Required], options: InputsOptions) -> _Required:
    """Find a ref among the archives of a preflight's report; the archive's address has name and format."""
    commit = commit_of(mirror, ref)
    fits = {one for one in reported if one[0].ref in {ref, commit} or one[0].file_name == ref}
    names = {options.repository} if options.repository else set(mirror_of(mirror).names)
    narrowed = [one for one in fits if one[0].name in names] or list(fits)
    if len({(address.name, address.file_name, sha256) for address, sha256 in narrowed}) != 1:
        raise UsageError(
            f"the report has {'several archives' if narrowed else 'no archive'} of {ref}",
            why="\n".join(sorted(f"{address.name} {address.ref}" for address, _ in reported)),
            remedy="name one of these refs, or their repository with --repository",
        )
    address = narrowed[0][0]
    if options.repository and options.repository != address.name:
        raise UsageError(
            f"--repository is {options.repository}, but the report has {ref} of {address.name}",
            remedy="leave --repository out; the report's address names the archive",
        )
    if options.as_zip and address.form is not ArchiveFormat.ZIP:
        raise UsageError(f"--zip is given, but the report has {ref} as {address.form}", remedy="leave --zip out")
    return narrowed[0]


def _catalogue_pins(repository: str) -> Mapping[str, str]:
    """What upstream's WORKSPACE pins of TensorFlow."""
    return {
        f"{release.tensorflow_commit}.{ArchiveFormat.TAR_GZ}": release.tensorflow_sha256
        for release in releases().values()
        if repository == "tensorflow" and release.tensorflow_commit and release.tensorflow_sha256
    }


def _read_report(file: Path) -> Sequence[_Required]:
    """The archives that a code host makes out of git and that a preflight found missing."""
    try:
        missing = json_module.loads(file.read_text(encoding="utf-8"))["missing"]
        found = [(address, one["sha256"]) for one in missing if (address := archive_address(*one["urls"]))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"--pinned must be NAME=SHA256 or a preflight's report, got {str(file)!r}",
            why=str(error),
            remedy="give 64 hex digits after the =, or a file that `./factory preflight` wrote",
        ) from None
    if not found:
        raise UsageError(
            f"--pinned {file}: this report has no archive that a code host makes out of git",
            remedy="leave it out, or run the preflight again",
        )
    return found


# --- fill -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class FilledVariant:
    """What became of one variant's inputs after `rounds` preflights; `errors` is what Bazel says if nothing is left."""

    variant: str
    rounds: int
    made: tuple[Filled, ...]
    left: tuple[Filled, ...]
    errors: tuple[str, ...]


def _fill(variants: Sequence[str], options: InputsOptions) -> None:
    """Run preflights and make what can be made, until nothing is missing or nothing more can be made."""
    asked, mirrors, archives = options.asked, options.mirrors, options.archives
    if not mirrors and not archives:
        raise UsageError("`inputs fill` needs --mirrors or --archives", remedy="name a folder with git repositories")
    found = find_mirrors(_folder("--mirrors", mirrors), progress) if mirrors else ()
    if mirrors and not found:
        raise UsageError(f"--mirrors {mirrors} has no git repository", remedy="name a folder with clones or mirrors")
    in_archives = archives_in(_folder("--archives", archives)) if archives else {}
    filler = partial(Filler, matrix=asked.matrix, mirrors=found, archives=in_archives, overrides=options.overrides)
    jobs = jobs_of(asked, variants)
    for job in jobs:
        _check_folders(job, asked, overrides=options.overrides)
    filled: list[FilledVariant] = []
    try:
        with hold_matrix_lock(jobs[0].site.build):
            filled.extend(_fill_variant(asked, job.recipe.variant.id, filler) for job in jobs)
    finally:
        if filled:  # also what was done before another variant's error
            show({"variants": filled}, "\n".join(map(_filled_page, filled)), json=options.json)
    if names := {one.name for result in filled for one in result.left}:
        raise MissingInputsError(
            f"{count(len(names), 'input')} left to be filled",
            remedy="take the next step of each, and run the same command again",
        )
    if failed := next((one for one in filled if one.errors), None):
        raise CompileError(
            f"{failed.variant}: Bazel's analysis fails, but no input is missing",
            why="\n".join(failed.errors),
            remedy=f"`./factory preflight {failed.variant}` leaves Bazel's whole log",
        )


def _filled_page(filled: FilledVariant) -> str:
    results = [one.result for one in filled.made]
    made = words({word: results.count(word) for word in (Result.MADE, Result.COPIED, Result.OVERRIDDEN)})
    made = f"{made or 'nothing made'} in {count(filled.rounds, 'round')}"
    lines = [f"{clean(filled.variant)}: {made}, {len(filled.left)} left"]
    lines += [
        f"  {clean(one.name)} from {clean(one.source)}: {_NOTES.get(word, word.replace('_', ' '))}: {_some(names)}"
        for one in filled.made
        for word, names in one.notes.items()
    ]
    if filled.left:
        rows = [(one.name, one.file, one.why) for one in filled.left]
        lines += ["", table(("left", "file", "why"), rows, width=width()), "Next steps:"]
        lines += [f"  {clean(one.name)}: {clean(one.next_step)}" for one in filled.left]
    elif not filled.errors:
        lines.append("Nothing is missing.")
    return "\n".join(lines) + "\n"


def _some(names: Sequence[str]) -> str:
    shown = clean(", ".join(names[:_SHOWN]))
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


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


def _fill_variant(asked: Asked, variant: str, filler: Callable[..., Filler]) -> FilledVariant:
    made: dict[str, Filled] = {}
    for round_number in itertools.count(1):
        progress(f"{variant}: asking Bazel what is missing, round {round_number}")
        (job,) = jobs_of(asked, [variant])  # again: overrides that were made are part of the recipe
        report = run_preflight(job, progress)
        declared = declared_by_name(preflight_folder(job))
        fill = filler(recipe=job.recipe, declared=declared, progress=progress).fill
        missing = (*report.missing, *only_cached(report, declared))
        # What was filled and is missing still would be filled for ever.
        in_vain = {
            one.name: left(
                one,
                f"it was {made[one.name].result} from {made[one.name].source}, and Bazel still says: {one.problem}",
                "read the preflight's bazel.log",
            )
            for one in missing
            if one.name in made
        }
        filled = [fill(one) for one in missing if one.name not in made]
        new = {one.name: one for one in filled if one.result is not Result.LEFT}
        made |= new
        if not new:
            break
    return FilledVariant(
        variant=variant,
        rounds=round_number,
        made=tuple(one for one in made.values() if one.name not in in_vain),
        left=(*(one for one in filled if one.result is Result.LEFT), *in_vain.values(), *_programs(report)),
        errors=report.errors if report.failed and not report.missing else (),
    )


def _programs(report: Report) -> tuple[Filled, ...]:
    """Programs of the host that are not in the toolchain; no archive helps with them."""
    return tuple(
        Filled(
            name=one.name,
            file="",
            result=Result.LEFT,
            why=f"{', '.join(one.rules[:3])} calls this program, and it is not in the toolchain",
            next_step=f"toolchain: {{packages: [{one.package or 'the package that has it'}]}} in the matrix file",
        )
        for one in report.programs
    )


def _folder(option: str, name: str) -> Path:
    folder = Path(name)
    if not folder.is_dir():
        raise UsageError(f"{option} must be a folder, got {name!r}", remedy="name an existing folder")
    return folder.resolve()


# --- override ---------------------------------------------------------------------------------------------------------


def _override(name: str, options: InputsOptions) -> None:
    """Make the folder that takes an external repository's place."""
    asked, variant = options.asked, options.variant
    if bool(options.source) == bool(options.debian_source):
        raise UsageError(
            "`inputs override` needs one place for the sources",
            remedy="give --from ARCHIVE, --from GIT_DIR#REF, or --debian-source PACKAGE",
        )
    if not variant:
        raise UsageError(
            "`inputs override` needs a variant, whose sources declare the repository", remedy="give --variant ID"
        )
    (job,) = jobs_of(asked, [variant])
    declared = declared_by_name(preflight_folder(job))
    if name not in declared:
        raise UsageError(
            f"no rule declares a repository {name}" if declared else f"{variant} had no preflight yet",
            why=", ".join(sorted(declared)),
            remedy=f"run `./factory preflight {variant}`, which reads what the sources declare",
        )
    place = _place_of(job, asked, name, options.output)
    with hold_matrix_lock(job.site.build):
        made = _made_override(declared[name], place, Labels(job.recipe, declared), options)
    overrides = job.recipe.inputs
    in_matrix = dict(overrides.overrides).get(name) == place or place.parent == overrides.overrides_folder
    document = {
        "name": name,
        **asdict(made),
        "followed": [{"attribute": attribute, "effect": effect} for attribute, effect in made.followed],
        "not_followed": [{"attribute": attribute, "reason": reason} for attribute, reason in made.not_followed],
        "in_matrix": in_matrix,
    }
    show(document, _override_page(name, made, in_matrix=in_matrix), json=options.json)


def _override_page(name: str, made: Override, *, in_matrix: bool) -> str:
    lines = [f"{clean(name)}: {clean(str(made.folder))}"]
    lines += [f"  followed {attribute}: {clean(effect)}" for attribute, effect in made.followed]
    lines += [f"  NOT followed {attribute}: {clean(reason)}" for attribute, reason in made.not_followed]
    if made.left_out:
        lines.append(f"  left out, as the mirror does not have them: {_some(made.left_out)}")
    if made.absent:
        lines += [
            f"  named by the BUILD file, but not in these sources: {_some(made.absent)}",
            "  Files that are generated for a release (by ./configure, for one) are in its archive, not in git.",
        ]
    if not in_matrix:
        lines.append(f"Add to the matrix file: bazel: {{overrides: {{{name}: {made.folder}}}}}")
    return "\n".join(lines) + "\n"


def _place_of(job: Job, asked: Asked, name: str, output: str) -> Path:
    """Where it goes: below --output, where the matrix has it, or into `overrides` beside the matrix file."""
    if output:
        return Path(output).resolve() / name
    overrides = dict(job.recipe.inputs.overrides)
    folder = job.recipe.inputs.overrides_folder or asked.file.resolve().parent / "overrides"
    return overrides.get(name, folder / name)


def _made_override(declared: Declared, place: Path, labels: Labels, options: InputsOptions) -> Override:
    if options.debian_source:
        return make_override(declared, partial(_bring_package, options.debian_source), place, labels, top=Top.ANY)
    where, _, ref = options.source.partition("#")
    given = Path(where)
    mirror = git_folder(given)
    if ref and not mirror:
        mirror = _only_mirror(given)
    if mirror:
        address = archive_address(*declared.urls)
        ref = ref or declared.ref or (address.ref if address else "HEAD")
        commit = commit_of(mirror, ref)
        if commit is None:
            raise UsageError(f"--from {where} has no {ref}", remedy=f"name a tag or a commit: --from {where}#REF")
        made = override_from_git(declared, mirror, commit, place, labels)
        return replace(made, followed=((f"commit {commit}", ref), *made.followed))
    if given.is_dir():
        return make_override(declared, partial(_bring_folder, given), place, labels, top=Top.NONE)
    if not given.exists():
        raise UsageError(f"--from {where} does not exist", remedy="name an archive, a folder or a git repository")
    return make_override(declared, partial(unpack, given), place, labels)


def _bring_package(name: str, folder: Path) -> None:
    downloads = folder.with_name("downloads")
    downloads.mkdir()
    unpack(fetch_source(name, downloads), folder)


def _bring_folder(given: Path, folder: Path) -> None:
    try:
        shutil.copytree(given, folder, symlinks=True)
    except shutil.Error as error:
        raise OverrideError(f"{given} cannot be copied", why=str(error), remedy="remove special files") from None


def _only_mirror(folder: Path) -> Path:
    """The git repository that is somewhere in a folder."""
    found = find_mirrors(folder, progress) if folder.is_dir() else ()
    if len(found) != 1:
        raise UsageError(
            f"--from {folder}#...: {'more than one' if found else 'no'} git repository is there",
            remedy="name the repository itself: --from GIT_DIR#REF",
        )
    return found[0].folder


# --- packages ---------------------------------------------------------------------------------------------------------


def _packages(variants: Sequence[str], options: InputsOptions) -> None:
    """Download what the variants' toolchains install into the matrix's folder of packages."""
    jobs = jobs_of(options.asked, variants)
    folder = jobs[0].recipe.inputs.apt
    if folder is None:
        raise UsageError(
            f"{options.asked.file} names no folder for packages",
            remedy="name one at network.apt.mirror in the matrix file, such as `apt: {mirror: packages}`",
        )
    bases = {job.recipe.base.image for job in jobs}
    if len(bases) > 1:
        raise UsageError(
            f"these variants have several bases: {', '.join(sorted(bases))}",
            why="one folder holds the packages of one base",
            remedy="name variants of one base, and use another matrix file for the others",
        )
    with hold_matrix_lock(jobs[0].site.build):
        done = [(job.recipe.variant.id, download_packages(job, folder, progress=progress)) for job in jobs]
    text = "".join(
        f"{clean(variant)}: {one.packages} packages in {clean(str(one.folder))}, {size(one.bytes)}, "
        f"{one.new} of them new{''.join(f'; {clean(str(wheel))}' for wheel in one.wheels)}\n"
        for variant, one in done
    )
    show({"variants": [{"variant": variant, **asdict(one)} for variant, one in done]}, text, json=options.json)
