"""Writes small ELF files: a compiler is not needed to test what reads them.

Addresses equal file offsets throughout, so one read-write-execute segment over the whole file maps it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

X86_64, AARCH64, I386 = 62, 183, 3
RELOCATABLE, EXEC, DYN, CORE = 1, 2, 3, 4
FUNC, NOTYPE = 2, 0

_PROGBITS, _SYMTAB, _STRTAB, _DYNAMIC, _NOTE, _NOBITS, _VERNEED = 1, 2, 3, 6, 7, 8, 0x6FFFFFFE
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_FIRST_OFFSET = 0x1000


@dataclass
class Section:
    name: str
    kind: int
    content: bytes
    flags: int = 0
    link: str = ""
    info: int = 0
    offset: int = 0


@dataclass(kw_only=True)
class Symbol:
    name: str
    offset: int
    """Within .text."""
    size: int
    kind: int = FUNC


@dataclass(kw_only=True)
class Elf:
    """What the file shall hold; `write` puts it down."""

    text: bytes = b"\xc3"
    symbols: list[Symbol] | None = None
    machine: int = X86_64
    kind: int = DYN
    needed: tuple[str, ...] = ()
    runpath: str | None = None
    interpreter: str | None = None
    versions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Library to the symbol versions needed of it."""
    build_id: bytes | None = None
    isa_needed: int | None = None
    relro: bool = False
    flags_1: int = 0
    data: dict[str, bytes] = field(default_factory=dict)
    """Sections of read-only data to their bytes."""
    only_debug: bool = False
    """As `objcopy --only-keep-debug` leaves it: the code's section keeps its place and loses its bytes."""

    def write(self, path: Path) -> Path:
        sections, segments = self._sections()
        offset = _FIRST_OFFSET
        by_name: dict[str, Section] = {}
        for section in sections:
            section.offset = offset
            by_name[section.name] = section
            offset += -(-len(section.content) // 16) * 16
        self._fill_in(by_name)
        names = b"\0" + b"".join(section.name.encode() + b"\0" for section in sections)
        table_offset = offset + -(-len(names) // 16) * 16
        program = [_SEGMENT.pack(1, 7, 0, 0, 0, table_offset, table_offset, 0x1000)]
        for kind, name in segments:
            at, size = by_name[name].offset, len(by_name[name].content)
            program.append(_SEGMENT.pack(kind, 4, at, at, at, size, size, 8))
        image = bytearray(table_offset)
        image[: 64 + 56 * len(program)] = self._header(table_offset, len(sections) + 2, len(program)) + b"".join(
            program
        )
        headers = [bytes(64)]
        for section in sections:
            if section.kind != _NOBITS:
                image[section.offset : section.offset + len(section.content)] = section.content
            headers.append(self._section_header(section, names, [s.name for s in sections]))
        image[offset : offset + len(names)] = names
        headers.append(_SECTION.pack(0, _STRTAB, 0, offset, offset, len(names), 0, 0, 1, 0))
        path.write_bytes(bytes(image) + b"".join(headers))
        return path

    def _sections(self) -> tuple[list[Section], list[tuple[int, str]]]:
        code = Section(".text", _NOBITS if self.only_debug else _PROGBITS, self.text, flags=0x6)
        sections, segments = [code, *(Section(name, _PROGBITS, held, flags=2) for name, held in self.data.items())], []
        if self.interpreter is not None:
            sections.append(Section(".interp", _PROGBITS, self.interpreter.encode() + b"\0", flags=2))
            segments.append((3, ".interp"))
        if self.build_id is not None:
            sections.append(Section(".note.gnu.build-id", _NOTE, _note(3, self.build_id), flags=2))
        if self.isa_needed is not None:
            item = struct.pack("<IIII", 0xC0008002, 4, self.isa_needed, 0)
            sections.append(Section(".note.gnu.property", _NOTE, _note(5, item), flags=2))
        if self.needed or self.runpath or self.versions or self.flags_1:
            sections.append(Section(".dynstr", _STRTAB, b"", flags=2))
            sections.append(Section(".gnu.version_r", _VERNEED, b"", flags=2, link=".dynstr", info=len(self.versions)))
            sections.append(Section(".dynamic", _DYNAMIC, b"", flags=3, link=".dynstr"))
            segments.append((2, ".dynamic"))
            self._dynamic(sections[-3:])
        if self.relro:
            segments.append((0x6474E552, ".text"))
        if self.symbols is not None:
            sections.append(Section(".symtab", _SYMTAB, bytes(24 * (len(self.symbols) + 1)), link=".strtab"))
            sections.append(
                Section(".strtab", _STRTAB, b"\0" + b"".join(s.name.encode() + b"\0" for s in self.symbols))
            )
        return sections, segments

    def _dynamic(self, sections: list[Section]) -> None:
        strings, versions, dynamic = sections
        table = _Strings()
        tags = [(1, table.add(name)) for name in self.needed]
        if self.runpath is not None:
            tags.append((29, table.add(self.runpath)))
        if self.flags_1:
            tags.append((0x6FFFFFFB, self.flags_1))
        records = []
        for number, (library, names) in enumerate(self.versions.items(), 1):
            following = 0 if number == len(self.versions) else 16 + 16 * len(names)
            records.append(struct.pack("<HHIII", 1, len(names), table.add(library), 16, following))
            for index, name in enumerate(names, 1):
                step = 0 if index == len(names) else 16
                records.append(struct.pack("<IHHII", 0, 0, index + 1, table.add(name), step))
        strings.content = bytes(table.content)
        versions.content = b"".join(records)
        tags.append((10, len(strings.content)))
        # The address of the strings (tag 5) is known only after the layout: `_fill_in` writes it.
        dynamic.content = b"".join(struct.pack("<QQ", *tag) for tag in [(5, 0), *tags, (0, 0)])

    def _fill_in(self, by_name: dict[str, Section]) -> None:
        if ".dynamic" in by_name:
            content = by_name[".dynamic"].content
            by_name[".dynamic"].content = struct.pack("<QQ", 5, by_name[".dynstr"].offset) + content[16:]
        if self.symbols is not None:
            entries, name = [bytes(24)], 1
            for symbol in self.symbols:
                address = by_name[".text"].offset + symbol.offset
                entries.append(struct.pack("<IBBHQQ", name, 0x10 | symbol.kind, 0, 1, address, symbol.size))
                name += len(symbol.name) + 1
            by_name[".symtab"].content = b"".join(entries)

    def _header(self, table_offset: int, sections: int, segments: int) -> bytes:
        ident = b"\x7fELF" + bytes([2, 1, 1, 0]) + bytes(8)
        return ident + struct.pack(
            "<HHIQQQIHHHHHH",
            *(self.kind, self.machine, 1, _FIRST_OFFSET, 64, table_offset, 0),
            *(64, 56, segments, 64, sections, sections - 1),
        )

    @staticmethod
    def _section_header(section: Section, names: bytes, order: list[str]) -> bytes:
        entry = {_SYMTAB: 24, _DYNAMIC: 16}.get(section.kind, 0)
        return _SECTION.pack(
            *(names.index(b"\0" + section.name.encode() + b"\0") + 1, section.kind, section.flags),
            *(section.offset, section.offset, len(section.content)),
            *(order.index(section.link) + 1 if section.link else 0, section.info, 8, entry),
        )


class _Strings:
    def __init__(self) -> None:
        self.content = bytearray(b"\0")

    def add(self, text: str) -> int:
        at = len(self.content)
        self.content += text.encode() + b"\0"
        return at


def _note(kind: int, content: bytes) -> bytes:
    return struct.pack("<III", 4, len(content), kind) + b"GNU\0" + content
