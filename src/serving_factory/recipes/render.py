"""Rendering of Dockerfiles from the templates in `dockerfiles/templates`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["CACHES", "PATCHES", "TEMPLATES", "patch_text", "render", "template_text"]

TEMPLATES = Path(__file__).resolve().parents[3] / "dockerfiles" / "templates"
PATCHES = TEMPLATES.parent / "patches"

CACHES = "serving-factory-bazel"
"""How the ids of the cache mounts in the templates begin; `-disk` and `-repository` follow."""


def render(name: str, **values: object) -> str:
    """Render a template; a value that the template names and the caller does not give is an error."""
    return _environment().get_template(name).render(**values)


@cache
def template_text(name: str) -> str:
    """Read a file that goes into an image as it is."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


@cache
def patch_text(name: str) -> str:
    """Read a script of dockerfiles/patches."""
    return (PATCHES / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    # It takes a while to import: only who renders waits for it.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - Dockerfiles are no HTML; every value comes from checked data
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        auto_reload=False,
    )
