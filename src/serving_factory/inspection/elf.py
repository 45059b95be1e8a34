"""Reads the facts of an ELF binary that decide whether and where it can run."""

from __future__ import annotations

import re
import struct
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from elftools.common.exceptions import ELFError
from elftools.construct import ConstructError
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from elftools.elf.sections import NoteSection
from elftools.elf.segments import InterpSegment
from packaging.version import Version

from serving_factory.errors import ArtifactError
from serving_factory.inspection.facts import ElfFacts, ElfKind, Relro

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


_DRIVER: Final = ("libcuda.so.", "libnvidia-")
"""How the names of a driver's libraries begin: they fit the kernel of the machine that serves, which hands them in."""

BINARY: Final = "the binary"
"""Stands for the inspected binary itself among those who need a library."""

_MACHINES: Final = {"EM_X86_64": "x86-64", "EM_AARCH64": "aarch64"}
_ISA_LEVELS: Final = ((8, "x86-64-v4"), (4, "x86-64-v3"), (2, "x86-64-v2"), (1, "x86-64"))
"""Bits of GNU_PROPERTY_X86_ISA_1_NEEDED, highest first (x86-64 psABI, section "Program Property")."""

_VERSION_ALIASES: Final = {"GLIBC_ABI_DT_RELR": "GLIBC_2.36"}
"""Versions without a number, by the release that brought them (glibc 2.36 NEWS: DT_RELR)."""

_BIND_NOW: Final = 0x8
_NOW: Final = 0x1
_PIE: Final = 0x08000000
_BUILD_REMEDY: Final = "look at the end of the compile log: the server's target did not give the file it should"


@dataclass(frozen=True, slots=True)
class MissingLibrary:
    """A library that nothing in the image provides.

    Args:
        soname: the name that the loader will look for.
        needed_by: who asks for it: `BINARY`, or paths below the root file system, sorted.
    """

    soname: str
    needed_by: tuple[str, ...]


@contextmanager
def open_elf(path: Path) -> Iterator[ELFFile]:
    """Open an ELF file for reading.

    Raises:
        ArtifactError: there is no such file, it is no ELF file, or it is damaged, also where that shows only when
            the block reads more of it.
    """
    try:
        with path.open("rb") as stream:
            yield ELFFile(stream)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read", why=error.strerror or str(error), remedy=_BUILD_REMEDY) from error
    except (
        ELFError,
        ConstructError,
        ValueError,
        LookupError,
        struct.error,
        TypeError,
        AttributeError,
    ) as error:
        # pyelftools meets a damaged file in many ways, and promises none of them.
        raise ArtifactError(
            f"{path} is no sound ELF file",
            why=str(error) or type(error).__name__,
            remedy=_BUILD_REMEDY,
        ) from error


def read_elf(binary: Path) -> ElfFacts:
    """Read the facts of a linked ELF file.

    Raises:
        ArtifactError: missing, unreadable, not ELF, or neither a program nor a shared library.
    """
    with open_elf(binary) as elf:
        tags = _dynamic_tags(elf)
        versions = _highest_versions(elf)
        notes = tuple(_notes(elf))
        return ElfFacts(
            machine=_MACHINES.get(elf["e_machine"], str(elf["e_machine"]).removeprefix("EM_").lower()),
            kind=_kind(elf, tags, binary),
            build_id=next((desc for kind, desc in notes if kind == "NT_GNU_BUILD_ID"), None),
            needed=_texts(tags, "DT_NEEDED", "needed"),
            runpath=next(iter(_texts(tags, "DT_RUNPATH", "runpath") or _texts(tags, "DT_RPATH", "rpath")), None),
            interpreter=_interpreter(elf),
            highest_glibc=versions.get("GLIBC"),
            highest_glibcxx=versions.get("GLIBCXX"),
            highest_cxxabi=versions.get("CXXABI"),
            size=binary.stat().st_size,
            stripped=elf.get_section_by_name(".symtab") is None,
            isa_needed=_isa_needed(notes),
            relro=_relro(elf, tags),
        )


def library_closure_gaps(
    needed: Iterable[str], rootfs: Path, base_libraries: frozenset[str]
) -> tuple[MissingLibrary, ...]:
    """List the libraries that the loader would not find, those of a driver apart.

    Every library copied below `rootfs` is asked what it needs, not only those that the binary reaches: some are
    opened at run time.

    Args:
        needed: DT_NEEDED of the binary.
        rootfs: what is copied into the image; libraries are looked for in its folders named `lib…`, by file name, as
            the loader does.
        base_libraries: sonames that the base image has.

    Returns:
        Sorted by soname; empty when all is there.

    Raises:
        ArtifactError: a copied library is damaged.
    """
    copied = _copied_libraries(rootfs)
    required: defaultdict[str, set[str]] = defaultdict(set)
    for soname in needed:
        required[soname].add(BINARY)
    for path in sorted(set(copied.values())):
        with open_elf(path) as elf:
            for soname in _texts(_dynamic_tags(elf), "DT_NEEDED", "needed"):
                required[soname].add(str(PurePosixPath("/") / path.relative_to(rootfs)))
    return tuple(
        MissingLibrary(soname, tuple(sorted(required[soname])))
        for soname in sorted(required)
        if soname not in base_libraries and soname not in copied and not soname.startswith(_DRIVER)
    )


def _copied_libraries(rootfs: Path) -> dict[str, Path]:
    """Map each file name below a `lib…` folder to the ELF file that it is or points to."""
    found: dict[str, Path] = {}
    for path in sorted(rootfs.rglob("*")):
        if not any(part.startswith("lib") for part in path.relative_to(rootfs).parts[:-1]):
            continue
        target = _follow(path, rootfs)
        if target is not None and _is_elf(target):
            found[path.name] = target
    return found


def _follow(path: Path, rootfs: Path) -> Path | None:
    """Follow links as the container will see them; None for what is no file, or leads nowhere or out of `rootfs`."""
    root = rootfs.resolve()
    for _ in range(40):
        if not path.is_symlink():
            inside = path.is_file() and path.resolve().is_relative_to(root)
            return rootfs / path.resolve().relative_to(root) if inside else None
        target = path.readlink()
        path = rootfs / target.relative_to("/") if target.is_absolute() else path.parent / target
    return None


def _is_elf(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == b"\x7fELF"


def _dynamic_tags(elf: ELFFile) -> tuple[Any, ...]:
    for segment in elf.iter_segments("PT_DYNAMIC"):
        if isinstance(segment, DynamicSegment):
            return tuple(segment.iter_tags())
    return ()


def _texts(tags: tuple[Any, ...], name: str, attribute: str) -> tuple[str, ...]:
    return tuple(str(getattr(tag, attribute)) for tag in tags if tag.entry.d_tag == name)


def _flags(tags: tuple[Any, ...], name: str) -> int:
    return sum(int(tag.entry.d_val) for tag in tags if tag.entry.d_tag == name)


def _kind(elf: ELFFile, tags: tuple[Any, ...], binary: Path) -> ElfKind:
    match elf["e_type"]:
        case "ET_EXEC":
            return ElfKind.EXECUTABLE
        case "ET_DYN":
            # A static PIE has no interpreter, and linkers older than binutils 2.26 set no flag.
            program = _interpreter(elf) is not None or _flags(tags, "DT_FLAGS_1") & _PIE
            return ElfKind.PIE if program else ElfKind.SHARED
        case other:
            raise ArtifactError(
                f"{binary} is neither a program nor a shared library",
                why=f"its ELF type is {other}",
                remedy=_BUILD_REMEDY,
            )


def _interpreter(elf: ELFFile) -> str | None:
    return next(
        (str(segment.get_interp_name()) for segment in elf.iter_segments() if isinstance(segment, InterpSegment)),
        None,
    )


def _relro(elf: ELFFile, tags: tuple[Any, ...]) -> Relro:
    if not any(elf.iter_segments("PT_GNU_RELRO")):
        return Relro.NONE
    now = (
        any(tag.entry.d_tag == "DT_BIND_NOW" for tag in tags)
        or _flags(tags, "DT_FLAGS") & _BIND_NOW
        or _flags(tags, "DT_FLAGS_1") & _NOW
    )
    return Relro.FULL if now else Relro.PARTIAL


def _highest_versions(elf: ELFFile) -> dict[str, str]:
    """Map `GLIBC`, `GLIBCXX` and `CXXABI` to the highest version name of that family."""
    highest: dict[str, tuple[Version, str]] = {}
    for section in elf.iter_sections():
        if not isinstance(section, GNUVerNeedSection):
            continue
        for _library, symbols in section.iter_versions():
            for symbol in symbols:
                name = _VERSION_ALIASES.get(str(symbol.name), str(symbol.name))
                parts = re.fullmatch(r"(GLIBC|GLIBCXX|CXXABI)_(\d+(?:\.\d+)*)", name)
                if parts is None:
                    continue
                candidate = (Version(parts[2]), name)
                highest[parts[1]] = max(highest.get(parts[1], candidate), candidate)
    return {family: name for family, (_version, name) in highest.items()}


def _notes(elf: ELFFile) -> Iterator[tuple[str, Any]]:
    for section in elf.iter_sections():
        if isinstance(section, NoteSection):
            for note in section.iter_notes():
                yield str(note["n_type"]), note["n_desc"]


def _isa_needed(notes: tuple[tuple[str, Any], ...]) -> str | None:
    for kind, properties in notes:
        if kind != "NT_GNU_PROPERTY_TYPE_0":
            continue
        for item in properties:
            if item["pr_type"] == "GNU_PROPERTY_X86_ISA_1_NEEDED":
                return next((level for bit, level in _ISA_LEVELS if int(item["pr_data"]) & bit), None)
    return None
