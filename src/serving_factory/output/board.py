"""The live board on a terminal: a line per variant, redrawn a few times a second on stderr."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from serving_factory.output.outcomes import estimate_line
from serving_factory.output.progress import Progress, Row, State
from serving_factory.output.reporters import Reporter, RunView
from serving_factory.output.text import Stream, clean, clean_lines, duration, words
from serving_factory.pipeline.events import Event, EventKind, VariantResult

_AGAIN = {EventKind.STARTED: "started", EventKind.RETRIED: "tried"}
# In the order in which they are counted, and in which they stay where the terminal is too low for all. Only running
# variants go before: a night of failures must not hide them.
_LOOKS: Mapping[State, tuple[str, str, str]] = {  # sign, the same in ASCII, style
    State.FAILED: ("✗", "x", "red"),
    State.RUNNING: ("▸", ">", "cyan"),
    State.DONE: ("✓", "+", "green"),
    State.CANCELLED: ("-", "-", "yellow"),
    State.SKIPPED: ("-", "-", "yellow"),
    State.UP_TO_DATE: ("✓", "=", "dim"),
    State.WAITING: ("·", ".", "dim"),
}


def draw(
    rows: Sequence[Row],
    *,
    now: float,
    since: float,
    width: int,
    height: int,
    encoding: str = "utf-8",
    expected: Mapping[str, float] | None = None,
) -> list[Text]:
    """Draw the board: at most `height` lines of at most `width` cells, the last one the overall count.

    Rows keep their order; when there are too many, the running ones stay, then the failed, then the others;
    of those alike, the ones that changed last. `expected`, variant's id → seconds, adds how much of each is left.
    """
    rich_signs = encoding.lower().startswith("utf")
    fit = max(0, height - 1)
    shown = _choose(rows, fit if len(rows) <= fit else fit - 1)
    names = max((cell_len(clean(row.variant)) for row in shown), default=0)
    seconds = [row.left((expected or {}).get(row.variant), now) for row in shown]
    left = [f"  {duration(one)} left" if one else "" for one in seconds]
    wide = max(map(len, left), default=0)
    lines = [
        _row_line(row, now=now, names=names, rich_signs=rich_signs, left=text.ljust(wide))
        for row, text in zip(shown, left, strict=True)
    ]
    if len(shown) < len(rows) and fit:
        lines.append((f"  and {len(rows) - len(shown)} more", "dim"))
    lines.append((_overall(rows, now - since), "bold"))
    cut = "…" if rich_signs else "~"
    return [_fit(text, style, width, cut, encoding) for text, style in lines]


def _choose(rows: Sequence[Row], fit: int) -> list[Row]:
    if len(rows) <= fit:
        return list(rows)
    urgency = [State.RUNNING, *_LOOKS]
    first = sorted(rows, key=lambda row: (urgency.index(row.state), -row.changed))[: max(0, fit)]
    kept = {row.variant for row in first}
    return [row for row in rows if row.variant in kept]


def _row_line(row: Row, *, now: float, names: int, rich_signs: bool, left: str) -> tuple[str, str]:
    name = clean(row.variant)
    stage = row.stage if row.stage and row.state in {State.RUNNING, State.FAILED} else ""
    time_text = duration(row.elapsed(now)) if row.started is not None or row.spent else ""
    action = row.text.partition("\n")[0]
    if row.state is not State.RUNNING:
        action = f"{row.state.value}: {action}" if action else row.state.value
    name += " " * (names - cell_len(name))
    sign, in_ascii, style = _LOOKS[row.state]
    text = f"{sign if rich_signs else in_ascii} {name}  {stage:<7}  {time_text:>11}{left}  {clean(action)}"
    return text.rstrip(), style


def _overall(rows: Sequence[Row], seconds: float) -> str:
    ended = [row for row in rows if row.state not in {State.WAITING, State.RUNNING}]
    states = words({state.value: sum(row.state is state for row in rows) for state in _LOOKS})
    return f"{len(ended)} of {len(rows)} finished after {duration(seconds)}" + (f": {states}" if states else "")


def _fit(text: str, style: str, width: int, cut: str, encoding: str) -> Text:
    if cell_len(text) > width:
        text = set_cell_size(text, max(0, width - 1)) + cut if width > 0 else ""
    text = text.encode(encoding, "replace").decode(encoding)
    return Text(text, style=style, no_wrap=True, overflow="crop", end="")


class BoardReporter(Reporter):
    """Draws the board on the terminal `err` while the pipeline works; then errors there, and the summary on `out`."""

    def __init__(self, out: Stream, view: RunView, *, err: TextIO, colour: bool = True) -> None:
        super().__init__(out, view)
        self._err = Stream(err)
        self._encoding = err.encoding or "utf-8"
        self._progress = Progress(view.variants, view.last_stage)
        self._lock = threading.RLock()
        self._stopped = False
        self._console = Console(
            file=err, force_terminal=True, no_color=not colour, highlight=False, markup=False, emoji=False
        )
        self._live = Live(
            self,
            console=self._console,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=err is sys.stderr,
            vertical_overflow="crop",
        )

    def _start(self) -> None:
        self._began = self._view.clock()
        self._err.write(estimate_line(self._estimate))
        self._live.start(refresh=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = draw(
            self._progress.rows(),
            now=self._view.clock(),
            since=self._began,
            width=options.max_width,
            height=console.size.height - 1,  # the cursor's own line
            encoding=self._encoding,
            expected=self._estimate.by_variant,
        )
        yield Text("\n", end="").join(lines)

    def handle(self, event: Event) -> None:
        """Take in an event; the board's own thread draws it. Why something is done again stays above the board."""
        self._progress.apply(event, self._view.clock())
        if event.text and (again := _AGAIN.get(event.kind)):
            text = " ".join(clean_lines(f"{event.variant} {event.stage} {again} again: {event.text}"))
            with contextlib.suppress(OSError):  # the terminal is gone
                self._console.print(Text(text.encode(self._encoding, "replace").decode(self._encoding)))

    def summary(self, results: Sequence[VariantResult]) -> None:
        """Take the board away; print the errors on stderr and the table on stdout."""
        self._stop()
        self._print(results, self._err)

    def _stop(self) -> None:
        # A second Ctrl-C may land inside: the cursor is given back all the same. OSError: the terminal is gone.
        with self._lock, contextlib.suppress(OSError):
            if self._stopped:
                return
            try:
                self._live.stop()
            finally:
                self._console.show_cursor(show=True)
                self._stopped = True
