"""Which git mirror can make an archive that a build wants: addresses of code hosts, and a folder of mirrors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving_factory.engine.git import ArchiveFormat, commit_of, git_folder, origin_name

__all__ = ["Address", "Mirror", "archive_address", "find_mirrors", "mirror_names", "mirrors_for"]

_DEPTH = 3  # folders between the mirrors' folder and a repository
_COMMIT = re.compile(r"[0-9a-f]{40}")
# GitHub's addresses, of whatever host: mirrors have them as https://mirror.example.com/github.com/OWNER/NAME/archive/REF.zip.
_ARCHIVE = re.compile(
    r"/(?P<owner>[^/]+)/(?P<name>[^/]+)/archive/(?:refs/(?:tags|heads)/)?(?P<ref>[^?#]+)\.(?P<form>tar\.gz|zip)$"
)
_CODELOAD = re.compile(
    r"codeload\.github\.com/(?P<owner>[^/]+)/(?P<name>[^/]+)/(?P<form>tar\.gz|zip)/(?:refs/(?:tags|heads)/)?(?P<ref>[^?#]+)$"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """What a code host serves at an address: an archive that it makes out of git.

    Args:
        owner: whose repository.
        name: the repository's name.
        ref: a tag, a branch or a commit.
        form: the kind of archive.
    """

    owner: str
    name: str
    ref: str
    form: ArchiveFormat


@dataclass(frozen=True, slots=True)
class Mirror:
    """A git repository on this machine.

    Args:
        folder: its git directory.
        names: what it may be called at the code host, the likeliest first.
    """

    folder: Path
    names: tuple[str, ...]


def archive_address(url: str) -> Address | None:
    """Read the address of an archive; None where it is none that is made out of git, such as an uploaded file."""
    found = _ARCHIVE.search(url) or _CODELOAD.search(url)
    if found is None:
        return None
    name = found["name"].removesuffix(".git")
    return Address(owner=found["owner"], name=name, ref=found["ref"], form=ArchiveFormat(found["form"]))


def find_mirrors(folder: Path) -> tuple[Mirror, ...]:
    """Find the git repositories below a folder, bare or not, with an origin or without, sorted by their places."""
    return tuple(Mirror(place, mirror_names(place, folder)) for place in _repositories(folder, _DEPTH))


def mirror_names(place: Path, above: Path | None = None) -> tuple[str, ...]:
    """Guess what a repository is called: as its origin says, and by the folders that it lies in, without the owner.

    Args:
        place: its git directory.
        above: folders from there on tell nothing; None where the nearest alone counts.
    """
    parts = place.relative_to(above).parts if above else (place.parent.name, place.name)
    folders = (re.split(r"[+:]|__", part.removesuffix(".git"))[-1] for part in reversed(parts) if part != ".git")
    return tuple(dict.fromkeys(name for name in (origin_name(place), *folders) if name and name != "repo"))


def mirrors_for(name: str, ref: str, mirrors: Sequence[Mirror]) -> tuple[tuple[Mirror, str], ...]:
    """Give the mirrors that have a ref of a repository, each with the commit that it is there.

    Those of the repository's name come first, whoever owns them. A commit's full id is the same everywhere, so other
    mirrors that have it count too: forks and renamed repositories.
    """
    named = [mirror for mirror in mirrors if name.lower() in map(str.lower, mirror.names)]
    others = [mirror for mirror in mirrors if mirror not in named] if _COMMIT.fullmatch(ref) else []
    found = ((mirror, commit_of(mirror.folder, ref)) for mirror in (*named, *others))
    return tuple((mirror, commit) for mirror, commit in found if commit)


def _repositories(folder: Path, depth: int) -> Iterator[Path]:
    found = git_folder(folder)
    if found:
        yield found
    elif depth:
        for inner in sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()):
            yield from _repositories(inner, depth - 1)
