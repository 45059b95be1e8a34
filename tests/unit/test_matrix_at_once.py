"""Every mistake of a file in one message, and none that only follows from another."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving_factory.catalogue.releases import releases
from serving_factory.matrix import problems as matrix_problems
from serving_factory.matrix.expand import MAX_CANDIDATES, MAX_CHECKS
from serving_factory.matrix.problems import Broken

from .matrices import SMALL, load, problems

ONE_OF_EACH_KIND = """\
image:
  repository: Team/serving
  tags: ["{id}-{binary}", "{noone}-{binary}"]
  aliases: ["{flavour}"]
releases: ["2.19.1", "2.18.1", "1.12.3"]
relases: 1
targets:
  good: {flavour: cpu, levels: [x86-64, avx]}
  same: {flavour: cpu, levels: [x86-64], copts: [-g]}
  typo: {flavour: mkll, levels: [x86-64], copts: [O3]}
  missing: {flavour: cpu}
  orphan: {extends: goood, levels: [x86-64]}
  ring: {extends: gnir}
  gnir: {extends: ring}
  cuda-less: {flavour: cpu, levels: [avx], cuda: "12.2"}
  absent: {flavour: mkl, levels: [x86-64], releases: ["1.12.3"]}
  elsewhere: {flavour: mkl, levels: [x86-64], releases: ["2.17.1"]}
  too-new: {flavour: gpu, levels: [x86-64, avx], releases: ["2.19.1"], capabilities: [blackwell]}
  emptied: {flavour: mkl, levels: [x86-64], releases: ["2.18.1"]}
exclude:
  - {reason: one that nothing meets, targets: [good], flavours: [gpu]}
  - {reason: one about no target, targets: [godo], flavours: [gpu]}
  - {flavours: [gpu], levels: [avx], targets: [too-new]}
  - {reason: one that empties a target, targets: [emptied], releases: ">=2"}
require:
  - {reason: one without what stays, where: {flavours: [gpu]}, only: {}}
source: nowhere
toolchain: {base: debian:bookwurm}
network: {base_images: {"ubuntu:20.4": mirror/ubuntu}}
resources: {memory: 16G}
"""

EXPECTED = {
    "2:15": "a repository is lower case",
    "3:27": "a placeholder is one of",
    "4:13": "would both be tagged cpu",
    "6:1": "unknown key",
    "9:42": "targets good and same build",
    "10:19": "expected one of 'cpu', 'mkl' or 'gpu'",
    "10:51": "a compiler option begins with '-'",
    "11:3": "this key is required",
    "12:21": "there is no such target. Did you mean 'good'?",
    "13:19": "a target cannot extend itself: ring → gnir → ring",
    "15:50": "flavour cpu has no CUDA",
    "16:21": "release 1.12.3 has no flavour mkl",
    "17:58": "this release is not in the file's releases",
    "18:72": "CUDA 12.2 compiles capabilities 5.0 to 9.0",
    "21:5": "no selected variant meets all",
    "22:45": "there is no such target. Did you mean 'good'?",
    "23:5": "this key is required",
    "24:5": "this rule drops every variant of target emptied",
    "26:64": "there is no condition here",
    "27:9": "there is no folder",
    "28:19": "Did you mean 'debian:bookworm'?",
    "29:25": "Did you mean 'ubuntu:20.04'?",
    "30:21": "Write it like 16GiB",
}


def test_one_mistake_of_each_kind_is_reported_in_one_message(tmp_path: Path) -> None:
    lines = problems(tmp_path, ONE_OF_EACH_KIND)
    found = dict(line.split(": ", 1) for line in lines)
    assert len(lines) == len(EXPECTED)
    assert list(found) == list(EXPECTED)
    for place, rule in EXPECTED.items():
        assert rule in found[place]


BASE = """\
image: {repository: r, aliases: ["{id}"]}
releases: ["2.19.1"]
targets:
  one: {flavour: cpu, levels: [x86-64]}
"""

# What is wrong with a file -> the one problem that is reported: all else would only follow from it.
FOLLOWS = {
    "a rule on a broken target": BASE
    + "  two: {flavour: gpuu, levels: [avx]}\nexclude: [{reason: why not, targets: [two], levels: [avx]}]\n",
    "a rule that a broken target may meet": BASE
    + "  two: {flavour: gpuu, levels: [avx]}\nexclude: [{reason: why not, levels: [avx]}]\n",
    "a rule that requires of a broken target": BASE
    + "  two: {flavour: gpuu, levels: [avx]}\n"
    + "require: [{reason: r, where: {levels: [avx]}, only: {flavours: [gpu]}}]\n",
    "a target that extends a broken one": BASE + "  two: {flavour: cpu, levels: [v3]}\n  three: {extends: two}\n",
    "a target that extends what is not there": BASE + "  two: {extends: one}\n  three: {extends: twoo}\n",
    "a required key with a slip": BASE + "  two: {flavor: cpu, levels: [avx]}\n",
    "a section's required key with a slip": BASE.replace("repository", "repositry"),
    "a section with a slip": BASE.replace("targets:", "target:") + "exclude: [{reason: r, targets: [one]}]\n",
    "an axis with a slip in one release": BASE.replace('"2.19.1"', '"2.19.1", "2.15.0"')
    + '  two: {flavour: cpu, levels: [avx], releases: ["2.15.1"]}\n',
    "a rule on a release with a slip": BASE.replace('"2.19.1"', '"2.19.1", "2.15.0"')
    + 'exclude: [{reason: r, releases: "<2.19"}]\n',
    "the file's platforms": BASE + "platforms: [linux/amd46]\n",
    "a clash that a broken rule would have taken out": BASE
    + "  two: {extends: one, copts: [-g]}\nexclude: [{reason: r, targets: [twoo]}]\n",
    "an alias's clash that a broken rule would have taken out": BASE.replace("{id}", "{release}").replace(
        "[x86-64]", "[x86-64, avx]"
    )
    + "exclude: [{reason: r, level: [avx]}]\n",
    "an alias with a slip": BASE.replace("aliases", "alias").replace("[x86-64]", "[x86-64, avx]"),
    "a rule with a slip": BASE + "exclude: [{reason: r, level: [avx]}]\n",
    "a rule that is none": BASE + "exclude: [words]\n",
    "rules that are none": BASE.replace("{id}", "{release}").replace("[x86-64]", "[x86-64, avx]") + "exclude: words\n",
    "a toolchain with a slip": BASE.replace("2.19.1", "2.0.0").replace("[x86-64]", "[x86-64-v4]")
    + "toolchain: {compiler: 'gcc 8'}\n",
    "a merge key": BASE + "  two:\n    <<: {flavour: cpu}\n    levels: [avx]\n",
    "a key twice": BASE
    + "  two: {flavour: cpu, levels: [avx], levels: [x86-64]}\nexclude: [{reason: r, levels: [avx]}]\n",
    "targets that are no mapping": BASE.partition("targets")[0]
    + "targets: [a]\nexclude: [{reason: r, targets: [a]}]\n",
    "a target's bad name": BASE + "  Two: {flavour: cpu, levels: [avx]}\nexclude: [{reason: r, levels: [avx]}]\n",
    "a set of flags with a slip": BASE + "  two: {flavour: cpu, levels: [avx], flags: avx2fma}\n",
}


@pytest.mark.parametrize("text", FOLLOWS.values(), ids=FOLLOWS.keys())
def test_what_only_follows_from_a_mistake_is_not_reported(tmp_path: Path, text: str) -> None:
    assert len(problems(tmp_path, text)) == 1


def test_what_holds_whatever_the_broken_part_says_is_reported(tmp_path: Path) -> None:
    """A rule on other targets matches nothing, whatever the broken target asks for; a clash of others stays one."""
    text = BASE + "  two: {flavour: gpuu, levels: [avx]}\n  three: {extends: one, copts: [-g]}\n"
    text += "exclude: [{reason: r, targets: [one], levels: [avx]}, {reason: s, flavours: [gpu], leve: [avx]}]\n"
    places = [line.partition(": ")[0] for line in problems(tmp_path, text)]
    assert places == ["5:18", "6:25", "7:11", "7:84"]


def test_a_wrong_release_hides_nothing_that_is_wrong_with_the_others(tmp_path: Path) -> None:
    """What a target asks for by name and cannot have stays wrong; that it is empty may come of the wrong release."""
    text = BASE.replace('"2.19.1"', '"2.15.0", "1.12.3"').replace("cpu", "mkl")
    places = [line.partition(": ")[0] for line in problems(tmp_path, text + "  two: {flavour: cpu, levels: [avx]}\n")]
    assert places == ["2:12", "4:18"]
    (line,) = problems(tmp_path, BASE.replace('"2.19.1"', '"2.15.0", "<1.13"').replace("cpu", "mkl"))
    assert line.startswith("2:12: ")


def test_one_pair_of_targets_clashes_once(tmp_path: Path) -> None:
    text = BASE.replace('"2.19.1"', '"2.19.1", "2.18.1"') + "  two: {extends: one, copts: [-g]}\n"
    (line,) = problems(tmp_path, text)
    assert line.startswith("5:23: targets.two.copts: targets one and two build 2.18.1-cpu-v1 with different copts.")


def test_where_a_file_is_broken() -> None:
    broken = Broken([("targets", "a", "levels", 0), ("exclude", 1), ("image", "<<"), ()])
    assert broken.at("targets")
    assert broken.at("targets", "a", "levels")
    assert broken.at("targets", "a", "levels", 0, "more")
    assert not broken.at("targets", "a", "flavour")
    assert not broken.around("targets")
    assert broken.around("exclude", 1, "levels")
    assert broken.inside("exclude") == {1}
    assert broken.inside("nothing") == frozenset()
    assert broken.around("image", "tags"), "a merge key may have brought anything"
    assert broken.and_at([("source",)]).at("source")


# --- large files ------------------------------------------------------------------------------------------------------


def many_targets(count: int) -> str:
    return "".join(f"  target-{index}: {{flavour: cpu, levels: [x86-64]}}\n" for index in range(count))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (BASE + many_targets(500), "targets: this may have 500 entries at most, and has 501"),
        (BASE + f"platforms: [{', '.join(['linux/amd64'] * 201)}]\n", "platforms: this may have 200 entries at most"),
        (
            BASE.replace("2.19.1", ">=0") + many_targets(150),
            f"targets: the targets select {151 * len(releases()):,} variants, … {MAX_CANDIDATES:,}",
        ),
        (
            BASE.replace("2.19.1", ">=0")
            + many_targets(99)
            + "exclude:\n"
            + '  - {reason: r, releases: "<1.6"}\n' * 140,
            f"targets: 140 rules for {100 * len(releases()):,} variants are more than {MAX_CHECKS:,}",
        ),
    ],
)
def test_a_file_that_asks_for_too_much_is_refused_with_one_error(tmp_path: Path, text: str, rule: str) -> None:
    (line,) = problems(tmp_path, text)
    assert all(fact in line for fact in rule.split(" … "))


def test_of_many_problems_only_those_that_are_shown_get_a_nearest_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    nearest = matrix_problems.nearest

    def counted(word: str, valid: tuple[str, ...]) -> str | None:
        asked.append(word)
        return nearest(word, valid)

    monkeypatch.setattr(matrix_problems, "nearest", counted)
    rules = "".join(f"  - {{reason: r, targets: [targe-{index}]}}\n" for index in range(300))
    lines = problems(tmp_path, BASE + many_targets(300) + "exclude:\n" + rules)
    assert "Did you mean 'target-0'?" in lines[0]
    assert lines[-1].endswith("and 200 more")
    assert len(asked) == 100


def test_of_very_many_words_the_nearest_is_still_found() -> None:
    words = [f"target-number-{index}" for index in range(5000)]
    assert matrix_problems.nearest("target-nmber-4321", words) == "target-number-4321"


def test_a_long_chain_is_reported_where_it_grows_too_long_and_once(tmp_path: Path) -> None:
    chain = "".join(f"  t{index}: {{extends: {f't{index - 1}' if index else 'standard'}}}\n" for index in range(400))
    (line,) = problems(tmp_path, SMALL + chain)
    assert line.startswith("18:18: targets.t10.extends: 't9': more than 10 targets extend each other here.")


def test_a_large_circle_is_one_line(tmp_path: Path) -> None:
    circle = "".join(f"  t{index}: {{extends: t{(index + 1) % 400}}}\n" for index in range(400))
    (line,) = problems(tmp_path, SMALL + circle)
    assert "t0 → t1 → t2" in line
    assert "… → t0." in line
    assert len(line) < 250


def test_as_much_as_may_be_asked_for_is_planned(tmp_path: Path) -> None:
    text = BASE + many_targets(199) + "exclude:\n" + "  - {reason: r, targets: [target-0]}\n" * 500
    (line, *others) = problems(tmp_path, text)
    assert "this rule drops every variant of target target-0" in line
    assert len(others) == 100
    assert len(load(tmp_path, BASE + many_targets(499)).targets) == 500
