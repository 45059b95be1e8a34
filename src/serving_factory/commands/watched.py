"""Shows where a measurement stands."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from serving_factory.commands.shared import progress
from serving_factory.load.rounds import OnStep


@contextmanager
def watched() -> Iterator[OnStep]:
    """Show where the run stands: a bar on a terminal, else a line for each round."""
    if not sys.stderr.isatty():
        seen = set[str]()

        def by_line(done: int, steps: int, text: str) -> None:
            del done, steps
            if (where := text.partition(":")[0]) not in seen:
                seen.add(where)
                progress(where)

        yield by_line
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with RichProgress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, steps, text: bar.update(task, completed=done, total=steps or None, description=text)
