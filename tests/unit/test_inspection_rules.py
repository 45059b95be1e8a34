from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from serving_factory.catalogue.data import data_digest, read_yaml
from serving_factory.catalogue.levels import LEVELS, allowed_features
from serving_factory.catalogue.upstream_flags import upstream_flags
from serving_factory.errors import InspectionError, LibraryMissingError
from serving_factory.inspection import owners
from serving_factory.inspection.elf import BINARY, MissingLibrary, read_elf
from serving_factory.inspection.facts import DeviceCode, ElfFacts, ElfKind, InstructionSetFacts, Relro
from serving_factory.inspection.instruction_set import FEATURES, scan
from serving_factory.inspection.owners import code_owners
from serving_factory.inspection.rules import (
    Expectation,
    Finding,
    Rule,
    VersionAnswer,
    added_features,
    check,
    verdict_error,
)

from .elf_files import Elf, Symbol

FEATURE_SETS = allowed_features()
ELF = ElfFacts(
    machine="x86-64",
    kind=ElfKind.PIE,
    build_id=None,
    needed=(),
    runpath=None,
    interpreter="/lib64/ld-linux-x86-64.so.2",
    highest_glibc="GLIBC_2.4",
    highest_glibcxx=None,
    highest_cxxabi=None,
    size=1,
    stripped=True,
    isa_needed=None,
    relro=Relro.FULL,
)
ANSWER = VersionAnswer(0, ("TensorFlow ModelServer: 2.19.1-rc0+dev.sha.eab9c35", "TensorFlow Library: 2.19.1"))
ASKED = Expectation(level="x86-64", machine="x86-64", reported_version="2.19.1", max_glibc="2.31")
V3 = {"avx": 600, "avx2": 80, "fma": 40, "bmi2": 20}


def code(
    own: Mapping[str, int],
    *,
    elsewhere: Mapping[str, int] | None = None,
    named: bool = True,
    scanned: int = 95,
    zones: Mapping[str, Mapping[str, int]] | None = None,
) -> InstructionSetFacts:
    return InstructionSetFacts(
        functions=2000,
        own_functions=1000 if named else 0,
        named=named,
        code_bytes=100,
        scanned_bytes=scanned,
        by_feature={**own, **(elsewhere or {})},
        own=own if named else {},
        own_zones=zones or {},
        dispatch_owned={},
        examples={},
        own_examples={feature: (f"tensorflow::uses_{feature}",) for feature in own},
    )


NOTHING_USED = code({})


def for_gpus(**fat_binaries: int) -> DeviceCode:
    """What fat binaries hold, `sm_80__compute_90`, to how many of them do."""
    held = {name.replace("__", " "): number for name, number in fat_binaries.items()}
    return DeviceCode(fat_binaries=held, sizes={code: 8 for codes in held for code in codes.split()})


NO_DEVICE_CODE = for_gpus()


def finding(
    rule: Rule,
    *,
    asked: Expectation = ASKED,
    elf: ElfFacts = ELF,
    facts: InstructionSetFacts = NOTHING_USED,
    device_code: DeviceCode = NO_DEVICE_CODE,
    answer: VersionAnswer = ANSWER,
    missing: tuple[MissingLibrary, ...] = (),
    libraries: tuple[str, str] | None = None,
) -> Finding:
    findings = check(
        asked,
        elf=elf,
        code=facts,
        device_code=device_code,
        version=answer,
        missing=missing,
        libraries_glibc=libraries,
    )
    (found,) = (found for found in findings if found.rule is rule)
    return found


def at(level: str) -> Expectation:
    return replace(ASKED, level=level)


def test_every_rule_gives_one_finding_in_order() -> None:
    findings = check(ASKED, elf=ELF, code=code({}), device_code=NO_DEVICE_CODE, version=ANSWER, missing=())
    assert [found.rule for found in findings] == list(Rule)


def test_machine() -> None:
    assert finding(Rule.MACHINE).ok
    wrong = finding(Rule.MACHINE, elf=replace(ELF, machine="aarch64"))
    assert wrong.ok is False
    assert wrong.text == "requires x86-64, found aarch64"


@pytest.mark.parametrize(
    "lines",
    [
        ANSWER.lines,
        ("I tensorflow/core/util/port.cc:104] oneDNN is on", *ANSWER.lines),
        ("TensorFlow ModelServer: 2.19.1", "TensorFlow Library: 2.19.1"),
    ],
)
def test_version_answered(lines: tuple[str, ...]) -> None:
    assert finding(Rule.VERSION, answer=VersionAnswer(0, lines)).ok


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (VersionAnswer(1, ("cannot open shared object file",)), "exit status 1: cannot open shared object file"),
        (VersionAnswer(127, ()), "exit status 127, and printed nothing"),
        (VersionAnswer(0, ()), 'no line "TensorFlow ModelServer: …"'),
        (VersionAnswer(0, ANSWER.lines[:1]), 'no line "TensorFlow Library: …"'),
        (
            VersionAnswer(0, ("TensorFlow ModelServer: 2.19.0", ANSWER.lines[1])),
            "says 2.19.0, with TensorFlow 2.19.1; 2.19.1 is required",
        ),
        (VersionAnswer(0, ("TensorFlow ModelServer: 2.19.10", ANSWER.lines[1])), "says 2.19.10"),
        (VersionAnswer(132, ()), "every x86-64 CPU"),
    ],
)
def test_version_wrong(answer: VersionAnswer, text: str) -> None:
    found = finding(Rule.VERSION, answer=answer)
    assert found.ok is False
    assert text in found.text


@pytest.mark.parametrize("status", [132, -4])
def test_a_binary_above_this_machines_cpu_is_not_proven(status: int) -> None:
    found = finding(Rule.VERSION, asked=at("x86-64-v4"), answer=VersionAnswer(status, ()))
    assert found.ok is None
    assert "this machine's CPU cannot run x86-64-v4" in found.text


def test_a_release_without_the_flag_proves_nothing_by_it() -> None:
    """Before 1.10 the server takes --version for an unknown flag: it prints its usage, and ends for want of a model."""
    asked = replace(ASKED, reported_version="", version_flag=False)
    found = finding(Rule.VERSION, asked=asked, answer=VersionAnswer(255, ("usage: tensorflow_model_server",)))
    assert found.ok is None
    assert "this release has no --version" in found.text
    for status, text in ((127, "exit status 127"), (132, "every x86-64 CPU")):
        found = finding(Rule.VERSION, asked=asked, answer=VersionAnswer(status, ()))
        assert found.ok is False
        assert text in found.text


def test_level_kept() -> None:
    found = finding(Rule.LEVEL_KEPT, facts=code({}, elsewhere={"avx512f": 3, "aes": 9}))
    assert found.ok
    assert "also uses aes, avx512f" in found.text
    assert finding(Rule.LEVEL_KEPT, asked=at("x86-64-v3"), facts=code(V3)).ok


@pytest.mark.parametrize(
    ("level", "own"),
    [
        ("x86-64", {"avx": 1}),
        ("x86-64", {"popcnt": 1}),
        ("x86-64-v2", {"avx": 1}),
        ("avx", {"avx": 600, "fma": 1}),
        ("x86-64-v3", {**V3, "avx512vl": 1}),
        ("x86-64-v4", {**V3, "avx512f": 50, "avx512vnni": 1}),
        ("x86-64", {"aes": 1}),
    ],
)
def test_level_exceeded(level: str, own: dict[str, int]) -> None:
    found = finding(Rule.LEVEL_KEPT, asked=at(level), facts=code(own))
    assert found.ok is False
    above = next(feature for feature in reversed(own) if feature not in FEATURE_SETS[level])
    assert f"{above} in 1 function, such as tensorflow::uses_{above}" in found.text


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        (code({"avx": 5}, named=False), "without symbols"),
        (replace(code({}), own_functions=0), "no function belongs"),
        (code({}, scanned=40), "name only 40%"),
    ],
)
def test_level_kept_not_proven(facts: InstructionSetFacts, why: str) -> None:
    found = finding(Rule.LEVEL_KEPT, facts=facts)
    assert found.ok is None
    assert why in found.text


def test_native_has_no_bound() -> None:
    assert finding(Rule.LEVEL_KEPT, asked=at("native"), facts=code({"avx512f": 9})).ok is None
    assert finding(Rule.LEVEL_USED, asked=at("native"), facts=code({"avx512f": 9})).ok


def test_nothing_above_the_level_anywhere_needs_no_symbols() -> None:
    assert finding(Rule.LEVEL_KEPT, facts=code({}, named=False)).ok


@pytest.mark.parametrize(
    ("level", "own"),
    [
        ("x86-64", {}),
        ("x86-64-v2", {"sse4.1": 1}),
        ("x86-64-v2", {"popcnt": 1}),
        ("avx", {"avx": 300}),
        ("x86-64-v3", V3),
        ("x86-64-v4", {**V3, "avx512f": 1}),
    ],
)
def test_level_used(level: str, own: dict[str, int]) -> None:
    assert finding(Rule.LEVEL_USED, asked=at(level), facts=code(own)).ok


@pytest.mark.parametrize(
    ("level", "own", "text"),
    [
        ("x86-64-v2", {"sse3": 1}, "no popcnt"),
        ("avx", {"sse4.1": 100}, "no avx"),
        ("x86-64-v3", {"avx": 600, "avx2": 80}, "no fma"),
        ("x86-64-v3", {"avx": 600, "fma": 80}, "no avx2"),
        ("x86-64-v4", V3, "no avx512f"),
        ("x86-64-v3", {"avx": 9, "avx2": 3, "fma": 1}, "only 9 of 1000 own functions"),
    ],
)
def test_level_not_used(level: str, own: dict[str, int], text: str) -> None:
    found = finding(Rule.LEVEL_USED, asked=at(level), facts=code(own))
    assert found.ok is False
    assert text in found.text


def test_features_in_libraries_alone_do_not_show_that_the_level_is_used() -> None:
    assert finding(Rule.LEVEL_USED, asked=at("x86-64-v3"), facts=code({}, elsewhere=V3)).ok is False


def test_without_symbols_absence_is_certain_and_presence_is_not() -> None:
    v3 = at("x86-64-v3")
    assert finding(Rule.LEVEL_USED, asked=v3, facts=code({"avx": 1}, named=False)).ok is False
    assert finding(Rule.LEVEL_USED, asked=v3, facts=code(V3, named=False)).ok is None


def test_libraries() -> None:
    assert finding(Rule.LIBRARIES).ok
    found = finding(Rule.LIBRARIES, missing=(MissingLibrary("libgomp.so.1", (BINARY, "/usr/lib/libx.so.1")),))
    assert found.ok is False
    assert "libgomp.so.1, needed by the binary, /usr/lib/libx.so.1" in found.text


@pytest.mark.parametrize(
    ("needed", "base", "ok"),
    [
        ("GLIBC_2.31", "2.31", True),
        ("GLIBC_2.9", "2.31", True),
        ("GLIBC_2.34", "2.31", False),
        ("GLIBC_2.31", "2.4", False),
        (None, "2.31", True),
        ("GLIBC_2.31", None, None),
    ],
)
def test_glibc(needed: str | None, base: str | None, ok: object) -> None:
    found = finding(Rule.GLIBC, asked=replace(ASKED, max_glibc=base), elf=replace(ELF, highest_glibc=needed))
    assert found.ok is ok


def test_the_glibc_of_copied_libraries_counts_too() -> None:
    libraries = ("GLIBC_2.34", "/usr/lib/libx.so.1")
    found = finding(Rule.GLIBC, asked=ASKED, elf=ELF, libraries=libraries)
    assert (found.ok, found.text) == (False, "/usr/lib/libx.so.1 needs glibc 2.34, the runtime base has 2.31")
    assert finding(Rule.GLIBC, asked=ASKED, elf=ELF, libraries=("GLIBC_2.2.5", "/usr/lib/libx.so.1")).ok


def test_hardening_is_recorded_and_not_checked() -> None:
    found = finding(Rule.HARDENING, elf=replace(ELF, kind=ElfKind.EXECUTABLE, relro=Relro.NONE))
    assert found.ok
    assert "executable, RELRO none" in found.text


ON_GPUS = replace(ASKED, device_code=("sm_80", "sm_90", "compute_90"), device_code_named=True)
WHOLE = for_gpus(sm_80__sm_90__compute_90=3)


@pytest.mark.parametrize(
    ("asked", "found", "ok", "text"),
    [
        (ASKED, NO_DEVICE_CODE, True, "none, as without CUDA"),
        (ASKED, for_gpus(sm_80=2), False, "of 2 fat binaries 2 hold sm_80; sm_80 was not asked for"),
        (ON_GPUS, WHOLE, True, "of 3 fat binaries 3 hold sm_80, 3 hold sm_90, 3 hold compute_90"),
        (
            ON_GPUS,
            NO_DEVICE_CODE,
            False,
            "sm_80, sm_90, compute_90 is required, and the binary has no code for a GPU",
        ),
        (
            ON_GPUS,
            for_gpus(sm_90__compute_90=3),
            False,
            "sm_80 is required, and the binary has sm_90, compute_90",
        ),
        (ON_GPUS, for_gpus(sm_80__sm_90=3), False, "compute_90 is required, and the binary has sm_80, sm_90"),
        # a kernel generator that gives the highest PTX alone, and code that was linked, which has no PTX
        (
            ON_GPUS,
            for_gpus(sm_80__sm_90__compute_90=3, sm_80__compute_90=8, sm_80__sm_90=1),
            True,
            "of 12 fat binaries 12 hold sm_80, 4 hold sm_90, 11 hold compute_90",
        ),
        # one file was compiled for less
        (
            ON_GPUS,
            for_gpus(sm_80__sm_90__compute_90=3, sm_90__compute_90=2),
            False,
            "2 of 5 fat binaries hold nothing that a GPU of sm_80 can run",
        ),
        (
            ON_GPUS,
            for_gpus(sm_80__sm_90__compute_90=3, sm_80__sm_90a=1),
            False,
            "1 of 4 fat binaries hold nothing that a GPU of sm_90 can run",
        ),
        (ON_GPUS, for_gpus(sm_80__sm_90__compute_90=3, compute_75=1, sm_75=1), False, "that a GPU of sm_80 can run"),
        # machine code runs on higher minors of its major
        (
            replace(ON_GPUS, device_code=("sm_80", "sm_86")),
            for_gpus(sm_80__sm_86=1, sm_80=1),
            True,
            "of 2 fat binaries 2 hold sm_80, 1 hold sm_86",
        ),
        (ON_GPUS, for_gpus(sm_75__sm_80__sm_90__compute_90=3), False, "; sm_75 was not asked for"),
        (
            replace(ON_GPUS, device_code_named=False),
            for_gpus(sm_75__sm_80__sm_90__compute_90=3),
            True,
            "; sm_75 was not asked for",
        ),
    ],
)
def test_device_code(asked: Expectation, found: DeviceCode, *, ok: bool, text: str) -> None:
    seen = finding(Rule.DEVICE_CODE, asked=asked, device_code=found)
    assert seen.ok is ok
    assert seen.text.endswith(text)


def test_no_error_where_nothing_failed() -> None:
    findings = check(ASKED, elf=ELF, code=code({}), device_code=NO_DEVICE_CODE, version=ANSWER, missing=())
    assert {found.ok for found in findings} == {True}
    assert verdict_error(findings, "2.19.1-cpu") is None


def test_the_error_names_every_failure() -> None:
    findings = check(
        ASKED,
        elf=replace(ELF, highest_glibc="GLIBC_2.34"),
        code=code({"avx": 3}),
        device_code=for_gpus(sm_80=1),
        version=ANSWER,
        missing=(MissingLibrary("libgomp.so.1", (BINARY,)),),
    )
    error = verdict_error(findings, "2.19.1-cpu")
    assert isinstance(error, InspectionError)
    assert error.what == "The binary of 2.19.1-cpu is not what the variant requires"
    named = [line.split(":")[0] for line in error.why.splitlines()]
    assert named == ["level-kept", "device-code", "libraries", "glibc"]
    assert "tensorflow::uses_avx" in error.why
    assert "-march=native" in error.remedy


def test_missing_libraries_alone_have_an_error_of_their_own() -> None:
    error = verdict_error([Finding(Rule.LIBRARIES, ok=False, text="…")], "2.19.1-cpu")
    assert isinstance(error, LibraryMissingError)


@pytest.mark.parametrize("rule", [rule for rule in Rule if rule is not Rule.HARDENING])
def test_every_failure_has_a_remedy(rule: Rule) -> None:
    error = verdict_error([Finding(rule, ok=False, text="…")], "2.19.1-cpu")
    assert error is not None
    assert error.remedy


def test_long_names_and_long_lists_are_cut() -> None:
    facts = replace(code({"avx": 9}), own_examples={"avx": ("x" * 500, "b", "c", "d")})
    found = finding(Rule.LEVEL_KEPT, facts=facts)
    assert len(found.text) < 250
    assert found.text.endswith("b, c and more")


@given(own=st.dictionaries(st.sampled_from(FEATURES), st.integers(1, 1000)))
def test_what_a_level_allows_every_higher_one_allows(own: dict[str, int]) -> None:
    kept = [finding(Rule.LEVEL_KEPT, asked=at(level.value), facts=code(own)).ok for level in LEVELS]
    assert kept == sorted(kept, key=bool)


@given(own=st.dictionaries(st.sampled_from(FEATURES), st.integers(1, 1000)), more=st.sampled_from(FEATURES))
def test_more_features_never_make_a_level_kept_or_unused(own: dict[str, int], more: str) -> None:
    for level in LEVELS:
        with_more = {**own, more: 1000}
        before, after = (
            check(at(level.value), elf=ELF, code=code(use), device_code=NO_DEVICE_CODE, version=ANSWER, missing=())
            for use in (own, with_more)
        )
        kept, used = list(Rule).index(Rule.LEVEL_KEPT), list(Rule).index(Rule.LEVEL_USED)
        assert not (before[kept].ok is False and after[kept].ok)
        assert not (before[used].ok and after[used].ok is False)


# --- what upstream's own flags add ------------------------------------------------------------------------------------


def asked_of(tag: str, level: str = "x86-64") -> Expectation:
    return replace(ASKED, level=level, upstream=upstream_flags(Version(tag)))


@pytest.mark.parametrize(
    ("tag", "facts", "above"),
    [
        ("1.9.1", code({"sse3": 676}), []),
        ("1.9.1", code({"sse3": 676, "sse4.2": 1}), ["sse4.2"]),
        ("2.1.0", code({"sse3": 9, "popcnt": 2}, zones={"tensorflow::crc32c": {"popcnt": 2}}), []),
        ("2.1.0", code({"sse3": 9, "popcnt": 3}, zones={"tensorflow::crc32c": {"popcnt": 2}}), ["popcnt"]),
        ("2.1.0", code({"avx": 3}, zones={"tensorflow::crc32c": {"avx": 3}}), ["avx"]),
        ("2.10.0", code({"sse3": 9, "sse4.1": 30, "ssse3": 4}), []),
        ("2.10.0", code({"sse4.1": 30, "avx": 4}), ["avx"]),
    ],
)
def test_what_upstreams_flags_add_is_allowed_and_nothing_else(
    tag: str, facts: InstructionSetFacts, above: list[str]
) -> None:
    found = finding(Rule.LEVEL_KEPT, asked=asked_of(tag), facts=facts)
    assert found.ok is (not above)
    if above:
        assert f"code must not use {', '.join(above)}; it does" in found.text
    else:
        assert "but for what upstream's own flags add" in found.text
    added = added_features(asked_of(tag), facts)
    assert set(added) == facts.own.keys() - set(above)


def test_other_code_is_named_only_where_it_uses_more_than_own_code_does() -> None:
    facts = code({"sse3": 676}, elsewhere={"avx": 19})
    found = finding(Rule.LEVEL_KEPT, asked=asked_of("1.9.1"), facts=facts)
    assert found.text.endswith("sse3 in 676; other code, not checked, also uses avx")


@pytest.mark.parametrize(
    ("tag", "facts", "ok"),
    [
        ("2.0.0", code({"ssse3": 1}), True),
        ("2.1.0", code({"sse4.2": 2, "popcnt": 1}, zones={"tensorflow::crc32c": {"sse4.2": 2, "popcnt": 1}}), False),
        ("2.1.0", code({"sse4.2": 3}, zones={"tensorflow::crc32c": {"sse4.2": 2}}), True),
        ("2.10.0", code({"sse4.2": 900}), None),
    ],
)
def test_what_upstreams_flags_add_is_no_proof_of_a_level(
    tag: str, facts: InstructionSetFacts, *, ok: bool | None
) -> None:
    found = finding(Rule.LEVEL_USED, asked=asked_of(tag, "x86-64-v2"), facts=facts)
    assert found.ok is ok, found


def test_without_such_a_flag_sse3_is_above_the_baseline() -> None:
    found = finding(Rule.LEVEL_KEPT, facts=code({"sse3": 676}))
    assert found.ok is False
    assert added_features(ASKED, code({"sse3": 676})) == ()


def test_a_level_that_has_it_needs_nothing_more() -> None:
    facts = code({"sse3": 676, **V3})
    assert added_features(asked_of("2.10.0", "x86-64-v3"), facts) == ()
    assert finding(Rule.LEVEL_KEPT, asked=asked_of("2.10.0", "x86-64-v3"), facts=facts).ok is True


@pytest.mark.parametrize("file", ["dispatch_owned.yaml", "upstream_flags.yaml"])
def test_the_remedy_names_files_that_are_there(file: str) -> None:
    error = verdict_error((finding(Rule.LEVEL_KEPT, facts=code({"sse3": 676})),), "2.19.1-cpu-v1")
    assert error is not None
    assert file in error.remedy
    assert data_digest(file)


def test_the_remedy_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that the finding names, added as the remedy says, is behind a check from then on."""
    symbol, vaddps_ymm = "_ZN10tensorflow3fft7forwardEv", bytes.fromhex("c5f458c2c3")
    binary = Elf(text=vaddps_ymm, symbols=[Symbol(name=symbol, offset=0, size=5)]).write(tmp_path / "server")
    found = finding(Rule.LEVEL_KEPT, facts=scan(read_elf(binary), None))
    assert found.ok is False
    name = found.text.rpartition("such as ")[2]

    data = read_yaml("dispatch_owned.yaml")
    entries = [*data["dispatch_owned"], {"project": "FFT", "functions": [name], "reason": "asks the CPU"}]
    monkeypatch.setattr(owners, "read_yaml", lambda _file: {**data, "dispatch_owned": entries})
    code_owners.cache_clear()
    try:
        facts = scan(read_elf(binary), None)
    finally:
        code_owners.cache_clear()
    assert facts.dispatch_owned == {"avx": 1}
    assert facts.own == {}
