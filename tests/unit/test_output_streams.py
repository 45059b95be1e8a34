from __future__ import annotations

import io
import subprocess
import sys

from serving_factory.output.text import Stream


class _Broken(io.StringIO):
    writes = 0

    def write(self, _text: str) -> int:
        self.writes += 1
        raise BrokenPipeError


def test_what_the_encoding_lacks_becomes_a_question_mark() -> None:
    written = io.BytesIO()
    raw = io.TextIOWrapper(written, encoding="ascii")
    Stream(raw).write("caf\u00e9 \u2713\n")
    assert written.getvalue() == b"caf? ?\n"


def test_a_gone_reader_stops_the_writing_not_the_work() -> None:
    raw = _Broken()
    stream = Stream(raw)
    stream.write("one")
    stream.write("two")
    assert raw.writes == 1


def test_a_closed_stream_is_no_terminal_and_takes_nothing() -> None:
    raw = io.StringIO()
    raw.close()
    stream = Stream(raw)
    assert stream.width is None
    stream.write("text")


def test_a_closed_pipe_leaves_the_exit_code_alone() -> None:
    code = (
        "import sys; from serving_factory.output.text import Stream\n"
        "sys.stdin.readline()\nStream(sys.stdout).write('x' * 100_000)\nsys.exit(7)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        child.stdin.write(b"go\n")
        child.stdin.close()
        assert child.stderr.read() == b""
        assert child.wait() == 7
