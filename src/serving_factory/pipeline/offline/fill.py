"""Fills a distdir with what a preflight found missing: out of git mirrors, or from a folder of archives."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from serving_factory.errors import FactoryError, GitError, OverrideError
from serving_factory.pipeline.digests import file_digest
from serving_factory.pipeline.offline.mirrors import (
    Address,
    Mirror,
    archive_address,
    is_commit,
    make_archive,
    mirrors_for,
)
from serving_factory.pipeline.offline.overrides import Labels, override_from_git
from serving_factory.pipeline.preflight import Declared, Missing
from serving_factory.pipeline.records import copy_atomically
from serving_factory.recipes.recipe import Recipe


def archives_in(folder: Path) -> Mapping[str, Path]:
    """Map the sha256 of every file below a folder to its path; of two that are the same, the first path counts."""
    files = sorted((path for path in folder.rglob("*") if path.is_file()), reverse=True)
    return {file_digest(path): path for path in files}


class Result(StrEnum):
    """What became of a missing input."""

    MADE = "made"
    COPIED = "copied"
    OVERRIDDEN = "overridden"
    LEFT = "left"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """One missing input, and what became of it."""

    name: str  # the external repository, or a program
    file: str  # the archive's name in the distdir; empty where it is no archive
    result: Result
    source: str = ""  # the mirror or the file that it is from; empty where it is left
    sha256: str | None = None  # of the archive; None where unknown
    # what to know of it although it is there: a word such as `left_out`, and names
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    why: str = ""  # why it is left; empty otherwise, as `next_step`
    next_step: str = ""


def left(one: Missing, why: str, next_step: str) -> Filled:
    """What could not be filled."""
    if one.cached and why != one.problem:
        why = f"{one.problem}; {why}"
    return Filled(name=one.name, file=one.file, result=Result.LEFT, sha256=one.sha256, why=why, next_step=next_step)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filler:
    """Fills the inputs of one variant, whose recipe names a distdir."""

    recipe: Recipe
    matrix: str  # the matrix file as the user named it; empty for the usual one
    mirrors: Sequence[Mirror]
    archives: Mapping[str, Path]  # sha256 -> an archive from elsewhere, whatever its name
    overrides: bool  # whether folders may take the place of what a mirror has and cannot give byte for byte
    declared: Mapping[str, Declared]  # how the sources declare each repository
    progress: Callable[[str], None]  # gets a line for all that is made or copied

    def fill(self, one: Missing) -> Filled:
        """Make or copy what can be had; an archive is in its place whole, or not at all."""
        address = archive_address(*one.urls)
        file = address.file_name if address else one.file
        place = self._distdir / file
        taken = bool(file and one.sha256) and place.is_file() and file_digest(place) != one.sha256
        problem = f"{place} is another archive of that name, sha256 {file_digest(place)}" if taken else ""
        found = self.archives.get(one.sha256 or "")
        if found and file and not taken:
            copy_atomically(found, self._distdir / one.file)
            self.progress(f"copied {one.file} for {one.name} from {found}")
            return Filled(name=one.name, file=one.file, result=Result.COPIED, source=str(found), sha256=one.sha256)
        if address is None:
            return self._no_archive(one, problem)
        mirrors = mirrors_for(address.name, address.ref, self.mirrors)
        for mirror, _ in () if taken else mirrors:
            if one.sha256 or mirror.has(address):
                made = self._archive(one, address, mirror)
                if isinstance(made, Filled):
                    return made
                problem = problem or made
        for mirror, commit in mirrors:
            if mirror.has(address):
                return self._folder(one, mirror, commit, problem)
        return self._no_mirror(one, address, problem)

    @property
    def _distdir(self) -> Path:
        return self.recipe.inputs.distdir or Path()

    def _archive(self, one: Missing, address: Address, mirror: Mirror) -> Filled | str:
        """Make the archive out of a mirror; a text says why it cannot be."""
        try:
            made = make_archive(mirror.folder, address, output=self._distdir, pinned=one.sha256)
        except GitError as error:
            return _short(error)
        if made.matches is False:
            return f"its archive out of {mirror.folder} has sha256 {made.sha256}, and {made.pinned} is pinned"
        self.progress(f"made {made.file.name} for {one.name} out of {mirror.folder}")
        return Filled(
            name=one.name, file=made.file.name, result=Result.MADE, source=str(mirror.folder), sha256=made.sha256
        )

    def _folder(self, one: Missing, mirror: Mirror, commit: str, problem: str) -> Filled:
        """Let a folder take the repository's place, or give the command that does."""
        source = f"{mirror.folder}#{commit}"
        rule, folder = self.declared.get(one.name), self.recipe.inputs.overrides_folder
        if not self.overrides or rule is None or folder is None:
            return left(one, problem, self._command(one.name, source))
        labels = Labels(self.recipe, self.declared)
        try:
            made = override_from_git(rule, mirror.folder, commit, folder / one.name, labels)
        except (GitError, OverrideError) as error:
            why = f"no folder can take its place: {_short(error)}"
            return left(one, f"{problem}; {why}" if problem else why, error.remedy or "fix that")
        self.progress(f"made a folder for {one.name} out of {mirror.folder}")
        not_followed = tuple(name for name, _ in made.not_followed)
        notes = {"left_out": made.left_out, "absent": made.absent, "not_followed": not_followed}
        notes = {word: names for word, names in notes.items() if names}
        return Filled(name=one.name, file="", result=Result.OVERRIDDEN, source=source, notes=notes)

    def _no_mirror(self, one: Missing, address: Address, problem: str) -> Filled:
        repository = "/".join(filter(None, (address.owner, address.name)))
        named = [mirror for mirror in self.mirrors if address.name in mirror.names]
        if not named:
            clone = f"git clone --mirror https://{address.host or 'HOST'}/{repository}.git, into the folder of mirrors"
            return left(one, problem or f"no mirror of {repository}", clone)
        where = " and ".join(str(mirror.folder) for mirror in named)
        if mirrors_for(address.name, address.ref, named):
            why = f"{where} may be a mirror of another repository than {repository}, and {address.ref} is not pinned"
            return left(one, problem or why, self._command(one.name, f"{named[0].folder}#{address.ref}"))
        update = f"update it: git -C {named[0].folder} remote update; or add another mirror of {repository}"
        return left(one, problem or f"there is no {address.ref} in {where}", update)

    def _no_archive(self, one: Missing, problem: str) -> Filled:
        """What no code host makes out of git: an uploaded file, or a repository that Bazel itself clones."""
        declared = self.declared.get(one.name)
        remote, ref = (declared.attributes.get("remote"), declared.ref) if declared else (None, "")
        if isinstance(remote, str) and ref:
            why = "Bazel clones it, and no archive can stand for that"
            name = remote.rstrip("/").removesuffix(".git").rpartition("/")[2]
            found = mirrors_for(name, ref, self.mirrors)
            if found and is_commit(ref):
                return self._folder(one, *found[0], why)
            return left(one, why, self._command(one.name, f"{found[0][0].folder if found else 'GIT_DIR'}#{ref}"))
        if not one.urls:
            return left(one, problem or one.problem, "see the log of the preflight, bazel.log")
        pinned = f", sha256 {one.sha256}" if one.sha256 else ""
        return left(
            one,
            problem or "no git mirror makes an archive of this address",
            f"get {one.urls[-1]}{pinned}, and name its folder at --archives; or let other sources take its place, an "
            f"archive, a folder or GIT_DIR#REF: {self._command(one.name, 'SOURCES')}",
        )

    def _command(self, name: str, source: str) -> str:
        """The command by which the user makes a folder for a repository."""
        words = ["./factory", "inputs", "override", name, "--from", source, "--variant", self.recipe.variant.id]
        return shlex.join([*words, *(["--matrix", self.matrix] if self.matrix else [])])


def _short(error: FactoryError) -> str:
    return f"{error.what}: {error.why.splitlines()[0]}" if error.why else error.what
