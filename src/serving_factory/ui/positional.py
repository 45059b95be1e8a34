"""A task whose positional argument may be left out, which Invoke has not: there a positional argument is required."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from invoke.parser.argument import Argument
from invoke.tasks import Task

__all__ = ["OptionalPositional", "word_for"]


class OptionalPositional(Task[Any]):
    """Its one positional argument, None by default, is positional only where the command line has a word for it."""

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:  # noqa: FBT001 - Invoke's
        """Give the arguments to Invoke's parser."""
        arguments: list[Argument] = super().get_arguments(ignore_unknown_help)
        if not word_for(self.name, arguments, sys.argv[1:]):
            for argument in arguments:
                argument.positional = False
        return arguments


def word_for(task: str, arguments: Sequence[Argument], words: Sequence[str]) -> str | None:
    """Find the first word after a task's name that is neither an option of it nor an option's value.

    Args:
        task: the task's name.
        arguments: its arguments.
        words: the command line, without the program.
    """
    names = {name: argument for argument in arguments for name in argument.names}
    rest = iter(words[words.index(task) + 1 :] if task in words else ())
    for word in rest:
        if not word.startswith("-"):
            return word
        argument = names.get(word.lstrip("-"))
        if argument and argument.takes_value:
            next(rest, None)
    return None
