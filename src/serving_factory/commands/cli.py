"""The command line: tasks whose options are typed parameters, their help, and errors in what was typed."""

from __future__ import annotations

import inspect
import re
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from invoke.collection import Collection
from invoke.config import Config
from invoke.exceptions import Exit, ParseError
from invoke.parser.argument import Argument
from invoke.parser.context import ParserContext
from invoke.program import Program
from invoke.tasks import Task

import serving_factory
from serving_factory.commands.boundary import errors, exit_with, lost_output
from serving_factory.commands.shared import Checkout, Option
from serving_factory.errors import UsageError

_MAX_WIDTH = 120


@dataclass(frozen=True, slots=True)
class _Parameter:
    """A parameter of a task, or a field of a group of options that a parameter is."""

    name: str
    kind: type
    option: Option

    @property
    def words(self) -> str:
        return self.option.name or self.name.replace("_", "-")

    @property
    def flag(self) -> str:
        return f"--{self.words}" if len(self.words) > 1 else f"-{self.words}"

    @property
    def help(self) -> str:
        """What it does, and whether it may be repeated."""
        repeatable = self.kind is list and not self.option.positional
        return f"{self.option.help}; may be repeated" if repeatable else self.option.help

    @property
    def usage(self) -> str:
        """The option with what stands for its value."""
        if self.kind is bool:
            return self.flag
        return f"{self.flag}[={self.option.value}]" if self.option.optional else f"{self.flag} {self.option.value}"


def _hints(taker: Callable[..., object], names: Sequence[str]) -> Iterator[tuple[str, Any, Any]]:
    """The parameters of a function, or the named fields of a group (a dataclass): name, type, and its annotation."""
    for name, hint in get_type_hints(taker, include_extras=True).items():
        if not names or name in names:
            yield (name, *get_args(hint)) if get_origin(hint) is Annotated else (name, hint, ())


def _is_group(type_: object) -> bool:
    return is_dataclass(type_)


@cache
def parameters_of(taker: Callable[..., object], names: Sequence[str] = ()) -> tuple[_Parameter, ...]:
    """The options that a function or a group takes: what is annotated with an Option."""
    found: list[_Parameter] = []
    for name, type_, note in _hints(taker, names):
        if _is_group(type_):
            found += parameters_of(type_, note)
        elif isinstance(note, Option):
            kind = bool if type_ is bool else list if get_origin(type_) is tuple else str
            found.append(_Parameter(name, kind, note))
    return tuple(found)


def _filled(taker: Callable[..., object], given: Mapping[str, object], names: Sequence[str] = ()) -> dict[str, Any]:
    """The arguments of a function, or of a group, made of what was typed; the rest has its defaults."""
    made: dict[str, Any] = {}
    for name, type_, note in _hints(taker, names):
        if _is_group(type_) and parameters_of(type_, note):
            made[name] = type_(**_filled(type_, given, note))
        elif isinstance(note, Option):
            parameter = _Parameter(name, str, note)
            value, text = given.get(parameter.words), parameter.flag
            if value is None or value is False:
                continue
            if value == "" or (isinstance(value, list) and "" in value):
                raise UsageError(f"{text} must have a value, got ''", remedy=f"give {note.value}, or leave {text} out")
            made[name] = note.parse(text, value) if isinstance(value, str) else value
            made[name] = tuple(value) if isinstance(value, list) else made[name]
    return made


class Command(Task[Any]):
    """A task whose function says by the types of its parameters what options there are."""

    def __init__(self, body: Callable[..., None], *, default: bool = False) -> None:
        super().__init__(body, name=body.__name__.strip("_").replace("_", "-"), positional=(), default=default)

    @property
    def parameters(self) -> tuple[_Parameter, ...]:
        """The options, in the order of the help."""
        return parameters_of(self.body)

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:  # noqa: ARG002, FBT001
        """Give the arguments to Invoke's parser. What is positional is so only where there are words for it."""
        arguments = [_Argument(parameter, self.name) for parameter in self.parameters]
        words = words_for(self.name, arguments, sys.argv[1:])
        taking = (argument for argument in arguments if argument.takes_words)
        for argument, _ in zip(taking, words, strict=False):
            argument.expect(len(words) if argument.kind is list else 1)
        return list(arguments)

    def __call__(self, *_context: object, **given: object) -> None:
        """Run the command with what was typed."""
        with errors():
            self.body(**_filled(self.body, given))


class _Argument(Argument):
    """An option of a task, for Invoke's parser."""

    def __init__(self, parameter: _Parameter, task: str) -> None:
        super().__init__(
            names=(parameter.words,),
            kind=parameter.kind,
            default=False if parameter.kind is bool else None,
            help=parameter.help,
            optional=parameter.option.optional,
        )
        self.takes_words = parameter.option.positional
        self._task, self._flag, self._words = task, parameter.flag, 0

    def __repr__(self) -> str:
        return self._flag

    def expect(self, words: int) -> None:
        """Take so many words without an option before them."""
        self.positional, self._words = True, words

    @property
    def value(self) -> Any:  # noqa: ANN401 - Invoke's
        """The value; None while the parser shall give more words."""
        found = super().value
        return None if self.kind is list and len(found) < self._words else found

    @value.setter
    def value(self, word: object) -> None:
        if self.positional and isinstance(word, str) and word.startswith("-"):
            raise ParseError(f"No idea what {word!r} is!", ParserContext(self._task))
        self.raw_value = word
        self._value = [*(self._value or ()), word] if self.kind is list else word


def words_for(task: str, arguments: Sequence[Argument], words: Sequence[str]) -> list[str]:
    """Find the words after a task's name that are neither options of it nor values of options."""
    names = {name: argument for argument in arguments for name in argument.names}
    rest = iter(words[words.index(task) + 1 :] if task in words else ())
    found = []
    for word in rest:
        argument = names.get(word.lstrip("-"))
        if word in {"--", "--help", "-h"}:
            break
        if not word.startswith("-"):
            found.append(word)
        elif argument and argument.takes_value and not argument.optional and next(rest, None) is None:
            # Invoke itself forgives it where the option had a value before.
            raise ParseError(f"Flag {argument!r} needed value and was not given one!", ParserContext(task))
    return found


class FactoryProgram(Program):
    """Invoke with this project's tasks: its own help, and errors that name the nearest word."""

    def __init__(self, namespace: Collection) -> None:
        super().__init__(namespace=namespace, binary="./factory", binary_names=["factory"])

    def create_config(self) -> None:
        """Start from Invoke's defaults: a user's own file for Invoke says nothing about these tasks."""
        self.config = Config(lazy=True)

    def core_args(self) -> list[Argument]:
        """What stands before or behind every task: help, the list, the version, and what completion in shells asks."""
        hidden = {"complete", "debug", "list-depth", "list-format", "print-completion-script", "write-pyc"}
        arguments = [
            Argument(names=one.names[:1], kind=one.kind, default=one.default)
            for one in super().core_args()
            if one.name in hidden
        ]
        arguments += [Argument(names=names, kind=bool, default=False) for names in (("list", "l"), ("version", "V"))]
        return [*arguments, Argument(names=("help", "h"), optional=True)]

    def run(self, argv: list[str] | None = None, exit: bool = True) -> None:  # noqa: A002, ARG002, FBT001, FBT002
        """Parse the command line and run its tasks; an Exit has the message and the exit code."""
        bytecode = sys.dont_write_bytecode
        self.create_config()
        try:
            self.parse_core(argv)
            sys.dont_write_bytecode = bytecode
            if self.core.remainder:
                error = UsageError("no words may follow `--`", remedy="leave `--` out; `./factory` lists tasks")
                raise exit_with(error)
            self.parse_collection()
            self.parse_tasks()
            self.parse_cleanup()
        except ParseError as problem:
            raise exit_with(self._explained(problem)) from None
        self.execute()

    def print_version(self) -> None:
        """Print the version."""
        sys.stdout.write(f"serving-factory {serving_factory.__version__}\n")

    def print_help(self) -> None:
        """Print the tasks."""
        self.list_tasks()

    def list_tasks(self) -> None:
        """Print the tasks, as the default task does."""
        self.collection[self.collection.default].body()

    def print_task_help(self, name: str) -> None:
        """Print a task's usage, what it does, examples and options."""
        parameters = self.collection[name].parameters
        words = [one for one in parameters if one.option.positional]
        usage = [f"[{one.option.value}{'...' if one.kind is list else ''}]" for one in words]
        lines = [" ".join(["Usage: ./factory", name, *usage, *(["[OPTION...]"] if parameters else [])]), ""]
        lines += [*inspect.cleandoc(self.collection[name].__doc__ or "").splitlines(), ""]
        margin = max((len(one.usage) for one in parameters), default=0) + 4
        lines += ["Options:"] if parameters else []
        for one in (*words, *(one for one in parameters if one not in words)):
            lines += textwrap.wrap(
                f"  {one.usage:<{margin - 2}}{one.help}",
                min(shutil.get_terminal_size().columns, _MAX_WIDTH),
                subsequent_indent=" " * margin,
                break_on_hyphens=False,
            )
        sys.stdout.write("\n".join(lines) + "\n")

    def _explained(self, error: ParseError) -> UsageError:
        """Say what was wrong with what was typed, and what is near it."""
        task = error.context.name if error.context else None
        parameters = self.collection[task].parameters if task else ()
        see = f"`./factory {task} --help` shows its options" if task else "`./factory` lists the tasks"
        if match := re.fullmatch(r"Flag (\S+) needed value and was not given one!", str(error)):
            return UsageError(f"`{match[1]}` needs a value", remedy=see)
        if match := re.fullmatch(r"'(.*)' is ambiguous when given after an optional-value flag", str(error)):
            flag = self.argv[self.argv.index(match[1]) - 1]
            remedy = f"write {flag}={match[1]}, or the task first"
            return UsageError(f"{match[1]!r} may be the value of `{flag}` or a task", remedy=remedy)
        if not (match := re.fullmatch(r"""No idea what (['"])(.*)\1 is!""", str(error), re.DOTALL)):
            return UsageError(str(error), remedy=see)
        word = match[2]
        typed = Counter(one.partition("=")[0] for one in self.argv)
        for one in parameters:  # Invoke takes the second value for the next task
            if one.kind is str and typed[one.flag] > 1:
                return UsageError(f"`{one.flag}` may be given once only", remedy=see)
            if one.kind is bool and f"{one.flag}={word}" in self.argv:
                return UsageError(f"`{one.flag}` takes no value, got {word!r}", remedy=f"write {one.flag} alone")
        words = [one for one in parameters if one.option.positional and one.kind is str]
        if word.startswith("-"):
            word = next((one for one in self.argv if one.startswith(word)), word).partition("=")[0]
            what = f"{task or 'factory'} has no option {word!r}"
            valid = [*(one.flag for one in parameters), "--help", *([] if task else ["--list", "--version"])]
        else:
            what = f"{task} takes no word {word!r}, and no task has that name" if task else f"there is no task {word!r}"
            if words:
                what = f"{task} takes {' and '.join(f'one {one.option.value}' for one in words)}, got {word!r} as well"
                flags = " and ".join(f"`{one.flag}`" for one in words)
                see = f"give {'each' if words[1:] else 'it'} once: as a word, or with {flags}"
            if word == "help":
                see = f"`./factory {task or 'TASK'} --help` shows a task's options, `./factory --list` lists the tasks"
            valid = [*self.collection.task_names, "setup"]
        from serving_factory.matrix.problems import nearest

        near = nearest(word, valid)
        return UsageError(what + (f"; did you mean {near!r}?" if near else ""), remedy=see)


def run(namespace: Collection, arguments: Sequence[str]) -> int:
    """Run the tasks that the arguments name, report what goes wrong, and give the exit code."""
    ended = Exit()
    try:
        FactoryProgram(namespace).run(["./factory", *arguments])
    except Exit as exit_:
        ended = exit_
    messages, code = [ended.message] if ended.message else [], ended.code
    if (lost := lost_output()) and not any(lost.what in message for message in messages):
        messages.append(str(exit_with(lost).message))
        code = code or lost.exit_code
    for message in messages:
        sys.stderr.write(f"{message}\n")
    return code


def main(arguments: Sequence[str]) -> int:
    """Run the tasks of this checkout."""
    spec = spec_from_file_location("tasks", Checkout.here().root / "tasks.py")
    if spec is None or spec.loader is None:
        raise ImportError("tasks.py")
    module = module_from_spec(spec)
    sys.modules["tasks"] = module
    spec.loader.exec_module(module)
    return run(module.ns, arguments)
