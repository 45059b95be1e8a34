"""Templates of tags: which placeholders they may hold, and what a registry takes as a tag."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from string import Formatter

from serving_factory.matrix.problems import BrokenRuleError, did_you_mean

__all__ = ["ALIAS_WORDS", "TAG_WORDS", "is_tag", "template_rule"]

# OCI distribution spec, section "Pulling manifests": what a tag may look like.
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")

_WORDS = ("id", "release", "flavour", "level")
TAG_WORDS = (*_WORDS, "binary")
"""The placeholders of full tags; `binary` stands for the first 12 digits of the binary's sha256."""
ALIAS_WORDS = (*_WORDS, "target")
"""The placeholders of aliases; `target` gives one alias for each target that selects the variant."""


def is_tag(text: str) -> bool:
    """Whether a registry takes this as a tag."""
    return _TAG.fullmatch(text) is not None


def template_rule(words: Sequence[str], *, required: str = "") -> Callable[[str], str]:
    """Make the check of a tag template, for the matrix file's model.

    Args:
        words: the placeholders that it may hold.
        required: the one that it must hold.

    Returns:
        A function that gives the template back, or raises BrokenRuleError.
    """
    known = ", ".join(f"{{{word}}}" for word in words)

    def check(template: str) -> str:
        try:
            fields = [field for field in Formatter().parse(template) if field[1] is not None]
        except ValueError:
            raise BrokenRuleError("a brace has no partner", f"Write a placeholder as {{{words[0]}}}.") from None
        for _, name, form, conversion in fields:
            if name not in words or form or conversion:
                remedy = did_you_mean(f"{{{name}}}", [f"{{{word}}}" for word in words], otherwise="Take one of them.")
                raise BrokenRuleError(f"a placeholder is one of {known}", remedy)
        if not is_tag(template.format_map(dict.fromkeys(words, "x"))):
            raise BrokenRuleError(
                "a tag holds letters, digits, '_', '.' and '-', 128 at most, and begins with no '.' or '-'",
                "Leave out what is none of these.",
            )
        if required and required not in {name for _, name, _, _ in fields}:
            raise BrokenRuleError(f"a full tag names one binary: it must hold {{{required}}}", "Add it at the end.")
        return template

    return check
