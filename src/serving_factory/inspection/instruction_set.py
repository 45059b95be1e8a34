"""Disassembles a binary and counts, function by function, which CPU features its code uses."""

from __future__ import annotations

import ctypes
import mmap
import multiprocessing
import os
import signal
from array import array
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache, partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, cast

from iced_x86 import Code, CpuidFeature, Decoder, Instruction

from serving_factory.errors import InspectionError
from serving_factory.inspection.elf import Binary, FunctionRanges, function_ranges
from serving_factory.inspection.facts import InstructionSetFacts
from serving_factory.inspection.owners import Owner, code_owners, plain_name

if TYPE_CHECKING:
    from iced_x86._iced_x86_py import Code as CodeNumber

NAMELESS = "?"  # The name of code without a symbol
_SPELLED_OTHERWISE = {"SSE4_1": "sse4.1", "SSE4_2": "sse4.2", "CMPXCHG16B": "cx16"}
_FAMILIES = ("AVX", "AMX_")
_SINGLE = {
    *("SSE3", "SSSE3", "SSE4_1", "SSE4_2", "SSE4A", "POPCNT", "CMPXCHG16B"),
    *("LZCNT", "MOVBE", "BMI1", "BMI2", "TBM", "F16C", "FMA", "FMA4", "XOP"),
    *("AES", "PCLMULQDQ", "VAES", "VPCLMULQDQ", "SHA", "GFNI", "ADX", "RTM"),
}
# iced-x86's feature numbers that are evidence of a level. The others are left out on purpose: what every x86-64 CPU
# has, what older CPUs execute as something harmless (PAUSE, ENDBR64, PREFETCHW), and what asks the CPU or the system
# for something (CPUID, XGETBV, RDTSCP, RDRAND).
_COUNTED: Mapping[int, str] = {
    number: _SPELLED_OTHERWISE.get(name, name.lower().replace("_", ""))
    for name, number in vars(CpuidFeature).items()
    if isinstance(number, int) and (name in _SINGLE or name.startswith(_FAMILIES))
}
# Every feature that is counted, by its psABI name in lower case, or else by gcc's name of it
FEATURES = tuple(sorted(set(_COUNTED.values())))
# Encoded as `rep bsf`, which older CPUs execute as bsf, with the same result except for zero. gcc writes it at every
# level, where the result for zero does not matter; so it is no evidence of BMI1.
_HARMLESS = "TZCNT_"
# Bytes of code per task: a fraction of a second, so that Ctrl-C is answered soon and all workers end together
_CHUNK = 2 << 20
_ALONE = 8 << 20  # Below so many bytes, starting workers takes longer than the work
_EXAMPLES = 5
_PR_SET_PDEATHSIG = 1

_code_of = attrgetter("code")


def scan(binary: Binary, debug: Path | None, *, workers: int | None = None) -> InstructionSetFacts:
    """Disassemble every function of an x86-64 binary; raises ArtifactError, InspectionError."""
    ranges = function_ranges(binary, debug)
    masks = array("Q")
    for part in _disassemble(binary.path, ranges, workers or os.cpu_count() or 1):
        masks.frombytes(part)
    return _tally(ranges, masks, code_bytes=sum(section.size for section in binary.sections))


def _disassemble(path: Path, ranges: FunctionRanges, workers: int) -> Iterator[bytes]:
    """Yield the features of all functions in order, as bytes of an array("Q") of masks, a chunk at a time."""
    chunks = list(_chunks(ranges))
    work = partial(_features_of, str(path))
    if workers == 1 or sum(ranges.sizes) < _ALONE:
        yield from map(work, chunks)
        return
    # Spawned: a fork of a process with threads (variants run in threads) may inherit a held lock.
    pool = ProcessPoolExecutor(
        max_workers=min(workers, len(chunks)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_prepare_worker,
        initargs=(os.getpid(),),
    )
    try:
        yield from pool.map(work, chunks)
    except BrokenProcessPool as error:
        raise InspectionError(
            f"The disassembly of {path} did not finish",
            why="one of its processes was killed, most often for lack of memory",
            remedy="free some memory, or run fewer variants at once, and run the same command again",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _chunks(ranges: FunctionRanges) -> Iterator[tuple[array[int], array[int]]]:
    start = size = 0
    for end, length in enumerate(ranges.sizes, 1):
        size += length
        if size >= _CHUNK or end == len(ranges.sizes):
            yield ranges.offsets[start:end], ranges.sizes[start:end]
            start, size = end, 0


def _prepare_worker(parent: int) -> None:
    """Leave Ctrl-C to the parent, and die with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it died before the signal was asked for
        os.kill(os.getpid(), signal.SIGKILL)


def _features_of(binary: str, chunk: tuple[array[int], array[int]]) -> bytes:
    masks = array("Q")
    evidence = _evidence()
    counted = frozenset(evidence)
    with Path(binary).open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for offset, size in zip(*chunk, strict=True):
            # Decoding runs within intersection(): no Python statement per instruction, which is twice as fast.
            mask = 0
            for code in counted.intersection(map(_code_of, Decoder(64, content[offset : offset + size]))):
                mask |= evidence[code]
            masks.append(mask)
    return masks.tobytes()


@cache
def _evidence() -> Mapping[int, int]:
    """Map each form of an instruction that needs a counted feature to a mask, by the places in FEATURES."""
    # iced-x86 numbers the forms (mnemonic, encoding, kinds of operands) apart, so that the number alone decides the
    # features; `vbroadcastss`, which needs AVX2 from a register and AVX from memory, is two forms.
    evidence: dict[int, int] = {}
    for name, code in vars(Code).items():
        if not isinstance(code, int) or name.startswith(_HARMLESS):
            continue
        instruction = Instruction()
        instruction.code = cast("CodeNumber", code)
        features = {_COUNTED[number] for number in instruction.cpuid_features() if number in _COUNTED}
        if features:
            evidence[code] = sum(1 << FEATURES.index(feature) for feature in features)
    return evidence


@cache
def _features_in(mask: int) -> tuple[str, ...]:
    return tuple(feature for place, feature in enumerate(FEATURES) if mask >> place & 1)


def _tally(ranges: FunctionRanges, masks: array[int], *, code_bytes: int) -> InstructionSetFacts:
    counts: Counter[tuple[Owner, str, int]] = Counter()
    examples: defaultdict[str, list[str]] = defaultdict(list)
    own_examples: defaultdict[str, list[str]] = defaultdict(list)
    owners, named = code_owners(), bool(ranges.name_offsets)
    for symbol, mask in zip(_names(ranges), masks, strict=True):
        owner = owners.owner(symbol) if named else Owner.OTHER
        zone = owners.zone(symbol) if mask and owner is Owner.OWN else ""
        counts[owner, zone, mask] += 1
        for feature in _features_in(mask):
            _add_example(examples[feature], symbol)
            if owner is Owner.OWN and not zone:
                _add_example(own_examples[feature], symbol)
    zones = {zone for _, zone, _ in counts if zone}
    return InstructionSetFacts(
        functions=counts.total(),
        own_functions=sum(number for (owner, _, _), number in counts.items() if owner is Owner.OWN),
        named=named,
        code_bytes=code_bytes,
        scanned_bytes=sum(ranges.sizes),
        by_feature=_by_feature(counts, tuple(Owner)),
        own=_by_feature(counts, {Owner.OWN}),
        own_zones={zone: _by_feature(counts, {Owner.OWN}, zone) for zone in sorted(zones)},
        dispatch_owned=_by_feature(counts, {Owner.DISPATCH}),
        examples={feature: tuple(examples[feature]) for feature in sorted(examples)},
        own_examples={feature: tuple(own_examples[feature]) for feature in sorted(own_examples)},
    )


def _names(ranges: FunctionRanges) -> Iterator[str]:
    """Read the symbols, one per function, in the same order."""
    if not ranges.name_offsets:
        yield from (NAMELESS for _ in ranges.offsets)
        return
    with ranges.names_file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for start in ranges.name_offsets:
            yield content[start : content.find(b"\0", start)].decode("utf-8", "replace")


def _add_example(names: list[str], symbol: str) -> None:
    if len(names) < _EXAMPLES and (name := plain_name(symbol)) not in names:
        names.append(name)


def _by_feature(counts: Counter[tuple[Owner, str, int]], owners: Collection[Owner], zone: str = "") -> dict[str, int]:
    """Add up functions with their masks: feature -> functions of these owners, or of this zone, that use it."""
    total: Counter[str] = Counter()
    for (owner, in_zone, mask), number in counts.items():
        if owner in owners and (not zone or in_zone == zone):
            total.update(dict.fromkeys(_features_in(mask), number))
    return dict(sorted(total.items()))
