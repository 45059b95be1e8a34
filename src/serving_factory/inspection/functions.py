"""Tells from a symbol whose code a function is: the project's own, a dispatching library's, or another's."""

from __future__ import annotations

import mmap
import re
import struct
from array import array
from bisect import bisect_right
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Final

from elftools.elf.sections import NoteSection

from serving_factory.catalogue.data import read_yaml
from serving_factory.catalogue.upstream_flags import upstream_namespaces
from serving_factory.errors import ArtifactError
from serving_factory.inspection.elf import open_elf

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from elftools.elf.elffile import ELFFile


NAMELESS: Final = "?"
"""The name of code without a symbol."""

_SYMBOL: Final = struct.Struct("<IBBHQQ")
_FUNCTION_TYPES: Final = frozenset({2, 10})
"""STT_FUNC and STT_GNU_IFUNC."""

_SHN_UNDEF: Final = 0
_SHN_LORESERVE: Final = 0xFF00
_SHF_EXECINSTR: Final = 0x4
_NO_LIMIT: Final = 1 << 64


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionRanges:
    """Functions in the order of their addresses. Arrays, since a server has half a million of them.

    Args:
        offsets: where each begins in the binary's file.
        sizes: bytes.
        name_offsets: where each name begins in `names_file`; empty without symbols.
        names_file: the file that holds the names.
        code_bytes: size of all executable sections.
    """

    offsets: array[int]
    sizes: array[int]
    name_offsets: array[int]
    names_file: Path
    code_bytes: int

    @property
    def named(self) -> bool:
        """Whether there were symbols."""
        return bool(self.name_offsets)

    def names(self) -> Iterator[str]:
        """Read the symbols, one per function, in the same order."""
        if not self.named:
            yield from (NAMELESS for _ in self.offsets)
            return
        with (
            self.names_file.open("rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            for start in self.name_offsets:
                yield content[start : content.find(b"\0", start)].decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class _Section:
    address: int
    offset: int
    size: int

    @property
    def end(self) -> int:
        return self.address + self.size


def function_ranges(binary: Path, debug: Path | None) -> FunctionRanges:
    """Find the functions of an x86-64 binary.

    Args:
        binary: the file whose code is meant.
        debug: the file that `objcopy --only-keep-debug` left of it, whose symbols tell the functions; None for
            the binary's own symbols.

    Returns:
        The functions; without any symbol, each executable section as one range.

    Raises:
        ArtifactError: a file is damaged, is no 64-bit x86 ELF file, or the debug file belongs to another binary.
    """
    with open_elf(binary) as elf:
        _require_x86_64(elf, binary)
        sections = _executable_sections(elf)
        build_id = _build_id(elf)
    names_file = debug or binary
    with open_elf(names_file) as elf:
        _require_x86_64(elf, names_file)
        other = _build_id(elf)
        if None not in (build_id, other) and build_id != other:
            raise ArtifactError(
                f"{names_file} belongs to another binary than {binary}",
                why=f"its build id is {other} instead of {build_id}",
                remedy="extract the binary again, so that both files come from one build",
            )
        symbols = _function_symbols(elf)
    offsets, sizes, name_offsets = _lay_out(symbols, sections)
    if not offsets:
        offsets = array("Q", (section.offset for section in sections))
        sizes = array("Q", (section.size for section in sections))
    return FunctionRanges(
        offsets=offsets,
        sizes=sizes,
        name_offsets=name_offsets,
        names_file=names_file,
        code_bytes=sum(section.size for section in sections),
    )


def _require_x86_64(elf: ELFFile, path: Path) -> None:
    if elf["e_machine"] != "EM_X86_64" or elf.elfclass != 64:  # noqa: PLR2004 - bits
        raise ArtifactError(
            f"{path} is not 64-bit x86 code",
            why=f"its ELF machine is {elf['e_machine']}",
            remedy="CPU levels exist for linux/amd64 only; check the variant's platform and what the build made",
        )


def _executable_sections(elf: ELFFile) -> tuple[_Section, ...]:
    found = (
        _Section(int(section["sh_addr"]), int(section["sh_offset"]), int(section["sh_size"]))
        for section in elf.iter_sections("SHT_PROGBITS")
        if int(section["sh_flags"]) & _SHF_EXECINSTR
    )
    return tuple(sorted(found, key=lambda section: section.address))


def _build_id(elf: ELFFile) -> str | None:
    section = elf.get_section_by_name(".note.gnu.build-id")
    if not isinstance(section, NoteSection):
        return None
    return next((str(note["n_desc"]) for note in section.iter_notes() if note["n_type"] == "NT_GNU_BUILD_ID"), None)


def _function_symbols(elf: ELFFile) -> list[tuple[int, int, int]]:
    """Read the functions of the symbol table as (address, -size, offset of the name in the file).

    The table is unpacked here, since pyelftools makes objects of it, which takes many times as long.
    """
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
    symbols: list[tuple[int, int, int]], sections: tuple[_Section, ...]
) -> tuple[array[int], array[int], array[int]]:
    """Give offsets, sizes and offsets of names, by address. Of several names at one address, the largest stays.

    Assembly often gives no size: such a function ends where the next one, or its section, does.
    """
    offsets, sizes, name_offsets = array("Q"), array("Q"), array("Q")
    starts = [section.address for section in sections]
    symbols.sort(reverse=True)
    following = _NO_LIMIT
    for index, (address, negative_size, name) in enumerate(symbols):
        at = bisect_right(starts, address) - 1
        if at < 0 or address >= sections[at].end:
            continue
        last_of_its_address = index + 1 == len(symbols) or symbols[index + 1][0] != address
        if not last_of_its_address:
            continue
        section = sections[at]
        end = min(section.end, address - negative_size if negative_size else following)
        offsets.append(address - section.address + section.offset)
        sizes.append(end - address)
        name_offsets.append(name)
        following = address
    for values in (offsets, sizes, name_offsets):
        values.reverse()
    return offsets, sizes, name_offsets


if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


_HEAD: Final = re.compile(
    r"_Z(?:G[VR]|Th(?:n?\d+)_|Tv(?:n?\d+)_(?:n?\d+)_)?"  # guard variables' helpers, thunks
    r"Z*"  # local entities: lambdas, classes within functions
    r"(?P<nested>N?)[rVK]*[RO]?L?"  # nested name, its qualifiers, internal linkage
    r"(?P<length>\d+)?"
)
"""The beginning of an Itanium-mangled name, up to the length of its first identifier."""

_IDENTIFIER: Final = re.compile(r"L?(\d+)")
_SCOPE_END: Final = re.compile(r"E|[CD]\d")


class Owner(StrEnum):
    """Whose code a function is."""

    OWN = "own"
    DISPATCH = "dispatch"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeOwners:
    """The rules of catalogue/data/dispatch_owned.yaml.

    Args:
        own_namespaces: outermost namespaces of the project.
        own_prefixes: beginnings of the project's C symbols.
        entry_path: matches symbols that run on every CPU at start; own, whichever library they are from.
        dispatch_namespaces: outermost namespaces of libraries that dispatch by CPU.
        dispatch_prefixes: beginnings of their C symbols.
        functions: matches functions within any namespace that are called where the CPU was asked.
        zones: namespaces that upstream compiles with flags of their own -> matches what is in them.
        multiversion: matches the compiler's own versions of a function.
        mention: matches an own namespace anywhere in a mangled name.
    """

    own_namespaces: frozenset[str]
    own_prefixes: tuple[str, ...]
    entry_path: re.Pattern[str]
    dispatch_namespaces: frozenset[str]
    dispatch_prefixes: tuple[str, ...]
    functions: re.Pattern[str]
    zones: Mapping[str, re.Pattern[str]]
    multiversion: re.Pattern[str]
    mention: re.Pattern[str]

    def owner(self, symbol: str) -> Owner:
        """Say whose code a function is.

        A template of `std::` or of another library that names one of the project's types is the project's own: the
        project's files instantiate it, with the project's flags.
        """
        if self.entry_path.match(symbol):
            return Owner.OWN
        if self.multiversion.search(symbol) or self.functions.match(symbol):
            return Owner.DISPATCH
        root, nested = _root(symbol)
        if (root in self.own_namespaces) if nested else root.startswith(self.own_prefixes):
            return Owner.OWN
        if symbol.startswith("_Z") and self.mention.search(symbol):
            return Owner.OWN
        if (root in self.dispatch_namespaces) if nested else root.startswith(self.dispatch_prefixes):
            return Owner.DISPATCH
        return Owner.OTHER

    def zone(self, symbol: str) -> str:
        """Say which namespace with flags of its own a function is in; empty for none."""
        return next((name for name, inside in self.zones.items() if inside.match(symbol)), "")


@cache
def code_owners() -> CodeOwners:
    """Read the rules that are shipped with the package."""
    data = read_yaml("dispatch_owned.yaml")
    own, dispatch = data["own"], data["dispatch_owned"]
    return CodeOwners(
        own_namespaces=frozenset(own["namespaces"]),
        own_prefixes=tuple(own["prefixes"]),
        entry_path=_entry_path(own["entry_path"]),
        dispatch_namespaces=frozenset(name for entry in dispatch for name in entry.get("namespaces", ())),
        dispatch_prefixes=tuple(name for entry in dispatch for name in entry.get("prefixes", ())),
        functions=re.compile(
            "|".join(_within(name) + "E" for entry in dispatch for name in entry.get("functions", ()))
        ),
        zones={name: re.compile(_within(name)) for name in upstream_namespaces()},
        multiversion=re.compile(rf"\.(?:{_any_of(data['multiversion_suffixes'])})"),
        # Not preceded by a digit: 15Eigen… is another identifier's length.
        mention=re.compile(rf"(?<!\d)(?:{_any_of(f'{len(name)}{name}' for name in own['namespaces'])})"),
    )


def plain_name(symbol: str) -> str:
    """Spell a mangled name for people: `_ZN10tensorflow6OpBase7ComputeEPv` is `tensorflow::OpBase::Compute`.

    Only the leading plain identifiers are spelled, with `…` for the template arguments or operators after them; a
    name that has none, and a C symbol, is given back as it is.
    """
    head = _HEAD.match(symbol)
    if head is None or not head["length"]:
        return symbol
    parts: list[str] = []
    at = head.start("length")
    while (part := _IDENTIFIER.match(symbol, at)) is not None:
        at = part.end() + int(part[1])
        name = symbol[part.end() : at]
        parts.append("(anonymous)" if name.startswith("_GLOBAL__N_") else name)
        if not head["nested"]:
            break
    rest = symbol[at : at + 2]
    tail = "<…>" if rest.startswith("I") else "::…" if head["nested"] and not _SCOPE_END.match(rest) else ""
    return "::".join(parts) + tail


def _root(symbol: str) -> tuple[str, bool]:
    """Give a symbol's outermost identifier, and whether that is a scope rather than the function itself."""
    head = _HEAD.match(symbol)
    if head is None:
        return symbol, False
    if not head["length"]:
        return "", True
    start = head.end()
    return symbol[start : start + int(head["length"])], bool(head["nested"])


def _entry_path(names: Iterable[str]) -> re.Pattern[str]:
    """Match names in full, or as a beginning where they end in an underscore or are the compiler's own.

    Clones such as `main.cold` belong to their function.
    """
    whole = [name for name in names if not name.startswith(("_GLOBAL_", "__cxx", "_Z"))]
    beginnings = [name for name in names if name not in whole]
    return re.compile(rf"(?:{_any_of(whole)})(?:\.|$)|(?:{_any_of(beginnings)})")


def _within(name: str) -> str:
    """A pattern for the mangled names of what is in a namespace, or of a function where an E follows."""
    *outer, last = name.split("::")
    scopes = "".join(f"{len(part)}{part}" for part in outer)
    return rf"_Z[A-Z]{{0,4}}?N[rVK]*{scopes}L?{len(last)}{last}"


def _any_of(words: Iterable[str]) -> str:
    return "|".join(re.escape(word) for word in words)
