"""Archives that a code host would serve, made out of a git mirror, for Bazel's `--distdir`."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving_factory.docker.git import ArchiveFormat, commit_of, git_folder, missing_files, origin_parts, write_archive
from serving_factory.errors import GitError
from serving_factory.pipeline.digests import file_digest

_DEPTH = 3  # folders between the mirrors' folder and a repository
_SHOWN = 5
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPOSITORY = r"(?:(?P<host>[\w-]+(?:\.[\w-]+)+)/)?(?P<owner>[^/]+)/(?P<name>[^/]+)"
_REF = r"(?:refs/(?:tags|heads)/)?(?P<ref>[^?#]+)"
# GitHub's and GitLab's addresses, of whatever host: mirrors have them behind an address of their own.
_GITHUB = re.compile(rf"/{_REPOSITORY}/archive/{_REF}\.(?P<form>tar\.gz|zip)$")
_CODELOAD = re.compile(rf"/{_REPOSITORY}/(?P<form>tar\.gz|zip)/{_REF}$")
_GITLAB = re.compile(rf"/{_REPOSITORY}/-/archive/(?P<ref>[^?#]+)/(?P<file>[^/?#]+)\.(?P<form>tar\.gz|zip)$")
_OWNER_AND_NAME = re.compile(r"(?P<owner>.+?)(?:[+:]|__)(?P<name>.+)")
_NAMELESS = frozenset({".git", "bare", "git", "mirror", "repo", "", "/"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """What a code host serves at an address: an archive that it makes out of git."""

    host: str = ""  # the code host; empty where the address does not say, as `owner`
    owner: str = ""
    name: str
    ref: str  # a tag, a branch or a commit
    form: ArchiveFormat
    file: str = ""  # the archive's name without its ending, where that is not the last part of the ref (GitLab's)

    @property
    def file_name(self) -> str:
        """The archive's name, as Bazel looks for it in a distdir: the base name of the address."""
        return f"{self.file or self.ref.rpartition('/')[2]}.{self.form}"

    def folder(self, commit: str) -> str:
        """Name the folder in the archive, ending in `/`."""
        # GitLab's is called like the file. GitHub's rule: a short commit id is written in full; of other names a `v`
        # before a digit is dropped; `/` and `+` become `-`, and so does a run of `-`. (Also the rule of FreeBSD's
        # ports, which unpack thousands of them: GH_TAGNAME_EXTRACT in bsd.sites.mk.)
        if self.file:
            return f"{self.file}/"
        if re.fullmatch(r"[0-9a-f]{4,40}", self.ref) and commit.startswith(self.ref):
            return f"{self.name}-{commit}/"
        plain = re.sub(r"^[vV](?=[0-9])", "", self.ref.replace("/", "-"))
        return f"{self.name}-{re.sub(r'-+', '-', plain.replace('+', '-'))}/"


@dataclass(frozen=True, slots=True)
class Mirror:
    """A git repository on this machine."""

    folder: Path  # its git directory
    names: tuple[str, ...]  # what it may be called at the code host, the likeliest first
    owners: tuple[str, ...] = ()  # whose it may be there; empty where nothing says so

    def has(self, address: Address) -> bool:
        """Whether its ref is what the address means: a commit always is, a name only if the owner may be the same."""
        owners = [owner.lower() for owner in self.owners]
        return is_commit(address.ref) or not address.owner or not owners or address.owner.lower() in owners

    def commit(self, ref: str) -> str | None:
        """The commit of a ref; None where there is none, or git does not read the mirror any more."""
        try:
            return commit_of(self.folder, ref)
        except GitError:
            return None


def is_commit(ref: str) -> bool:
    """Whether a ref is a commit's full id, which means the same in every repository."""
    return _COMMIT.fullmatch(ref) is not None


def archive_address(*urls: str) -> Address | None:
    """Read the first URL of an archive that is made out of git; None where all are others, as uploaded files."""
    for url in urls:
        found = _GITLAB.search(url) or _GITHUB.search(url) or ("codeload." in url and _CODELOAD.search(url))
        if found:
            groups = found.groupdict()
            return Address(
                host=(groups["host"] or "").removeprefix("codeload."),
                owner=groups["owner"],
                name=groups["name"].removesuffix(".git"),
                ref=groups["ref"],
                form=ArchiveFormat(groups["form"]),
                file=groups.get("file") or "",
            )
    return None


def find_mirrors(folder: Path, progress: Callable[[str], None]) -> tuple[Mirror, ...]:
    """Find the git repositories below a folder, sorted by their places; `progress` gets those that git cannot read."""
    found = []
    for place in _repositories(folder, _DEPTH, set()):
        try:
            commit_of(place, "HEAD")
            found.append(mirror_of(place))
        except GitError as error:
            progress(f"passed over: {error.what}: {error.why}")
    return tuple(found)


def mirror_of(place: Path) -> Mirror:
    """Guess what a git directory's repository is called and whose it is: by its origin, and by the folder it is in."""
    parts = [part.removesuffix(".git") for part in place.resolve().parts]
    while parts and parts[-1] in _NAMELESS:
        parts.pop()
    names: list[str] = []
    owners: list[str] = []
    origin = origin_parts(place)
    for known in filter(None, (origin, parts)):
        paired = _OWNER_AND_NAME.fullmatch(known[-1])
        names.append(paired["name"] if paired else known[-1])
        # A folder above a folder may be an owner's, and may be anything.
        owners += [paired["owner"]] if paired else list(known[-2:-1]) if known is origin else []
    return Mirror(place, tuple(dict.fromkeys(names)), tuple(dict.fromkeys(owners)))


def mirrors_for(name: str, ref: str, mirrors: Sequence[Mirror]) -> tuple[tuple[Mirror, str], ...]:
    """Give the mirrors that have a ref of a repository, each with the commit that it is there."""
    # A commit's full id is the same everywhere, so mirrors of other names that have it count too: forks, renamed ones.
    named = [mirror for mirror in mirrors if name.lower() in map(str.lower, mirror.names)]
    others = [mirror for mirror in mirrors if mirror not in named] if is_commit(ref) else []
    return tuple((mirror, commit) for mirror in (*named, *others) if (commit := mirror.commit(ref)))


def _repositories(folder: Path, depth: int, seen: set[Path]) -> Iterator[Path]:
    place = folder.resolve()
    if place in seen:
        return
    seen.add(place)
    if found := git_folder(place):
        yield found
    elif depth:
        for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
            yield from _repositories(inner, depth - 1, seen)


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """An archive that was made."""

    ref: str  # as the caller gave it
    commit: str
    file: Path  # where the archive lies, or would lie were it the pinned one
    folder: str  # the folder in it that everything is in, ending in `/`
    size: int  # bytes
    sha256: str
    pinned: str | None  # the sha256 that it must have; None where nothing pins it

    @property
    def matches(self) -> bool | None:
        """Whether it is what is pinned; None where nothing is."""
        return None if self.pinned is None else self.pinned == self.sha256


def make_archive(mirror: Path, address: Address, *, output: Path, pinned: str | None) -> Archive:
    """Make one archive. It is put into the folder `output` only if it is what is pinned, or nothing pins it."""
    # (The same commit by another name is another archive: its folder is another.)
    ref = address.ref
    commit = commit_of(mirror, ref)
    if commit is None:
        raise GitError(
            f"{mirror} has no ref {ref}",
            remedy="name a tag, a branch or a commit, or update the mirror: `git remote update`",
        )
    folder, name = address.folder(commit), address.file_name
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}.partial-", dir=output) as scratch:
        partial = Path(scratch, name)
        try:
            write_archive(mirror, commit, prefix=folder, form=address.form, file=partial)
        except GitError as error:
            absent = missing_files(mirror, commit)
            if not absent:
                raise
            raise GitError(
                f"{mirror} has no content for {len(absent)} of {ref}'s files, so its archive cannot be made",
                why=shortened(absent),
                remedy="take a whole mirror (this may be one without large files), or let a folder take its place: "
                "`./factory inputs override`",
            ) from error
        made = Archive(
            ref=ref,
            commit=commit,
            file=output / name,
            folder=folder,
            size=partial.stat().st_size,
            sha256=file_digest(partial),
            pinned=pinned,
        )
        if made.matches is not False:
            partial.replace(made.file)
    return made


def shortened(names: Sequence[str]) -> str:
    """The first of many names, a line each."""
    more = [f"and {len(names) - _SHOWN} more"] if names[_SHOWN:] else []
    return "\n".join([*names[:_SHOWN], *more])
