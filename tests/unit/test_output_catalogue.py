"""The catalogue's tables and pages, and a task's optional argument."""

from __future__ import annotations

import pytest
from invoke.parser.argument import Argument

from serving_factory.catalogue.releases import releases
from serving_factory.catalogue.upstream_check import Difference
from serving_factory.commands.catalogue import describe, differences_text, release_page, releases_table
from serving_factory.commands.cli import words_for


def test_a_line_for_each_release() -> None:
    lines = releases_table([describe(releases()[tag]) for tag in ("1.5.0", "2.17.1")]).splitlines()
    assert lines[0].split()[:4] == ["release", "date", "reports", "Bazel"]
    assert lines[-4].split()[:4] == ["1.5.0", "2018-01-29", "0.5.4", "2.7"]
    assert lines[-3].split()[-4:] == ["yes", "12.2", "8.9.4.25", "8.6.1"]
    assert lines[-1].startswith("2 releases.")


def test_a_page_for_a_release() -> None:
    page = release_page(describe(releases()["1.12.3"]))
    assert page.startswith("1.12.3\n")
    assert "Flavour mkl\n  exists" in page
    assert "base replacement      ubuntu:16.04" in page
    assert "fixed flags           --config=cuda --copt=-fPIC" in page
    assert "grpc health           no" in page
    assert "nativeopt             --copt=-march=native\n" in page


def test_a_page_shows_what_a_gpu_build_needs_of_its_surroundings() -> None:
    page = " ".join(release_page(describe(releases()["2.9.3"])).split())
    assert "newest gcc 10" in page
    assert "base replacement ubuntu:18.04" in page
    assert "base last patch nvidia/cuda:11.2.2-base-ubuntu18.04" in page


def test_differences_a_line_each() -> None:
    one = Difference(file="a/b", line=3, what="Bazel", catalogue="1", upstream="2")
    two = Difference(file="c", line=None, what="Dockerfile", catalogue="", upstream="c")
    assert differences_text([one, two]) == (
        "a/b:3: Bazel: the catalogue has 1, upstream 2\nc: Dockerfile: the catalogue has nothing, upstream c"
    )


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("catalogue", []),
        ("catalogue 2.19.1", ["2.19.1"]),
        ("catalogue --json 2.19.1", ["2.19.1"]),
        ("catalogue -j", []),
        ("catalogue --check-upstream folder", []),
        ("catalogue -c folder 2.19.1", ["2.19.1"]),
        ("catalogue --check-upstream=folder 2.19.1 3", ["2.19.1", "3"]),
        ("list 2.19.1", []),
        ("catalogue 2.19.1 -c folder 2.18.1 --json", ["2.19.1", "2.18.1"]),
        ("", []),
    ],
)
def test_a_positional_argument_is_there_only_where_a_word_is(words: str, found: list[str]) -> None:
    arguments = [
        Argument(names=("release", "r"), positional=True),
        Argument(names=("check-upstream", "c"), kind=str),
        Argument(names=("json", "j"), kind=bool, default=False),
    ]
    assert words_for("catalogue", arguments, words.split()) == found
