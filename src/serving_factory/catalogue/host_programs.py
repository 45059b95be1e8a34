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
from fnmatch import fnmatch
from functools import cache
from itertools import islice, product
from pathlib import Path

from serving_factory.catalogue.data import read_yaml
from serving_factory.catalogue.shell_programs import UNKNOWN, shell_programs
from serving_factory.catalogue.starlark import build_files, parse_starlark, parsed_parts

_SHELL_KEYS = {"cmd", "cmd_bash"}
_SHELL_ACTIONS = {"run_shell", "action"}
_SHELLS = {"bash", "sh"}
# What Bazel puts in before the shell sees it: labels of what it has built, paths, make variables.
_BAZEL_VARIABLE = re.compile(r"(?<!\$)\$(?:\((?!\()[^()]*\)|[@<^])")
_BUILT = "//built"
_UNREADABLE = "<unreadable>"
_PROGRAM = re.compile(r"\[|[A-Za-z_][\w.+-]+")
_MANY = 32  # values of one expression, as of a select(); more are not looked at
_NAMES = 4  # names behind names: one may lead to itself


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCall:
    """One place where a program of the host is called."""

    # its name; of what only Bazel knows, the expression between `<` and `>`; of a script among the sources, its path,
    # which has a `/` in it
    program: str
    file: str  # path within the tree
    line: int  # counted from 1


@dataclass(frozen=True, slots=True)
class Uncovered:
    """A call that a toolchain is not known to serve, and why."""

    call: HostCall
    why: str


def uncovered(calls: Iterable[HostCall], packages: Container[str]) -> tuple[Uncovered, ...]:
    """Return which calls of a source tree a toolchain with these packages does not serve."""
    return tuple(Uncovered(call, why) for call in calls if (why := _why_not(call.program, call.file, packages)))


def package_of(program: str) -> str | None:
    """Return the toolchains' package that brings a program: empty if every base has it, None if none is known."""
    return _known().packages.get(program)


def _why_not(program: str, file: str, packages: Container[str]) -> str:
    """Why a program cannot be called; empty where it can."""
    known = _known()
    if program in known.not_called or any(fnmatch(file, pattern) for pattern in known.expressions.get(program, ())):
        return ""
    if program == _UNREADABLE:
        return "this part of the file cannot be read"
    if program in known.scripts:
        return "; ".join(filter(None, (_why_not(called, file, packages) for called in known.scripts[program])))
    package = known.packages.get(program.removeprefix("/usr/bin/").removeprefix("/bin/"))
    if package is None:
        return f"nothing is known of {program} (host_programs.yaml)"
    return "" if not package or package in packages else f"{program} is in {package}, which the toolchain lacks"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What host_programs.yaml says of programs."""

    packages: Mapping[str, str]  # program -> package of the toolchain, empty where every base has it
    scripts: Mapping[str, Sequence[str]]
    expressions: Mapping[str, tuple[str, ...]]  # expression -> the files that may have it, as patterns of paths
    not_called: frozenset[str]


@cache
def _known() -> _Known:
    data = read_yaml("host_programs.yaml")
    packages = {program: package for package, programs in data["packages"].items() for program in programs}
    return _Known(
        packages={**packages, **{program: "" for programs in data["base"].values() for program in programs}},
        scripts=data["scripts"],
        expressions={
            expression: tuple(where) if isinstance(where, Mapping) else ("*",)
            for expression, where in data["expressions"].items()
        },
        not_called=frozenset(data["not_called"]),
    )


def host_calls(folder: Path) -> tuple[HostCall, ...]:
    """Find the calls in the source tree of any repository that Bazel builds, by file and line."""
    trees: list[tuple[str, list[ast.Module]]] = []
    found: list[HostCall] = []
    for path in build_files(folder):
        name = path.relative_to(folder).as_posix()
        parts = list(parsed_parts(path.read_text(encoding="utf-8", errors="replace")))
        found += [HostCall(program=_UNREADABLE, file=name, line=line) for line, block in parts if block is None]
        trees.append((name, [block for _, block in parts if block is not None]))
    helpers = _helpers(block for _, blocks in trees for block in blocks)
    constants = _constants(block for _, blocks in trees for block in blocks)
    for name, blocks in trees:
        calls = {call for block in blocks for call in _calls_in(block, helpers, constants)}
        found += [HostCall(program=program, file=name, line=line) for line, program in calls]
    return tuple(sorted(found, key=lambda call: (call.file, call.line, call.program)))


def genrule_programs(text: str) -> Mapping[str, tuple[str, ...]]:
    """Find what the genrules call that `bazel query --output=build` printed: program -> names of the rules."""
    # What the sources bring or Bazel builds is left out.
    found: dict[str, dict[str, None]] = {}
    calls = (node for block in parse_starlark(text) for node in ast.walk(block) if isinstance(node, ast.Call))
    for call in calls:
        name = next((one.value for one in call.keywords if one.arg == "name"), None)
        rule = name.value if isinstance(name, ast.Constant) else ast.unparse(call.func)
        for program in _surely_called(call):
            found.setdefault(program, {})[str(rule)] = None
    return {program: tuple(rules) for program, rules in sorted(found.items())}


def _surely_called(rule: ast.Call) -> set[str]:
    """What a genrule calls whichever branch of a `select` counts: no query knows that."""
    known, found = _known(), set[str]()
    for given in rule.keywords:
        if given.arg in _SHELL_KEYS:
            branches = [set(_of_shell(text)) for text in _Calls(rule, {}, {}).texts(given.value)]
            found |= set.intersection(*branches) if branches else set()
    called = {program for word in found for program in known.scripts.get(word, (word,))}
    return {program for program in called if _PROGRAM.fullmatch(program) and program not in known.not_called}


def _constants(blocks: Iterable[ast.Module]) -> Mapping[str, Sequence[ast.expr]]:
    """What the names stand for that files have at their top, for those files that load them: of any file."""
    return _assigned(ast.Module([node for block in blocks for node in block.body if isinstance(node, ast.Assign)], []))


def _loaded(block: ast.Module, constants: Mapping[str, Sequence[ast.expr]]) -> dict[str, list[ast.expr]]:
    """What the names stand for that a file loads."""
    found: dict[str, list[ast.expr]] = {}
    for statement in block.body:
        match statement:
            case ast.Expr(value=ast.Call(func=ast.Name(id="load"), args=[_, *names], keywords=renamed)):
                for alias, node in [*((None, name) for name in names), *((one.arg, one.value) for one in renamed)]:
                    if isinstance(node, ast.Constant) and str(node.value) in constants:
                        found[alias or str(node.value)] = list(constants[str(node.value)])
    return found


def _helpers(blocks: Iterable[ast.Module]) -> Mapping[str, tuple[int, str]]:
    """Functions that hand a parameter on to `execute` or `which`: function -> the parameter's place and name."""
    functions = [node for block in blocks for node in ast.walk(block) if isinstance(node, ast.FunctionDef)]
    found: dict[str, tuple[int, str]] = {}
    for _ in range(3):  # a helper may call a helper
        for function in functions:
            names = [argument.arg for argument in function.args.args]
            for node in ast.walk(function):
                given = _run_argument(node, found)
                if isinstance(given, ast.Name) and given.id in names:
                    found.setdefault(function.name, (names.index(given.id), given.id))
    return found


def _run_argument(node: ast.AST, helpers: Mapping[str, tuple[int, str]]) -> ast.expr | None:
    """The list of words, or the name, that a call runs or looks for; None where it does neither."""
    match node:
        case ast.Call(func=ast.Attribute(attr="execute" | "which"), args=args, keywords=keywords):
            place, names = 0, {"arguments", "program"}
        case ast.Call(func=ast.Name(id=function), args=args, keywords=keywords) if function in helpers:
            place, name = helpers[function]
            names = {name}
        case _:
            return None
    return args[place] if place < len(args) else next((one.value for one in keywords if one.arg in names), None)


def _calls_in(
    block: ast.Module, helpers: Mapping[str, tuple[int, str]], constants: Mapping[str, Sequence[ast.expr]]
) -> Iterator[tuple[int, str]]:
    """Yield line and program of each call of a block; names are looked up in their function, then in the file."""
    functions = [node for node in ast.walk(block) if isinstance(node, ast.FunctionDef)]
    outside = ast.Module([node for node in block.body if not isinstance(node, ast.FunctionDef)], [])
    known = {**_loaded(block, constants), **_assigned(outside)}
    for scope in (outside, *functions):
        yield from _Calls(scope, helpers, {**known, **_assigned(scope)}).found()


def _assigned(scope: ast.AST) -> dict[str, list[ast.expr]]:
    """What names stand for: each name -> every value that it is given."""
    values: dict[str, list[ast.expr]] = {}
    for node in ast.walk(scope):
        match node:
            case ast.Assign(targets=targets, value=value):
                pairs = [(target, value) for target in targets]
            case ast.AugAssign(target=target, value=value):
                pairs = [(target, value)]
            case ast.For(target=target, iter=ast.List(elts=elts) | ast.Tuple(elts=elts)):
                pairs = [(target, element) for element in elts]
            case ast.FunctionDef(args=ast.arguments(args=names, defaults=defaults)):
                with_default = names[len(names) - len(defaults) :]
                pairs = [(ast.Name(name.arg), value) for name, value in zip(with_default, defaults, strict=True)]
            case _:
                pairs = []
        for target, value in pairs:
            if isinstance(target, ast.Name) and not (isinstance(value, ast.Constant) and not value.value):
                values.setdefault(target.id, []).append(value)
    return values


@dataclass(frozen=True, slots=True)
class _Calls:
    """The calls of one function, or of what stands outside functions."""

    _scope: ast.AST
    _helpers: Mapping[str, tuple[int, str]]  # functions that run what they are given
    _values: Mapping[str, Sequence[ast.expr]]  # what names stand for

    def found(self) -> Iterator[tuple[int, str]]:
        """Yield line and program of each call."""
        for node in ast.walk(self._scope):
            if isinstance(node, ast.Call):
                try:
                    called = tuple(self._of_call(node))
                except RecursionError:  # an expression of thousands of terms
                    called = (_UNREADABLE,)
                for program in called:
                    yield node.lineno, program

    def _of_call(self, call: ast.Call) -> Iterator[str]:
        function = call.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        for given in call.keywords:
            if given.arg in _SHELL_KEYS or (given.arg == "command" and name in _SHELL_ACTIONS):
                for text in self.texts(given.value):
                    yield from _of_shell(text)
            elif given.arg == "patch_cmds":
                for command in self._elements(given.value):
                    yield from (called for text in self.texts(command) for called in _of_shell(text))
            elif given.arg == "executable" and name in {"run", "action"}:
                yield from (text for text in self.texts(given.value) if UNKNOWN not in text)  # else what Bazel builds
        if (run := _run_argument(call, self._helpers)) is not None:
            yield from self._of_words(run)

    def _elements(self, node: ast.expr, depth: int = 0) -> Iterator[ast.expr]:
        """What a list holds, as far as it can be read; of several that it may be, of each."""
        match node:
            case ast.List(elts=elts) | ast.Tuple(elts=elts):
                yield from elts
            case ast.BinOp(op=ast.Add(), left=left, right=right) if depth < _NAMES:
                yield from (*self._elements(left, depth + 1), *self._elements(right, depth + 1))
            case ast.Name(id=name) if name in self._values and depth < _NAMES:
                yield from (one for value in self._values[name] for one in self._elements(value, depth + 1))
            case ast.Constant(value=None):
                pass
            case _:
                yield node

    def _of_words(self, node: ast.expr) -> Iterator[str]:
        """What `execute` or `which` is given; a parameter that is only handed on counts where it is given."""
        for value in self._resolved(node):
            match value:
                case ast.List(elts=[program, *words]) | ast.Tuple(elts=[program, *words]):
                    programs = self._programs(program)
                    yield from programs
                    # A shell, by its name or by that of the function that finds it.
                    shell = any(name.rpartition("/")[2] in _SHELLS or "bash" in name for name in programs)
                    if shell and len(words) > 1 and "-c" in self.texts(words[0]):
                        yield from (called for text in self.texts(words[1]) for called in _of_shell(text))
                case ast.List() | ast.Tuple() | ast.Name() | ast.Attribute():
                    pass
                case _:
                    yield from self._programs(value)

    def _programs(self, node: ast.expr) -> list[str]:
        return [f"<{ast.unparse(node)}>" if UNKNOWN in text else text for text in self.texts(node)]

    def _resolved(self, node: ast.expr, depth: int = 0) -> Sequence[ast.expr]:
        """A name's values in this block; of `a + b` and of `wrap(ctx, a)` the list that holds the program."""
        if depth > _NAMES:
            return []
        match node:
            case ast.BinOp(op=ast.Add(), left=left):
                return self._resolved(left, depth + 1)
            case ast.Call(args=args):
                lists = (given.left if isinstance(given, ast.BinOp) else given for given in args)
                return [next((inner for inner in lists if isinstance(inner, ast.List)), node)]
            case ast.Name(id=name) if name in self._values:
                values = [value for value in self._values[name] if not isinstance(value, ast.Name)]
                return [inner for value in values for inner in self._resolved(value, depth + 1)]
            case _:
                return [node]

    def texts(self, node: ast.expr, depth: int = 0) -> tuple[str, ...]:
        """Every text that an expression may be, UNKNOWN for what cannot be known; `depth` is of names behind names."""
        match node:
            case ast.Constant(value=str() as text):
                found: Iterable[str] = (text,)
            case ast.Name(id=name) if name in self._values and depth < _NAMES:
                found = (text for value in self._values[name] for text in self.texts(value, depth + 1))
            case ast.IfExp(body=body, orelse=other):
                found = (*self.texts(body, depth), *self.texts(other, depth))
            case ast.Call(func=ast.Name(id="select"), args=[ast.Dict(values=values), *_]):
                found = (text for value in values for text in self.texts(value, depth))
            case ast.Call(func=ast.Attribute(attr="which"), args=[name, *_]):
                found = self.texts(name, depth)
            case _:
                found = self._composed(node, depth)
        return tuple(islice(found, _MANY))

    def _composed(self, node: ast.expr, depth: int) -> Iterable[str]:
        """The same, of an expression that makes one text of several."""
        match node:
            case ast.BinOp(op=ast.Add(), left=left, right=right):
                return (a + b for a, b in product(self.texts(left, depth), self.texts(right, depth)))
            case ast.BinOp(op=ast.Mod(), left=left):
                return (re.sub(r"%[sdr]", UNKNOWN, text) for text in self.texts(left, depth))
            case ast.Call(func=ast.Attribute(attr="format", value=template)):
                return (re.sub(r"\{\w*\}", UNKNOWN, text) for text in self.texts(template, depth))
            case ast.Call(func=ast.Attribute(attr="join", value=glue), args=[ast.List(elts=parts)]):
                pieces = [next(iter(self.texts(part, depth)), UNKNOWN) for part in parts]
                return (text.join(pieces) for text in self.texts(glue, depth))
            case _:
                return (UNKNOWN,)


def _of_shell(text: str) -> Iterator[str]:
    plain = _BAZEL_VARIABLE.sub(_BUILT, text).replace("$$", "$")
    for program in shell_programs(plain):
        if _BUILT not in program:
            yield f"<{program.replace(UNKNOWN, '…')}>" if UNKNOWN in program or "$" in program else program
