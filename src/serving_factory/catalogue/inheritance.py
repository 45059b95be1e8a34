"""How releases.yaml is written down: a line is like another but for what it states, a release like its line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving_factory.errors import CatalogueError

__all__ = ["Entry", "Lines", "inherited", "merged"]

Entry = Mapping[str, Any]
"""A release, a line, or a part of one, as the file has it."""

Lines = Mapping[str, Entry]
"""The whole file: line -> its entry, with `like` and `releases` in it."""


def merged(base: Entry, over: Entry) -> Entry:
    """Lay one entry over another: mappings are merged key by key, all else is replaced."""
    found = dict(base)
    for key, value in over.items():
        below = found.get(key)
        found[key] = merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return found


def inherited(lines: Lines) -> Mapping[str, Entry]:
    """Give each release all that it has from its line, and its line from others.

    Args:
        lines: the file; a line stands below the one that it is like.

    Returns:
        Full tag -> entry, in the file's order.

    Raises:
        CatalogueError: a line is like one that does not stand above it, or a release is in the wrong line.
    """
    whole: dict[str, Entry] = {}
    found: dict[str, Entry] = {}
    for name, line in lines.items():
        like = line.get("like")
        if like is not None and like not in whole:
            raise CatalogueError(f"releases.yaml: line {name} is like {like}, which does not stand above it")
        own = {key: value for key, value in line.items() if key not in {"like", "releases"}}
        whole[name] = merged(whole[like], own) if like is not None else own
        for tag, release in line["releases"].items():
            if tag.rpartition(".")[0] != name:
                raise CatalogueError(f"releases.yaml: {tag} stands in line {name}")
            found[tag] = merged(whole[name], release)
    return found
