"""Archives from elsewhere, unpacked into a folder and nowhere else."""

from __future__ import annotations

import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving_factory.errors import OverrideError

_DAMAGED = (
    *(tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError),
    RuntimeError,  # of zipfile: a password, or an unknown way of packing
    ValueError,  # a name that is none, as one with a NUL
)
_MEMBER = "a member of the archive"
_LINK = "a link of the archive"


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar or zip file into a folder, and nothing outside it."""
    with readable(archive):
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                for one in zipped.infolist():
                    _unzip(zipped, one, folder)
        else:
            with tarfile.open(archive) as tar:
                for member in tar:
                    _untar(tar, member, folder)
        # A link may have led inside until another one was made.
        for path in folder.rglob("*"):
            if path.is_symlink():
                inside(folder, path.relative_to(folder), _LINK)


@contextmanager
def readable(archive: Path) -> Iterator[None]:
    """Turn whatever an archive's reader raises into an OverrideError."""
    try:
        yield
    except _DAMAGED as error:
        raise OverrideError(
            f"{archive} cannot be unpacked",
            why=str(error) or type(error).__name__,
            remedy="name a tar file, packed in any way, or a zip file",
        ) from None


def _untar(tar: tarfile.TarFile, one: tarfile.TarInfo, folder: Path) -> None:
    """Extract a member with a plain mode and as one's own. (Python's own filters for that came with 3.11.4.)."""
    inside(folder, one.name, _MEMBER)
    if one.issym():
        inside(folder, Path(one.name).parent / one.linkname, _LINK)
    elif one.islnk():
        original = inside(folder, one.linkname, _LINK)
        if original.is_symlink() or not original.is_file():
            raise OverrideError(f"{_LINK} is of something that is no file: {one.linkname}")
    elif not (one.isfile() or one.isdir()):
        raise OverrideError(f"{_MEMBER} is neither file, folder nor link: {one.name}")
    one.mode = one.mode & 0o755 | (0o700 if one.isdir() else 0o600)
    one.uid, one.gid, one.uname, one.gname = os.getuid(), os.getgid(), "", ""
    tar.extraction_filter = lambda member, _: member  # no other where there are filters
    tar.extract(one, folder)


def _unzip(zipped: zipfile.ZipFile, one: zipfile.ZipInfo, folder: Path) -> None:
    """Extract a member with its mode, or as the link that it is: Python's own reader knows neither."""
    inside(folder, one.filename, _MEMBER)
    place = Path(zipped.extract(one, folder))
    mode = one.external_attr >> 16
    if stat.S_ISLNK(mode):
        target = place.read_text(encoding="utf-8")
        inside(folder, place.parent / target, _LINK)
        place.unlink()
        place.symlink_to(target)
    elif mode & stat.S_IXUSR and place.is_file():
        place.chmod(mode & 0o777)


def inside(root: Path, name: Path | str, what: str) -> Path:
    """Give the place in a folder that a path means; OverrideError if that leads out of the folder."""
    place = root / name
    if not place.resolve().is_relative_to(root.resolve()):
        raise OverrideError(f"{what} leads out of the repository: {name}")
    return place
