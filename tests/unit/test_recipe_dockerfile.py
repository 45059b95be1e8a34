"""recipes/dockerfile.py, and the compile key: over what decides the binary, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving_factory.recipes import recipe as recipe_module
from serving_factory.recipes.dockerfile import needed, stages, without_comments
from serving_factory.recipes.recipe import CONTEXT, context_text, recipe_for, render

from .matrices import load

TEXT = """\
# a comment
FROM scratch AS source
FROM debian:bookworm AS base
COPY --chmod=0755 one.sh two.sh /factory/
RUN true \\
# in the middle
    --and=false

FROM base AS report
COPY report.sh /
FROM base AS work
COPY --from=source / /source/
RUN --mount=type=bind,from=patches,target=/p build
FROM scratch
COPY --from=work /out /
"""


def test_a_dockerfile_is_read_by_stages() -> None:
    found = stages(TEXT)
    assert list(found) == ["source", "base", "report", "work", ""]
    assert found["base"].instructions[1:] == ("COPY --chmod=0755 one.sh two.sh /factory/", "RUN true --and=false")
    assert found["base"].files == {"one.sh", "two.sh"}
    assert found["work"].files == frozenset()
    assert found["work"].sources == {"base", "source", "patches"}


def test_a_target_needs_what_leads_to_it() -> None:
    assert [stage.name for stage in needed(TEXT, "")] == ["source", "base", "work", ""]
    assert [stage.name for stage in needed(TEXT, "report")] == ["base", "report"]


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("a.sh", "#!/bin/sh\n# says why\n\necho # kept\n    # too\n", "#!/bin/sh\necho # kept\n"),
        ("a.c", "/* says\n * why */\n#include <x.h>\n\nint a; /* b */\n", "#include <x.h>\nint a; \n"),
        ("a.asc", "# all\n\n", "# all\n\n"),
    ],
)
def test_comments_decide_nothing(name: str, one: str, other: str) -> None:
    assert without_comments(name, one) == other


def test_scripts_hold_no_text_that_looks_like_a_comment() -> None:
    """A here-document or a string over several lines could: then `without_comments` would leave code out."""
    for file in CONTEXT.glob("*.sh"):
        assert "<<E" not in (text := file.read_text(encoding="utf-8")), file
        assert "<<'" not in text, file


def compile_key(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: tuple[str, str]) -> str:
    """The key of a variant, with a text replaced in files of the context, or in the devel Dockerfile (`devel`)."""

    def changed(name: str, text: str) -> str:
        old, new = changes.get(name.partition(".")[0], ("", ""))
        assert old in text
        return text.replace(old, new, 1) if old else text

    matrix = load(folder)
    with monkeypatch.context() as patch:
        patch.setattr(recipe_module, "context_text", lambda name: changed(name, context_text(name)))
        patch.setattr(recipe_module, "render", lambda name, **values: changed(name, render(name, **values)))
        recipe_module.decides.cache_clear()
        try:
            return recipe_for(matrix.variants[0], matrix).compile_key
        finally:
            recipe_module.decides.cache_clear()


def test_what_decides_nothing_is_not_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    same = compile_key(tmp_path, monkeypatch)
    for change in (
        {"devel": ("FROM base_build AS sources\n", "# another comment\n\nFROM base_build AS sources\n")},
        {"devel": ("COPY --chmod=0755 preflight.sh", "COPY --chmod=0700 preflight.sh")},
        {"bazel": ("set -uo pipefail\n", "# why not -e?\n\nset -uo pipefail\n")},
        {"init": ("/* In the child: becomes", "/* becomes")},
        {"preflight": ("set -euo", "set -eu")},
        {"devel": ("COPY launcher.h", "COPY --chmod=0600 launcher.h")},
        {"runtime": ("USER 65532:65532", "USER 1:1")},
    ):
        assert compile_key(tmp_path, monkeypatch, **change) == same, change


def test_what_decides_the_artifact_is_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes: tuple[dict[str, tuple[str, str]], ...] = (
        {},
        {"devel": ("FROM base_build AS sources\n", "FROM base_build AS sources\nENV A=1\n")},
        {"devel": ("'build --config=kokoro'", "'build --config=other'")},
        {"bazel": ("--verbose_failures", "--noverbose_failures")},
        {"collect": ("set -eu", "set -e")},
        {"init": ("#include <stdio.h>", "#include <stdlib.h>")},
    )
    keys = {compile_key(tmp_path, monkeypatch, **change) for change in changes}
    assert len(keys) == len(changes)
