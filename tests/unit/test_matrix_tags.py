"""Tags are made of what a variant is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serving_factory.catalogue.facts import Flavour
from serving_factory.catalogue.levels import Level
from serving_factory.errors import MatrixError
from serving_factory.matrix.model import Alias, Images
from serving_factory.matrix.tags import alias_tags, combined_of, full_tags, indexes_of
from serving_factory.matrix.variant import Candidate, Variant
from serving_factory.matrix.words import ALIAS_WORDS, TAG_WORDS, is_tag, template_rule

from .matrices import load

V3 = Variant(release="2.19.1", flavour=Flavour.MKL, level=Level.V3)
OCI_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}\Z")

literals = st.text("abcXYZ019._-", max_size=6)
full_templates = st.lists(st.sampled_from([f"{{{word}}}" for word in TAG_WORDS]) | literals, max_size=5).map("".join)


def images(*, tags: tuple[str, ...] = ("{id}-{binary}",), aliases: tuple[str, ...] = ()) -> Images:
    return Images(repository="r", tags=tags, aliases=tuple(Alias(tag=tag) for tag in aliases))


def aliases_of_v3(named: Images, *targets: str) -> tuple[str, ...]:
    return alias_tags(named, [Candidate(target, V3) for target in targets]).get(V3.id, ())


def test_every_placeholder_says_what_it_stands_for() -> None:
    tags = ("{id}-{release}-{flavour}-{level}-{binary}", "{binary}", "{binary}", "{series}{flavour-suffix}-{image}")
    expected = ("2.19.1-mkl-v3-2.19.1-mkl-v3-0123", "0123", "2.19-mkl-4567")
    assert full_tags(images(tags=tags), V3, binary="0123", image="4567") == expected


def test_an_alias_with_a_target_comes_once_for_each_target() -> None:
    named = images(aliases=("{id}", "{release}-{target}", "{id}"))
    assert aliases_of_v3(named, "a", "b") == ("2.19.1-mkl-v3", "2.19.1-a", "2.19.1-b")
    assert aliases_of_v3(images(), "a") == ()


UPSTREAM = """\
image:
  repository: team/serving
  aliases:
    - "{id}"
    - {tag: "{release}{flavour-suffix}", where: {targets: [cpu-optimized, gpu]}}
    - {tag: "latest{flavour-suffix}", where: {targets: [cpu-optimized, gpu]}}
    - {tag: "{series}-{target}", where: {flavours: [cpu]}}
releases: ["2.18.0", "2.18.1", "2.19.1"]
targets:
  cpu-standard: {flavour: cpu, levels: [x86-64]}
  cpu-optimized: {flavour: cpu, levels: [x86-64-v3]}
  gpu: {flavour: gpu, levels: [x86-64-v3], releases: ["2.18.0", "2.18.1"]}
"""


def test_upstreams_own_scheme_and_latest_is_the_newest_releases(tmp_path: Path) -> None:
    matrix = load(tmp_path, UPSTREAM)
    plain = {id_: [tag for tag in tags if tag != id_] for id_, tags in matrix.aliases.items()}
    assert plain == {
        "2.18.0-cpu-v1": [],
        "2.18.0-cpu-v3": ["2.18.0"],
        "2.18.0-gpu-cuda12.2-v3": ["2.18.0-gpu"],
        "2.18.1-cpu-v1": ["2.18-cpu-standard"],
        "2.18.1-cpu-v3": ["2.18.1", "2.18-cpu-optimized"],
        "2.18.1-gpu-cuda12.2-v3": ["2.18.1-gpu", "latest-gpu"],
        "2.19.1-cpu-v1": ["2.19-cpu-standard"],
        "2.19.1-cpu-v3": ["2.19.1", "latest", "2.19-cpu-optimized"],
    }


def test_tags_of_devel_images_are_in_upstreams_order(tmp_path: Path) -> None:
    matrix = load(tmp_path, UPSTREAM.replace('"{id}"', "latest-devel-{level}"))
    assert matrix.devel_aliases["2.18.1-gpu-cuda12.2-v3"] == ("2.18.1-devel-gpu", "latest-devel-gpu")
    assert matrix.devel_aliases["2.19.1-cpu-v3"] == (
        "latest-devel-v3",
        "2.19.1-devel",
        "latest-devel",
        "2.19-cpu-optimized-devel",
    )
    assert not [tag for tags in matrix.aliases.values() for tag in tags if "devel" in tag], "it says which image it is"
    tags = images(tags=("{id}-{binary}-{image}", "{release}{flavour-suffix}-{binary}", "{binary}-devel"))
    assert full_tags(tags, V3, binary="0123", image="4567", devel=True) == (
        "2.19.1-mkl-v3-0123-4567-devel",
        "2.19.1-devel-mkl-0123",
        "0123-devel",
    )


@pytest.mark.parametrize(
    ("alias", "said"),
    [
        ('"{release}{flavour-suffix}"', "2.18.0-cpu-v1 and 2.18.0-cpu-v3 would both be tagged 2.18.0"),
        ('"latest{flavour-suffix}"', "2.19.1-cpu-v1 and 2.19.1-cpu-v3 would both be tagged latest"),
        ("{tag: latest, where: {targets: [cpu-optimised]}}", "did you mean 'cpu-optimized'"),
        ("{tag: latest, where: {levels: [avx]}}", "no selected variant meets all of these conditions"),
        ("{where: {levels: [x86-64]}}", "image.aliases[0].tag: this key is required"),
        ('{tag: "{binary}"}', "image.aliases[0].tag: '{binary}': a placeholder is one of"),
        ('{tag: "{flavour-suffix}", where: {levels: [x86-64]}}', "2.19.1-cpu-v1 this gives '', which is no tag"),
        ("5", "image.aliases[0]: 5: expected a text"),
        ("[latest]", "image.aliases[0]: expected a mapping"),
        (
            "latest-devel",
            "the devel image of 2.19.1-cpu-v1 and the devel image of 2.19.1-cpu-v3 would both be tagged latest-devel",
        ),
        (
            "{tag: latest, where: {levels: [x86-64]}}, {tag: latest-devel, where: {levels: [x86-64-v3]}}",
            "the devel image of 2.19.1-cpu-v1 and the devel image of 2.19.1-cpu-v3 would both be tagged latest-devel",
        ),
    ],
)
def test_an_alias_of_two_variants_of_none_or_without_sense_is_refused(tmp_path: Path, alias: str, said: str) -> None:
    scheme, rest = UPSTREAM.partition("releases:")[1:]
    head = "image: {repository: team/serving, aliases: [" + alias + "]}\n"
    with pytest.raises(MatrixError) as caught:
        load(tmp_path, head + scheme + rest)
    assert said.casefold() in str(caught.value).casefold()


INDEXES = """\
image:
  repository: team/serving
  aliases: ["{id}"]
  indexes: ["{release}{flavour-suffix}{gpu-suffix}", "latest{flavour-suffix}{gpu-suffix}"]
releases: ["2.18.1", "2.19.1"]
targets:
  cpu: {flavour: cpu, levels: [x86-64, avx, x86-64-v3, native]}
  mkl: {flavour: mkl, levels: [avx, x86-64-v3], releases: ["2.19.1"]}
  gpu: {flavour: gpu, levels: [x86-64], releases: ["2.18.1"]}
  h100: {extends: gpu, levels: [x86-64-v3], capabilities: [h100]}
"""


def test_an_index_has_all_levels_of_a_build_that_oci_has_a_word_for(tmp_path: Path) -> None:
    """And the lowest one, which needs none; a later release takes a tag without one."""
    matrix = load(tmp_path, INDEXES)
    found = {one.tag: [variant.id for variant in one.variants] for one in indexes_of(matrix.images, matrix.candidates)}
    assert found == {
        "2.18.1": ["2.18.1-cpu-v1", "2.18.1-cpu-v3"],
        "2.18.1-gpu": ["2.18.1-gpu-cuda12.2-v1"],
        "2.18.1-gpu-sm90": ["2.18.1-gpu-cuda12.2-sm90-v3"],
        "2.19.1": ["2.19.1-cpu-v1", "2.19.1-cpu-v3"],
        "2.19.1-mkl": ["2.19.1-mkl-avx", "2.19.1-mkl-v3"],
        "latest": ["2.19.1-cpu-v1", "2.19.1-cpu-v3"],
        "latest-mkl": ["2.19.1-mkl-avx", "2.19.1-mkl-v3"],
        "latest-gpu": ["2.18.1-gpu-cuda12.2-v1"],
        "latest-gpu-sm90": ["2.18.1-gpu-cuda12.2-sm90-v3"],
    }
    moving = {one.tag for one in indexes_of(matrix.images, matrix.candidates) if one.moves}
    assert moving == {tag for tag in found if tag.startswith("latest")}


def test_an_image_with_all_levels_is_of_one_build_for_the_cpu(tmp_path: Path) -> None:
    """`avx`, too, which has no word of OCI's; and none where there is one level."""
    text = INDEXES.replace(
        'aliases: ["{id}"]', 'aliases: ["{id}"]\n  combined: ["{release}{flavour-suffix}-all", "all"]'
    )
    with pytest.raises(MatrixError, match=r"the image with all levels of 2.19.1-mkl would both be tagged all"):
        load(tmp_path, text)
    matrix = load(tmp_path, text.replace(', "all"]', ', "{flavour}"]').replace("[avx, x86-64-v3]", "[x86-64-v3]"))
    found = combined_of(matrix.images, matrix.candidates)
    assert {tuple(variant.id for variant in variants): tags for variants, tags in found.items()} == {
        ("2.18.1-cpu-v1", "2.18.1-cpu-avx", "2.18.1-cpu-v3"): ("2.18.1-all",),
        ("2.19.1-cpu-v1", "2.19.1-cpu-avx", "2.19.1-cpu-v3"): ("2.19.1-all", "cpu"),
    }


def test_a_cuda_that_is_not_upstreams_is_in_the_name_of_an_index() -> None:
    gpu = Variant(release="2.19.1", flavour=Flavour.GPU, level=Level.V1, cuda="12.4", capabilities=("8.0", "9.0"))
    assert gpu.gpu_suffix == "-cuda12.4-sm80-90"
    assert (V3.gpu_suffix, V3.build) == ("", "2.19.1-mkl")


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ('"{release}"', "the index of 2.19.1-cpu and the index of 2.19.1-mkl would both be tagged 2.19.1"),
        ('"{release}{flavour-suffix}"', "2.18.1-gpu-cuda12.2-sm90 would both be tagged 2.18.1-gpu"),
        ('"{release}-{flavour}-v1"', "2.18.1-cpu-v1 and the index of 2.18.1-cpu would both be tagged 2.18.1-cpu-v1"),
        ('"{id}"', "image.indexes[0]: '{id}': a placeholder is one of {release}"),
        ('{tag: "a{flavour}", where: {levels: [x86-64-v4]}}', "Loosen one, or remove it from indexes"),
        ('{tag: "a{flavour}", where: {targets: [mlk]}}', "did you mean 'mkl'"),
    ],
)
def test_an_index_of_two_builds_or_without_sense_is_refused(tmp_path: Path, index: str, said: str) -> None:
    head, rest = INDEXES.partition("releases:")[1:]
    with pytest.raises(MatrixError) as caught:
        load(tmp_path, "image: {repository: team/serving, aliases: ['{id}'], indexes: [" + index + "]}\n" + head + rest)
    assert said.casefold() in str(caught.value).casefold()


def broken_rule(words: tuple[str, ...], template: str, *, required: str = "") -> str:
    """What the rule says against a template; empty where it passes."""
    try:
        assert template_rule(words, required=required)(template) == template
    except ValueError as error:
        return str(error)
    return ""


@settings(max_examples=60)
@example("{flavour-suffix}{binary}")
@given(full_templates)
def test_what_the_rule_passes_gives_valid_tags(template: str) -> None:
    if broken_rule(TAG_WORDS, template, required="binary"):
        assert "{binary}" not in template or template.startswith((".", "-", "{flavour-suffix}"))
        return
    (tag,) = full_tags(images(tags=(template,)), V3, binary="0" * 12, image="1" * 12)
    assert "0" * 12 in tag
    assert is_tag(tag) == bool(OCI_TAG.match(tag))
    # A tag that begins with a flavour's suffix is refused for the variants that have one.
    assert is_tag(tag) or len(tag) > 128 or template.startswith("{flavour-suffix}")


@settings(max_examples=60)
@given(st.text("{}!:.-[]a\n", max_size=8))
def test_the_rule_never_fails_otherwise_than_by_its_rule(template: str) -> None:
    if rule := broken_rule(ALIAS_WORDS, template):
        assert rule.startswith(("a brace is", "a placeholder is", "a tag holds"))
    else:
        assert all(is_tag(tag) for tag in aliases_of_v3(images(aliases=(template,)), "t"))


@pytest.mark.parametrize("text", ["", ".a", "-a", "a b", "a\n", "a/b", "ä", "a" * 129])
def test_what_is_no_tag(text: str) -> None:
    assert not is_tag(text)
