"""Files of a service: rendered from templates, each with a first line by which it is known again."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from serving_factory.catalogue.facts import Flavour
from serving_factory.matrix.variant import Variant

if TYPE_CHECKING:
    from jinja2 import Environment

_FIRST_LINE = "# Written by `./factory deploy`. It writes this file again only as long as its checksum is"
_KNOWN = re.compile(rf"{re.escape(_FIRST_LINE)} (?P<checksum>[0-9a-f]{{12}})\n(?P<rest>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What is served."""

    variant: Variant
    image: str  # with its digest
    user: int  # that the server runs as
    health: str  # the program in the image that asks for the model's status
    rest: bool  # whether the server has REST
    flags: frozenset[str]  # that the server knows
    model: str = ""  # the name of the model in the image; empty where the model comes from elsewhere

    @property
    def what(self) -> str:
        """What is served, as the name of a folder."""
        return "-".join(filter(None, (self.variant.id, self.model)))

    @property
    def name(self) -> str:
        """A DNS label, of at most 50 characters; it ends in a checksum where others could have the same letters."""
        name = f"serving-{re.sub('[^a-z0-9]+', '-', self.what.lower()).rstrip('-')}"
        if len(name) <= _LONGEST and (not self.model or _LABEL.fullmatch(self.model)):
            return name
        return f"{name[: _LONGEST - 7].rstrip('-')}-{_checksum(self.what)[:6]}"

    @property
    def gpu(self) -> bool:
        """Whether it computes on a GPU."""
        return self.variant.flavour is Flavour.GPU


_LABEL = re.compile("[a-z0-9]+(-[a-z0-9]+)*")
_LONGEST = 50  # of a label's 63 characters: suffixes are added


def render(template: str, values: Mapping[str, object]) -> str:
    """Fill a template."""
    text = _templates().get_template(template).render(values)
    return f"{_FIRST_LINE} {_checksum(text)}\n{text}"


def is_own(text: str) -> bool:
    """Whether a text is as a run of this factory wrote it."""
    found = _KNOWN.fullmatch(text)
    return found is not None and found["checksum"] == _checksum(found["rest"])


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@cache
def _templates() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - YAML is no HTML; every value comes from checked data
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
