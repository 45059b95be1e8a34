"""Keys: sha256 over all that decides a stage's output. Same key, same result, no work."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

__all__ = ["key_of", "short"]


def key_of(**parts: object) -> str:
    """Hash named parts, independent of their order.

    Args:
        parts: values that JSON knows; tuples count as lists, sets of texts as sorted lists.

    Returns:
        64 hex digits.
    """
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def short(key: str) -> str:
    """The first 12 digits of a key or digest: enough to tell apart, short enough for a name."""
    return key.removeprefix("sha256:")[:12]


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, frozenset | set) and all(isinstance(item, str) for item in value):
        return sorted(value)
    raise TypeError(f"{value!r} cannot be part of a key")
