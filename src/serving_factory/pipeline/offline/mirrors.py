"""Archives that a code host would serve, made out of a git mirror, for Bazel's `--distdir`."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving_factory.docker.git import ArchiveFormat, commit_of, git_folder, missing_files, origin_parts, write_archive
from serving_factory.errors import GitError
from serving_factory.pipeline.records import file_digest

_DEPTH = 3  # folders between the mirrors' folder and a repository
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPOSITORY = r"(?:(?P<host>[\w-]+(?:\.[\w-]+)+)/)?(?P<owner>[^/]+)/(?P<name>[^/]+)"
_REF = r"(?:refs/(?:tags|heads)/)?(?P<ref>[^?#]+)"
# GitHub's and GitLab's addresses, of whatever host: mirrors have them behind an address of their own.
_GITHUB = re.compile(rf"/{_REPOSITORY}/archive/{_REF}\.(?P<form>tar\.gz|zip)$")
_CODELOAD = re.compile(rf"/{_REPOSITORY}/(?P<form>tar\.gz|zip)/{_REF}$")
_GITLAB = re.compile(rf"/{_REPOSITORY}/-/archive/(?P<ref>[^?#]+)/(?P<file>[^/?#]+)\.(?P<form>tar\.gz|zip)$")
_OWNER_AND_NAME = re.compile(r"(?P<owner>.+?)(?:[+:]|__)(?P<name>.+)")
_NAMELESS = frozenset({".git", "bare", "git", "mirror", "repo"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """What a code host serves at an address: an archive that it makes out of git.

    Args:
        host: the code host; empty where the address does not tell.
        owner: whose repository; empty where nothing tells.
        name: the repository's name.
        ref: a tag, a branch or a commit.
        form: the kind of archive.
        file: the archive's name without its ending, where that is not the last part of the ref (GitLab's).
    """

    host: str = ""
    owner: str = ""
    name: str
    ref: str
    form: ArchiveFormat
    file: str = ""

    @property
    def file_name(self) -> str:
        """The archive's name, as Bazel looks for it in a distdir: the base name of the address."""
        return f"{self.file or self.ref.rpartition('/')[2]}.{self.form}"

    def folder(self, commit: str) -> str:
        """Name the folder in the archive, ending in `/`.

        GitLab's is called like the file. GitHub's rule: a short commit id is written in full; of other names a `v`
        before a digit is dropped; `/` and `+` become `-`, and so does a run of `-`. (Also the rule of FreeBSD's ports,
        which unpack thousands of them: GH_TAGNAME_EXTRACT in bsd.sites.mk.)
        """
        if self.file:
            return f"{self.file}/"
        if re.fullmatch(r"[0-9a-f]{4,40}", self.ref) and commit.startswith(self.ref):
            return f"{self.name}-{commit}/"
        plain = re.sub(r"^[vV](?=[0-9])", "", self.ref.replace("/", "-"))
        return f"{self.name}-{re.sub(r'-+', '-', plain.replace('+', '-'))}/"


@dataclass(frozen=True, slots=True)
class Mirror:
    """A git repository on this machine.

    Args:
        folder: its git directory.
        names: what it may be called at the code host, the likeliest first.
        owners: whose it may be there; none where nothing tells.
    """

    folder: Path
    names: tuple[str, ...]
    owners: tuple[str, ...] = ()

    def may_be(self, owner: str) -> bool:
        """Whether it may be the repository of an owner, and not somebody else's of the same name."""
        return not owner or not self.owners or owner.lower() in map(str.lower, self.owners)


def is_commit(ref: str) -> bool:
    """Say a commit's full id, which means the same in every repository, from a name."""
    return _COMMIT.fullmatch(ref) is not None


def archive_address(url: str) -> Address | None:
    """Read the address of an archive; None where it is none that is made out of git, such as an uploaded file."""
    found = _GITLAB.search(url) or _GITHUB.search(url)
    if found is None and "codeload." in url:
        found = _CODELOAD.search(url)
    if found is None:
        return None
    groups = found.groupdict()
    return Address(
        host=(groups["host"] or "").removeprefix("codeload."),
        owner=groups["owner"],
        name=groups["name"].removesuffix(".git"),
        ref=groups["ref"],
        form=ArchiveFormat(groups["form"]),
        file=groups.get("file") or "",
    )


def find_mirrors(folder: Path, progress: Callable[[str], None]) -> tuple[Mirror, ...]:
    """Find the git repositories below a folder, bare or not, with an origin or without, sorted by their places.

    Args:
        folder: where to look.
        progress: is told of a repository that git does not read; it is passed over.
    """
    found = []
    for place in _repositories(folder, _DEPTH, set()):
        try:
            commit_of(place, "HEAD")
            found.append(mirror_of(place))
        except GitError as error:
            progress(f"passed over: {error.what}: {error.why}")
    return tuple(found)


def mirror_of(place: Path) -> Mirror:
    """Guess what a repository is called and whose it is: as its origin says, and by the folder that it lies in.

    Args:
        place: its git directory.
    """
    parts = [part.removesuffix(".git") for part in place.resolve().parts]
    while parts and parts[-1] in _NAMELESS | {"", "/"}:
        parts.pop()
    names: list[str] = []
    owners: list[str] = []
    origin = origin_parts(place)
    for known in (origin, parts):
        if known:
            paired = _OWNER_AND_NAME.fullmatch(known[-1])
            names.append(paired["name"] if paired else known[-1])
            # A folder above a folder may be an owner's, and may be anything.
            owners += [paired["owner"]] if paired else list(known[-2:-1]) if known is origin else []
    return Mirror(place, tuple(dict.fromkeys(names)), tuple(dict.fromkeys(owners)))


def mirrors_for(name: str, ref: str, mirrors: Sequence[Mirror]) -> tuple[tuple[Mirror, str], ...]:
    """Give the mirrors that have a ref of a repository, each with the commit that it is there.

    Those of the repository's name come first, whoever owns them. A commit's full id is the same everywhere, so other
    mirrors that have it count too: forks and renamed repositories. One that git does not read any more has nothing.
    """
    named = [mirror for mirror in mirrors if name.lower() in map(str.lower, mirror.names)]
    others = [mirror for mirror in mirrors if mirror not in named] if is_commit(ref) else []
    found = ((mirror, _commit_of(mirror, ref)) for mirror in (*named, *others))
    return tuple((mirror, commit) for mirror, commit in found if commit)


def _commit_of(mirror: Mirror, ref: str) -> str | None:
    try:
        return commit_of(mirror.folder, ref)
    except GitError:
        return None


def _repositories(folder: Path, depth: int, seen: set[Path]) -> Iterator[Path]:
    place = folder.resolve()
    if place in seen:
        return
    seen.add(place)
    found = git_folder(place)
    if found:
        yield found
    elif depth:
        for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
            yield from _repositories(inner, depth - 1, seen)


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
        "`./factory inputs --help` tells of `override`",
    )
