from __future__ import annotations

import errno
import io
import threading
from typing import TYPE_CHECKING

import pytest

from serving_factory.errors import CompileError
from serving_factory.output.board import BoardReporter, draw
from serving_factory.output.progress import Progress, Row, State
from serving_factory.output.reporters import RunView
from serving_factory.output.text import Stream
from serving_factory.pipeline.events import Event, EventKind, Status, VariantResult

if TYPE_CHECKING:
    from collections.abc import Iterator

_HIDE, _SHOW = "\x1b[?25l", "\x1b[?25h"


def _event(kind: EventKind, text: str = "", *, variant: str = "2.19.1-cpu-v3", seconds: float | None = None) -> Event:
    return Event(variant=variant, stage="compile", kind=kind, text=text, seconds=seconds)


def _progress() -> Progress:
    progress = Progress(["2.19.1-cpu", "2.19.1-cpu-v3", "2.19.1-mkl-v3", "2.19.1-gpu", "2.19.1-cpu-v4"])
    progress.apply(_event(EventKind.UP_TO_DATE, variant="2.19.1-cpu"), 0.0)
    progress.apply(_event(EventKind.STARTED), 10.0)
    progress.apply(_event(EventKind.PROGRESS, "Compiling mat_mul.cc"), 20.0)
    progress.apply(_event(EventKind.STARTED, variant="2.19.1-mkl-v3"), 10.0)
    progress.apply(_event(EventKind.FAILED, "the build failed\nmore", variant="2.19.1-mkl-v3", seconds=12.0), 22.0)
    progress.apply(_event(EventKind.SKIPPED, "because of 2.19.1-mkl-v3", variant="2.19.1-gpu"), 22.0)
    return progress


def _plain(rows: tuple[Row, ...], **how: object) -> list[str]:
    settings = {"now": 81.4, "since": 0.0, "width": 100, "height": 20, **how}
    return [line.plain for line in draw(rows, **settings)]  # type: ignore[arg-type]


def test_the_board() -> None:
    assert _plain(_progress().rows()) == [
        "✓ 2.19.1-cpu                           up to date",
        "▸ 2.19.1-cpu-v3  compile   1 min 11 s  Compiling mat_mul.cc",
        "✗ 2.19.1-mkl-v3  compile         12 s  failed: the build failed",
        "- 2.19.1-gpu                           skipped: because of 2.19.1-mkl-v3",
        "· 2.19.1-cpu-v4                        waiting",
        "3 of 5 finished after 1 min 21 s: 1 failed, 1 running, 1 skipped, 1 up to date, 1 waiting",
    ]


def test_styles() -> None:
    styles = [line.style for line in draw(_progress().rows(), now=1.0, since=0.0, width=80, height=20)]
    assert styles == ["dim", "cyan", "red", "yellow", "dim", "bold"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_poor_encodings_get_ascii_signs(encoding: str) -> None:
    lines = _plain(_progress().rows(), encoding=encoding, width=40)
    assert [line[0] for line in lines] == ["=", ">", "x", "-", ".", "3"]
    assert lines[2].endswith("~")
    assert "\n".join(lines).isascii()


def test_rows_that_do_not_fit_give_way_to_the_urgent_ones() -> None:
    assert _plain(_progress().rows(), height=4, width=30) == [
        "▸ 2.19.1-cpu-v3  compile   1 …",
        "✗ 2.19.1-mkl-v3  compile     …",
        "  and 3 more",
        "3 of 5 finished after 1 min 2…",
    ]


def test_many_failures_never_hide_what_runs() -> None:
    names = [f"v{number}" for number in range(60)]
    progress = Progress(names)
    for name in names[:4]:
        progress.apply(_event(EventKind.PROGRESS, f"Compiling {name}.cc", variant=name), 1.0)
    for name in names[4:40]:
        progress.apply(_event(EventKind.FAILED, "no", variant=name), 2.0)
    lines = _plain(progress.rows(), height=23)
    assert len(lines) == 23
    assert [line.split()[-1] for line in lines[:4]] == [f"{name}.cc" for name in names[:4]]
    assert "failed" in lines[4]
    assert lines[-2:] == ["  and 39 more", "36 of 60 finished after 1 min 21 s: 36 failed, 4 running, 20 waiting"]


@pytest.mark.parametrize("height", [-1, 0, 1, 2, 3, 6, 100])
def test_any_size_and_any_text_can_be_drawn(height: int) -> None:
    progress = _progress()
    progress.apply(_event(EventKind.PROGRESS, "\u6f22" * 300 + "\x1b[2J\t\ud800\U0001f469\u200d\U0001f52c"), 30.0)
    for width in range(60):
        lines = draw(progress.rows(), now=1e9, since=-1.0, width=width, height=height)
        assert all(line.cell_len <= width for line in lines)
        assert len(lines) <= max(1, height)


def test_a_variant_that_worked_is_done_not_up_to_date() -> None:
    progress = Progress(last_stage="smoke")
    progress.apply(_event(EventKind.FINISHED, seconds=2.0), 0.0)
    assert progress.rows()[0].state is State.WAITING
    progress.apply(Event(variant="2.19.1-cpu-v3", stage="smoke", kind=EventKind.UP_TO_DATE), 0.0)
    assert progress.rows()[0].state is State.DONE
    assert progress.rows()[0].elapsed(99.0) == 2.0


class _Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Terminal]:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    yield _Terminal()
    for thread in threading.enumerate():
        if "Refresh" in type(thread).__name__:
            thread.join(5.0)
            assert not thread.is_alive()


def test_the_board_is_drawn_on_stderr_and_the_summary_on_stdout(terminal: _Terminal) -> None:
    out = io.StringIO()
    with BoardReporter(Stream(out), RunView(variants=["v"]), err=terminal) as reporter:
        reporter.handle(_event(EventKind.STARTED))
        reporter.summary([VariantResult(variant="v", status=Status.FAILED, error=CompileError("no", remedy="fix"))])
    drawn = terminal.getvalue()
    assert "· v" in drawn
    assert drawn.rindex("\nError: no\n\nWhat to do: fix\n") > drawn.index(_SHOW)
    assert out.getvalue().startswith("\nresult  variant  image name, or reason\n")


def _interrupt(reporter: BoardReporter) -> None:
    reporter.handle(_event(EventKind.STARTED))
    raise KeyboardInterrupt


def test_ctrl_c_gives_the_cursor_back(terminal: _Terminal) -> None:
    with pytest.raises(KeyboardInterrupt), BoardReporter(Stream(io.StringIO()), RunView(), err=terminal) as reporter:
        _interrupt(reporter)
    drawn = terminal.getvalue()
    assert drawn.rindex(_SHOW) > drawn.rindex(_HIDE)


def test_a_second_ctrl_c_while_the_board_is_taken_away(terminal: _Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    reporter = BoardReporter(Stream(io.StringIO()), RunView(), err=terminal)
    live_stop = reporter._live.stop

    def interrupted() -> None:
        live_stop()
        terminal.write(_HIDE)
        raise KeyboardInterrupt

    monkeypatch.setattr(reporter._live, "stop", interrupted)
    with pytest.raises(KeyboardInterrupt), reporter:
        _interrupt(reporter)
    drawn = terminal.getvalue()
    assert drawn.rindex(_SHOW) > drawn.rindex(_HIDE)


def test_why_a_stage_works_again_stays_above_the_board(terminal: _Terminal) -> None:
    with BoardReporter(Stream(io.StringIO()), RunView(), err=terminal) as reporter:
        reporter.handle(_event(EventKind.STARTED))
        reporter.handle(_event(EventKind.STARTED, "its flags changed", variant="v"))
    assert "v compile started again: its flags changed" in terminal.getvalue()
    assert terminal.getvalue().count("started again") == 1


def test_what_is_tried_again_stays_above_the_board(terminal: _Terminal) -> None:
    with BoardReporter(Stream(io.StringIO()), RunView(), err=terminal) as reporter:
        reporter.handle(_event(EventKind.RETRIED, "out of memory\nonce more with [1] job\x1b[2J"))
        assert [row.state for row in reporter._progress.rows()] == [State.RUNNING]
    line = "2.19.1-cpu-v3 compile tried again: out of memory once more with [1] job"
    assert line in terminal.getvalue()
    assert "\x1b[2J" not in terminal.getvalue()


def test_a_terminal_that_is_gone_ends_no_run(terminal: _Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    with BoardReporter(Stream(io.StringIO()), RunView(), err=terminal) as reporter:

        def gone(_text: str) -> int:
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(terminal, "write", gone)
            reporter.handle(_event(EventKind.RETRIED, "once more"))


def test_no_colour(terminal: _Terminal) -> None:
    with BoardReporter(Stream(io.StringIO()), RunView(), err=terminal, colour=False) as reporter:
        reporter.handle(_event(EventKind.FAILED, "no"))
    assert "\x1b[31m" not in terminal.getvalue()
    coloured = _Terminal()
    with BoardReporter(Stream(io.StringIO()), RunView(), err=coloured) as reporter:
        reporter.handle(_event(EventKind.FAILED, "no"))
    assert "\x1b[31m" in coloured.getvalue()


def test_events_from_many_threads(terminal: _Terminal) -> None:
    with BoardReporter(Stream(io.StringIO()), RunView(), err=terminal) as reporter:

        def work(variant: str) -> None:
            for step in range(200):
                reporter.handle(_event(EventKind.PROGRESS, str(step), variant=variant))
            reporter.handle(_event(EventKind.FINISHED, variant=variant))

        threads = [threading.Thread(target=work, args=(f"v{number}",)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {row.state for row in reporter._progress.rows()} == {State.DONE}
        assert len(reporter._progress.rows()) == 8
