"""What is read from a binary, as values: without the libraries that read it, which are slow to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class ElfKind(StrEnum):
    """What the loader makes of the file."""

    EXECUTABLE = "executable"
    PIE = "pie"
    SHARED = "shared"


class Relro(StrEnum):
    """How much of the relocated data is read-only once the program runs."""

    NONE = "none"
    PARTIAL = "partial"
    FULL = "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class ElfFacts:
    """What an ELF file says of itself."""

    machine: str  # `x86-64`, `aarch64`, or the ELF machine's name in lower case
    kind: ElfKind  # executable at a fixed address, position-independent executable, or shared library
    build_id: str | None  # hexadecimal, or None without one
    needed: tuple[str, ...]  # DT_NEEDED sonames, in the file's order
    runpath: str | None  # DT_RUNPATH, or the older DT_RPATH, or None
    interpreter: str | None  # path of the dynamic loader, or None
    highest_glibc: str | None  # highest `GLIBC_*` symbol version needed of any library, such as `GLIBC_2.34`, or None
    highest_glibcxx: str | None  # the same for `GLIBCXX_*` of libstdc++
    highest_cxxabi: str | None  # the same for `CXXABI_*` of libstdc++
    size: int  # bytes
    stripped: bool  # whether the symbol table is gone
    isa_needed: str | None  # highest psABI level in the GNU property note, or None; most linkers write none
    relro: Relro  # read-only relocations


@dataclass(frozen=True, slots=True, kw_only=True)
class InstructionSetFacts:
    """Which CPU features the code of a binary uses. A feature that no function uses is absent from the mappings."""

    functions: int  # how many were disassembled
    own_functions: int  # how many of them are the project's own code
    named: bool  # whether there were symbols; without them a section counts as one function, and no one's
    code_bytes: int  # size of all executable sections
    scanned_bytes: int  # size of the disassembled functions; the rest is padding, linker stubs and unnamed code
    by_feature: Mapping[str, int]  # feature to the number of functions that use it
    own: Mapping[str, int]  # the same, for the project's own code
    # the same, for the parts of it that upstream compiles with flags of their own, by namespace
    own_zones: Mapping[str, Mapping[str, int]]
    dispatch_owned: Mapping[str, int]  # the same, for libraries that ask the CPU before they call such code
    examples: Mapping[str, tuple[str, ...]]  # feature to the first few functions of all, by address, in plain spelling
    own_examples: Mapping[str, tuple[str, ...]]  # the same, for the project's own code outside such parts
