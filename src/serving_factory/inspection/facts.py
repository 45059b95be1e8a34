"""What is read from a binary, as values: without the libraries that read it, which are slow to import."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCode:
    """The code for NVIDIA's cards in a binary: `sm_90` is machine code, `compute_90` PTX. Empty without any."""

    # A fat binary is what a compiler makes of one file with kernels. What one holds, such as `sm_80 sm_90 compute_90`,
    # to how many of them hold just that
    fat_binaries: Mapping[str, int]
    sizes: Mapping[str, int]  # of all pieces for a capability, `sm_80`, the bytes as stored, compressed or not

    @property
    def codes(self) -> tuple[str, ...]:
        """Everything that is there, machine code before PTX, each lowest first."""
        return sorted_codes(self.sizes)

    @property
    def throughout(self) -> tuple[str, ...]:
        """The machine code that every fat binary holds, and the PTX that any does."""
        # What was linked for GPUs never has PTX; what TensorFlow generates has PTX alone for some capabilities.
        return tuple(code for code in self.codes if code.startswith("compute") or self.holding(code) == self.number)

    @property
    def number(self) -> int:
        """How many fat binaries there are."""
        return sum(self.fat_binaries.values())

    def holding(self, code: str) -> int:
        """How many fat binaries hold code of a kind."""
        return sum(count for codes, count in self.fat_binaries.items() if code in codes.split())


def sorted_codes(codes: Iterable[str]) -> tuple[str, ...]:
    """Sort names of device code: machine code before PTX, each lowest first."""
    return tuple(sorted(codes, key=_place))


def _place(code: str) -> tuple[bool, int, str]:
    kind, number = code.split("_")
    return kind == "compute", int(number.rstrip("af")), number
