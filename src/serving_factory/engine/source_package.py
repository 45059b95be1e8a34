"""Source packages of this machine's distribution: sources as their authors released them, before its own changes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from serving_factory.engine import process
from serving_factory.errors import FetchError, UsageError

__all__ = ["fetch_source"]

_APT = Path("/etc/apt")
_ORIGINAL = re.compile(r".+\.orig\.tar\.\w+")


def fetch_source(package: str, scratch: Path) -> Path:
    """Download a source package with apt, and give the archive of its authors.

    This machine's own lists of sources are asked; that they may name binary packages alone does not matter. No file of
    the system is changed.

    Args:
        package: its name, or `NAME=VERSION`.
        scratch: an empty folder for apt's lists and the files.

    Raises:
        UsageError: there is no apt here, or the package has no archive of its authors.
        FetchError: apt fails.
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
    _run(["apt-get", *options, "update"], scratch)
    _run(["apt-get", *options, "source", "--download-only", "--only-source", package], scratch)
    found = sorted(path for path in scratch.iterdir() if _ORIGINAL.fullmatch(path.name))
    if not found:
        raise UsageError(
            f"the source package {package} has no archive of its authors",
            remedy="name another package, or an archive at --from",
        )
    return found[0]


def _for_sources(text: str) -> str:
    """Turn lists of binary packages into lists of source packages, in either of apt's formats."""
    return "\n".join(_lines_for_sources(text.splitlines())) + "\n"


def _lines_for_sources(lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        if line.startswith("Types:"):
            yield "Types: deb-src"
        elif not line.startswith("deb-src"):
            yield re.sub(r"^deb\b", "deb-src", line)


def _run(argv: Sequence[str], folder: Path) -> None:
    lines: list[str] = []
    try:
        code = process.run(argv, on_line=lines.append, cwd=folder)
    except FileNotFoundError:
        raise UsageError(
            "apt-get is not there: this machine's distribution has no source packages of this kind",
            remedy="name an archive or a git repository at --from instead",
        ) from None
    if code != 0:
        raise FetchError(
            f"apt fails: {' '.join(argv[-2:])}",
            why="\n".join(line for line in lines if line.startswith(("E:", "W:"))) or "\n".join(lines[-5:]),
            remedy="see that the package's name is right, and that this machine reaches a mirror with sources",
        )
