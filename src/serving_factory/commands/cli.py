"""Tasks whose positional arguments may be left out, or are many words: Invoke knows only single, required ones."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from invoke.parser.argument import Argument
from invoke.tasks import Task


class OptionalPositional(Task[Any]):
    """Its positional arguments, None by default, are positional only where the command line has words for them."""

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:  # noqa: FBT001 - Invoke's
        """Give the arguments to Invoke's parser."""
        arguments: list[Argument] = super().get_arguments(ignore_unknown_help)
        words = len(words_for(self.name, arguments, sys.argv[1:]))
        for argument in [argument for argument in arguments if argument.positional][words:]:
            argument.positional = False
        return arguments


class ManyPositional(Task[Any]):
    """Its one positional argument takes every word to the end of the command line; no task can follow it there."""

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:  # noqa: FBT001 - Invoke's
        """Give the arguments to Invoke's parser."""
        arguments: list[Argument] = super().get_arguments(ignore_unknown_help)
        words = len(words_for(self.name, arguments, sys.argv[1:]))
        return [_Words(argument, words) if argument.positional else argument for argument in arguments]


class _Words(Argument):
    """A positional argument that Invoke's parser feeds until it has all of its words."""

    def __init__(self, argument: Argument, words: int) -> None:
        super().__init__(names=argument.names, kind=list, help=argument.help, positional=words > 0)
        self._words = words
        self._found: list[str] = []

    @property
    def value(self) -> Sequence[str] | None:
        """The words; None while the parser shall give more."""
        return self._found if len(self._found) >= self._words else None

    @value.setter
    def value(self, word: str) -> None:
        self.raw_value = word
        self._found.append(word)


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
