"""What of Bazel's output reaches a log: no warnings of what compiled, all of what did not."""

from __future__ import annotations

from .pipeline import V1, Checkout
from .tiny import MAIN


def test_a_warning_is_not_printed_and_an_error_is(tiny: Checkout) -> None:
    arguments = tiny.line("compile", "--variant", V1)
    good = (tiny.folder / MAIN).read_text()
    (tiny.folder / MAIN).write_text(f"#warning nobody waits for this\n{good}")
    tiny.run(*arguments).built()
    assert tiny.record(V1, "compile")["outputs"]["local_actions"] > 0
    assert "nobody waits for this" not in tiny.compile_log(V1)
    (tiny.folder / MAIN).write_text(f"#error everybody waits for this\n{good}")
    assert "everybody waits for this" in tiny.run(*arguments).error(20, "CompileError")["why"]
