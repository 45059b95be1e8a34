"""`vault`: fills what a build without a network needs: archives out of git mirrors, overrides, packages."""

from __future__ import annotations

import json as json_module
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from serving_factory.catalogue.releases import releases
from serving_factory.commands import inputs as vault_inputs
from serving_factory.commands.preflight import archives_table
from serving_factory.commands.shared import Asked, print_json, width, write
from serving_factory.docker.git import ArchiveFormat, commit_of, git_folder
from serving_factory.errors import PinnedDiffersError, UsageError
from serving_factory.output.text import count
from serving_factory.pipeline.offline.mirrors import Address, Archive, archive_address, make_archive, mirror_of

_PIN = re.compile(r"(?P<name>.+)=(?:sha256:)?(?P<sha256>[0-9a-f]{64})")
_KNOWN = "it knows: vault archive GIT_DIR REF..., vault fill VARIANT..., vault override NAME, vault packages VARIANT..."


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultOptions:
    """What the options of `vault` say; those of one word are refused with another.

    Args:
        asked: the matrix.
        output: the folder that gets archives, or the override; empty for the usual one.
        pinned: `NAME=SHA256`, or files of preflight reports.
        repository: its name at the code host; empty where the report or the mirror tells.
        as_zip: make zip files.
        mirrors: a folder with git repositories.
        archives: a folder with archives from elsewhere.
        overrides: make folders for what a mirror has and cannot give byte for byte.
        source: an archive, a folder, or a git repository with `#REF`.
        debian_source: a source package of the distribution.
        variant: the variant whose sources declare the repository.
        json: print JSON.
    """

    asked: Asked
    output: str = ""
    pinned: Sequence[str] = field(default=())
    repository: str = ""
    as_zip: bool = False
    mirrors: str = ""
    archives: str = ""
    overrides: bool = False
    source: str = ""
    debian_source: str = ""
    variant: str = ""
    json: bool = False


_OWN = {
    "archive": {"output", "pinned", "repository", "as_zip"},
    "fill": {"mirrors", "archives", "overrides"},
    "override": {"output", "source", "debian_source", "variant"},
    "packages": set[str](),
}
"""Which options belong to which word."""
_SPELLED = {"as_zip": "zip", "debian_source": "debian-source", "source": "from"}


def vault(words: Sequence[str], options: VaultOptions) -> None:
    """Do what the words say.

    Raises:
        UsageError: the words or the options make no sense.
        FactoryError: of the kinds that the functions below name.
    """
    match words:
        case ["archive", mirror, *refs] if refs:
            _check_options("archive", options)
            _archive(Path(mirror), refs, options)
        case ["fill", *variants] if variants:
            _check_options("fill", options)
            vault_inputs.fill(
                options.asked,
                variants,
                mirrors=options.mirrors,
                archives=options.archives,
                overrides=options.overrides,
                json=options.json,
            )
        case ["override", name]:
            _check_options("override", options)
            vault_inputs.override(
                options.asked,
                name,
                source=options.source,
                debian_source=options.debian_source,
                variant=options.variant,
                output=options.output,
                json=options.json,
            )
        case ["packages", *variants] if variants:
            _check_options("packages", options)
            vault_inputs.packages(options.asked, variants, json=options.json)
        case _:
            raise UsageError(
                f"vault cannot do `{' '.join(words)}`" if words else "vault is not told what to do",
                why=_KNOWN,
                remedy="`./factory vault --help` shows examples",
            )


def _check_options(word: str, options: VaultOptions) -> None:
    for name in sorted(set().union(*_OWN.values()) - _OWN[word]):
        if getattr(options, name):
            owner = next(other for other, own in _OWN.items() if name in own)
            raise UsageError(
                f"--{_SPELLED.get(name, name)} means nothing to `vault {word}`",
                remedy=f"leave it out; `vault {owner}` takes it",
            )


# --- archive ----------------------------------------------------------------------------------------------------------


def _archive(mirror: Path, refs: Sequence[str], options: VaultOptions) -> None:
    """Make archives, and say of each whether it is the pinned one.

    Raises:
        GitError: git fails, there is no such ref, or the mirror lacks files of it.
        PinnedDiffersError: an archive is not what is pinned; it was not kept.
    """
    place = git_folder(mirror)
    if place is None:
        raise UsageError(f"{mirror} is no git repository", remedy="name a clone or a mirror (`git clone --mirror URL`)")
    required = [_required(place, ref, options) for ref in refs]
    output = Path(options.output or ".")
    made = [make_archive(place, one.address, output=output, pinned=one.sha256) for one in required]
    if options.json:
        print_json([_document(one) for one in made])
    else:
        write(archives_table([_document(one) for one in made], width=width()))
    _check(made)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """An archive as somebody wants it, and what it must be."""

    address: Address
    sha256: str | None


def _required(mirror: Path, ref: str, options: VaultOptions) -> _Wanted:
    """Say what the archive of a ref must be: as a report says, or else the options, the mirror and the catalogue."""
    pins, reported = _given(options.pinned)
    if reported:
        found = _reported(mirror, ref, reported, options)
    else:
        name = options.repository or next(iter(mirror_of(mirror).names), "")
        if not name:
            raise UsageError(
                f"nothing tells what the repository {mirror} is called", remedy="name it: --repository NAME"
            )
        form = ArchiveFormat.ZIP if options.as_zip else ArchiveFormat.TAR_GZ
        address = Address(name=name, ref=ref, form=form)
        found = _Wanted(address, _catalogue_pins(name).get(address.file_name))
    given = next((pins[key] for key in (found.address.file_name, ref) if key in pins), None)
    return _Wanted(found.address, given or found.sha256)


def _reported(mirror: Path, ref: str, reported: Sequence[_Wanted], options: VaultOptions) -> _Wanted:
    """Find a ref among the archives that a preflight found missing, whose addresses tell the rest."""
    commit = commit_of(mirror, ref)
    fits = {
        one
        for one in reported
        if ref in {one.address.ref, one.address.file_name} or (commit and one.address.ref == commit)
    }
    names = {options.repository} if options.repository else set(mirror_of(mirror).names)
    narrowed = [one for one in fits if one.address.name in names] or list(fits)
    if len({(one.address.name, one.address.file_name, one.sha256) for one in narrowed}) != 1:
        raise UsageError(
            f"the report asks for no archive of {ref}" if not narrowed else f"the report asks for several of {ref}",
            why="\n".join(sorted(f"{one.address.name} {one.address.ref}" for one in reported)),
            remedy="name one of these refs; or its repository, with --repository",
        )
    address = narrowed[0].address
    if options.repository and options.repository != address.name:
        raise UsageError(
            f"--repository {options.repository} is not what the report says of {ref}: {address.name}",
            remedy="leave --repository out; the archive is named as the report's address has it",
        )
    if options.as_zip and address.form is not ArchiveFormat.ZIP:
        raise UsageError(f"--zip is not what the report says of {ref}: {address.form}", remedy="leave --zip out")
    return narrowed[0]


def _catalogue_pins(repository: str) -> Mapping[str, str]:
    """What upstream's WORKSPACE pins of TensorFlow."""
    if repository != "tensorflow":
        return {}
    return {
        f"{release.tensorflow_commit}.{ArchiveFormat.TAR_GZ}": release.tensorflow_sha256
        for release in releases().values()
        if release.tensorflow_commit and release.tensorflow_sha256
    }


def _given(pinned: Sequence[str]) -> tuple[Mapping[str, str], Sequence[_Wanted]]:
    """Split what --pinned says: names with their sha256, and what reports ask for."""
    pins: dict[str, str] = {}
    reported: list[_Wanted] = []
    for given in pinned:
        if match := _PIN.fullmatch(given):
            pins[match["name"]] = match["sha256"]
        else:
            reported += _read_report(Path(given))
    return pins, reported


def _read_report(file: Path) -> Sequence[_Wanted]:
    """The archives made out of git that a preflight found missing, with what they must be."""
    try:
        missing = json_module.loads(file.read_text(encoding="utf-8"))["missing"]
        found = [
            _Wanted(address, one["sha256"])
            for one in missing
            if (address := next(filter(None, map(archive_address, one["urls"])), None))
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"--pinned {file}: neither NAME=SHA256 nor a report of preflight",
            why=str(error),
            remedy="give 64 hex digits after the =, or a file that `./factory preflight` wrote",
        ) from None
    if not found:
        raise UsageError(
            f"--pinned {file}: this report asks for no archive that a code host makes out of git",
            remedy="leave it out, or run the preflight again",
        )
    return found


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
