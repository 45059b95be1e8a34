"""Tags are made of what a variant is."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving_factory.catalogue.facts import Flavour
from serving_factory.catalogue.levels import Level
from serving_factory.matrix.matrix import alias_tags, full_tags
from serving_factory.matrix.model import Images
from serving_factory.matrix.variant import Variant
from serving_factory.matrix.words import ALIAS_WORDS, TAG_WORDS, is_tag, template_rule

V3 = Variant(release="2.19.1", flavour=Flavour.MKL, level=Level.V3)
OCI_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}\Z")

literals = st.text("abcXYZ019._-", max_size=6)
full_templates = st.lists(st.sampled_from([f"{{{word}}}" for word in TAG_WORDS]) | literals, max_size=5).map("".join)


def images(*, tags: tuple[str, ...] = ("{id}-{binary}",), aliases: tuple[str, ...] = ()) -> Images:
    return Images(repository="r", tags=tags, aliases=aliases)


def test_every_placeholder_says_what_it_stands_for() -> None:
    tags = ("{id}-{release}-{flavour}-{level}-{binary}", "{binary}", "{binary}")
    assert full_tags(images(tags=tags), V3, binary="0123") == ("2.19.1-mkl-v3-2.19.1-mkl-v3-0123", "0123")


def test_an_alias_with_a_target_comes_once_for_each_target() -> None:
    named = images(aliases=("{id}", "{release}-{target}", "{id}"))
    assert alias_tags(named, V3, ("a", "b")) == ("2.19.1-mkl-v3", "2.19.1-a", "2.19.1-b")
    assert alias_tags(named, V3, ()) == ("2.19.1-mkl-v3",)
    assert alias_tags(images(), V3, ("a",)) == ()


def broken_rule(words: tuple[str, ...], template: str, *, required: str = "") -> str:
    """What the rule says against a template; empty where it passes."""
    try:
        assert template_rule(words, required=required)(template) == template
    except ValueError as error:
        return str(error)
    return ""


@settings(max_examples=60)
@given(full_templates)
def test_what_the_rule_passes_gives_valid_tags(template: str) -> None:
    if broken_rule(TAG_WORDS, template, required="binary"):
        assert "{binary}" not in template or template[0] in ".-"
        return
    (tag,) = full_tags(images(tags=(template,)), V3, binary="0" * 12)
    assert "0" * 12 in tag
    assert is_tag(tag) == bool(OCI_TAG.match(tag))
    assert is_tag(tag) or len(tag) > 128


@settings(max_examples=60)
@given(st.text("{}!:.-[]a\n", max_size=8))
def test_the_rule_never_fails_otherwise_than_by_its_rule(template: str) -> None:
    if rule := broken_rule(ALIAS_WORDS, template):
        assert rule.startswith(("a brace is", "a placeholder is", "a tag holds"))
    else:
        assert all(is_tag(tag) for tag in alias_tags(images(aliases=(template,)), V3, ("t",)))


@pytest.mark.parametrize("text", ["", ".a", "-a", "a b", "a\n", "a/b", "ä", "a" * 129])
def test_what_is_no_tag(text: str) -> None:
    assert not is_tag(text)
