"""A task whose positional arguments may be left out, which Invoke has not: there positional arguments are required."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from invoke.parser.argument import Argument
from invoke.tasks import Task

__all__ = ["OptionalPositional", "words_for"]


class OptionalPositional(Task[Any]):
    """Its positional arguments, None by default, are positional only where the command line has words for them."""

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:  # noqa: FBT001 - Invoke's
        """Give the arguments to Invoke's parser."""
        arguments: list[Argument] = super().get_arguments(ignore_unknown_help)
        words = len(words_for(self.name, arguments, sys.argv[1:]))
        for argument in [argument for argument in arguments if argument.positional][words:]:
            argument.positional = False
        return arguments


def words_for(task: str, arguments: Sequence[Argument], words: Sequence[str]) -> list[str]:
    """Find the words after a task's name that are neither options of it nor values of options.

    Args:
        task: the task's name.
        arguments: its arguments.
        words: the command line, without the program.
    """
    names = {name: argument for argument in arguments for name in argument.names}
    rest = iter(words[words.index(task) + 1 :] if task in words else ())
    found = []
    for word in rest:
        argument = names.get(word.lstrip("-"))
        if not word.startswith("-"):
            found.append(word)
        elif argument and argument.takes_value:
            next(rest, None)
    return found
