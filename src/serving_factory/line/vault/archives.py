"""Archives that a code host would serve, made out of a git mirror, for Bazel's `--distdir`."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from serving_factory.engine.git import commit_of, missing_files, write_archive
from serving_factory.errors import GitError
from serving_factory.line.digests import file_digest
from serving_factory.line.vault.mirrors import Address

__all__ = ["Archive", "make_archive"]

_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """An archive that was made.

    Args:
        ref: as it was asked for.
        commit: what that is, 40 hex digits.
        file: where the archive lies, or would lie were it the pinned one.
        folder: the folder in it that everything is in, ending in `/`.
        size: bytes.
        sha256: 64 hex digits.
        pinned: the sha256 that it must have; None where nothing pins it.
    """

    ref: str
    commit: str
    file: Path
    folder: str
    size: int
    sha256: str
    pinned: str | None

    @property
    def wrong(self) -> bool:
        """Whether it is pinned, and not what is pinned."""
        return self.pinned is not None and self.pinned != self.sha256


def make_archive(mirror: Path, address: Address, *, output: Path, pinned: str | None) -> Archive:
    """Make one archive. It is put in its place only when nothing pins it, or it is what is pinned.

    Args:
        mirror: the git repository.
        address: which archive. (The same commit by another name is another archive: its folder is another.)
        output: the folder to put it in; made when absent.
        pinned: the sha256 that is expected; None where nothing pins it.

    Raises:
        GitError: git fails, there is no such ref, or the repository lacks a part of it.
    """
    ref = address.ref
    commit = commit_of(mirror, ref)
    if commit is None:
        raise GitError(
            f"{mirror} has nothing of the name {ref}",
            remedy="name a tag, a branch or a commit, or update the mirror: `git remote update`",
        )
    folder, name = address.folder(commit), address.file_name
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}.partial-", dir=output) as scratch:
        partial = Path(scratch, name)
        try:
            write_archive(mirror, commit, prefix=folder, form=address.form, file=partial)
        except GitError as error:
            raise _incomplete(mirror, ref, commit, error) from None
        made = Archive(
            ref=ref,
            commit=commit,
            file=output / name,
            folder=folder,
            size=partial.stat().st_size,
            sha256=file_digest(partial),
            pinned=pinned,
        )
        if not made.wrong:
            partial.replace(made.file)
    return made


def _incomplete(mirror: Path, ref: str, commit: str, error: GitError) -> GitError:
    """Say that a mirror lacks files of a commit, where that is what git failed of."""
    absent = missing_files(mirror, commit)
    if not absent:
        return error
    shown = [*absent[:_SHOWN], *([f"and {len(absent) - _SHOWN} more"] if len(absent) > _SHOWN else [])]
    return GitError(
        f"{mirror} lacks {len(absent)} of {ref}'s files, so its archive cannot be made",
        why="\n".join(shown),
        remedy="take a whole mirror (this may be one without large files), or let a folder take its place: "
        "`./factory vault --help` tells of `override`",
    )
