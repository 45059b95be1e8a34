"""Archives that a code host would serve, made out of a git mirror, for Bazel's `--distdir`."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from serving_factory.engine.git import ArchiveFormat, commit_of, missing_files, write_archive
from serving_factory.errors import GitError
from serving_factory.line.digests import file_digest

__all__ = ["Archive", "archive_folder", "archive_name", "make_archive"]

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


def archive_name(ref: str, form: ArchiveFormat) -> str:
    """Name the archive as Bazel looks for it in a distdir: the base name of `.../archive/REF.tar.gz`."""
    return f"{ref.rpartition('/')[2]}.{form}"


def archive_folder(repository: str, ref: str, commit: str) -> str:
    """Name the folder in the archive by GitHub's rule: `NAME-REF/`.

    A short commit id is written in full. Of other names a `v` before a digit is dropped; `/` and `+` become `-`, and so
    does a run of `-`. (Also the rule of FreeBSD's ports, which unpack thousands of them: GH_TAGNAME_EXTRACT in
    bsd.sites.mk.)
    """
    if re.fullmatch(r"[0-9a-f]{4,40}", ref) and commit.startswith(ref):
        return f"{repository}-{commit}/"
    name = re.sub(r"-+", "-", re.sub(r"^[vV](?=[0-9])", "", ref.replace("/", "-")).replace("+", "-"))
    return f"{repository}-{name}/"


def make_archive(
    mirror: Path, ref: str, *, repository: str, form: ArchiveFormat, output: Path, pinned: str | None
) -> Archive:
    """Make one archive. It is put in its place only when nothing pins it, or it is what is pinned.

    Args:
        mirror: the git repository.
        ref: a tag, a branch or a commit.
        repository: its name at the code host.
        form: the kind of archive.
        output: the folder to put it in; made when absent.
        pinned: the sha256 that is expected; None where nothing pins it. (The same commit by another name is another
            archive: its folder is another.)

    Raises:
        GitError: git fails, there is no such ref, or the repository lacks a part of it.
    """
    commit = commit_of(mirror, ref)
    if commit is None:
        raise GitError(
            f"{mirror} has nothing of the name {ref}",
            remedy="name a tag, a branch or a commit, or update the mirror: `git remote update`",
        )
    folder, name = archive_folder(repository, ref, commit), archive_name(ref, form)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}.partial-", dir=output) as scratch:
        partial = Path(scratch, name)
        try:
            write_archive(mirror, commit, prefix=folder, form=form, file=partial)
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
        f"`./factory vault override NAME --from {mirror}#{ref} --variant ID`",
    )
