"""Reads what a binary has for GPUs: machine code and PTX; and what it names: libraries, ops. No tool of CUDA's."""

from __future__ import annotations

import mmap
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from serving_factory.errors import ArtifactError
from serving_factory.inspection.elf import BUILD_REMEDY, open_elf
from serving_factory.inspection.facts import DeviceCode, sorted_codes

# Where nvcc and clang put fat binaries, one behind the other: a header, then a piece for each capability. Headers are
# never compressed. TensorFlow's own kernel generator puts its fat binaries among the data, as any other bytes.
_COMPILERS_SECTION = ".nv_fatbin"
# Code that was linked to other device code since, and is in a fat binary once more: it is not run from here.
_RELOCATABLE_SECTION = "__nv_relfatbin"
_FAT_BINARY = struct.Struct("<IHHQ")  # magic, version, size of this header, size of what is behind it
_MAGIC = struct.pack("<I", 0xBA55ED50)
_VERSION = 1
# kind, version, sizes of header and of code, that of packed code, options, minor, major, capability, name, flags
_PIECE = struct.Struct("<HHIQIIHHIIIQ")
_KINDS = {1: "compute", 2: "sm"}
_SPECIFIC, _FAMILY = 0x100000, 0x200000  # flags of sm_90a and sm_100f
_ALIGNMENT = 8
_SHF_ALLOC, _SHF_EXECINSTR = 0x2, 0x4

_Piece = tuple[str, int]
"""The name of code, `sm_90`, and its size."""


def read_device_code(path: Path) -> DeviceCode:
    """Read all device code of an ELF file; ArtifactError if it is no ELF file, or a fat binary is damaged."""
    fat_binaries, sizes = Counter[str](), Counter[str]()
    with open_elf(path) as elf, mmap.mmap(elf.stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for section in elf.iter_sections("SHT_PROGBITS"):
            if section.name == _RELOCATABLE_SECTION:
                continue
            start, end = int(section["sh_offset"]), int(section["sh_offset"]) + int(section["sh_size"])
            read = _of_compilers if section.name == _COMPILERS_SECTION else _among_data
            try:
                for pieces in read(data, start, end):
                    fat_binaries[" ".join(sorted_codes({code for code, _ in pieces}))] += 1
                    for code, size in pieces:
                        sizes[code] += size
            except _DamagedError as error:
                what = f"the device code of {path} is damaged"
                raise ArtifactError(what, why=str(error), remedy=BUILD_REMEDY) from None
    return DeviceCode(fat_binaries=dict(sorted(fat_binaries.items())), sizes=dict(sorted(sizes.items())))


def read_opened(path: Path, functions: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Name those libraries of which the data of an ELF file names a function; ArtifactError if it is no ELF file."""
    with _named_in(path) as named:
        return tuple(library for library, names in functions.items() if any(map(named, names)))


def not_named(path: Path, names: Iterable[str]) -> tuple[str, ...]:
    """Give those of some names, such as a graph's ops, that the data of an ELF file does not hold; ArtifactError."""
    with _named_in(path) as named:
        return tuple(name for name in names if not named(name))


@contextmanager
def _named_in(path: Path) -> Iterator[Callable[[str], bool]]:
    """Look for texts in the data of an ELF file: also at the end of a longer one, as linkers merge them."""
    with open_elf(path) as elf, mmap.mmap(elf.stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        places = [
            (int(section["sh_offset"]), int(section["sh_offset"]) + int(section["sh_size"]))
            for section in elf.iter_sections("SHT_PROGBITS")
            if int(section["sh_flags"]) & _SHF_ALLOC
            and not int(section["sh_flags"]) & _SHF_EXECINSTR
            and section.name not in {_COMPILERS_SECTION, _RELOCATABLE_SECTION}
        ]
        yield lambda name: any(data.find(name.encode() + b"\0", *place) >= 0 for place in places)


class _DamagedError(Exception):
    """Bytes are not what CUDA's compilers write."""


def _of_compilers(data: mmap.mmap, at: int, end: int) -> Iterator[list[_Piece]]:
    """All fat binaries of the compilers' section, in which there is nothing else."""
    if end > len(data):
        raise _DamagedError(f"section {_COMPILERS_SECTION} reaches beyond the end of the file")
    while at < end:
        if not any(data[at : min(at + _ALIGNMENT, end)]):  # what a linker puts between two
            at += _ALIGNMENT
            continue
        pieces, at = _fat_binary(data, at, end)
        yield pieces


def _among_data(data: mmap.mmap, at: int, end: int) -> Iterator[list[_Piece]]:
    """The fat binaries among other bytes, some of which may look like the beginning of one."""
    while (at := data.find(_MAGIC, at, end)) >= 0:
        try:
            pieces, at = _fat_binary(data, at, end)
        except _DamagedError:
            at += 1
            continue
        yield pieces


def _fat_binary(data: mmap.mmap, start: int, end: int) -> tuple[list[_Piece], int]:
    """Read the pieces of one fat binary, and where it ends."""
    at = start + _FAT_BINARY.size
    if at > end or data[start : start + len(_MAGIC)] != _MAGIC:
        raise _DamagedError(f"no fat binary begins at offset {start:#x}")
    _, version, header, size = _FAT_BINARY.unpack_from(data, start)
    stop = at + size
    if (version, header) != (_VERSION, _FAT_BINARY.size) or not size or stop > end:
        raise _DamagedError(f"the fat binary at offset {start:#x} has a header that does not fit")
    pieces = []
    while at < stop:
        if at + _PIECE.size > stop:
            raise _DamagedError(f"the fat binary at offset {start:#x} is cut off")
        kind, _, header, size, *_, capability, _, _, flags = _PIECE.unpack_from(data, at)
        if header < _PIECE.size or at + header + size > stop:
            raise _DamagedError(f"the piece of device code at offset {at:#x} has a header that does not fit")
        if kind in _KINDS:
            only = "a" if flags & _SPECIFIC else "f" if flags & _FAMILY else ""
            pieces.append((f"{_KINDS[kind]}_{capability}{only}", size))
        at += header + size
    return pieces, stop
