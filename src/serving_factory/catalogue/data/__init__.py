"""The catalogue's data files, and the one place that reads them."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Any

import yaml

__all__ = ["data_digest", "read_yaml"]


def data_digest(name: str) -> str:
    """Give the sha256 of a data file, for the key of what reads it; 64 hex digits."""
    return hashlib.sha256(files(__name__).joinpath(name).read_bytes()).hexdigest()


def read_yaml(name: str) -> Any:  # noqa: ANN401 - the loaders beside this folder give the data its types
    """Read a data file that is shipped with the package."""
    return yaml.load(files(__name__).joinpath(name).read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - safe


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The safe loader, in C where PyYAML was built with libyaml."""
