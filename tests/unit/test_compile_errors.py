"""What the compile stage shows of a log when the build failed."""

from __future__ import annotations

import pytest

from serving_factory.pipeline.failures import error_lines, step_title

NOISE = """\
[binary_build 1/3] INFO: Found 1 target...
[binary_build 1/3] [23 / 59] Compiling main.cc; 1s processwrapper-sandbox
[binary_build 1/3] tensorflow/core/kernels/nn_ops.cc:12:3: warning: no error: here
"""
NOT_SOLVED = 'ERROR: failed to solve: process "/bin/bash -c bazel build" did not complete successfully: exit code: 1\n'


@pytest.mark.parametrize(
    "line",
    [
        "[binary_build 1/3] ERROR: /source/a/BUILD:38:10: Compiling a/main.cc failed: (Exit 1)",
        "[binary_build 1/3] tensorflow/core/kernels/nn_ops.cc:45:14: error: 'no_such_name' was not declared",
        "[binary_build 1/3] a/b.cc:3:10: fatal error: missing.h: No such file or directory",
        "[binary_build 1/3] gcc: error: unrecognized command-line option '-fno-such-option'",
        "[binary_build 1/3] /usr/bin/ld: main.cc:(.text+0x1b): undefined reference to `RunServer()'",
        "[binary_build 1/3] /usr/bin/ld: cannot find -ldnnl: No such file or directory",
        "[binary_build 1/3] collect2: error: ld returned 1 exit status",
        "ERROR: failed to read the Dockerfile",
    ],
)
def test_the_lines_that_report_an_error_are_shown(line: str) -> None:
    assert error_lines(f"{NOISE}{line}\n{NOISE}{NOT_SOLVED}") == (line,)


def test_no_more_than_the_first_are_shown() -> None:
    log = "".join(f"a.cc:{number}:1: error: wrong\n" for number in range(1, 50))
    assert error_lines(log) == tuple(f"a.cc:{number}:1: error: wrong" for number in range(1, 7))


def test_what_the_compiler_says_comes_before_bazels_word_for_it() -> None:
    bazels, gccs = "ERROR: /BUILD:8:1: C++ compilation of rule '@x//:x' failed (Exit 1)", "x.h:9:4: error: #error NO"
    assert error_lines(f"{bazels}\n{gccs}\n") == (gccs, bazels)
    many = "".join(f"ERROR: /BUILD:{number}:1: no\n" for number in range(9))
    assert error_lines(f"{many}{gccs}\n")[0] == gccs


def test_a_log_without_errors_shows_none() -> None:
    assert error_lines(NOISE + NOT_SOLVED) == ()


@pytest.mark.parametrize(
    ("step", "title"),
    [
        ("[base_build 2/4] RUN mkdir /factory", "[base_build 2/4] RUN mkdir /factory"),
        (
            f"[binary_build 1/3] RUN --network=none {' --mount=type=cache,id=a' * 9}  . inputs.sh && b --x{' y' * 50}",
            f"[binary_build 1/3] RUN . inputs.sh && b --x{' y' * 21} ...",
        ),
        ("[artifact 1/2] COPY --from=binary_build /out /", "[artifact 1/2] COPY --from=binary_build /out /"),
        ("", "docker buildx build"),
    ],
)
def test_a_step_is_named_in_a_part_of_a_line(step: str, title: str) -> None:
    assert step_title(step) == title
