"""Sources: git repositories of this machine, without a network, and the distribution's source packages."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from serving_factory.docker import process
from serving_factory.errors import FetchError, GitError, UsageError

# What a user's own settings could change in an archive's bytes, as git has it by itself.
_PLAIN = ("tar.umask=0002", "core.autocrlf=false", "core.eol=lf", f"core.attributesFile={os.devnull}")
_GZIP = "tar.tar.gz.command=gzip -cn"
_HOST_ZONE = "America/Los_Angeles"
_APT = Path("/etc/apt")
_NOT_INHERITED = {
    *("GZIP", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_CONFIG", "GIT_DIR", "GIT_INDEX_FILE"),
    *("GIT_NAMESPACE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_WORK_TREE"),
}


class ArchiveFormat(StrEnum):
    """The formats that code hosts serve; the value is the file's ending."""

    TAR_GZ = "tar.gz"
    ZIP = "zip"


def commit_of(repository: Path, ref: str) -> str | None:
    """The full id of the commit that a branch, a tag or the beginning of an id stands for; None for nothing."""
    _git(repository, "rev-parse", "--git-dir")
    verify = ("rev-parse", "--verify", "--quiet", "--end-of-options")
    return next(reversed(_git(repository, *verify, f"{ref}^{{commit}}", may_fail=True)), None)


def git_folder(folder: Path) -> Path | None:
    """The place by which git knows the repository that a folder is or has; None where it is none. Runs nothing.

    That is the git directory, or the folder itself where this is elsewhere: of a submodule, or another work tree.
    """
    folder = folder.resolve()
    for place in (folder, folder / ".git"):
        if (place / "HEAD").is_file() and (place / "objects").is_dir():
            return place
    return folder if (folder / ".git").is_file() else None


def origin_parts(repository: Path) -> tuple[str, ...]:
    """The parts of a mirror's origin, the repository's name last, without `.git`; none where it has no origin."""
    where = next(reversed(_git(repository, "config", "--get", "remote.origin.url", may_fail=True)), "")
    plain = where.rstrip("/").removesuffix("/.git").removesuffix(".git")
    return tuple(part for part in re.split(r"[/:]+", plain) if part)


def missing_files(repository: Path, commit: str) -> tuple[str, ...]:
    """The files of a commit whose content is not in the repository, as of a mirror without large files; sorted."""
    listed = _git(repository, "rev-list", "--objects", "--no-object-names", "--missing=print", f"{commit}^{{tree}}")
    gone = {line.removeprefix("?") for line in listed if line.startswith("?")}
    if not gone:
        return ()
    files = (line.split(None, 3) for line in _git(repository, "-c", "core.quotePath=off", "ls-tree", "-r", commit))
    return tuple(sorted(name for _, _, blob, name in files if blob in gone))


def write_archive(
    repository: Path, commit: str, *, prefix: str, form: ArchiveFormat, file: Path, without: Sequence[str] = ()
) -> None:
    """Write the archive of a commit to `file`, without some of its files, as a code host makes it.

    tar.gz: compressed by `gzip -cn`; git's own compressor, its default since 2.38, gives other bytes. zip: it holds
    local times, and the host's are those of Los Angeles. `prefix` is the folder in the archive, ending in `/`.
    """
    env = {}
    if form is ArchiveFormat.ZIP:
        try:
            env["TZ"] = ZoneInfo(_HOST_ZONE).key
        except ZoneInfoNotFoundError:
            raise GitError(
                f"This machine has no time zone {_HOST_ZONE}.",
                why="A zip holds local times, and the code host's are of that zone.",
                remedy="Install the package tzdata.",
            ) from None
    settings = [word for setting in (*_PLAIN, _GZIP) for word in ("-c", setting)]
    arguments = ["archive", f"--format={form}", f"--prefix={prefix}", f"--output={file.absolute()}"]
    with _tree_without(repository, commit, without) as (tree, found_by):
        _git(repository, *settings, *arguments, tree, env={**env, **found_by})


@contextmanager
def _tree_without(repository: Path, commit: str, without: Sequence[str]) -> Iterator[tuple[str, Mapping[str, str]]]:
    """The tree of a commit without some of its files, and the environment in which git knows it.

    Pathspecs would not do: the files may be thousands, and git asks a partial clone's origin for excluded ones too.
    """
    if not without:
        yield commit, {}
        return
    with tempfile.TemporaryDirectory(prefix="serving-factory-git-") as scratch:
        objects, names = _git(repository, "rev-parse", "--git-path", "objects")[-1], Path(scratch, "names")
        names.write_text("".join(f"0 {'0' * 40}\t{name}\0" for name in without), encoding="utf-8")
        Path(scratch, "objects").mkdir()
        env = {
            "GIT_INDEX_FILE": f"{scratch}/index",
            "GIT_OBJECT_DIRECTORY": f"{scratch}/objects",
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(repository / objects),
        }
        _git(repository, "read-tree", commit, env=env)
        _git(repository, "update-index", "-z", "--index-info", env=env, stdin=names)
        yield _git(repository, "write-tree", "--missing-ok", env=env)[-1], env


def _git(
    repository: Path,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    stdin: Path | None = None,
    may_fail: bool = False,
) -> tuple[str, ...]:
    """Run git on that repository and no other, whatever a hook's environment says, and on what is there: no network."""
    lines: list[str] = []
    inherited = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    argv = ["git", "-C", str(repository), "-c", "protocol.allow=never", *arguments]
    try:
        code = process.run(argv, on_line=lines.append, env={**inherited, **(env or {})}, stdin=stdin)
    except FileNotFoundError:
        raise GitError("The git command is missing.", remedy="Install git, or put it on PATH.") from None
    if code == 0 or may_fail:
        return () if code else tuple(lines)
    raise GitError(
        f"git failed in {repository}.",
        why="\n".join(lines) or f"It ended with exit code {code}.",
        remedy="Name a git repository that is whole: a clone or a mirror (`git clone --mirror URL`). To read one "
        "that another user owns: `git config --global --add safe.directory FOLDER`.",
    )


def fetch_source(package: str, scratch: Path) -> Path:
    """Download a source package (`NAME` or `NAME=VERSION`) with apt into an empty folder; give its authors' archive.

    This machine's own lists of sources are used; that they may name binary packages alone does not matter. No file of
    the system is changed.
    """
    sources = scratch / "sources.list.d"
    lists = scratch / "lists" / "partial"
    for folder in (sources, lists):
        folder.mkdir(parents=True)
    for place in (_APT / "sources.list", *sorted((_APT / "sources.list.d").glob("*"))):
        if place.suffix in {".list", ".sources"} and place.is_file():
            text = place.read_text(encoding="utf-8", errors="replace")
            (sources / place.name.replace("sources.list", "main.list")).write_text(_for_sources(text), encoding="utf-8")
    options = [
        *("-o", "Dir::Etc::SourceList=/dev/null", "-o", f"Dir::Etc::SourceParts={sources}"),
        *("-o", f"Dir::State::Lists={lists.parent}", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Languages=none"),
        *("-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="),
    ]
    _run_in(["apt-get", *options, "update"], scratch)
    _run_in(["apt-get", *options, "source", "--download-only", "--only-source", package], scratch)
    found = sorted(path for path in scratch.iterdir() if re.fullmatch(r".+\.orig\.tar\.\w+", path.name))
    if not found:
        raise UsageError(
            f"The source package {package} has no archive of its authors.",
            remedy="Name another package, or an archive at --from.",
        )
    return found[0]


def _for_sources(text: str) -> str:
    """Turn lists of binary packages into lists of source packages, in either of apt's formats."""
    binary = (line for line in text.splitlines() if not line.startswith("deb-src"))
    return "".join(re.sub(r"^deb\b", "deb-src", re.sub("^Types:.*", "Types: deb-src", line)) + "\n" for line in binary)


def _run_in(argv: Sequence[str], folder: Path) -> None:
    lines: list[str] = []
    try:
        code = process.run(argv, on_line=lines.append, cwd=folder)
    except FileNotFoundError:
        raise UsageError(
            "There is no apt-get: this machine's distribution has no source packages of this kind.",
            remedy="Name an archive or a git repository at --from instead.",
        ) from None
    if code != 0:
        raise FetchError(
            f"apt failed: {' '.join(argv[-2:])}",
            why="\n".join(line for line in lines if line.startswith(("E:", "W:"))) or "\n".join(lines[-5:]),
            remedy="Check the package's name, and that this machine reaches a mirror with sources.",
        )
