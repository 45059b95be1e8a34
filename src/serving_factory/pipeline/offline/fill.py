"""Fills a distdir with what a preflight found missing: out of git mirrors, or from a folder of archives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from serving_factory.errors import FactoryError, GitError, OverrideError
from serving_factory.pipeline.offline.mirrors import (
    Address,
    Mirror,
    archive_address,
    is_commit,
    make_archive,
    mirrors_for,
)
from serving_factory.pipeline.offline.overrides import Override
from serving_factory.pipeline.preflight import ONLY_CACHED, Declared, Missing
from serving_factory.pipeline.records import copy_atomically, file_digest


def archives_in(folder: Path) -> Mapping[str, Path]:
    """Read the sha256 of every file below a folder; of two that are the same the first by its path counts."""
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
    """One missing input, and what became of it.

    Args:
        name: the external repository, or a program.
        file: the archive's name in the distdir; empty where it is no archive.
        result: whether it is there now, and how it came.
        source: the mirror or the file that it is from; empty where it is left.
        sha256: of the archive; None where nothing tells.
        notes: what is to be known of it although it is there: a word such as `left_out`, and names.
        why: why it is left; empty otherwise.
        next_step: what to do about it; empty otherwise.
    """

    name: str
    file: str
    result: Result
    source: str = ""
    sha256: str | None = None
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    why: str = ""
    next_step: str = ""

    @classmethod
    def left(cls, one: Missing, why: str, next_step: str) -> Filled:
        """What could not be filled."""
        why = f"{ONLY_CACHED}; {why}" if one.problem == ONLY_CACHED and why != ONLY_CACHED else why
        return cls(name=one.name, file=one.file, result=Result.LEFT, sha256=one.sha256, why=why, next_step=next_step)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filler:
    """Fills one variant's distdir.

    Args:
        distdir: the folder to fill.
        mirrors: git repositories.
        archives: sha256 -> an archive from elsewhere, whatever it is called.
        declared: what the sources say of each repository.
        override: makes the folder that takes a repository's place, of its name, a mirror and a commit there; None to
            leave that to the user.
        command: gives the command by which the user does that, of a repository's name and where its sources are.
        progress: is told of all that is made or copied.
    """

    distdir: Path
    mirrors: Sequence[Mirror]
    archives: Mapping[str, Path]
    declared: Mapping[str, Declared]
    override: Callable[[str, Path, str], Override] | None
    command: Callable[[str, str], str]
    progress: Callable[[str], None]

    def fill(self, missing: Sequence[Missing]) -> tuple[Filled, ...]:
        """Make or copy what can be had; each archive is in its place whole, or not at all."""
        return tuple(self._one(one) for one in missing)

    def _one(self, one: Missing) -> Filled:
        address = next(filter(None, map(archive_address, one.urls)), None)
        file = address.file_name if address else one.file
        place = self.distdir / file
        taken = bool(file) and bool(one.sha256) and place.is_file() and file_digest(place) != one.sha256
        problem = f"{place} is another archive of that name, sha256 {file_digest(place)}" if taken else ""
        found = self.archives.get(one.sha256 or "")
        if found and file and not taken:
            return self._copied(one, found)
        if address is None:
            return self._no_archive(one, problem)
        mirrors = mirrors_for(address.name, address.ref, self.mirrors)
        for mirror, _ in () if taken else mirrors:
            if one.sha256 or _is_meant(mirror, address):
                made = self._archive(one, address, mirror)
                if isinstance(made, Filled):
                    return made
                problem = problem or made
        meant = [(mirror, commit) for mirror, commit in mirrors if _is_meant(mirror, address)]
        return self._folder(one, *meant[0], problem) if meant else self._no_mirror(one, address, problem)

    def _archive(self, one: Missing, address: Address, mirror: Mirror) -> Filled | str:
        """Make the archive out of a mirror; a text says why it cannot be."""
        try:
            made = make_archive(mirror.folder, address, output=self.distdir, pinned=one.sha256)
        except GitError as error:
            return _told(error)
        if made.wrong:
            return f"its archive out of {mirror.folder} has sha256 {made.sha256}, and {made.pinned} is pinned"
        self.progress(f"made {made.file.name} for {one.name} out of {mirror.folder}")
        return Filled(
            name=one.name, file=made.file.name, result=Result.MADE, source=str(mirror.folder), sha256=made.sha256
        )

    def _folder(self, one: Missing, mirror: Mirror, commit: str, problem: str) -> Filled:
        """Let a folder take the repository's place, or say how that is done."""
        source = f"{mirror.folder}#{commit}"
        if self.override is None:
            return Filled.left(one, problem, self.command(one.name, source))
        try:
            made = self.override(one.name, mirror.folder, commit)
        except (GitError, OverrideError) as error:
            told = f"no folder can take its place: {_told(error)}"
            return Filled.left(one, f"{problem}; {told}" if problem else told, error.remedy or "fix that")
        self.progress(f"made a folder for {one.name} out of {mirror.folder}")
        notes = {
            "left_out": made.left_out,
            "absent": made.absent,
            "not_followed": tuple(n for n, _ in made.not_followed),
        }
        notes = {word: names for word, names in notes.items() if names}
        return Filled(name=one.name, file="", result=Result.OVERRIDDEN, source=source, notes=notes)

    def _copied(self, one: Missing, found: Path) -> Filled:
        copy_atomically(found, self.distdir / one.file)
        self.progress(f"copied {one.file} for {one.name} from {found}")
        return Filled(name=one.name, file=one.file, result=Result.COPIED, source=str(found), sha256=one.sha256)

    def _no_mirror(self, one: Missing, address: Address, problem: str) -> Filled:
        repository = "/".join(filter(None, (address.owner, address.name)))
        named = [mirror for mirror in self.mirrors if address.name in mirror.names]
        if not named:
            clone = f"git clone --mirror https://{address.host or 'HOST'}/{repository}.git, into the folder of mirrors"
            return Filled.left(one, problem or f"no mirror of {repository}", clone)
        where = " and ".join(str(mirror.folder) for mirror in named)
        if mirrors_for(address.name, address.ref, named):
            why = (
                f"{where} may be of another repository than {repository}, and nothing pins the archive of {address.ref}"
            )
            return Filled.left(one, problem or why, self.command(one.name, f"{named[0].folder}#{address.ref}"))
        update = f"update it: git -C {named[0].folder} remote update; or add another mirror of {repository}"
        return Filled.left(one, problem or f"there is no {address.ref} in {where}", update)

    def _no_archive(self, one: Missing, problem: str) -> Filled:
        """What no code host makes out of git: an uploaded file, or a repository that Bazel itself clones."""
        reference = self._git_reference(one)
        if reference:
            why = "Bazel clones it, and no archive stands for that"
            found = mirrors_for(*reference, self.mirrors)
            if found and is_commit(reference[1]):
                return self._folder(one, *found[0], why)
            return Filled.left(
                one, why, self.command(one.name, f"{found[0][0].folder if found else 'GIT_DIR'}#{reference[1]}")
            )
        if not one.urls:
            return Filled.left(one, problem or one.problem, "see the log of the preflight, bazel.log")
        pinned = f", sha256 {one.sha256}" if one.sha256 else ""
        return Filled.left(
            one,
            problem or "no git mirror makes an archive of this address",
            f"get {one.urls[-1]}{pinned}, and name its folder at --archives; or let other sources take its place, an "
            f"archive, a folder or GIT_DIR#REF: {self.command(one.name, 'SOURCES')}",
        )

    def _git_reference(self, one: Missing) -> tuple[str, str] | None:
        """Name and commit or tag of a repository that Bazel clones."""
        declared = self.declared.get(one.name)
        said = declared.attributes if declared else {}
        remote, ref = said.get("remote"), said.get("commit") or said.get("tag")
        if not isinstance(remote, str) or not isinstance(ref, str):
            return None
        return remote.rstrip("/").removesuffix(".git").rpartition("/")[2], ref


def _is_meant(mirror: Mirror, address: Address) -> bool:
    """Whether a mirror's ref is what an address means: a commit is; a name is only where the repository may be that."""
    return is_commit(address.ref) or mirror.may_be(address.owner)


def _told(error: FactoryError) -> str:
    return f"{error.what}: {error.why.splitlines()[0]}" if error.why else error.what
