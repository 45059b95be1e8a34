"""matrix/load.py, model.py and problems.py: what a user may write, and what they are told when they may not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from serving_factory.catalogue.levels import Level
from serving_factory.catalogue.releases import Flavour
from serving_factory.errors import MatrixError
from serving_factory.matrix.load import load_matrix
from serving_factory.matrix.matrix import BazelChoice
from serving_factory.matrix.problems import Place, Problem, matrix_error, nearest

from .matrices import SHIPPED, SMALL, document, load, write

IMAGE = "repository: team/serving"


def image(line: str) -> str:
    """The small matrix with one more line in its image section, which is line 3 of the file."""
    return SMALL.replace(IMAGE, f"{IMAGE}\n  {line}")


def replaced(old: str, new: str) -> str:
    assert old in SMALL
    return SMALL.replace(old, new)


# What is written → the one problem that is told, after the file's name.
WRONG = {
    "an unknown key": (SMALL + "relases: 1\n", "8:1: relases: 1: unknown key. Did you mean 'releases'?"),
    "an unknown key of a section": (
        image('tag: ["x"]'),
        "3:3: image.tag: unknown key. Did you mean 'tags'?",
    ),
    "an unknown key of a target": (
        SMALL + "    level: x\n",
        "8:5: targets.standard.level: 'x': unknown key. Did you mean 'levels'?",
    ),
    "an unknown key of a section in a section": (
        SMALL + 'toolchain: {bazel: {version: "1", package: b, packag: c}}\n',
        "8:47: toolchain.bazel.packag: 'c': unknown key. Did you mean 'package'?",
    ),
    "a key that is a number": (SMALL + "1: 2\n", "8:1: [1]: 1: keys should be strings."),
    "an unknown release": (
        replaced("2.19.1", "2.15.0"),
        "3:12: releases[0]: '2.15.0': upstream has no stable tag 2.15.0. Did you mean '2.15.1'?",
    ),
    "a release like no other": (
        replaced("2.19.1", "nightly"),
        (
            "3:12: releases[0]: 'nightly': this is no release: a release is a full tag such as 2.19.1. "
            "Did you mean '2.20.0'?"
        ),
    ),
    "a release without quotes": (
        replaced('"2.19.1"', "2.20"),
        (
            "3:12: releases[0]: 2.2: expected a text. Put it in quotes: without them YAML reads a number or a truth "
            "value, and 2.20 becomes 2.2."
        ),
    ),
    "a release of a target that the file has not": (
        SMALL + '    releases: ["2.18.0"]\n',
        "8:16: targets.standard.releases[0]: '2.18.0': this release is not in the file's releases.",
    ),
    "a key twice": (
        SMALL + 'releases: ["2.19.1"]\n',
        (
            '8:1: not YAML: while constructing a mapping found duplicate key "releases" with value "[\'2.19.1\']" '
            "(original value: \"['2.19.1']\")."
        ),
    ),
    "a tab": (
        replaced("  repository", "\trepository"),
        r"2:1: not YAML: while scanning for the next token found character '\t' that cannot start any token.",
    ),
    "a control character": (replaced("team", "te\x01am"), "2:17: not YAML: character 0x1 is not allowed."),
    "two documents": (
        f"{SMALL}---\n{SMALL}",
        "8:1: not YAML: expected a single document in the stream but found another document.",
    ),
    "an alias of nothing": (SMALL + "source: *nope\n", "8:9: not YAML: found undefined alias 'nope'."),
    "a text for a list": (replaced("[x86-64]", "x86-64"), "7:13: targets.standard.levels: 'x86-64': expected a list."),
    "a text for a mapping": (replaced(f"\n  {IMAGE}", " nginx"), "1:8: image: 'nginx': expected a mapping."),
    "a list for a mapping": (SMALL + "network: [x]\n", "8:1: network: expected a mapping."),
    "a list for a text": (replaced("team/serving", "[a]"), "2:3: image.repository: expected a text."),
    "a section without content": (SMALL + "  other:\n", "8:3: targets.other: expected a mapping."),
    "an empty axis": (replaced("[x86-64]", "[]"), "7:5: targets.standard.levels: this must not be empty."),
    "no releases": (replaced('["2.19.1"]', "[]"), "3:1: releases: this must not be empty."),
    "no targets": (SMALL.partition("targets")[0] + "targets: {}\n", "4:1: targets: this must not be empty."),
    "no repository": (replaced(IMAGE, "labels: {}"), "1:1: image.repository: this key is required."),
    "an unknown flavour": (
        replaced("flavour: cpu", "flavour: CPU"),
        "6:14: targets.standard.flavour: 'CPU': expected one of 'cpu', 'mkl' or 'gpu'. Did you mean 'cpu'?",
    ),
    "a flavour that the release has not": (
        replaced("flavour: cpu", "flavour: mkl").replace("2.19.1", "1.12.3"),
        "6:14: targets.standard.flavour: mkl: release 1.12.3 has no flavour mkl. It has: cpu, gpu.",
    ),
    "an unknown level": (
        replaced("[x86-64]", "[x86-64, v3]"),
        (
            "7:22: targets.standard.levels[1]: 'v3': expected one of 'x86-64', 'x86-64-v2', 'avx', 'x86-64-v3', "
            "'x86-64-v4' or 'native'. Did you mean 'x86-64-v3'?"
        ),
    ),
    "a flavour for a level": (
        replaced("[x86-64]", "[gpuu]"),
        (
            "7:14: targets.standard.levels[0]: 'gpuu': expected one of 'x86-64', 'x86-64-v2', 'avx', 'x86-64-v3', "
            "'x86-64-v4' or 'native'."
        ),
    ),
    "a target in capitals": (
        replaced("standard", "Standard"),
        "5:3: targets.Standard: 'Standard': a target's name is lower-case words joined by '.' or '-'.",
    ),
    "a source that is not there": (SMALL + "source: 'a\x20b'\n", "8:9: source: 'a b': there is no folder FOLDER/a b."),
    "a source that is a file": (
        SMALL + "source: matrix.yaml\n",
        "8:9: source: 'matrix.yaml': there is no folder FOLDER/matrix.yaml.",
    ),
    "a source that no system can name": (
        SMALL + 'source: "a\\0b"\n',
        r"8:9: source: 'a\x00b': a folder's name is not empty and holds no control characters.",
    ),
    "one id for two builds": (
        SMALL + "  other: {flavour: cpu, levels: [x86-64], copts: [-O3]}\n",
        (
            "8:43: targets.other.copts: -O3: 2.19.1-cpu-v1 is built with other options by another target of this file. "
            "Give both the same copts."
        ),
    ),
    "one alias for two variants": (
        replaced("[x86-64]", "[x86-64, x86-64-v3]"),
        (
            "1:1: image.aliases[1]: '{release}-{target}': 2.19.1-cpu-v1 and 2.19.1-cpu-v3 would both be tagged "
            "2.19.1-standard. Put {id}, {flavour} or {level} into the template."
        ),
    ),
    "a tag that grows too long": (
        image(f'aliases: ["{{id}}-{"x" * 120}"]'),
        (
            f"3:13: image.aliases[0]: '{{id}}-{'x' * 120}': for 2.19.1-cpu-v1 this gives a tag of more "
            "than 128 characters."
        ),
    ),
    "an unknown base": (
        SMALL + "toolchain: {base: debian:bookwurm}\n",
        (
            "8:19: toolchain.base: 'debian:bookwurm': the catalogue knows no such base image. "
            "Did you mean 'debian:bookworm'?"
        ),
    ),
    "a mirror of an unknown base": (
        SMALL + "network: {base_images: {'ubuntu:20.4': mirror/ubuntu}}\n",
        (
            "8:40: network.base_images.ubuntu:20.4: 'ubuntu:20.4': the catalogue knows no such base image. "
            "Did you mean 'ubuntu:20.04'?"
        ),
    ),
    "one of the factory's own labels": (
        image("labels: {org.serving-factory.variant: x}"),
        (
            "3:12: image.labels.org.serving-factory.variant: 'org.serving-factory.variant': labels that begin with "
            "org.serving-factory are the factory's own."
        ),
    ),
}


def told(folder: Path, text: str) -> str:
    file = write(folder, text)
    with pytest.raises(MatrixError) as caught:
        load_matrix(file)
    first, *problems = str(caught.value).split("\n")
    assert first == f"{file}: {len(problems)} problem{'s' if len(problems) > 1 else ''}"
    assert all(problem.startswith(str(file)) for problem in problems)
    return "\n".join(problem.removeprefix(f"{file}:").replace(str(folder), "FOLDER") for problem in problems)


@pytest.mark.parametrize(("text", "problem"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_told_once_with_its_place(tmp_path: Path, text: str, problem: str) -> None:
    assert told(tmp_path, text) == problem


def test_all_problems_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = SMALL.replace("cpu", "cpuu").replace(IMAGE, "repository: Team/x").replace('"2.19.1"', "2.19")
    places = [problem.partition(": ")[0] for problem in told(tmp_path, text).split("\n")]
    assert places == ["2:15", "3:12", "6:14"]


TEMPLATE_RULES = {
    "{foo}-{binary}": "a placeholder is one of {id}, {release}, {flavour}, {level}, {binary}.",
    "{}-{binary}": "a placeholder is one of",
    "{id.__class__}-{binary}": "a placeholder is one of",
    "{id[0]}-{binary}": "a placeholder is one of",
    "{id!r}-{binary}": "a placeholder is one of",
    "{id:>400}-{binary}": "a placeholder is one of",
    "{id:{foo}}-{binary}": "a placeholder is one of",
    "{target}-{binary}": "a placeholder is one of",
    "{id-{binary}": "a placeholder is one of|a brace has no partner.",
    "{binary": "a brace has no partner.",
    "binary}": "a brace has no partner.",
    "{id}": "a full tag names one binary: it must hold {binary}.",
    "": "a tag holds letters, digits",
    "a b-{binary}": "a tag holds letters, digits",
    ".{binary}": "a tag holds letters, digits",
    "{{{binary}": "a brace has no partner.|a tag holds letters, digits",
    "{{{binary}}}": "a tag holds letters, digits",
    "é{binary}": "a tag holds letters, digits",
    "{binary}\n": "a tag holds letters, digits",
}


@pytest.mark.parametrize(("template", "rules"), TEMPLATE_RULES.items())
def test_tag_templates_are_checked_when_the_file_is_read(tmp_path: Path, template: str, rules: str) -> None:
    with pytest.raises(MatrixError) as caught:
        load(tmp_path, document(image={"repository": "r", "tags": [template]}))
    assert caught.value.why.count("image.tags[0]") == 1
    assert any(rule in caught.value.why for rule in rules.split("|"))


def test_an_alias_cannot_name_a_binary(tmp_path: Path) -> None:
    with pytest.raises(MatrixError, match=r"image\.aliases\[0\]: '\{binary\}': a placeholder is one of .*\{target\}"):
        load(tmp_path, document(image={"repository": "r", "aliases": ["{binary}"]}))


GOOD_REPOSITORIES = (
    "a",
    "a/b/c",
    "reg.example.com/a",
    "Reg.example.com:5000/a/b",
    "localhost/a",
    "registry:5000/a",
    "a__b",
)
BAD_REPOSITORIES = (
    *("", "A", "Team/x", "a/B", "a:tag", "a@sha256:1", "/a", "a/", "a//b", ".-./a", "a..b", "a___b", "a b", "a\n", "ä"),
    *("https://r.io/a", "r.io:x/a", "a;b", "a$b"),
)


@pytest.mark.parametrize("name", GOOD_REPOSITORIES)
def test_repositories_as_docker_reads_them(tmp_path: Path, name: str) -> None:
    assert load(tmp_path, document(image={"repository": name})).images.repository == name


@pytest.mark.parametrize("name", BAD_REPOSITORIES)
def test_what_docker_would_refuse_is_refused_at_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(MatrixError, match=r"image\.repository: .*a repository is lower case"):
        load(tmp_path, document(image={"repository": name}))


@pytest.mark.parametrize(
    "option",
    [
        "march=native",
        "",
        "-",
        "-O2 -g",
        "-O2;rm",
        "-D$(x)",
        "-D`x`",
        "-DX='a'",
        '-DX="a"',
        "-DX=*",
        "-O2\n",
        "-D|x",
        "-D\\",
    ],
)
def test_a_compiler_option_is_one_word_without_shell(tmp_path: Path, option: str) -> None:
    target = {"flavour": "cpu", "levels": ["x86-64"], "copts": [option]}
    with pytest.raises(MatrixError, match=r"targets\.t\.copts\[0\]: .*a compiler option begins with '-'"):
        load(tmp_path, document(targets={"t": target}))


@pytest.mark.parametrize(
    ("toolchain", "rule"),
    [
        ({"configs": {"cpu": ["a; rm -rf /"]}}, "a Bazel config is one word"),
        ({"configs": {"cpu": ["--x"]}}, "a Bazel config is one word"),
        ({"bazel": {"version": "4\nRUN x", "package": "bazel"}}, "a version begins with a digit"),
        ({"base": "debian:bookworm@sha256:1\nRUN x"}, "an image is"),
        ({"base": ""}, "an image is"),
        ({"compiler": "gcc-9 && x"}, "this is no Debian package name"),
        ({"packages": ["-y"]}, "this is no Debian package name"),
        ({"packages": ["a\nb"]}, "this is no Debian package name"),
    ],
)
def test_nothing_that_lands_in_a_dockerfile_can_add_a_line_to_it(
    tmp_path: Path, toolchain: dict[str, object], rule: str
) -> None:
    with pytest.raises(MatrixError, match=rule):
        load(tmp_path, document(toolchain=toolchain))


@pytest.mark.parametrize("stand_in", ["a b", "a,b", "", "a\nb", "docker-image://x"])
def test_a_stand_in_for_a_base_is_an_image(tmp_path: Path, stand_in: str) -> None:
    with pytest.raises(MatrixError, match="an image is"):
        load(tmp_path, document(network={"base_images": {"ubuntu:20.04": stand_in}}))


@pytest.mark.parametrize("text", ["", "# only a comment\n", "- a\n", "word\n", "null\n", "~\n", "42\n"])
def test_a_file_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(MatrixError) as caught:
        load_matrix(file)
    assert caught.value.what == f"{file}: the file is empty or not a mapping"
    assert "image:, releases: and targets:" in caught.value.remedy


@pytest.mark.parametrize(
    "value", ["2024-13-45", "!!int foo", "!!float x", "!!bool x", "9" * 5000, "[" * 400 + "]" * 400]
)
def test_values_that_yaml_itself_cannot_make(tmp_path: Path, value: str) -> None:
    with pytest.raises(MatrixError, match=r"matrix\.yaml"):
        load(tmp_path, f"{SMALL}source: {value}\n")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(MatrixError, match="there is no such file"):
        load_matrix(tmp_path / "nowhere.yaml")
    with pytest.raises(MatrixError, match=r"cannot be read: .*Is a directory"):
        load_matrix(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(SMALL.encode() + "# \xe9\n".encode("latin-1"))
    with pytest.raises(MatrixError, match=r"cannot be read: 'utf-8' codec") as caught:
        load_matrix(tmp_path / "latin.yaml")
    assert "UTF-8" in caught.value.remedy


# --- what comes of a good file ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", SHIPPED, ids=lambda path: path.parent.name)
def test_the_shipped_files_expand(file: Path) -> None:
    matrix = load_matrix(file)
    assert [variant.id for variant in matrix.variants] == ["2.19.1-cpu-v1", "2.19.1-cpu-v3", "2.19.1-mkl-v3"]
    assert matrix.targets == {
        "cpu-standard": ("2.19.1-cpu-v1",),
        "cpu-optimized": ("2.19.1-cpu-v3",),
        "mkl-optimized": ("2.19.1-mkl-v3",),
    }


@pytest.mark.parametrize("change", [lambda text: text.replace("\n", "\r\n"), lambda text: "\ufeff" + text])
def test_line_ends_and_byte_order_marks_of_windows_do_no_harm(tmp_path: Path, change: object) -> None:
    assert callable(change)
    (tmp_path / "m.yaml").write_bytes(change(SMALL).encode())
    assert [variant.id for variant in load_matrix(tmp_path / "m.yaml").variants] == ["2.19.1-cpu-v1"]


def test_everything_of_a_file_arrives(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    matrix = load(
        tmp_path,
        document(
            image={"repository": "a/b", "tags": ["{level}-{binary}"], "aliases": [], "labels": {"b": "2", "a": "1"}},
            source="tree",
            toolchain={
                "base": "debian:bookworm",
                "compiler": "gcc-9",
                "bazel": {"version": "4.2.3", "package": "bazel-bootstrap"},
                "packages": ["libfoo-dev"],
                "configs": {"mkl": ["one", "two"]},
            },
            network={"base_images": {"debian:bookworm": "mirror:5000/debian@sha256:" + "0" * 64}},
        ),
    )
    assert matrix.images.labels == (("a", "1"), ("b", "2"))
    assert (matrix.images.tags, matrix.images.aliases) == (("{level}-{binary}",), ())
    assert matrix.source == tmp_path / "tree"
    assert matrix.toolchain.bazel == BazelChoice(version="4.2.3", package="bazel-bootstrap")
    assert matrix.toolchain.configs == {Flavour.MKL: ("one", "two")}
    assert (matrix.toolchain.base, matrix.toolchain.compiler) == ("debian:bookworm", "gcc-9")
    assert matrix.base_images == {"debian:bookworm": "mirror:5000/debian@sha256:" + "0" * 64}


def test_what_is_named_twice_is_built_once(tmp_path: Path) -> None:
    target = {"flavour": "cpu", "levels": ["x86-64", "x86-64"], "releases": ["2.19.1", "2.19.1"]}
    matrix = load(tmp_path, document(releases=["2.19.1", "2.19.1"], targets={"a": target, "b": target}))
    assert matrix.targets == {"a": ("2.19.1-cpu-v1",), "b": ("2.19.1-cpu-v1",)}
    assert len(matrix.variants) == 1
    assert matrix.targets_of(matrix.variants[0]) == ("a", "b")


def test_variants_come_lowest_level_first(tmp_path: Path) -> None:
    levels = [level.value for level in reversed(Level)]
    matrix = load(
        tmp_path,
        document(image={"repository": "r", "aliases": ["{id}"]}, targets={"all": {"flavour": "cpu", "levels": levels}}),
    )
    assert [variant.id.rpartition("-")[2] for variant in matrix.variants] == ["v1", "v2", "avx", "v3", "v4", "native"]


# --- problems ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "valid", "found"),
    [
        ("relases", ["releases", "image"], "releases"),
        ("CPU", ["cpu", "mkl"], "cpu"),
        ("v3", ["x86-64-v3", "x86-64-v2"], "x86-64-v3"),
        ("cpu", ["2.19.1-cpu-v1-long-name", "2.19.1-cpu-v3-long-name"], None),
        ("x", ["x86-64-v3"], None),
        ("", ["image"], None),
        ("zzz", ["image"], None),
        ("image", [], None),
    ],
)
def test_nearest(word: str, valid: list[str], found: str | None) -> None:
    assert nearest(word, valid) == found


def test_problems_are_told_in_the_order_of_the_file() -> None:
    def problem(place: Place | None, rule: str) -> Problem:
        return Problem(place=place, where="", value="", rule=rule)

    error = matrix_error("f", [problem(Place(10, 1), "c"), problem(Place(9, 2), "b"), problem(None, "a")])
    assert error.what == "f: 3 problems"
    assert error.why == "f: a.\nf:9:2: b.\nf:10:1: c."
    assert re.fullmatch(r"f:1:1: w: v: r\. Do it\.", matrix_error("f", [FULL]).why)


FULL = Problem(place=Place(1, 1), where="w", value="v", rule="r", remedy="Do it.")
