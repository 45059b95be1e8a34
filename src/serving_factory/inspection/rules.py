"""Judges what was read from a binary against what its variant asked for. Pure: facts in, findings out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from packaging.version import Version

from serving_factory.errors import FactoryError, InspectionError, LibraryMissingError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from serving_factory.catalogue.upstream_flags import UpstreamFlag
    from serving_factory.inspection.elf import MissingLibrary
    from serving_factory.inspection.facts import ElfFacts, InstructionSetFacts


_BASELINE: Final = "x86-64"
_SIGILL: Final = frozenset({132, -4})
"""Exit status after an illegal instruction: 128 + 4 from a shell or a container, -4 from Python's subprocess."""

_NOT_STARTED: Final = 127
"""Exit status of the loader that does not find a library, and of a shell that does not find a program."""

_SERVER_LINE: Final = "TensorFlow ModelServer: "
_LIBRARY_LINE: Final = "TensorFlow Library: "
_NAMED_SHARE: Final = 0.8
"""Below this share of code under symbols, silence proves nothing. Usual is 0.95: the rest is padding."""

_LEAST_SHARE: Final = 0.01
"""Compiled with -mavx, a third or more of the functions of C++ code use AVX, if only to copy 16 bytes. A hundredth
tells that apart from a few files with flags of their own."""

_SHOWN: Final = 3
_SHOWN_NAME: Final = 100

_ALL_OF_PROOF: Final[Mapping[str, frozenset[str]]] = {
    "avx": frozenset({"avx"}),
    "x86-64-v3": frozenset({"avx2", "fma"}),
    "x86-64-v4": frozenset({"avx512f"}),
}
_ANY_OF_PROOF: Final[Mapping[str, frozenset[str]]] = {
    "x86-64-v2": frozenset({"ssse3", "sse4.1", "sse4.2", "popcnt"}),
}
"""What code of any size that was compiled for a level is sure to use. The other features of a level come and go with
the compiler: gcc writes f16c and movbe in few places only."""


class Rule(StrEnum):
    """What is checked, in the order of the report."""

    MACHINE = "machine"
    VERSION = "version"
    LEVEL_KEPT = "level-kept"
    LEVEL_USED = "level-used"
    LIBRARIES = "libraries"
    GLIBC = "glibc"
    HARDENING = "hardening"


_REMEDIES: Final[Mapping[Rule, str]] = {
    Rule.MACHINE: "compare the variant's platform with the engine's (docker version), and build it again",
    Rule.VERSION: (
        "start the binary with --version by hand; check that the sources are at the release's commit, and what the"
        " catalogue says this release reports"
    ),
    Rule.LEVEL_KEPT: (
        "find the flag that lets the code above the level: look at the compile log for -march=native, --config=opt or"
        " -m flags that come from a .bazelrc, a BUILD file or the environment. If the functions named are chosen by a"
        " CPU check at run time, add them to dispatch_owned.yaml in src/serving_factory/catalogue/data, with the check;"
        " if upstream's BUILD files have the flag, add it to upstream_flags.yaml there. Then run the same command:"
        " nothing is compiled again"
    ),
    Rule.LEVEL_USED: (
        "check that the level's --copt flags reached the compiler (bazel build --subcommands), and that the binary is"
        " the one just compiled"
    ),
    Rule.LIBRARIES: "add the library to the runtime image, or link it statically",
    Rule.GLIBC: "build on the runtime image's base, or an older one; or take a newer base for the runtime image",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What the variant asked for.

    Args:
        level: the CPU level's name, such as `x86-64-v3`; a name that is not among the level features (`native`) has
            no bound to check by.
        machine: `x86-64` or `aarch64`.
        reported_version: what the server's `--version` has to begin with, such as `2.19.1`; empty where it has none.
        max_glibc: glibc of the runtime image's base, such as `2.31`; None if that is not known.
        upstream: what upstream's own BUILD files add to every level.
    """

    level: str
    machine: str
    reported_version: str
    max_glibc: str | None
    upstream: tuple[UpstreamFlag, ...] = ()


@dataclass(frozen=True, slots=True)
class VersionAnswer:
    """What `tensorflow_model_server --version` did.

    Args:
        exit_status: 128 + n, or -n, for a death by signal n.
        lines: what it printed, standard output and error together.
    """

    exit_status: int
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule found.

    Args:
        rule: which.
        ok: whether the binary is as asked; None if this could not be proven either way.
        text: one sentence, with the values concerned.
    """

    rule: Rule
    ok: bool | None
    text: str


def check(
    expectation: Expectation,
    *,
    elf: ElfFacts,
    code: InstructionSetFacts | None,
    version: VersionAnswer | None,
    missing: tuple[MissingLibrary, ...],
    level_features: Mapping[str, frozenset[str]],
) -> tuple[Finding, ...]:
    """Judge a binary by every rule.

    Args:
        expectation: what was asked for.
        elf: what the file tells.
        code: what its code uses; None where it was not disassembled.
        version: what it answered; None where it could not be started.
        missing: libraries that nothing in the image provides.
        level_features: level name to every feature that its code may use.

    Returns:
        One finding per rule, in the order of `Rule`.
    """
    return (
        _machine(expectation, elf),
        _version(expectation, version),
        _level_kept(expectation, code, level_features),
        _level_used(expectation, code, level_features),
        _libraries(missing),
        _glibc(expectation, elf),
        _hardening(elf),
    )


def verdict_error(findings: Iterable[Finding], variant_id: str) -> FactoryError | None:
    """Turn the failed findings into the error that stops the variant; None where nothing failed.

    Missing libraries alone give a LibraryMissingError, anything else an InspectionError that tells all.
    """
    failed = [finding for finding in findings if finding.ok is False]
    if not failed:
        return None
    only_libraries = all(finding.rule is Rule.LIBRARIES for finding in failed)
    if only_libraries:
        what = f"The binary of {variant_id} needs libraries that its image would not have"
    else:
        what = f"The binary of {variant_id} is not what the variant asks for"
    why = "\n".join(f"{finding.rule}: {finding.text}" for finding in failed)
    error = LibraryMissingError if only_libraries else InspectionError
    return error(what, why=why, remedy=_REMEDIES[failed[0].rule])


def _passed(rule: Rule, text: str) -> Finding:
    return Finding(rule, ok=True, text=text)


def _failed(rule: Rule, text: str) -> Finding:
    return Finding(rule, ok=False, text=text)


def _unproven(rule: Rule, why: str) -> Finding:
    return Finding(rule, ok=None, text=f"not proven: {why}")


def _machine(expectation: Expectation, elf: ElfFacts) -> Finding:
    if elf.machine == expectation.machine:
        return _passed(Rule.MACHINE, f"{elf.machine}, as asked")
    return _failed(Rule.MACHINE, f"asked for {expectation.machine}, found {elf.machine}")


def _version(expectation: Expectation, answer: VersionAnswer | None) -> Finding:
    if answer is None:
        return _unproven(Rule.VERSION, "the binary was not started")
    if answer.exit_status in _SIGILL:
        if expectation.level == _BASELINE:
            return _failed(
                Rule.VERSION, "died of an illegal instruction, though every x86-64 CPU has to run this level"
            )
        return _unproven(
            Rule.VERSION,
            f"this machine's CPU cannot run {expectation.level} code (illegal instruction)",
        )
    if not expectation.reported_version and answer.exit_status != _NOT_STARTED:
        return _unproven(Rule.VERSION, "this release has no --version")
    if answer.exit_status != 0:
        said = f": {answer.lines[-1]}" if answer.lines else ", and said nothing"
        return _failed(Rule.VERSION, f"--version ended with exit status {answer.exit_status}{said}")
    return _reported(expectation.reported_version, answer.lines)


def _reported(expected: str, lines: tuple[str, ...]) -> Finding:
    # Looked for, not taken by position: TensorFlow may log a line before main() begins.
    server = _after(_SERVER_LINE, lines)
    library = _after(_LIBRARY_LINE, lines)
    if server is None or library is None:
        required = _SERVER_LINE if server is None else _LIBRARY_LINE
        return _failed(Rule.VERSION, f'--version printed no line "{required.strip()} …"')
    # 2.1 is not the beginning of 2.19.
    if not re.match(rf"{re.escape(expected)}(?!\d)", server):
        return _failed(Rule.VERSION, f"asked for {expected}, the binary says {server}")
    return _passed(Rule.VERSION, f"says {server}, with TensorFlow {library}")


def _after(beginning: str, lines: tuple[str, ...]) -> str | None:
    return next((line.removeprefix(beginning).strip() for line in lines if line.startswith(beginning)), None)


def _level_kept(
    expectation: Expectation, code: InstructionSetFacts | None, level_features: Mapping[str, frozenset[str]]
) -> Finding:
    allowed = level_features.get(expectation.level)
    if code is None:
        return _unproven(Rule.LEVEL_KEPT, "the code was not disassembled")
    if allowed is None:
        return _unproven(Rule.LEVEL_KEPT, f"{expectation.level} has no fixed set of features")
    added, above = _added(expectation, code, allowed)
    if above:
        found = "; ".join(_found(feature, number, code.own_examples.get(feature, ())) for feature, number in above)
        names = ", ".join(feature for feature, _ in above)
        return _failed(Rule.LEVEL_KEPT, f"{expectation.level} code must not use {names}; it does: {found}")
    elsewhere = sorted(
        name for name, number in code.by_feature.items() if name not in allowed and number > code.own.get(name, 0)
    )
    doubt = _doubt(code, elsewhere)
    if doubt is not None:
        return _unproven(Rule.LEVEL_KEPT, doubt)
    whose = f"{code.own_functions} functions of the project's own code keep" if code.named else "all code keeps"
    text = f"{whose} to {expectation.level}"
    if added:
        text += f", but for what upstream's own flags add: {', '.join(f'{name} in {code.own[name]}' for name in added)}"
    if elsewhere:
        text += f"; other code, not checked, also uses {', '.join(elsewhere)}"
    return _passed(Rule.LEVEL_KEPT, text)


def added_features(
    expectation: Expectation, code: InstructionSetFacts, level_features: Mapping[str, frozenset[str]]
) -> tuple[str, ...]:
    """Give the features above the level that the project's own code uses because of upstream's own flags, sorted.

    No check stands before that code: a CPU must have them, whatever the level.
    """
    allowed = level_features.get(expectation.level)
    return () if allowed is None else _added(expectation, code, allowed)[0]


def _added(
    expectation: Expectation, code: InstructionSetFacts, allowed: frozenset[str]
) -> tuple[tuple[str, ...], tuple[tuple[str, int], ...]]:
    """Part the features above the level that own code uses: those of upstream's flags; others, with their functions."""
    added: list[str] = []
    above: list[tuple[str, int]] = []
    for feature in sorted(code.own.keys() - allowed):
        rest = _outside_zones(expectation, code, feature)
        if rest and not _is_added_anywhere(expectation, feature):
            above.append((feature, rest))
        else:
            added.append(feature)
    return tuple(added), tuple(above)


def _outside_zones(expectation: Expectation, code: InstructionSetFacts, feature: str) -> int:
    """How many own functions use a feature that no flag of upstream's is for, as far as their namespaces tell."""
    zones = {name for flag in expectation.upstream if feature in flag.features for name in flag.namespaces}
    return code.own.get(feature, 0) - sum(code.own_zones.get(name, {}).get(feature, 0) for name in zones)


def _is_added_anywhere(expectation: Expectation, feature: str) -> bool:
    """Whether a flag of upstream's adds a feature to code of any namespace."""
    return any(feature in flag.features and not flag.namespaces for flag in expectation.upstream)


def _doubt(code: InstructionSetFacts, elsewhere: list[str]) -> str | None:
    """Say why finding nothing above the level in own code proves nothing, if so."""
    if not code.named:
        without = "without symbols there is no telling by whose code"
        return f"{', '.join(elsewhere)} is used, and {without}" if elsewhere else None
    if not code.own_functions:
        return "no function belongs to the project's own code"
    share = code.scanned_bytes / max(code.code_bytes, 1)
    return f"the symbols name only {share:.0%} of the code" if share < _NAMED_SHARE else None


def _level_used(
    expectation: Expectation, code: InstructionSetFacts | None, level_features: Mapping[str, frozenset[str]]
) -> Finding:
    allowed = level_features.get(expectation.level, frozenset())
    needed = _ALL_OF_PROOF.get(expectation.level, frozenset()) & allowed
    choice = _ANY_OF_PROOF.get(expectation.level, frozenset()) & allowed
    if code is None:
        return _unproven(Rule.LEVEL_USED, "the code was not disassembled")
    if not needed and not choice:
        return _passed(Rule.LEVEL_USED, f"{expectation.level} asks for no feature in particular")
    used = {name: _outside_zones(expectation, code, name) for name in sorted(needed | choice)}
    present = {name for name, number in used.items() if number} if code.named else set(code.by_feature)
    absent = [*sorted(needed - present), *(sorted(choice) if choice and choice.isdisjoint(present) else ())]
    if absent:
        text = f"the project's own code uses no {', no '.join(absent)}"
        return _failed(Rule.LEVEL_USED, f"asked for {expectation.level}, but {text}")
    if code.named and "avx" in allowed and code.own.get("avx", 0) < _LEAST_SHARE * code.own_functions:
        return _failed(
            Rule.LEVEL_USED,
            f"asked for {expectation.level}, but only {code.own.get('avx', 0)} of {code.own_functions} own functions"
            " use avx: the flags reached only part of the code",
        )
    return _used(expectation, code, {name: number for name, number in used.items() if number})


def _used(expectation: Expectation, code: InstructionSetFacts, used: Mapping[str, int]) -> Finding:
    told = ", ".join(f"{name} in {number}" for name, number in used.items())
    if not code.named:
        return _unproven(Rule.LEVEL_USED, "without symbols there is no telling whose code uses it")
    if all(_is_added_anywhere(expectation, name) for name in used):
        return _unproven(Rule.LEVEL_USED, f"upstream's own flags give code of any level the same: {told}")
    return _passed(Rule.LEVEL_USED, f"of {code.own_functions} own functions: {told}")


def _libraries(missing: tuple[MissingLibrary, ...]) -> Finding:
    if not missing:
        return _passed(Rule.LIBRARIES, "every library is there")
    gaps = "; ".join(f"{library.soname}, needed by {_some(library.needed_by)}" for library in missing)
    return _failed(Rule.LIBRARIES, f"the image would lack {gaps}")


def _glibc(expectation: Expectation, elf: ElfFacts) -> Finding:
    if elf.highest_glibc is None:
        return _passed(Rule.GLIBC, "asks for no version of glibc")
    if expectation.max_glibc is None:
        return _unproven(Rule.GLIBC, f"needs {elf.highest_glibc}, and the base's glibc is not known")
    needed = elf.highest_glibc.removeprefix("GLIBC_")
    if Version(needed) > Version(expectation.max_glibc):
        return _failed(Rule.GLIBC, f"needs glibc {needed}, the runtime base has {expectation.max_glibc}")
    return _passed(Rule.GLIBC, f"needs glibc {needed}, the runtime base has {expectation.max_glibc}")


def _hardening(elf: ElfFacts) -> Finding:
    return _passed(Rule.HARDENING, f"recorded, not checked: {elf.kind}, RELRO {elf.relro}")


def _found(feature: str, count: int, examples: tuple[str, ...]) -> str:
    functions = "function" if count == 1 else "functions"
    return f"{feature} in {count} {functions}, such as {_some(examples)}" if examples else f"{feature} in {count}"


def _some(names: tuple[str, ...]) -> str:
    shown = (name if len(name) <= _SHOWN_NAME else f"{name[: _SHOWN_NAME - 1]}…" for name in names[:_SHOWN])
    return ", ".join(shown) + (" and more" if len(names) > _SHOWN else "")
