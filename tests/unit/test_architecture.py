"""The layers and what they may import, silence below `output`, pure planning, an exit code for each error."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from serving_factory import errors
from serving_factory.errors import FactoryError

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "serving_factory"
EXIT_CODES = ROOT / "docs" / "exit-codes.md"

MODULES = sorted(PACKAGE.rglob("*.py"))
BELOW: dict[str, set[str]] = {
    "errors": set(),
    "catalogue": {"errors"},
    "matrix": {"catalogue", "errors"},
    "recipes": {"matrix", "catalogue", "errors"},
    "docker": {"errors"},
    "inspection": {"catalogue", "errors"},
    "smoke": {"docker", "catalogue", "errors"},
    "load": {"smoke", "docker", "errors"},
    "doctor": {"pipeline.budget", "docker", "recipes", "catalogue", "errors"},
    "proofs": {"inspection", "docker", "catalogue", "errors"},
    "pipeline": {
        "proofs",
        "load",
        "smoke",
        "inspection",
        "doctor",
        "docker",
        "recipes",
        "matrix",
        "catalogue",
        "errors",
    },
    "output": {"pipeline.events", "pipeline.estimates", "errors"},
    "deploy": {"matrix", "catalogue", "errors"},
    "commands": {
        *("deploy", "output", "pipeline", "proofs", "load", "smoke", "inspection", "doctor", "docker", "recipes"),
        "matrix",
        *("catalogue", "errors"),
    },
}
PURE = ("catalogue", "matrix", "recipes", "deploy")
OUTSIDE = {"asyncio", "datetime", "docker", "http", "requests", "socket", "subprocess", "time", "urllib"}
MAX_FUNCTION_LINES = 60

PROGRAMS = {PACKAGE / "docker" / "keeper.py"}
"""Run as a process of its own, whose stderr is the log of the command that it starts."""


@cache
def tree(module: Path) -> ast.Module:
    return ast.parse(module.read_text(encoding="utf-8"))


@cache
def nodes(module: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree(module)))


def path_of(module: Path) -> str:
    return str(module.relative_to(ROOT))


def layer(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(module: Path) -> Iterator[str]:
    """The modules that a module imports, also within functions and for types only."""
    for node in nodes(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            # `from serving_factory.pipeline import stages` names a module, too.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def top_names(module: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(module)}


def own_imports(module: Path) -> Iterator[str]:
    """The parts of the package that a module imports, without the package's name."""
    for name in imports(module):
        if name.startswith("serving_factory."):
            yield name.removeprefix("serving_factory.")


def goes_down(importer: str, imported: str) -> bool:
    return any(imported == below or imported.startswith(f"{below}.") for below in (importer, *BELOW[importer]))


def test_imports_go_down_only() -> None:
    assert [
        f"{path_of(module)} imports {imported}"
        for module in MODULES
        for imported in own_imports(module)
        if layer(module) != "__init__" and not goes_down(layer(module), imported)
    ] == []


def test_the_rule_for_imports_can_fail() -> None:
    assert goes_down("pipeline", "docker.engine.Engine")
    assert not goes_down("docker", "recipes.recipe.key_of")
    assert not goes_down("recipes", "docker.process")
    assert not goes_down("output", "pipeline.scheduler.run_line")
    assert not goes_down("matrix", "recipes.recipe")


def test_every_layer_is_in_the_picture() -> None:
    assert {layer(module) for module in MODULES} == {*BELOW, "__init__"}
    picture = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert [name for name in BELOW if name not in picture] == []


def prints(node: ast.AST) -> bool:
    """Whether this is `print`, or a stream of `sys`."""
    if isinstance(node, ast.Attribute):
        return node.attr.strip("_") in {"stdout", "stderr"} and ast.unparse(node).startswith("sys.")
    return isinstance(node, ast.Name) and node.id == "print"


def test_only_output_and_what_is_above_it_prints() -> None:
    quiet = [module for module in MODULES if layer(module) not in {"output", "commands"} and module not in PROGRAMS]
    assert [
        f"{path_of(module)}:{node.lineno}"
        for module in quiet
        for node in nodes(module)
        if isinstance(node, ast.expr) and prints(node)
    ] == []
    assert [path_of(module) for module in quiet if "rich" in top_names(module)] == []


def test_what_is_left_of_compile_is_pure() -> None:
    assert [
        f"{path_of(module)} imports {name}"
        for module in MODULES
        for name in top_names(module) & OUTSIDE
        if layer(module) in PURE
    ] == []


def test_modules_say_what_they_are() -> None:
    assert [path_of(module) for module in MODULES if not ast.get_docstring(tree(module))] == []


def test_functions_are_short() -> None:
    """Counted without the signature and the docstring: those are long where there is much to say."""
    assert [
        f"{path_of(module)}:{node.lineno} {node.name}"
        for module in [*MODULES, ROOT / "tasks.py"]
        for node in nodes(module)
        if isinstance(node, ast.FunctionDef) and body_lines(node) >= MAX_FUNCTION_LINES
    ] == []


def body_lines(function: ast.FunctionDef) -> int:
    statements = function.body[1:] if ast.get_docstring(function) else function.body
    return (statements[-1].end_lineno or 0) - statements[0].lineno + 1 if statements else 0


# --- errors -----------------------------------------------------------------------------------------------------------


def error_classes() -> list[type[FactoryError]]:
    found = [each for each in vars(errors).values() if isinstance(each, type) and each.__module__ == errors.__name__]
    assert all(issubclass(each, FactoryError) for each in found)
    return sorted(found, key=lambda each: each.exit_code)


def test_every_error_has_an_exit_code_of_its_own() -> None:
    codes = [each.exit_code for each in error_classes()]
    assert len(set(codes)) == len(codes)
    assert all("exit_code" in vars(each) for each in error_classes()), "each class sets its own, and inherits none"
    # 0 is success; 64 and 69 are those of ./factory itself, 78 that of an image; above 128 is for signals.
    assert not set(codes) & {0, 64, 69, 78}
    assert [code for code in codes if code > 125] == [130]


def test_every_error_of_the_package_is_on_the_one_page() -> None:
    names = "|".join(each.__name__ for each in error_classes())
    for module in MODULES:
        if module.name != "errors.py" or module.parent != PACKAGE:
            assert not re.search(rf"^class \w+\((?:\w+\.)?(?:{names})\)", module.read_text("utf-8"), re.MULTILINE), (
                module
            )


def exit_code_table() -> str:
    rows = [f"| {each.exit_code} | `{each.__name__}` | {meaning(each)} |" for each in error_classes()]
    return "\n".join(["| code | error | meaning |", "|---|---|---|", *rows]) + "\n"


def meaning(error: type[FactoryError]) -> str:
    assert error.__doc__
    return error.__doc__.partition("\n")[0].rstrip(".")


def test_the_table_of_exit_codes_is_current() -> None:
    assert exit_code_table() in EXIT_CODES.read_text(encoding="utf-8"), "copy the table above into docs/exit-codes.md"


def test_an_error_reports_what_why_and_what_to_do() -> None:
    assert str(FactoryError("a broke", why="b\nc", remedy="fix it")) == "a broke\nb\nc\nWhat to do: fix it"
    assert str(FactoryError("a broke")) == "a broke"
