"""Which programs of the host a source tree's build rules call, read from its BUILD and .bzl files. Nothing is run.

A rule's command is a shell text (`cmd` of a genrule, `command` of an action, `patch_cmds`); a repository rule's is a
list of words (`repository_ctx.execute`) or a name that it looks for (`repository_ctx.which`). A value that only Bazel
knows is UNKNOWN.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice, product
from pathlib import Path

from serving_factory.catalogue.data import read_yaml
from serving_factory.catalogue.shell_programs import UNKNOWN, shell_programs
from serving_factory.catalogue.starlark import build_files, parse_starlark

__all__ = ["HostCall", "Uncovered", "genrule_programs", "host_calls", "package_of", "uncovered"]

_SHELL_KEYS = frozenset({"cmd", "cmd_bash"})
_SHELL_ACTIONS = frozenset({"run_shell", "action"})
_SHELLS = frozenset({"bash", "sh"})
# What Bazel puts in before the shell sees it: labels of what it has built, paths, make variables.
_BAZEL_VARIABLE = re.compile(r"(?<!\$)\$(?:\((?!\()[^()]*\)|[@<^])")
_BUILT = "//built"
_MANY = 32  # values of one expression, as of a select(); more are not looked at
_NAMES = 4  # names behind names: one may lead to itself


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCall:
    """One place where a program of the host is called.

    Args:
        program: its name; of what only Bazel knows, the expression between `<` and `>`; of a script among the sources,
            its path, which has a `/` in it.
        file: path within the tree.
        line: counted from 1.
    """

    program: str
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Uncovered:
    """A call that a toolchain is not known to serve, and why."""

    call: HostCall
    why: str


def uncovered(calls: Iterable[HostCall], packages: Container[str]) -> tuple[Uncovered, ...]:
    """Tell which calls a toolchain does not serve.

    Args:
        calls: of a source tree.
        packages: of the toolchain.
    """
    return tuple(Uncovered(call, why) for call in calls if (why := _lack(call.program, packages)))


def package_of(program: str) -> str | None:
    """Give the package of toolchains that brings a program: empty where every base has it, None where none is known."""
    return _known().packages.get(program)


def _lack(program: str, packages: Container[str]) -> str:
    """Why a program cannot be called; empty where it can."""
    known = _known()
    if program in known.excused:
        return ""
    if program in known.scripts:
        return "; ".join(filter(None, (_lack(called, packages) for called in known.scripts[program])))
    package = known.packages.get(program.removeprefix("/usr/bin/").removeprefix("/bin/"))
    if package is None:
        return f"nothing is known of {program} (host_programs.yaml)"
    return "" if not package or package in packages else f"{program} is in {package}, which the toolchain lacks"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """host_programs.yaml: program -> package of the toolchain, empty where every base has it; the rest as it stands."""

    packages: Mapping[str, str]
    scripts: Mapping[str, Sequence[str]]
    excused: frozenset[str]


@cache
def _known() -> _Known:
    data = read_yaml("host_programs.yaml")
    packages = {program: package for package, programs in data["packages"].items() for program in programs}
    return _Known(
        packages={**packages, **{program: "" for programs in data["base"].values() for program in programs}},
        scripts=data["scripts"],
        excused=frozenset((*data["expressions"], *data["not_called"])),
    )


def host_calls(folder: Path) -> tuple[HostCall, ...]:
    """Find the calls in a source tree, by file and line.

    Args:
        folder: the tree, of any repository that Bazel builds.
    """
    trees = [(path.relative_to(folder).as_posix(), list(_parsed(path))) for path in build_files(folder)]
    helpers = _helpers(block for _, blocks in trees for block in blocks)
    return tuple(
        HostCall(program=program, file=name, line=line)
        for name, blocks in trees
        for line, program in sorted({call for block in blocks for call in _calls_in(block, helpers)})
    )


def genrule_programs(text: str) -> Mapping[str, tuple[str, ...]]:
    """Find what genrules call.

    Args:
        text: genrules, as `bazel query --output=build` prints them.

    Returns:
        Program -> names of the rules that call it. What the sources bring or Bazel builds is left out.
    """
    found: dict[str, dict[str, None]] = {}
    for block in parse_starlark(text):
        for node in ast.walk(block):
            if isinstance(node, ast.Call):
                name = next((one.value for one in node.keywords if one.arg == "name"), None)
                rule = name.value if isinstance(name, ast.Constant) else ast.unparse(node.func)
                for _, called in _Calls(node, {}, {}).found():
                    for program in _known().scripts.get(called, (called,)):
                        if "/" not in program and not program.startswith("<"):
                            found.setdefault(program, {})[str(rule)] = None
    return {program: tuple(rules) for program, rules in sorted(found.items())}


def _parsed(path: Path) -> Iterator[ast.Module]:
    return parse_starlark(path.read_text(encoding="utf-8", errors="replace"))


def _helpers(blocks: Iterable[ast.Module]) -> Mapping[str, int]:
    """Functions that hand one of their parameters on to `execute` or `which`: name -> the parameter's place."""
    functions = [node for block in blocks for node in ast.walk(block) if isinstance(node, ast.FunctionDef)]
    found: dict[str, int] = {}
    for _ in range(3):  # a helper may call a helper
        for function in functions:
            names = [argument.arg for argument in function.args.args]
            for node in ast.walk(function):
                if not isinstance(node, ast.Call):
                    continue
                given = _executed(node, found)
                if isinstance(given, ast.Name) and given.id in names:
                    found.setdefault(function.name, names.index(given.id))
    return found


def _executed(call: ast.Call, helpers: Mapping[str, int]) -> ast.expr | None:
    """The list of words, or the name, that a call runs or looks for; None where it does neither."""
    function = call.func
    if isinstance(function, ast.Attribute) and function.attr in {"execute", "which"}:
        named = next((one.value for one in call.keywords if one.arg in {"arguments", "program"}), None)
        return call.args[0] if call.args else named
    if isinstance(function, ast.Name) and function.id in helpers:
        place = helpers[function.id]
        return call.args[place] if place < len(call.args) else None
    return None


def _calls_in(block: ast.Module, helpers: Mapping[str, int]) -> Iterator[tuple[int, str]]:
    """Give line and program of each call of a file's block; names are looked up in their function, then in the file."""
    functions = [node for node in ast.walk(block) if isinstance(node, ast.FunctionDef)]
    outside = ast.Module([node for node in block.body if not isinstance(node, ast.FunctionDef)], [])
    known = _assigned(outside)
    for scope in (outside, *functions):
        yield from _Calls(scope, helpers, {**known, **_assigned(scope)}).found()


def _assigned(scope: ast.AST) -> dict[str, list[ast.expr]]:
    """What names stand for: each name -> every value that it is given."""
    values: dict[str, list[ast.expr]] = {}
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    values.setdefault(target.id, []).append(node.value)
    return values


class _Calls:
    """The calls of one function, or of what stands outside functions.

    Args:
        scope: its code.
        helpers: functions that run what they are given.
        values: what names stand for in it.
    """

    def __init__(self, scope: ast.AST, helpers: Mapping[str, int], values: Mapping[str, Sequence[ast.expr]]) -> None:
        self._scope = scope
        self._helpers = helpers
        self._values = values

    def found(self) -> Iterator[tuple[int, str]]:
        """Give line and program of each call."""
        for node in ast.walk(self._scope):
            if isinstance(node, ast.Call):
                for program in self._of_call(node):
                    yield node.lineno, program

    def _of_call(self, call: ast.Call) -> Iterator[str]:
        function = call.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        for given in call.keywords:
            if given.arg in _SHELL_KEYS or (given.arg == "command" and name in _SHELL_ACTIONS):
                for text in self._texts(given.value):
                    yield from self._of_shell(text)
            elif given.arg == "patch_cmds" and isinstance(given.value, ast.List):
                for text in (text for command in given.value.elts for text in self._texts(command)):
                    yield from self._of_shell(text)
            elif given.arg == "executable" and name in {"run", "action"} and isinstance(given.value, ast.Constant):
                yield str(given.value.value)
        executed = _executed(call, self._helpers)
        if executed is not None:
            yield from self._of_words(executed)

    def _of_words(self, node: ast.expr) -> Iterator[str]:
        """What `execute` or `which` is given; a parameter that is only handed on is told where it is given."""
        for value in self._resolved(node):
            if not isinstance(value, ast.List | ast.Tuple):
                if not isinstance(value, ast.Name | ast.Attribute):
                    yield from (self._named(value, text) for text in self._texts(value))
                continue
            if not value.elts:
                continue
            programs = [self._named(value.elts[0], text) for text in self._texts(value.elts[0])]
            yield from programs
            if len(value.elts) > 2 and "-c" in self._texts(value.elts[1]) and _runs_shell(programs):  # noqa: PLR2004
                for text in self._texts(value.elts[2]):
                    yield from self._of_shell(text)

    @staticmethod
    def _named(node: ast.expr, text: str) -> str:
        return f"<{ast.unparse(node)}>" if UNKNOWN in text else text

    @staticmethod
    def _of_shell(text: str) -> Iterator[str]:
        plain = _BAZEL_VARIABLE.sub(_BUILT, text).replace("$$", "$")
        for program in shell_programs(plain):
            if _BUILT in program:
                continue
            yield f"<{program.replace(UNKNOWN, '…')}>" if UNKNOWN in program or "$" in program else program

    def _resolved(self, node: ast.expr) -> Sequence[ast.expr]:
        """A name's values in this block; of `a + b` and of `wrap(ctx, a)` the list that holds the program."""
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return self._resolved(node.left)
        if isinstance(node, ast.Call):
            for given in node.args:
                inner = given.left if isinstance(given, ast.BinOp) else given
                if isinstance(inner, ast.List):
                    return [inner]
        if isinstance(node, ast.Name) and node.id in self._values:
            values = [value for value in self._values[node.id] if not isinstance(value, ast.Name)]
            return [inner for value in values for inner in self._resolved(value)]
        return [node]

    def _texts(self, node: ast.expr, depth: int = 0) -> tuple[str, ...]:
        """Every text that an expression may be, UNKNOWN for what cannot be told; `depth` is of names behind names."""
        match node:
            case ast.Constant(value=str() as text):
                found: Iterable[str] = (text,)
            case ast.Name(id=name) if name in self._values and depth < _NAMES:
                found = (text for value in self._values[name] for text in self._texts(value, depth + 1))
            case ast.IfExp(body=body, orelse=other):
                found = (*self._texts(body, depth), *self._texts(other, depth))
            case ast.Call(func=ast.Name(id="select"), args=[ast.Dict(values=values), *_]):
                found = (text for value in values for text in self._texts(value, depth))
            case ast.Call(func=ast.Attribute(attr="which"), args=[name, *_]):
                found = self._texts(name, depth)
            case _:
                found = self._composed(node, depth)
        return tuple(islice(found, _MANY))

    def _composed(self, node: ast.expr, depth: int) -> Iterable[str]:
        """The same, of an expression that makes one text of several."""
        match node:
            case ast.BinOp(op=ast.Add(), left=left, right=right):
                return (a + b for a, b in product(self._texts(left, depth), self._texts(right, depth)))
            case ast.BinOp(op=ast.Mod(), left=left):
                return (re.sub(r"%[sdr]", UNKNOWN, text) for text in self._texts(left, depth))
            case ast.Call(func=ast.Attribute(attr="format", value=template)):
                return (re.sub(r"\{\w*\}", UNKNOWN, text) for text in self._texts(template, depth))
            case ast.Call(func=ast.Attribute(attr="join", value=glue), args=[ast.List(elts=parts)]):
                pieces = [self._texts(part, depth)[0] for part in parts]
                return (text.join(pieces) for text in self._texts(glue, depth))
            case _:
                return (UNKNOWN,)


def _runs_shell(programs: Iterable[str]) -> bool:
    """Whether the program is a shell, by its name or by that of the function that finds it."""
    return any(program.rpartition("/")[2] in _SHELLS or "bash" in program for program in programs)
