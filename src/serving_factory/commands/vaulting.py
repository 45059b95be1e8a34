"""`vault`: archives for Bazel's `--distdir`, out of git mirrors."""

from __future__ import annotations

import json as json_module
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from serving_factory.catalogue.releases import releases
from serving_factory.commands.shared import print_json, width, write
from serving_factory.engine.git import ArchiveFormat, origin_name
from serving_factory.errors import PinnedDiffersError, UsageError
from serving_factory.line.vault import Archive, archive_name, make_archive
from serving_factory.ui.doors import archives_table
from serving_factory.ui.text import count

__all__ = ["vault"]

_PIN = re.compile(r"(?P<name>.+)=(?:sha256:)?(?P<sha256>[0-9a-f]{64})")


def vault(
    words: Sequence[str], *, output: Path, pinned: Sequence[str], repository: str, as_zip: bool, json: bool
) -> None:
    """Make archives, and say of each whether it is the pinned one.

    Args:
        words: `archive`, a git repository, and what of it.
        output: the folder that gets the archives.
        pinned: `NAME=SHA256`, or files of preflight reports.
        repository: its name at the code host; empty for the name in the mirror's origin.
        as_zip: make zip files.
        json: print JSON.

    Raises:
        UsageError: the words or the pins make no sense.
        GitError: git fails, or there is no such ref.
        PinnedDiffersError: an archive is not what is pinned; it was not kept.
    """
    match words:
        case ["archive", mirror, *refs] if refs:
            folder = Path(mirror)
        case _:
            raise UsageError(
                f"vault cannot do `{' '.join(words)}`" if words else "vault is not told what to do",
                why="it knows: vault archive GIT_DIR REF...",
                remedy="`./factory vault --help` shows examples",
            )
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder", remedy="name a git repository: a clone or a mirror")
    repository = repository or origin_name(folder)
    form = ArchiveFormat.ZIP if as_zip else ArchiveFormat.TAR_GZ
    pins = {**_catalogue_pins(repository), **_given_pins(pinned, repository)}
    made = [make_archive(folder, ref, repository=repository, form=form, output=output, pins=pins) for ref in refs]
    if json:
        print_json([_document(one) for one in made])
    else:
        write(archives_table([_document(one) for one in made], width=width()))
    _check(made)


def _catalogue_pins(repository: str) -> Mapping[str, str]:
    """What upstream's WORKSPACE pins of TensorFlow."""
    if repository != "tensorflow":
        return {}
    return {
        archive_name(release.tensorflow_commit, ArchiveFormat.TAR_GZ): release.tensorflow_sha256
        for release in releases().values()
        if release.tensorflow_commit and release.tensorflow_sha256
    }


def _given_pins(pinned: Sequence[str], repository: str) -> Mapping[str, str]:
    pins: dict[str, str] = {}
    for given in pinned:
        if match := _PIN.fullmatch(given):
            pins[match["name"]] = match["sha256"]
        else:
            pins |= _reported_pins(Path(given), repository)
    return pins


def _reported_pins(file: Path, repository: str) -> Mapping[str, str]:
    """The archives of this repository that a preflight found missing."""
    try:
        missing = json_module.loads(file.read_text(encoding="utf-8"))["missing"]
        return {
            one["file"]: one["sha256"]
            for one in missing
            if one["sha256"] and any(f"/{repository}/" in url for url in one["urls"])
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"--pinned {file}: neither NAME=SHA256 nor a report of preflight",
            why=str(error),
            remedy="give 64 hex digits after the =, or a file that `./factory preflight` wrote",
        ) from None


def _document(archive: Archive) -> Mapping[str, str | int | bool | None]:
    matches = None if archive.pinned is None else not archive.wrong
    return {**asdict(archive), "file": str(archive.file), "matches": matches}


def _check(made: Sequence[Archive]) -> None:
    wrong = [one for one in made if one.wrong]
    if wrong:
        raise PinnedDiffersError(
            f"not as pinned, and not kept: {count(len(wrong), 'archive')} of {len(made)}",
            why="\n".join(
                f"{one.file.name}: pinned is {one.pinned}, made was {one.sha256}, in the folder {one.folder}"
                for one in wrong
            ),
            remedy="see that the folder is named as the host names it (--repository); docs/closed-network.md tells "
            "what else changes the bytes, and how an override takes the archive's place",
        )
