"""Compares what was read from a binary with what its variant requires. Pure: facts in, findings out."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from packaging.version import Version

from serving_factory.catalogue.cuda import Capability
from serving_factory.catalogue.levels import allowed_features
from serving_factory.errors import FactoryError, InspectionError, LibraryMissingError
from serving_factory.inspection.facts import DeviceCode, ElfFacts, InstructionSetFacts

if TYPE_CHECKING:
    from serving_factory.catalogue.upstream_flags import UpstreamFlag
    from serving_factory.inspection.elf import MissingLibrary

_BASELINE = "x86-64"
# Exit status after an illegal instruction: 128 + 4 from a shell or a container, -4 from Python's subprocess
_SIGILL = (132, -4)
# Exit status of the loader that does not find a library, and of a shell that does not find a program
_NOT_STARTED = 127
_SERVER_LINE = "TensorFlow ModelServer: "
_LIBRARY_LINE = "TensorFlow Library: "
# Below this share of code under symbols, finding nothing proves nothing. Usual is 0.95: the rest is padding
_NAMED_SHARE = 0.8
# Compiled with -mavx, a third or more of the functions of C++ code use AVX, if only to copy 16 bytes. A hundredth
# distinguishes that from a few files with flags of their own.
_LEAST_SHARE = 0.01
_SHOWN = 3
_SHOWN_NAME = 100

_ALL_OF_PROOF = {"avx": {"avx"}, "x86-64-v3": {"avx2", "fma"}, "x86-64-v4": {"avx512f"}}
# What code of any size that was compiled for a level is sure to use. The other features of a level come and go with the
# compiler: gcc writes f16c and movbe in few places only.
_ANY_OF_PROOF = {"x86-64-v2": {"ssse3", "sse4.1", "sse4.2", "popcnt"}}


class Rule(StrEnum):
    """What is checked, in the order of the report."""

    MACHINE = "machine"
    VERSION = "version"
    LEVEL_KEPT = "level-kept"
    LEVEL_USED = "level-used"
    DEVICE_CODE = "device-code"
    LIBRARIES = "libraries"
    GLIBC = "glibc"
    HARDENING = "hardening"


_REMEDIES: Mapping[Rule, str] = {
    Rule.MACHINE: "compare the variant's platform with the engine's (docker version), and build it again",
    Rule.VERSION: (
        "start the binary with --version by hand; check that the sources are at the release's commit, and what the"
        " catalogue says this release reports"
    ),
    Rule.LEVEL_KEPT: (
        "find the flag that lets the code above the level: look at the compile log for -march=native, --config=opt or"
        " -m flags that come from a .bazelrc, a BUILD file or the environment. If the functions named are chosen by a"
        " CPU check at run time, add them to `functions` of an entry of dispatch_owned.yaml in"
        " src/serving_factory/catalogue/data, with the check as the reason; if upstream's BUILD files have the flag,"
        " add it to upstream_flags.yaml there. Then run the same command: the binary is read again, not compiled again"
    ),
    Rule.LEVEL_USED: (
        "check that the level's --copt flags reached the compiler (bazel build --subcommands), and that the binary is"
        " the one just compiled"
    ),
    Rule.DEVICE_CODE: (
        "see in the compile log what TF_CUDA_COMPUTE_CAPABILITIES was, and which options the compiler of CUDA code got"
        " (bazel build --subcommands); `explain` shows what is passed for the variant"
    ),
    Rule.LIBRARIES: "add the library to the runtime image, or link it statically",
    Rule.GLIBC: "name a newer base at image.base in the matrix file, or compile on an older one: toolchain.base",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What the variant requires."""

    level: str  # the CPU level's name, such as `x86-64-v3`; `native` has no bound to check by
    machine: str  # `x86-64` or `aarch64`
    # what the server's `--version` has to begin with, such as `2.19.1`; empty where it has none, or that is not known
    reported_version: str
    max_glibc: str | None  # glibc of the runtime image's base, such as `2.31`; None if that is not known
    version_flag: bool = True  # whether it has one
    upstream: tuple[UpstreamFlag, ...] = ()  # what upstream's own BUILD files add to every level
    device_code: tuple[str, ...] = ()  # `sm_80` is machine code, `compute_90` PTX; none where CUDA is not compiled in
    device_code_named: bool = False  # whether the variant's id names it, and so must name all there is


@dataclass(frozen=True, slots=True)
class VersionAnswer:
    """How `tensorflow_model_server --version` ended (128 + n, or -n, by signal n), and the lines that it printed."""

    exit_status: int
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule found, in one sentence; `ok` is None if it could not be proven either way."""

    rule: Rule
    ok: bool | None
    text: str


def check(
    expectation: Expectation,
    *,
    elf: ElfFacts,
    code: InstructionSetFacts,
    device_code: DeviceCode,
    version: VersionAnswer,
    missing: tuple[MissingLibrary, ...],
    libraries_glibc: tuple[str, str] | None = None,
) -> tuple[Finding, ...]:
    """Check a binary, and the libraries beside it, by every rule: one finding each, in the order of `Rule`."""
    return (
        _machine(expectation, elf),
        _version(expectation, version),
        _level_kept(expectation, code),
        _level_used(expectation, code),
        _device_code(expectation, device_code),
        _libraries(missing),
        _glibc(expectation, elf, libraries_glibc),
        _passed(Rule.HARDENING, f"recorded, not checked: {elf.kind}, RELRO {elf.relro}"),
    )


def verdict_error(findings: Iterable[Finding], variant_id: str) -> FactoryError | None:
    """Make the error that stops the variant, with all failed findings; None where nothing failed."""
    failed = [finding for finding in findings if finding.ok is False]
    if not failed:
        return None
    why = "\n".join(f"{finding.rule}: {finding.text}" for finding in failed)
    remedy = _REMEDIES[failed[0].rule]
    if all(finding.rule is Rule.LIBRARIES for finding in failed):
        what = f"The binary of {variant_id} needs libraries that its image would not have"
        return LibraryMissingError(what, why=why, remedy=remedy)
    return InspectionError(f"The binary of {variant_id} is not what the variant requires", why=why, remedy=remedy)


def added_features(expectation: Expectation, code: InstructionSetFacts) -> tuple[str, ...]:
    """Return the features above the level that the project's own code uses because of upstream's own flags, sorted."""
    # No check stands before that code: a CPU must have them, whatever the level.
    allowed = allowed_features().get(expectation.level)
    return () if allowed is None else _above(expectation, code, allowed)[0]


def _passed(rule: Rule, text: str) -> Finding:
    return Finding(rule, ok=True, text=text)


def _failed(rule: Rule, text: str) -> Finding:
    return Finding(rule, ok=False, text=text)


def _unproven(rule: Rule, why: str) -> Finding:
    return Finding(rule, ok=None, text=f"not proven: {why}")


def _machine(expectation: Expectation, elf: ElfFacts) -> Finding:
    if elf.machine == expectation.machine:
        return _passed(Rule.MACHINE, f"{elf.machine}, as required")
    return _failed(Rule.MACHINE, f"requires {expectation.machine}, found {elf.machine}")


def _version(expectation: Expectation, answer: VersionAnswer) -> Finding:
    if answer.exit_status in _SIGILL:
        if expectation.level == _BASELINE:
            why = "died of an illegal instruction, though every x86-64 CPU has to run this level"
            return _failed(Rule.VERSION, why)
        why = f"this machine's CPU cannot run {expectation.level} code (illegal instruction)"
        return _unproven(Rule.VERSION, why)
    if not expectation.version_flag and answer.exit_status != _NOT_STARTED:
        return _unproven(Rule.VERSION, "this release has no --version")
    if answer.exit_status != 0:
        said = f": {answer.lines[-1]}" if answer.lines else ", and printed nothing"
        return _failed(Rule.VERSION, f"--version ended with exit status {answer.exit_status}{said}")
    return _said_version(expectation, answer.lines)


def _said_version(expectation: Expectation, lines: tuple[str, ...]) -> Finding:
    # Looked for, not taken by position: TensorFlow may log a line before main() begins.
    server, library = (
        next((line.removeprefix(beginning).strip() for line in lines if line.startswith(beginning)), None)
        for beginning in (_SERVER_LINE, _LIBRARY_LINE)
    )
    if server is None or library is None:
        missing = _SERVER_LINE if server is None else _LIBRARY_LINE
        return _failed(Rule.VERSION, f'--version printed no line "{missing.strip()} …"')
    if not expectation.reported_version:
        text = f"says {server}, with TensorFlow {library}; the matrix file has no `reports` to compare it with"
        return _unproven(Rule.VERSION, text)
    # 2.1 is not the beginning of 2.19.
    ok = re.match(rf"{re.escape(expectation.reported_version)}(?!\d)", server) is not None
    text = f"says {server}, with TensorFlow {library}"
    return Finding(Rule.VERSION, ok=ok, text=text if ok else f"{text}; {expectation.reported_version} is required")


def _level_kept(expectation: Expectation, code: InstructionSetFacts) -> Finding:
    allowed = allowed_features().get(expectation.level)
    if allowed is None:
        return _unproven(Rule.LEVEL_KEPT, f"{expectation.level} has no fixed set of features")
    added, above = _above(expectation, code, allowed)
    if above:
        found = "; ".join(
            _found(feature, number, code.own_examples.get(feature, ())) for feature, number in above.items()
        )
        return _failed(Rule.LEVEL_KEPT, f"{expectation.level} code must not use {', '.join(above)}; it does: {found}")
    elsewhere = sorted(
        name for name, number in code.by_feature.items() if name not in allowed and number > code.own.get(name, 0)
    )
    if doubt := _doubt(code, elsewhere):
        return _unproven(Rule.LEVEL_KEPT, doubt)
    whose = f"{code.own_functions} functions of the project's own code keep" if code.named else "all code keeps"
    text = f"{whose} to {expectation.level}"
    if added:
        text += f", but for what upstream's own flags add: {', '.join(f'{name} in {code.own[name]}' for name in added)}"
    if elsewhere:
        text += f"; other code, not checked, also uses {', '.join(elsewhere)}"
    return _passed(Rule.LEVEL_KEPT, text)


def _above(
    expectation: Expectation, code: InstructionSetFacts, allowed: Collection[str]
) -> tuple[tuple[str, ...], Mapping[str, int]]:
    """Part the features above the level that own code uses: those of upstream's flags; others, with their functions."""
    rest = {name: _outside_zones(expectation, code, name) for name in sorted(code.own) if name not in allowed}
    above = {name: number for name, number in rest.items() if number and not _is_added_anywhere(expectation, name)}
    return tuple(name for name in rest if name not in above), above


def _outside_zones(expectation: Expectation, code: InstructionSetFacts, feature: str) -> int:
    """Count the own functions that use a feature and are in no namespace that a flag of upstream's adds it to."""
    zones = {name for flag in expectation.upstream if feature in flag.features for name in flag.namespaces}
    return code.own.get(feature, 0) - sum(code.own_zones.get(name, {}).get(feature, 0) for name in zones)


def _is_added_anywhere(expectation: Expectation, feature: str) -> bool:
    """Whether a flag of upstream's adds a feature to code of any namespace."""
    return any(feature in flag.features and not flag.namespaces for flag in expectation.upstream)


def _doubt(code: InstructionSetFacts, elsewhere: list[str]) -> str:
    """Say why finding nothing above the level in own code proves nothing, if so."""
    if not code.named:
        return f"{', '.join(elsewhere)} is used, and without symbols it is not known by whose code" if elsewhere else ""
    if not code.own_functions:
        return "no function belongs to the project's own code"
    share = code.scanned_bytes / max(code.code_bytes, 1)
    return f"the symbols name only {share:.0%} of the code" if share < _NAMED_SHARE else ""


def _level_used(expectation: Expectation, code: InstructionSetFacts) -> Finding:
    allowed = allowed_features().get(expectation.level, frozenset())
    needed = allowed & _ALL_OF_PROOF.get(expectation.level, set())
    choice = allowed & _ANY_OF_PROOF.get(expectation.level, set())
    if not needed and not choice:
        return _passed(Rule.LEVEL_USED, f"{expectation.level} requires no feature in particular")
    used = {name: _outside_zones(expectation, code, name) for name in sorted(needed | choice)}
    used = {name: number for name, number in used.items() if number}
    present = used.keys() if code.named else code.by_feature.keys()
    absent = [*sorted(needed - present), *(sorted(choice) if choice and not choice & present else ())]
    required = f"{expectation.level} is required, but"
    if absent:
        return _failed(Rule.LEVEL_USED, f"{required} the project's own code uses no {', no '.join(absent)}")
    if not code.named:
        return _unproven(Rule.LEVEL_USED, "without symbols it is not known whose code uses it")
    avx = code.own.get("avx", 0)
    if "avx" in allowed and avx < _LEAST_SHARE * code.own_functions:
        few = f"only {avx} of {code.own_functions} own functions use avx: the flags reached only part of the code"
        return _failed(Rule.LEVEL_USED, f"{required} {few}")
    counts = ", ".join(f"{name} in {number}" for name, number in used.items())
    if all(_is_added_anywhere(expectation, name) for name in used):
        return _unproven(Rule.LEVEL_USED, f"upstream's own flags give code of any level the same: {counts}")
    return _passed(Rule.LEVEL_USED, f"of {code.own_functions} own functions: {counts}")


def _device_code(expectation: Expectation, found: DeviceCode) -> Finding:
    required, there = expectation.device_code, found.codes
    if missing := [code for code in required if code not in there]:
        text = f"{', '.join(missing)} is required, and the binary has {', '.join(there) or 'no code for a GPU'}"
        return _failed(Rule.DEVICE_CODE, text)
    if not there:
        return _passed(Rule.DEVICE_CODE, "none, as without CUDA")
    for code in required:
        useless = sum(n for codes, n in found.fat_binaries.items() if not _runs(codes.split(), Capability.parse(code)))
        if useless:
            text = f"{useless} of {found.number} fat binaries hold nothing that a GPU of {code} can run"
            return _failed(Rule.DEVICE_CODE, text)
    text = f"of {found.number} fat binaries {', '.join(f'{found.holding(code)} hold {code}' for code in there)}"
    if more := ", ".join(code for code in there if code not in required):
        # More does no harm, but what the id says must be true.
        untrue = expectation.device_code_named or not required
        return Finding(Rule.DEVICE_CODE, ok=not untrue, text=f"{text}; {more} was not asked for")
    return _passed(Rule.DEVICE_CODE, text)


def _runs(codes: Iterable[str], card: Capability) -> bool:
    """Whether a card can run what a fat binary holds."""
    # Machine code runs on its own capability and on higher minors of the same major, PTX on any higher one. Code for
    # 9.0a or 10.0f runs on less, and is not relied on. smoke.gpu.runs has the rule once more, for one known card: that
    # module runs alone, without this package, on a machine with Python 3.8.
    for code in codes:
        if code[-1].isdigit():
            one = Capability.parse(code)
            numbers, least = (card.major, card.minor), (one.major, one.minor)
            if least <= numbers and (one.ptx or one.major == card.major):
                return True
    return False


def _libraries(missing: tuple[MissingLibrary, ...]) -> Finding:
    if not missing:
        return _passed(Rule.LIBRARIES, "every library is there")
    gaps = "; ".join(f"{library.soname}, needed by {_some(library.needed_by)}" for library in missing)
    return _failed(Rule.LIBRARIES, f"the image would lack {gaps}")


def _glibc(expectation: Expectation, elf: ElfFacts, libraries: tuple[str, str] | None) -> Finding:
    needs = [(elf.highest_glibc, "")] if elf.highest_glibc else []
    needs += [(libraries[0], f"{libraries[1]} ")] if libraries else []
    if not needs:
        return _passed(Rule.GLIBC, "needs no version of glibc")
    needed, who = max((Version(name.removeprefix("GLIBC_")), who) for name, who in needs)
    if expectation.max_glibc is None:
        return _unproven(Rule.GLIBC, f"{who}needs glibc {needed}, and the base's is not known")
    ok = needed <= Version(expectation.max_glibc)
    return Finding(Rule.GLIBC, ok=ok, text=f"{who}needs glibc {needed}, the runtime base has {expectation.max_glibc}")


def _found(feature: str, count: int, examples: tuple[str, ...]) -> str:
    functions = "function" if count == 1 else "functions"
    return f"{feature} in {count} {functions}, such as {_some(examples)}" if examples else f"{feature} in {count}"


def _some(names: tuple[str, ...]) -> str:
    shown = (name if len(name) <= _SHOWN_NAME else f"{name[: _SHOWN_NAME - 1]}…" for name in names[:_SHOWN])
    return ", ".join(shown) + (" and more" if len(names) > _SHOWN else "")
