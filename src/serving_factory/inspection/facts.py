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
    """What an ELF file tells of itself.

    Args:
        machine: `x86-64`, `aarch64`, or the ELF machine's name in lower case.
        kind: executable at a fixed address, position-independent executable, or shared library.
        build_id: hexadecimal, or None without one.
        needed: DT_NEEDED sonames, in the file's order.
        runpath: DT_RUNPATH, or the older DT_RPATH, or None.
        interpreter: path of the dynamic loader, or None.
        highest_glibc: highest `GLIBC_*` symbol version asked of any library, such as `GLIBC_2.34`, or None.
        highest_glibcxx: the same for `GLIBCXX_*` of libstdc++.
        highest_cxxabi: the same for `CXXABI_*` of libstdc++.
        size: bytes.
        stripped: whether the symbol table is gone.
        isa_needed: highest psABI level in the GNU property note, or None; most linkers write none.
        relro: read-only relocations.
    """

    machine: str
    kind: ElfKind
    build_id: str | None
    needed: tuple[str, ...]
    runpath: str | None
    interpreter: str | None
    highest_glibc: str | None
    highest_glibcxx: str | None
    highest_cxxabi: str | None
    size: int
    stripped: bool
    isa_needed: str | None
    relro: Relro


@dataclass(frozen=True, slots=True, kw_only=True)
class InstructionSetFacts:
    """Which CPU features the code of a binary uses. A feature that no function uses is absent from the mappings.

    Args:
        functions: how many were disassembled.
        own_functions: how many of them are the project's own code.
        named: whether there were symbols; without them a section counts as one function, and nobody's.
        code_bytes: size of all executable sections.
        scanned_bytes: size of the disassembled functions; the rest is padding, linker stubs and unnamed code.
        by_feature: feature to the number of functions that use it.
        own: the same, for the project's own code.
        own_zones: the same, for the parts of it that upstream compiles with flags of their own, by namespace.
        dispatch_owned: the same, for libraries that ask the CPU before they call such code.
        examples: feature to the first few functions of all, by address, in plain spelling.
        own_examples: the same, for the project's own code outside such parts.
    """

    functions: int
    own_functions: int
    named: bool
    code_bytes: int
    scanned_bytes: int
    by_feature: Mapping[str, int]
    own: Mapping[str, int]
    own_zones: Mapping[str, Mapping[str, int]]
    dispatch_owned: Mapping[str, int]
    examples: Mapping[str, tuple[str, ...]]
    own_examples: Mapping[str, tuple[str, ...]]
