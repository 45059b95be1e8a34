"""JSON documents: what `--json` prints; docs/json.md gives the shapes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass

SCHEMA_VERSION = 1
"""Grows when a member is renamed, removed or changes its meaning; new members do not change it."""


def document_text(document: Mapping[str, object]) -> str:
    """A document as text; dataclasses become objects, paths become texts."""
    return json.dumps({"schema_version": SCHEMA_VERSION, **document}, indent=2, default=_encoded) + "\n"


def _encoded(value: object) -> object:
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return dict(value) if isinstance(value, Mapping) else str(value)
