"""Reads the facts of an ELF binary that decide whether and where it can run."""

from __future__ import annotations

import re
import struct
from array import array
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.construct import ConstructError
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from elftools.elf.sections import NoteSection
from elftools.elf.segments import InterpSegment
from packaging.version import Version

from serving_factory.catalogue.libraries import DRIVERS
from serving_factory.errors import ArtifactError, os_remedy
from serving_factory.inspection.facts import ElfFacts, ElfKind, Relro

BINARY = "the binary"  # Stands for the inspected binary itself among those who need a library
_MACHINES = {("EM_X86_64", 64): "x86-64", ("EM_X86_64", 32): "x32", ("EM_AARCH64", 64): "aarch64"}
# Bits of GNU_PROPERTY_X86_ISA_1_NEEDED, highest first (x86-64 psABI, section "Program Property")
_ISA_LEVELS = ((8, "x86-64-v4"), (4, "x86-64-v3"), (2, "x86-64-v2"), (1, "x86-64"))
# Versions without a number, by the release that brought them (glibc 2.36 NEWS: DT_RELR)
_VERSION_ALIASES = {"GLIBC_ABI_DT_RELR": "GLIBC_2.36"}
_BIND_NOW, _NOW, _PIE = 0x8, 0x1, 0x08000000
_SYMBOL = struct.Struct("<IBBHQQ")
_FUNCTION_TYPES = {2, 10}  # STT_FUNC and STT_GNU_IFUNC
_SHN_UNDEF, _SHN_LORESERVE = 0, 0xFF00
_SHF_EXECINSTR = 0x4
_NO_LIMIT = 1 << 64
_MOST_LINKS = 40
BUILD_REMEDY = "look at the end of the compile log: the server's target did not give the file it should"
# pyelftools meets a damaged file in many ways, and promises none of them.
_DAMAGED = (ELFError, ConstructError, ValueError, LookupError, ArithmeticError, struct.error, TypeError, AttributeError)


@dataclass(frozen=True, slots=True)
class Section:
    """A section with code: its address in memory, its offset in the file, and its size in both."""

    address: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Binary:
    """A linked ELF file: its facts, and its sections with code by address."""

    path: Path
    facts: ElfFacts
    sections: tuple[Section, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionRanges:
    """Functions in the order of their addresses. Arrays, since a server has half a million of them."""

    offsets: array[int]  # where each begins in the binary's file
    sizes: array[int]  # bytes
    name_offsets: array[int]  # where each name begins in `names_file`; empty without symbols
    names_file: Path  # the file that holds the names


@dataclass(frozen=True, slots=True)
class MissingLibrary:
    """A library that nothing in the image provides, and who needs it: `BINARY`, or paths below the root, sorted."""

    soname: str
    needed_by: tuple[str, ...]


@contextmanager
def open_elf(path: Path) -> Iterator[ELFFile]:
    """Open an ELF file; ArtifactError if it is missing, no ELF file, or damaged, also where that shows only later."""
    try:
        with path.open("rb") as stream:
            yield ELFFile(stream)
    except OSError as error:
        remedy = BUILD_REMEDY if isinstance(error, FileNotFoundError) else os_remedy(error)
        raise ArtifactError(f"{path} cannot be read", why=error.strerror or str(error), remedy=remedy) from error
    except _DAMAGED as error:
        why = str(error) or type(error).__name__
        raise ArtifactError(f"{path} is no sound ELF file", why=why, remedy=BUILD_REMEDY) from error


def read_elf(path: Path) -> Binary:
    """Read a linked ELF file; ArtifactError if it is missing, unreadable, or neither a program nor a shared library."""
    with open_elf(path) as elf:
        tags = _dynamic_tags(elf)
        versions = _highest_versions(elf)
        notes = dict(_notes(elf))
        properties = {one["pr_type"]: one["pr_data"] for one in notes.get("NT_GNU_PROPERTY_TYPE_0", ())}
        isa = int(properties.get("GNU_PROPERTY_X86_ISA_1_NEEDED", 0))
        interpreter = next(
            (str(one.get_interp_name()) for one in elf.iter_segments() if isinstance(one, InterpSegment)), None
        )
        facts = ElfFacts(
            machine=_machine(elf),
            kind=_kind(elf, path, program=interpreter is not None or bool(_flags(tags, "DT_FLAGS_1") & _PIE)),
            build_id=notes.get("NT_GNU_BUILD_ID"),
            needed=_texts(tags, "DT_NEEDED", "needed"),
            runpath=next(iter(_texts(tags, "DT_RUNPATH", "runpath") or _texts(tags, "DT_RPATH", "rpath")), None),
            interpreter=interpreter,
            highest_glibc=versions.get("GLIBC"),
            highest_glibcxx=versions.get("GLIBCXX"),
            highest_cxxabi=versions.get("CXXABI"),
            size=path.stat().st_size,
            stripped=elf.get_section_by_name(".symtab") is None,
            isa_needed=next((level for bit, level in _ISA_LEVELS if isa & bit), None),
            relro=_relro(elf, tags),
        )
        sections = (
            Section(int(one["sh_addr"]), int(one["sh_offset"]), int(one["sh_size"]))
            for one in elf.iter_sections("SHT_PROGBITS")
            if int(one["sh_flags"]) & _SHF_EXECINSTR
        )
        return Binary(path, facts, tuple(sorted(sections, key=lambda section: section.address)))


def function_ranges(binary: Binary, debug: Path | None) -> FunctionRanges:
    """Find the functions of an x86-64 binary; without any symbol, each executable section as one range."""
    names_file = debug or binary.path
    _require_x86_64(binary.path, binary.facts.machine)
    with open_elf(names_file) as elf:
        _require_x86_64(names_file, _machine(elf))
        build_id = dict(_notes(elf)).get("NT_GNU_BUILD_ID")
        if None not in (build_id, binary.facts.build_id) and build_id != binary.facts.build_id:
            raise ArtifactError(
                f"{names_file} belongs to another binary than {binary.path}",
                why=f"its build id is {build_id} instead of {binary.facts.build_id}",
                remedy="extract the binary again, so that both files come from one build",
            )
        symbols = _function_symbols(elf)
    offsets, sizes, name_offsets = _lay_out(symbols, binary.sections)
    if not offsets:
        offsets = array("Q", (section.offset for section in binary.sections))
        sizes = array("Q", (section.size for section in binary.sections))
    return FunctionRanges(offsets=offsets, sizes=sizes, name_offsets=name_offsets, names_file=names_file)


def library_closure_gaps(
    needed: Mapping[str, str], rootfs: Path, base_libraries: frozenset[str]
) -> tuple[MissingLibrary, ...]:
    """List the libraries that the loader would not find, those of a driver apart. `needed`: soname -> who needs it."""
    # Every library copied below `rootfs` counts with what it needs, not only those that the binary reaches: some are
    # opened at run time. They are looked for in folders named `lib…`, by file name, as the loader does.
    copied = _copied_libraries(rootfs)
    required = defaultdict[str, set[str]](set, {soname: {who} for soname, who in needed.items()})
    for path in set(copied.values()):
        with open_elf(path) as elf:
            for soname in _texts(_dynamic_tags(elf), "DT_NEEDED", "needed"):
                required[soname].add(str(PurePosixPath("/") / path.relative_to(rootfs)))
    return tuple(
        MissingLibrary(soname, tuple(sorted(required[soname])))
        for soname in sorted(required.keys() - base_libraries - copied.keys())
        if not soname.startswith(DRIVERS)
    )


def libraries_glibc(rootfs: Path) -> tuple[str, str] | None:
    """Find the library below a rootfs that needs the highest glibc: `GLIBC_2.34` and its path; None without any."""
    found: list[tuple[Version, str, str]] = []
    for path in set(_copied_libraries(rootfs).values()):
        with open_elf(path) as elf:
            if name := _highest_versions(elf).get("GLIBC"):
                found.append(
                    (Version(name.partition("_")[2]), name, str(PurePosixPath("/") / path.relative_to(rootfs)))
                )
    return max(found)[1:] if found else None


def _copied_libraries(rootfs: Path) -> Mapping[str, Path]:
    """Map each file name below a `lib…` folder to the ELF file that it is or points to."""
    found: dict[str, Path] = {}
    for path in sorted(rootfs.rglob("*")):
        if any(part.startswith("lib") for part in path.relative_to(rootfs).parts[:-1]):
            target = _follow(path, rootfs)
            if target is not None and _is_elf(target):
                found[path.name] = target
    return found


def _follow(path: Path, rootfs: Path) -> Path | None:
    """Follow links as the container will see them; None for what is no file, or leads nowhere or out of `rootfs`."""
    root = rootfs.resolve()
    for _ in range(_MOST_LINKS):
        if not path.is_symlink():
            inside = path.is_file() and path.resolve().is_relative_to(root)
            return rootfs / path.resolve().relative_to(root) if inside else None
        target = path.readlink()
        path = rootfs / target.relative_to("/") if target.is_absolute() else path.parent / target
    return None


def _is_elf(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == b"\x7fELF"


def _machine(elf: ELFFile) -> str:
    name = str(elf["e_machine"])
    return _MACHINES.get((name, elf.elfclass), name.removeprefix("EM_").lower())


def _require_x86_64(path: Path, machine: str) -> None:
    if machine != "x86-64":
        raise ArtifactError(
            f"{path} is not 64-bit x86 code",
            why=f"its ELF machine is {machine}",
            remedy="CPU levels exist for linux/amd64 only; check the variant's platform and what the build made",
        )


def _dynamic_tags(elf: ELFFile) -> tuple[Any, ...]:
    dynamic = (segment for segment in elf.iter_segments("PT_DYNAMIC") if isinstance(segment, DynamicSegment))
    return next((tuple(segment.iter_tags()) for segment in dynamic), ())


def _texts(tags: tuple[Any, ...], name: str, attribute: str) -> tuple[str, ...]:
    return tuple(str(getattr(tag, attribute)) for tag in tags if tag.entry.d_tag == name)


def _flags(tags: tuple[Any, ...], name: str) -> int:
    return sum(int(tag.entry.d_val) for tag in tags if tag.entry.d_tag == name)


def _kind(elf: ELFFile, path: Path, *, program: bool) -> ElfKind:
    """Name the kind. Of a static PIE the flag alone says so, and linkers older than binutils 2.26 set none."""
    match elf["e_type"]:
        case "ET_EXEC":
            return ElfKind.EXECUTABLE
        case "ET_DYN":
            return ElfKind.PIE if program else ElfKind.SHARED
        case other:
            why = f"its ELF type is {other}"
            raise ArtifactError(f"{path} is neither a program nor a shared library", why=why, remedy=BUILD_REMEDY)


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
    sections = (section for section in elf.iter_sections() if isinstance(section, GNUVerNeedSection))
    symbols = (symbol for section in sections for _, symbols in section.iter_versions() for symbol in symbols)
    for symbol in symbols:
        name = _VERSION_ALIASES.get(str(symbol.name), str(symbol.name))
        if parts := re.fullmatch(r"(GLIBC|GLIBCXX|CXXABI)_(\d+(?:\.\d+)*)", name):
            candidate = (Version(parts[2]), name)
            highest[parts[1]] = max(highest.get(parts[1], candidate), candidate)
    return {family: name for family, (_version, name) in highest.items()}


def _notes(elf: ELFFile) -> Iterator[tuple[str, Any]]:
    for section in elf.iter_sections():
        if isinstance(section, NoteSection):
            yield from ((str(note["n_type"]), note["n_desc"]) for note in section.iter_notes())


def _function_symbols(elf: ELFFile) -> list[tuple[int, int, int]]:
    """Read the functions of the symbol table as (address, -size, offset of the name in the file)."""
    # The table is unpacked here, since pyelftools makes objects of it, which takes many times as long.
    table = elf.get_section_by_name(".symtab")
    if table is None or table["sh_type"] != "SHT_SYMTAB":
        return []
    names_at = int(elf.get_section(table["sh_link"])["sh_offset"])
    data = table.data()
    whole = len(data) - len(data) % _SYMBOL.size
    return [
        (address, -size, names_at + name)
        for name, info, _other, section, address, size in _SYMBOL.iter_unpack(data[:whole])
        if info & 0xF in _FUNCTION_TYPES and _SHN_UNDEF < section < _SHN_LORESERVE
    ]


def _lay_out(
    symbols: list[tuple[int, int, int]], sections: tuple[Section, ...]
) -> tuple[array[int], array[int], array[int]]:
    """Give offsets, sizes and offsets of names, by address. Of several names at one address, the largest stays."""
    # Assembly often gives no size: such a function ends where the next one, or its section, does.
    offsets, sizes, name_offsets = array("Q"), array("Q"), array("Q")
    starts = [section.address for section in sections]
    symbols.sort(reverse=True)
    following = _NO_LIMIT
    for index, (address, negative_size, name) in enumerate(symbols):
        at = bisect_right(starts, address) - 1
        last_of_its_address = index + 1 == len(symbols) or symbols[index + 1][0] != address
        if at < 0 or address >= starts[at] + sections[at].size or not last_of_its_address:
            continue
        section = sections[at]
        end = min(section.address + section.size, address - negative_size if negative_size else following)
        offsets.append(address - section.address + section.offset)
        sizes.append(end - address)
        name_offsets.append(name)
        following = address
    for values in (offsets, sizes, name_offsets):
        values.reverse()
    return offsets, sizes, name_offsets
