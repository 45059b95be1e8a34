"""Git, as far as the vault needs it: which folders are repositories, what a name stands for in one, archives of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from serving_factory.engine import process
from serving_factory.errors import GitError

__all__ = ["ArchiveFormat", "commit_of", "git_folder", "missing_files", "origin_name", "write_archive"]

# What a user's own settings could change in an archive's bytes, as git has it by itself.
_PLAIN = ("tar.umask=0002", "core.autocrlf=false", "core.eol=lf", f"core.attributesFile={os.devnull}")
_GZIP = "tar.tar.gz.command=gzip -cn"
_HOST_ZONE = "America/Los_Angeles"


class ArchiveFormat(StrEnum):
    """The formats that code hosts serve; the value is the file's ending."""

    TAR_GZ = "tar.gz"
    ZIP = "zip"


def commit_of(repository: Path, ref: str) -> str | None:
    """Give the full id of the commit that a branch, a tag or the beginning of an id stands for; None for nothing.

    Raises:
        GitError: git is missing, or the folder is no repository.
    """
    _git(repository, "rev-parse", "--git-dir")
    code, lines = _run(repository, ["rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}"])
    return lines[-1] if code == 0 and lines else None


def git_folder(folder: Path) -> Path | None:
    """Give the git directory that a folder is or has, bare or not; None where it is no repository. Runs nothing."""
    for place in (folder, folder / ".git"):
        if (place / "HEAD").is_file() and (place / "objects").is_dir():
            return place
    return None


def origin_name(repository: Path) -> str:
    """Give the name of the repository that a mirror's origin is, without `.git`; empty where it has no origin."""
    _, lines = _run(repository, ["config", "--get", "remote.origin.url"])
    where = lines[-1] if lines else ""
    return where.rstrip("/").removesuffix("/.git").removesuffix(".git").replace(":", "/").rpartition("/")[2]


def missing_files(repository: Path, commit: str) -> tuple[str, ...]:
    """Name the files of a commit whose content the repository lacks, as of a mirror without large files; sorted.

    Raises:
        GitError: git fails.
    """
    listed = _git(repository, "rev-list", "--objects", "--no-object-names", "--missing=print", f"{commit}^{{tree}}")
    gone = {line.removeprefix("?") for line in listed if line.startswith("?")}
    if not gone:
        return ()
    files = (line.split(None, 3) for line in _git(repository, "-c", "core.quotePath=off", "ls-tree", "-r", commit))
    return tuple(sorted(name for _, _, blob, name in files if blob in gone))


def write_archive(
    repository: Path, commit: str, *, prefix: str, form: ArchiveFormat, file: Path, without: Sequence[str] = ()
) -> None:
    """Write the archive of a commit, as a code host makes it.

    tar.gz: compressed by `gzip -cn`; git's own compressor, its default since 2.38, gives other bytes. zip: it holds
    local times, and the host's are those of Los Angeles.

    Args:
        repository: a git repository, bare or not.
        commit: the full id.
        prefix: the folder that everything in the archive is in, ending in `/`.
        form: which kind of archive.
        file: where to.
        without: files that are left out.

    Raises:
        GitError: git or gzip is missing, or git refuses.
    """
    env = {name: value for name, value in os.environ.items() if name != "GZIP"}
    if form is ArchiveFormat.ZIP:
        env["TZ"] = _zone()
    settings = [word for setting in (*_PLAIN, _GZIP) for word in ("-c", setting)]
    arguments = ["archive", f"--format={form}", f"--prefix={prefix}", f"--output={file}", commit]
    arguments += ["--", ".", *(f":(exclude,literal,top){name}" for name in without)] if without else []
    _git(repository, *settings, *arguments, env=env)


def _zone() -> str:
    try:
        ZoneInfo(_HOST_ZONE)
    except ZoneInfoNotFoundError:
        raise GitError(
            f"this machine does not know the time zone {_HOST_ZONE}",
            why="a zip holds local times, and the code host's are of that zone",
            remedy="install the package tzdata",
        ) from None
    return _HOST_ZONE


def _git(repository: Path, *arguments: str, env: Mapping[str, str] | None = None) -> tuple[str, ...]:
    code, lines = _run(repository, arguments, env=env)
    if code != 0:
        raise GitError(
            f"git fails in {repository}",
            why="\n".join(lines) or f"exit code {code}",
            remedy="name a git repository: a clone or a mirror (`git clone --mirror URL`)",
        )
    return lines


def _run(
    repository: Path, arguments: Sequence[str], *, env: Mapping[str, str] | None = None
) -> tuple[int, tuple[str, ...]]:
    lines: list[str] = []
    try:
        code = process.run(["git", "-C", str(repository), *arguments], on_line=lines.append, env=env)
    except FileNotFoundError:
        raise GitError("the git command is not there", remedy="install git, or put it on PATH") from None
    return code, tuple(lines)
