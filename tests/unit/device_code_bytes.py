"""Writes fat binaries as CUDA's compilers do: a compiler is not needed to test what reads them."""

from __future__ import annotations

import re
import struct

MAGIC = 0xBA55ED50
_FLAGS = {"": 0x11, "a": 0x100011, "f": 0x200011}


def fat_binary(*codes: str, size: int = 24) -> bytes:
    """A fat binary with a piece of `size` bytes for each of `sm_80`, `compute_90`, `sm_90a`."""
    pieces = b"".join(_piece(code, size) for code in codes)
    return struct.pack("<IHHQ", MAGIC, 1, 16, len(pieces)) + pieces


def _piece(code: str, size: int) -> bytes:
    found = re.fullmatch(r"(sm|compute)_(\d+)([af]?)", code)
    assert found
    kind = 2 if found[1] == "sm" else 1
    head = struct.pack("<HHIQIIHHIIIQ", kind, 0x101, 64, size, 0, 64, 0, 0, int(found[2]), 0, 0, _FLAGS[found[3]])
    return head + bytes(16) + b"\x2a" * size
