"""Fills a distdir with what a preflight found missing: out of git mirrors, or from a folder of archives."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from serving_factory.errors import GitError, OverrideError
from serving_factory.line.digests import file_digest
from serving_factory.line.preflight_report import Declared, Missing
from serving_factory.line.vault.archives import make_archive
from serving_factory.line.vault.mirrors import Address, Mirror, archive_address, mirrors_for
from serving_factory.line.vault.override import Override

__all__ = ["Filled", "Filler", "Result", "archives_in"]


def archives_in(folder: Path) -> Mapping[str, Path]:
    """Read the sha256 of every file below a folder; of two that are the same the first by its path counts."""
    files = sorted((path for path in folder.rglob("*") if path.is_file()), reverse=True)
    return {file_digest(path): path for path in files}


_SHOWN = 5


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
        name: the external repository.
        file: the archive's name in the distdir; empty where it is no archive.
        result: whether it is there now, and how it came.
        source: the mirror or the file that it is from; empty where it is left.
        sha256: of the archive; None where nothing tells.
        note: what is to be known of it although it is there, such as files that are left out.
        why: why it is left; empty otherwise.
        next_step: what to do about it; empty otherwise.
    """

    name: str
    file: str
    result: Result
    source: str = ""
    sha256: str | None = None
    note: str = ""
    why: str = ""
    next_step: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filler:
    """Fills one variant's distdir.

    Args:
        variant: its id, for the commands that are the next steps.
        distdir: the folder to fill.
        mirrors: git repositories.
        archives: sha256 -> an archive from elsewhere, whatever it is called.
        declared: what the sources say of each repository.
        override: makes the folder that takes a repository's place, of its name, a mirror and a commit there; None to
            leave that to the user.
        tell: is told of all that is made or copied.
    """

    variant: str
    distdir: Path
    mirrors: Sequence[Mirror]
    archives: Mapping[str, Path]
    declared: Mapping[str, Declared]
    override: Callable[[str, Path, str], Override] | None
    tell: Callable[[str], None]

    def fill(self, missing: Sequence[Missing]) -> tuple[Filled, ...]:
        """Make or copy what can be had; each archive is in its place whole, or not at all."""
        return tuple(self._one(one) for one in missing)

    def _one(self, one: Missing) -> Filled:
        if found := self.archives.get(one.sha256 or ""):
            return self._copied(one, found)
        address = next(filter(None, map(archive_address, one.urls)), None)
        if address is None:
            return self._no_archive(one)
        mirrors = mirrors_for(address.name, address.ref, self.mirrors)
        problem = ""
        for mirror, _ in mirrors:
            made = self._archive(one, address, mirror)
            if isinstance(made, Filled):
                return made
            problem = problem or made
        return self._folder(one, *mirrors[0], problem) if mirrors else self._no_mirror(one, address)

    def _archive(self, one: Missing, address: Address, mirror: Mirror) -> Filled | str:
        """Make the archive out of a mirror; a text says why it cannot be."""
        try:
            made = make_archive(
                mirror.folder,
                address.ref,
                repository=address.name,
                form=address.form,
                output=self.distdir,
                pinned=one.sha256,
            )
        except GitError as error:
            return error.what
        if made.wrong:
            return f"its archive out of {mirror.folder} has sha256 {made.sha256}, and {made.pinned} is pinned"
        self.tell(f"made {made.file.name} for {one.name} out of {mirror.folder}")
        return Filled(
            name=one.name, file=made.file.name, result=Result.MADE, source=str(mirror.folder), sha256=made.sha256
        )

    def _folder(self, one: Missing, mirror: Mirror, commit: str, problem: str) -> Filled:
        """Let a folder take the repository's place, or say how that is done."""
        source = f"{mirror.folder}#{commit}"
        if self.override is None:
            return self._left(one, problem, self._command(one, source))
        try:
            made = self.override(one.name, mirror.folder, commit)
        except (GitError, OverrideError) as error:
            return self._left(one, f"{problem}; no folder can take its place: {error.what}", error.remedy)
        self.tell(f"made a folder for {one.name} out of {mirror.folder}")
        notes = (
            ("left out", made.left_out),
            ("absent", made.absent),
            ("not followed", [n for n, _ in made.not_followed]),
        )
        note = "; ".join(f"{word}: {', '.join(names[:_SHOWN])}" for word, names in notes if names)
        return Filled(name=one.name, file="", result=Result.OVERRIDDEN, source=source, note=note)

    def _copied(self, one: Missing, found: Path) -> Filled:
        place = self.distdir / one.file
        self.distdir.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(f".{place.name}.partial")
        shutil.copyfile(found, partial)
        partial.replace(place)
        self.tell(f"copied {place.name} for {one.name} from {found}")
        return Filled(name=one.name, file=one.file, result=Result.COPIED, source=str(found), sha256=one.sha256)

    def _no_mirror(self, one: Missing, address: Address) -> Filled:
        named = [mirror for mirror in self.mirrors if address.name in mirror.names]
        if named:
            where = " and ".join(str(mirror.folder) for mirror in named)
            return self._left(
                one,
                f"there is no {address.ref} in {where}",
                f"update it: git -C {named[0].folder} remote update; or add another mirror of {address.name}",
            )
        return self._left(
            one,
            f"no mirror of {address.owner}/{address.name}",
            f"git clone --mirror https://github.com/{address.owner}/{address.name}.git, into the folder of mirrors",
        )

    def _no_archive(self, one: Missing) -> Filled:
        """What no code host makes out of git: an uploaded file, or a repository that Bazel itself clones."""
        reference = self._git_reference(one)
        if reference:
            why = "Bazel clones it, and no archive stands for that"
            found = mirrors_for(*reference, self.mirrors)
            if found:
                return self._folder(one, *found[0], why)
            return self._left(one, why, self._command(one, f"GIT_DIR#{reference[1]}"))
        if not one.urls:
            return self._left(one, one.problem, "see the log of the preflight, bazel.log")
        pinned = f", sha256 {one.sha256}" if one.sha256 else ""
        return self._left(
            one,
            "GitHub does not make it out of git",
            f"get {one.urls[-1]}{pinned}, and name its folder at --archives; or let other sources take its place: "
            + self._command(one, "ARCHIVE"),
        )

    def _git_reference(self, one: Missing) -> tuple[str, str] | None:
        """Name and commit or tag of a repository that Bazel clones."""
        declared = self.declared.get(one.name)
        said = declared.attributes if declared else {}
        remote, ref = said.get("remote"), said.get("commit") or said.get("tag")
        if not isinstance(remote, str) or not isinstance(ref, str):
            return None
        return remote.rstrip("/").removesuffix(".git").rpartition("/")[2], ref

    def _command(self, one: Missing, source: str) -> str:
        return f"./factory vault override {one.name} --from {source} --variant {self.variant}"

    @staticmethod
    def _left(one: Missing, why: str, next_step: str) -> Filled:
        return Filled(name=one.name, file=one.file, result=Result.LEFT, sha256=one.sha256, why=why, next_step=next_step)
