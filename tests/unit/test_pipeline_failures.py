"""pipeline/failures.py, on what Bazel 4.2.3, gcc 12, apt, git and BuildKit (Docker 26.1.5) really printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from serving_factory import errors
from serving_factory.pipeline.budget import Share
from serving_factory.pipeline.failures import Failure, Kind, classify, failure_error, is_shared

RECORDED = Path(__file__).with_name("recorded") / "failures"
FOUND = "016417ba36df712c98761c4fc689a112f7cd9c59f1868a87745c65208632af6d"
SHARE = Share(jobs=2, memory=4 * 2**30)
GOOD = "[binary_build 1/3] INFO: Build completed successfully, 53 total actions\n"


def recorded(name: str) -> str:
    return (RECORDED / f"{name}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [path.stem for path in sorted(RECORDED.glob("*.txt"))])
def test_each_recorded_failure_is_recognised(name: str) -> None:
    """The file's name begins with the kind."""
    failure = classify(recorded(name), exit_code=1)
    assert name.startswith(failure.kind.value), failure
    assert 0 < len(failure.lines) <= 6


def test_every_kind_but_the_disk_has_a_record() -> None:
    for kind in set(Kind) - {Kind.DISK_FULL}:
        assert list(RECORDED.glob(f"{kind}*.txt")), kind


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        # gcc's driver, the linker's, and Bazel's own
        ("g++: internal compiler error: Killed (program cc1plus)", Kind.OUT_OF_MEMORY),
        ("collect2: fatal error: ld terminated with signal 9 [Killed]", Kind.OUT_OF_MEMORY),
        ("FATAL: bazel ran out of memory: java.lang.OutOfMemoryError: Java heap space", Kind.OUT_OF_MEMORY),
        ("cc1plus: out of memory allocating 65536 bytes after a total of 1437696 bytes", Kind.OUT_OF_MEMORY),
        # moby/buildkit, executor/runcexecutor: ENOMEM where the cgroup counted an oom_kill
        (
            'ERROR: failed to solve: process "/bin/sh -c make" did not complete successfully: cannot allocate memory',
            Kind.OUT_OF_MEMORY,
        ),
        ("/usr/bin/ld: final link failed: No space left on device", Kind.DISK_FULL),
        ("E: Failed to fetch http://a/b.deb  Hash Sum mismatch", Kind.FETCH),
        ("fatal: early EOF", Kind.FETCH),
        # Java's, apt's and git's words for a certificate that is not trusted here, and Go's
        ("ERROR: Error downloading [https://a/x.tgz] to /x: PKIX path building failed: none found", Kind.UNTRUSTED),
        ("E: Failed to fetch https://a/b.deb  Certificate verification failed: it is NOT trusted.", Kind.UNTRUSTED),
        ("fatal: unable to access 'https://a/': server certificate verification failed. CAfile: none", Kind.UNTRUSTED),
        (
            "ERROR: failed to do request: Get https://a/v2/: x509: certificate signed by unknown authority",
            Kind.UNTRUSTED,
        ),
        # A mirror among several, gcc's excerpt of a source, and a certificate that is out of date
        ("WARNING: Download from https://a/x.tgz failed: PKIX path building failed", Kind.COMPILE),
        ('   10 |   return "unable to get local issuer certificate";', Kind.COMPILE),
        ("ERROR: failed to do request: x509: certificate has expired or is not yet valid", Kind.COMPILE),
        ("a.cc:3: error: 'std::bad_alloc' has not been declared", Kind.COMPILE),
        ("a.cc:3: error: no member named 'Killed' in 'Status'", Kind.COMPILE),
        ("[2 / 3] Compiling killed.cc", Kind.COMPILE),
        ("WARNING: Download from http://a/x.tgz failed: class java.net.ConnectException", Kind.COMPILE),
        (f"WARNING: Download from http://a/x.tgz failed: Checksum was {FOUND} but wanted {FOUND}", Kind.COMPILE),
    ],
)
def test_other_words_for_the_same(line: str, kind: Kind) -> None:
    assert classify(f"{GOOD}{line}\n{GOOD}", exit_code=1).kind is kind


def test_a_command_that_was_killed_ran_out_of_memory() -> None:
    failure = classify(GOOD, exit_code=137)
    assert failure.kind is Kind.OUT_OF_MEMORY
    assert "137" in failure.lines[0]


def test_what_an_earlier_step_lived_with_is_not_the_reason() -> None:
    log = "[base_build 2/4] W: Failed to fetch http://m/InRelease  Could not connect to m:80\n"
    log += "[binary_build 1/3] a.cc:1:2: error: wrong\n"
    assert classify(log, exit_code=1, place="[binary_build 1/3]").kind is Kind.COMPILE
    assert classify(log, exit_code=1, place="[base_build 2/4]").kind is Kind.FETCH


def test_a_checksum_names_both_sums_and_the_door() -> None:
    expected = {"expected": "0" * 64, "found": FOUND, "input": "http://172.17.0.1:18080/ok/a.tgz"}
    for name in ("checksum-bazel", "checksum-add"):
        failure = classify(recorded(name), exit_code=1)
        assert failure.details == expected
        error = failure_error(failure, variant="v", step="[fetch]", tail=(), share=SHARE)
        assert isinstance(error, errors.ChecksumError)
        assert expected["input"] in error.what
        assert error.why == f"expected sha256:{'0' * 64}\nfound    sha256:{FOUND}"


def test_out_of_memory_is_one_sentence_with_the_numbers() -> None:
    failure = classify(recorded("out-of-memory-gcc"), exit_code=1)
    error = failure_error(failure, variant="v", step="[binary_build 1/3] RUN bazel", tail=(), share=SHARE)
    assert isinstance(error, errors.OutOfMemoryError)
    assert error.what == (
        "v: the build ran out of memory in [binary_build 1/3] RUN bazel, with 2 jobs and 4.0 GiB planned for it"
    )
    assert "Killed signal terminated program cc1plus" in error.why
    assert "--jobs" in error.remedy


MEASURED = "factory: exit_code 1 peak_memory_bytes {} memory_limit_bytes {} oom_kills {}"


def test_the_steps_of_the_dockerfiles_that_run_bazel_are_known_as_such() -> None:
    """Only a Bazel that ran out of memory is tried again with fewer jobs."""
    text = (Path(__file__).parents[2] / "samples/dockerfiles/2.19.1/cpu.devel.Dockerfile").read_text(encoding="utf-8")
    instructions = re.sub(r"\\\n\s*", "", text)
    runs = [line for line in instructions.splitlines() if line.startswith("RUN") and "/factory/bazel.sh" in line]
    jobs = []
    for run in runs:
        killed = Failure(kind=Kind.OUT_OF_MEMORY, lines=())
        error = failure_error(killed, variant="v", step=f"[x 1/1] {run}", tail=(), share=SHARE)
        assert isinstance(error, errors.OutOfMemoryError)
        jobs.append(error.jobs)
    assert sorted(jobs) == [0, 0, SHARE.jobs, SHARE.jobs], "preflight, externals, fetch and build"


@pytest.mark.parametrize(
    ("numbers", "reported"),
    [
        ((4_187_593_114, 2**32, 1), "peak 3.9 GiB, limit 4.0 GiB, 1 process killed"),
        ((300 * 2**20, 2**29, 2), "peak 0.3 GiB, limit 0.5 GiB, 2 processes killed"),
        # What version 2 and version 1 of the control groups say where there is no limit.
        ((2**32, "max", 1), "peak 4.0 GiB, no limit of its own, 1 process killed"),
        ((2**32, 9_223_372_036_854_771_712, 1), "peak 4.0 GiB, no limit of its own, 1 process killed"),
        # Bazel's Java gives up before the kernel does.
        ((2**32, "max", 0), "peak 4.0 GiB, no limit of its own, no processes killed"),
        (("?", 2**32, 1), "limit 4.0 GiB, 1 process killed"),
        ((2**32, "", ""), "peak 4.0 GiB"),
    ],
)
def test_out_of_memory_reports_what_was_measured(numbers: tuple[object, object, object], reported: str) -> None:
    step = "[binary_build 1/3]"
    other = f"[fetch 3/3] {MEASURED.format(1, 2, 3)}\n"
    log = f"{other}{recorded('out-of-memory-gcc')}\n{step} {MEASURED.format(*numbers)}".rstrip()
    failure = classify(log, exit_code=1, place=step)
    error = failure_error(failure, variant="v", step=step, tail=(), share=SHARE)
    assert (
        error.what == f"v: the build ran out of memory in {step}, with 2 jobs and 4.0 GiB planned for it ({reported})"
    )
    assert "factory: exit_code" not in error.why


def test_without_a_measure_the_plan_is_reported() -> None:
    log = f"{recorded('out-of-memory-gcc')}\n{MEASURED.format('?', '', '')}"
    error = failure_error(classify(log, exit_code=1), variant="v", step="s", tail=(), share=SHARE)
    assert error.what.endswith("with 2 jobs and 4.0 GiB planned for it")


def test_an_old_bazel_names_both_versions() -> None:
    failure = classify("Current Bazel version is 4.2.3- (@non-git), expected at least 6.5.0", exit_code=1)
    error = failure_error(failure, variant="v", step="", tail=(), share=SHARE)
    assert isinstance(error, errors.BazelTooOldError)
    assert error.what == "v: Bazel 4.2.3 is too old: the sources require 6.5.0 or later"


def test_a_damaged_cache_is_named() -> None:
    failure = classify(recorded("cache-corrupt-disk"), exit_code=1)
    error = failure_error(failure, variant="v", step="", tail=(), share=SHARE)
    assert isinstance(error, errors.CacheCorruptError)
    assert error.cache == "disk"


def test_a_failure_that_no_one_knows_shows_the_last_lines() -> None:
    error = failure_error(classify("", exit_code=3), variant="v", step="s", tail=("a", "b"), share=SHARE)
    assert (type(error), error.what, error.why) == (errors.CompileError, "v: the build failed in s", "a\nb")


@pytest.mark.parametrize("bazel", ["0.17", "4.2.3"])
def test_a_missing_program_is_reported_and_not_bazels_wrapper(bazel: str) -> None:
    failure = classify(recorded(f"program-missing-bazel-{bazel}"), exit_code=1)
    error = failure_error(failure, variant="v", step="[binary_build 6/7]", tail=(), share=SHARE)
    assert isinstance(error, errors.ProgramMissingError)
    assert "gtkdocize: not found" in error.why.splitlines()[0]
    assert "gtkdocize" in error.what
    assert "error executing command" not in error.what


WRAPPER = (
    "[binary_build 1/3] ERROR: /s/BUILD:1:1: Executing genrule //:g failed (Exit {}): bash failed: error executing"
)
ENDS = "[binary_build 1/3] Target //:m failed to build"


def genrule(*printed: str, code: int = 1) -> str:
    reported = (f"[binary_build 1/3] {line}" for line in printed)
    return "\n".join((WRAPPER.format(code), "[binary_build 1/3] [1 / 2] Executing genrule //:g; 0s", *reported, ENDS))


@pytest.mark.parametrize(
    ("line", "program"),
    [
        ("/bin/sh: 1: aclocal: not found", "aclocal"),
        ("./autogen.sh: 18: ./autogen.sh: aclocal: not found", "aclocal"),
        ("/bin/bash: line 7: yasm: command not found", "yasm"),
        ("bash: yasm: command not found", "yasm"),
        ("make: automake: Command not found", "automake"),
        ("make[1]: aclocal: No such file or directory", "aclocal"),
        ("env: 'python': No such file or directory", "python"),
        ("/usr/bin/env: python3: No such file or directory", "python3"),
        ("WARNING: 'aclocal-1.15' is missing on your system.", "aclocal"),
        ("WARNING: 'autoconf' is missing on your system.", "autoconf"),
        ("bash: ./x: /usr/bin/perl: bad interpreter: No such file or directory", "perl"),
    ],
)
def test_programs_are_missed_in_many_words(line: str, program: str) -> None:
    failure = classify(genrule(line, code=127), exit_code=1, place="[binary_build 1/3]")
    assert (failure.kind, failure.details["program"]) == (Kind.PROGRAM_MISSING, program)
    assert failure.lines[0].endswith(line)


@pytest.mark.parametrize(
    "line",
    [
        "x.cc:1: fatal error: foo.h: not found",
        "x.cc:1:10: error: foo: not found",
        "ld: library: not found",
        "checking for foo... not found",
        "/usr/bin/ld: cannot find -lfoo",
        "Cannot find python binary: not found",
        "ERROR: /s/BUILD:1:1: target 'y' not declared in package; //x:y: not found",
        "cp: cannot stat 'a': No such file or directory",
        "make: *** [all] Error 127",
    ],
)
def test_what_else_is_not_found_is_no_program(line: str) -> None:
    assert classify(genrule(line), exit_code=1, place="[binary_build 1/3]").kind is Kind.COMPILE
    assert classify(line, exit_code=1).kind is Kind.COMPILE


@pytest.mark.parametrize(
    "said", ["invalid checksum digest format", "invalid character '<' looking for beginning of value"]
)
def test_a_web_page_in_place_of_a_registry_is_a_download_that_failed(said: str) -> None:
    line = f"ERROR: failed to solve: u:1: failed to resolve source metadata for docker.io/library/u:1: {said}"
    assert classify(line, exit_code=1).kind is Kind.FETCH


def test_an_image_that_is_not_found_is_a_download() -> None:
    name = "docker.io/library/debian:bullseye"
    line = f"ERROR: failed to solve: debian:bullseye: failed to resolve source metadata for {name}: {name}: not found"
    assert classify(line, exit_code=1).kind is Kind.FETCH


def test_a_program_that_was_done_without_is_not_the_cause() -> None:
    log = genrule(
        "./configure: line 5: pkg-config: command not found", "evutil.c:9: fatal error: openssl/ssl.h: No such file"
    )
    failure = classify(log, exit_code=1, place="[binary_build 1/3]")
    assert failure.kind is Kind.COMPILE
    assert "openssl/ssl.h" in failure.lines[0]
    assert failure.shared


@pytest.mark.parametrize(
    ("printed", "reported"),
    [
        (("Traceback (most recent call last):", '  File "gen.py", line 3', "KeyError: 'abi'"), "KeyError: 'abi'"),
        (("making", "cp: cannot stat 'a': No such file or directory"), "making"),
        (("gcc -c x.c", "x.c:1: error: bad", "make: *** [x.o] Error 1"), "x.c:1: error: bad"),
    ],
)
def test_what_a_failed_command_printed_is_shown(printed: tuple[str, ...], reported: str) -> None:
    failure = classify(genrule(*printed), exit_code=1, place="[binary_build 1/3]")
    assert failure.lines[0].endswith(reported)
    assert "Executing genrule" in failure.lines[-1]


def test_a_compile_error_is_not_shared_because_a_command_failed_after_it() -> None:
    compile_error = (
        "[binary_build 1/3] ERROR: /s/BUILD:9:1: C++ compilation of rule '//:m' failed (Exit 1): gcc failed\n"
        "[binary_build 1/3] m.cc:1:1: error: bad\n"
    )
    failure = classify(compile_error + genrule("making"), exit_code=1, place="[binary_build 1/3]")
    assert (failure.kind, failure.shared) == (Kind.COMPILE, False)


def test_a_certificate_that_is_not_trusted_is_reported_with_where_to_name_one() -> None:
    failure = classify(recorded("untrusted-pip"), exit_code=1, place="[work 3/3]")
    error = failure_error(failure, variant="v", step="[work 3/3]", tail=(), share=SHARE)
    assert "certificate" in error.what
    assert "CERTIFICATE_VERIFY_FAILED" in error.why
    assert "SERVING_FACTORY_CA_CERTIFICATES" in error.remedy
    assert is_shared(error)
