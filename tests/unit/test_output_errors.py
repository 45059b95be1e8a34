from __future__ import annotations

from typing import TYPE_CHECKING

from serving_factory.errors import CompileError
from serving_factory.output.errors import read_tail, render_error

if TYPE_CHECKING:
    from pathlib import Path


def test_an_error_says_what_why_the_last_lines_and_what_to_do(tmp_path: Path) -> None:
    error = CompileError(
        "2.19.1-cpu-v3: the Bazel build failed with exit code 1",
        why="a C++ file does not compile\n//a:b failed",
        remedy="fix the file, then run the same command\nnothing is lost",
    )
    log = tmp_path / "compile.log"
    log.write_text("a.cc:1: error: \x1b[31mno\x1b[0m\n\n::error::mine\n")
    assert render_error(error, log) == (
        "Error: 2.19.1-cpu-v3: the Bazel build failed with exit code 1\n"
        "  a C++ file does not compile\n"
        "  //a:b failed\n"
        "\n"
        f"  The last 3 lines of {log}:\n"
        "    | a.cc:1: error: no\n"
        "    |\n"
        "    | : :error::mine\n"
        "\n"
        "What to do: fix the file, then run the same command\n"
        "  nothing is lost\n"
    )


def test_only_the_last_thirty_lines_are_shown(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("".join(f"line {number}\n" for number in range(40)))
    text = render_error(CompileError("no"), log)
    assert f"The last 30 lines of {log}:" in text
    assert "| line 9\n" not in text
    assert "| line 10\n" in text
    assert "| line 39\n" in text


def test_a_tail_that_the_error_holds_already_is_not_shown_twice(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("\nboom\n\n")
    text = render_error(CompileError("no", why="the log ends in:\n  boom"), log)
    assert text == f"Error: no\n  the log ends in:\n    boom\n\n  The whole log: {log}\n"


def test_an_error_with_nothing_but_a_sentence() -> None:
    assert render_error(CompileError("no")) == "Error: no\n"
    assert render_error(CompileError("")) == "Error: CompileError\n"


def test_what_buildx_repeats_is_left_out(tmp_path: Path) -> None:
    log = tmp_path / "compile.log"
    repeated = "------\n > [a 1/2] RUN true:\n0.1 x\n------\n"
    repeated += f"Dockerfile:195\n{'-' * 20}\n 195 | >>> RUN true\n{'-' * 20}\nERROR: failed to solve: true\n"
    log.write_text(f"x.h: error: no\n{repeated}")
    assert read_tail(log).lines == ("x.h: error: no",)
    log.write_text(repeated)
    assert read_tail(log).lines[-1] == "ERROR: failed to solve: true"


def test_read_tail(tmp_path: Path) -> None:
    log = tmp_path / "compile.log"
    log.write_bytes(b"one\ntwo\xff\r\n\x1b[1mthree\n\n")
    tail = read_tail(log, 2)
    assert tail.lines == ("two\ufffd", "three")
    assert not tail.complete
    assert read_tail(log).complete


def test_a_log_that_cannot_be_read_is_an_empty_one(tmp_path: Path) -> None:
    assert read_tail(tmp_path / "none.log").lines == ()
    assert read_tail(tmp_path).lines == ()
    assert read_tail(None).lines == ()
