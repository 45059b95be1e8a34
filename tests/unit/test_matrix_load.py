"""matrix/load.py, model.py and problems.py: what a user may write, and the message where it is wrong."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from packaging.version import Version

from serving_factory.catalogue.cuda import cudas
from serving_factory.catalogue.facts import Flavour
from serving_factory.catalogue.levels import Level
from serving_factory.catalogue.releases import releases
from serving_factory.errors import MatrixError
from serving_factory.matrix.document import MAX_BYTES
from serving_factory.matrix.load import load_matrix
from serving_factory.matrix.model import Conditions
from serving_factory.matrix.problems import Place, Problem, dotted, matrix_error, nearest
from serving_factory.matrix.schema import key_names
from serving_factory.matrix.settings import BazelChoice

from .matrices import ROOT, SHIPPED, SMALL, document, load, problems, tree, write

IMAGE = "repository: team/serving"


def image(line: str) -> str:
    """The small matrix with one more line in its image section, which is line 3 of the file."""
    return SMALL.replace(IMAGE, f"{IMAGE}\n  {line}")


def replaced(old: str, new: str) -> str:
    assert old in SMALL
    return SMALL.replace(old, new)


GPU = replaced("flavour: cpu", "flavour: gpu")
LEVELS = replaced("[x86-64]", "[x86-64, avx]")
*_, NEWEST = releases()
CONDITIONS = ", ".join(key_names(Conditions))

# What is written → the facts of each problem's line, in order: its place, the value, the remedy.
WRONG = {
    "an unknown key": (SMALL + "relases: 1\n", "8:1: relases: … 'releases'"),
    "a key of a section's section": (
        SMALL + "base: x\n",
        "8:1: base: … image.base or toolchain.base",
    ),
    "a key of a section of a list's entry": (
        SMALL + "per_release: [{releases: '2.19.1', compiler: gcc-9}]\n",
        "8:36: per_release[0].compiler: … per_release[0].toolchain.compiler",
    ),
    "a key of the whole file in a section": (
        SMALL + "toolchain: {bazel: '0.17.2'}\n",
        "8:13: toolchain.bazel: … bazel or per_release[].bazel",
    ),
    "a key of another section": (
        SMALL.replace("    flavour", "    base: x\n    flavour"),
        "6:5: targets.standard.base: … image.base or toolchain.base",
    ),
    "an unknown key of a section": (image('tag: ["x"]'), "3:3: image.tag: … 'tags'"),
    "an unknown key of a target": (SMALL + "    level: x\n", "8:5: targets.standard.level: … 'levels'"),
    "an unknown key of a section in a section": (
        SMALL + 'network: {proxies: {https: "http://a", no: b, htpps: c}}\n',
        "8:47: network.proxies.htpps: … 'https'",
    ),
    "a key that is like no other": (SMALL + "resources: {cpus: 2}\n", "8:13: resources.cpus: … jobs, memory, cache"),
    "a key twice": (SMALL + 'releases: ["2.19.1"]\n', "8:1: releases: … in line 3 already"),
    "a key without a value": (replaced("[x86-64]", ""), "7:5: targets.standard.levels: … no value"),
    "a section without content": (SMALL + "  other:\n", "8:3: targets.other: … no value"),
    "a merge key": (SMALL.replace("cpu\n", "cpu\n    <<: {levels: [avx]}\n"), "7:5: targets.standard.<<: … extends:"),
    "a tag": (replaced("flavour: cpu", "flavour: !!str cpu"), "6:14: targets.standard.flavour: tag:yaml.org,2002:str:"),
    "an unknown release": (replaced("2.19.1", "2.15.0"), "3:12: releases[0]: '2.15.0': … '2.15.1'"),
    "a series of releases": (replaced("2.19.1", "2.20"), "3:12: releases[0]: '2.20': … patch number … '2.20.0'"),
    "a release like no other": (replaced("2.19.1", "nightly"), f"3:12: releases[0]: 'nightly': … '{NEWEST}'"),
    "a release without quotes": (
        replaced('"2.19.1"', "2.20"),
        '3:12: releases[0]: 2.20: … quotes, "2.20" … number 2.2.',
    ),
    "a version without quotes": (
        SMALL + "bazel: {version: 3.10, package: bazel}\n",
        '8:18: bazel.version: 3.10: … quotes, "3.10" … number 3.1.',
    ),
    "a CUDA without quotes": (
        GPU + "    cuda: 12.20\n",
        '8:11: targets.standard.cuda: 12.20: … "12.20" … number 12.2.',
    ),
    "a boolean for a text": (replaced("team/serving", "true"), '2:15: image.repository: true: … "true" … boolean'),
    "a word like latest-patches": (
        replaced("2.19.1", "latest-patch"),
        "3:12: releases[0]: 'latest-patch': … 'latest-patches'",
    ),
    "a specifier that cannot be read": (
        replaced("2.19.1", ">=2.11 <2.16"),
        "3:12: releases[0]: '>=2.11 <2.16': … \">=2.11,<2.16\"",
    ),
    "a specifier that ends in a comma": (
        replaced("2.19.1", ">=2.11,"),
        "3:12: releases[0]: '>=2.11,': … comma … \">=2.11,<2.16\"",
    ),
    "a specifier that no release meets": (replaced("2.19.1", ">=3"), f"3:12: releases[0]: '>=3': … 1.5.0 to {NEWEST}"),
    "a star without an operator": (replaced("2.19.1", "2.1*"), "3:12: releases[0]: '2.1*': … \"==2.11.*\""),
    "versions compared as texts": (
        replaced("2.19.1", "===2.19.1"),
        "3:12: releases[0]: '===2.19.1': … \">=2.11,<2.16\"",
    ),
    "releases that no release is all of": (
        LEVELS + 'exclude: [{reason: old, releases: "2.18.1,2.19.1", levels: [avx]}]\n',
        "8:35: exclude[0].releases: '2.18.1,2.19.1': … commas narrow … \">=2.18,<2.20\"",
    ),
    "a release of a target that the file lacks": (
        SMALL + '    releases: ["2.18.0"]\n',
        "8:16: targets.standard.releases[0]: '2.18.0': … the file's releases. Add it there",
    ),
    "a range of a target that the file has nothing of": (
        SMALL + '    releases: ["<2"]\n',
        "8:16: targets.standard.releases[0]: '<2': … the file's releases. Add it there",
    ),
    "a tab": (replaced("  repository", "\trepository"), "2:1: … tabs"),
    "a tab after blanks": (replaced("    levels", "  \t levels"), "7:3: … tabs"),
    "a bracket that is left open": (SMALL + "source: [\n", "9:1: not YAML: … brackets"),
    "a control character": (replaced("team", "te\x01am"), "2:17: character 0x1"),
    "two documents": (f"{SMALL}---\n{SMALL}", "8:1: a second document"),
    "an alias of nothing": (SMALL + "source: *nope\n", "8:9: no anchor &nope"),
    "an alias within its own anchor": (SMALL + "toolchain: &a {configs: *a}\n", "8:25: no anchor &a"),
    "a key that is a list": (SMALL + "[a]: b\n", "8:1: a key is one word. … quotes"),
    "aliases that explode": (
        "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in pairwise("abcdefghi")),
        "1:35: … 10,000 … aliases",
    ),
    "too many brackets": (SMALL + f"source: {'[' * 400}\n", "8:29: … 20 deep"),
    "a text for a list": (
        replaced("[x86-64]", "x86-64"),
        "7:13: targets.standard.levels: 'x86-64': … a list … [x86-64]",
    ),
    "a number for a list": (replaced('["2.19.1"]', "2.19"), '3:11: releases: 2.19: … a list … ["2.19"]'),
    "a mapping for a list": (replaced("[x86-64]", "{x86-64: x}"), "7:5: targets.standard.levels: … a list … `- `"),
    "a text for a mapping": (replaced(f"\n  {IMAGE}", " nginx"), "1:8: image: 'nginx': … a mapping"),
    "a list for a mapping": (SMALL + "network: [x]\n", "8:1: network: … a mapping"),
    "a number's text for a list": (
        SMALL.replace("levels: [x86-64]", 'levels: "3 v2"'),
        '7:13: targets.standard.levels: … brackets: ["3", v2]',
    ),
    "a list for a text": (replaced("team/serving", "[a]"), '2:3: image.repository: … without brackets: "a"'),
    "a list for a rule's releases": (
        LEVELS + 'exclude: [{reason: old, releases: ["2.18.1"], levels: [avx]}]\n',
        '8:25: exclude[0].releases: … without brackets: "2.18.1"',
    ),
    "an empty axis": (replaced("[x86-64]", "[]"), "7:5: targets.standard.levels: … empty"),
    "no releases": (replaced('["2.19.1"]', "[]"), "3:1: releases: … empty"),
    "no targets": (SMALL.partition("targets")[0] + "targets: {}\n", "4:1: targets: … empty"),
    "no repository": (replaced(IMAGE, "labels: {}"), "1:1: image.repository: … required"),
    "an unknown flavour": (
        replaced("flavour: cpu", "flavour: CPU"),
        "6:14: targets.standard.flavour: 'CPU': … mean 'cpu'",
    ),
    "an unknown level": (
        replaced("[x86-64]", "[x86-64, v3]"),
        "7:22: targets.standard.levels[1]: 'v3': … mean 'x86-64-v3'",
    ),
    "a flavour for a level": (replaced("[x86-64]", "[gpuu]"), "7:14: targets.standard.levels[0]: 'gpuu': … 'native'"),
    "an unknown platform": (SMALL + "platforms: [amd64]\n", "8:13: platforms[0]: 'amd64': … mean 'linux/amd64'"),
    "a flavour that the release has not": (
        replaced("flavour: cpu", "flavour: mkl").replace("2.19.1", "1.12.3"),
        "6:14: targets.standard.flavour: 'mkl': … 1.12.3 … cpu, gpu",
    ),
    "no flavour": (replaced("    flavour: cpu\n", ""), "5:3: targets.standard.flavour: … required"),
    "no levels in a target and the one that it extends": (
        replaced("    levels: [x86-64]\n", "") + "  more: {extends: standard, copts: [-O3]}\n",
        "5:3: targets.standard.levels: … required\n7:3: targets.more.levels: … required, and standard has none",
    ),
    "a target that extends nothing": (
        SMALL + "  more: {extends: standart}\n",
        "8:19: targets.more.extends: 'standart': … mean 'standard'",
    ),
    "targets that extend each other": (
        SMALL + "  a: {extends: b}\n  b: {extends: c}\n  c: {extends: b}\n",
        "9:16: targets.b.extends: 'c': … b → c → b",
    ),
    "a target that extends itself": (
        SMALL + "    extends: standard\n",
        "8:14: targets.standard.extends: 'standard': … standard → standard",
    ),
    "a level of another platform": (
        SMALL + "platforms: [linux/amd64, linux/arm64]\n",
        "8:26: platforms[1]: 'linux/arm64': … x86-64 … standard … native",
    ),
    "a level of another platform than a target's": (
        SMALL + "    platforms: [linux/arm64]\n",
        "8:17: targets.standard.platforms[0]: 'linux/arm64': … x86-64 … native",
    ),
    "cuda on a cpu flavour": (SMALL + '    cuda: "12.2"\n', "8:11: targets.standard.cuda: '12.2': flavour cpu … gpu"),
    "capabilities on a cpu flavour": (
        SMALL + "    capabilities: [h100]\n",
        "8:5: targets.standard.capabilities: flavour cpu … gpu",
    ),
    "a CUDA that the release has not": (
        GPU + '    cuda: "11.8"\n',
        "8:11: targets.standard.cuda: '11.8': … 2.19.1 … CUDA 12.2",
    ),
    "a CUDA that no release has": (GPU + '    cuda: "12.3"\n', "8:11: targets.standard.cuda: '12.3': … mean '12.2'"),
    "a range of CUDAs for a target": (GPU + '    cuda: ">=12"\n', "8:11: targets.standard.cuda: '>=12': … \"12.2\""),
    "a range of CUDAs that no release has": (
        SMALL + 'exclude: [{reason: old, cuda: "<8"}]\n',
        f"8:31: exclude[0].cuda: '<8': … {', '.join(cudas())}",
    ),
    "a word for a CUDA": (GPU + "    cuda: newest\n", '8:11: targets.standard.cuda: \'newest\': … "12.2" … ">=12"'),
    "an unknown card": (GPU + "    capabilities: [a10O]\n", "8:20: targets.standard.capabilities[0]: 'a10O': … 'a100'"),
    "a capability that does not exist": (
        GPU + '    capabilities: ["9.9"]\n',
        "8:20: targets.standard.capabilities[0]: '9.9': … 8.0, 8.6 … 12.0",
    ),
    "a capability out of the CUDA's range": (
        GPU + "    capabilities: [h100, blackwell]\n",
        "8:5: targets.standard.capabilities: release 2.19.1: CUDA 12.2 … 5.0 to 9.0, not 10.0, 12.0 … CUDA 12.8",
    ),
    "an unknown set of flags": (SMALL + "    flags: avx2\n", "8:12: targets.standard.flags: 'avx2': … 'avx2-fma'"),
    "a set of flags for another level": (
        SMALL + "    flags: avx2-fma\n",
        "8:12: targets.standard.flags: 'avx2-fma': … not for x86-64. Add x86-64-v3",
    ),
    "a rule without a reason": (
        SMALL + "exclude: [{flavours: [cpu]}]\n",
        "8:11: exclude[0].reason: … required\n8:11: exclude[0]: … every variant of target standard",
    ),
    "a reason that says nothing": (
        LEVELS + "exclude: [{levels: [avx], reason: '-'}]\n",
        "8:35: exclude[0].reason: '-':",
    ),
    "a rule without conditions": (SMALL + "exclude: [{reason: because}]\n", f"8:11: exclude[0]: … {CONDITIONS}"),
    "a rule that requires nothing": (
        SMALL + "require: [{reason: because, where: {}, only: {}}]\n",
        f"8:40: require[0].only: … {CONDITIONS}",
    ),
    "a rule about a target that does not exist": (
        SMALL + "exclude: [{reason: because, targets: [standart]}]\n",
        "8:39: exclude[0].targets[0]: 'standart': … mean 'standard'",
    ),
    "a rule that matches nothing": (
        SMALL + "exclude: [{reason: because, flavours: [gpu], levels: [x86-64]}]\n",
        "8:11: exclude[0]: no selected variant … Loosen",
    ),
    "a rule that drops everything": (
        SMALL + "exclude: [{reason: because, flavours: [cpu]}]\n",
        "8:11: exclude[0]: … every variant of target standard",
    ),
    "a rule that requires what nothing has": (
        LEVELS + "require: [{reason: because, where: {levels: [avx]}, only: {flavours: [mkl]}}]\n",
        "8:53: require[0].only: … drops them all",
    ),
    "a rule whose where matches nothing": (
        SMALL + "require: [{reason: because, where: {levels: [avx]}, only: {flavours: [cpu]}}]\n",
        "8:29: require[0].where: no selected variant",
    ),
    "an unknown key of a rule": (
        SMALL + "exclude: [{reason: because, release: '2.19.1'}]\n",
        "8:29: exclude[0].release: … 'releases'",
    ),
    "rules that leave nothing together": (
        LEVELS + "exclude: [{reason: old ones, levels: [x86-64]}, {reason: new ones, levels: [avx]}]\n",
        "5:3: targets.standard: … nothing: old ones; new ones.",
    ),
    "a target that selects nothing": (
        replaced("flavour: cpu", "flavour: mkl").replace("2.19.1", "<1.13"),
        "5:3: targets.standard: … nothing: … 1.5.0 has no flavour mkl; … and 11 more",
    ),
    "a target of nothing but what is known not to compile": (
        SMALL.replace("2.19.1", "2.0.0").replace("[x86-64]", "[x86-64-v4]"),
        "5:3: targets.standard: … does not compile: … ruy … https://github.com/tensorflow/tensorflow/issues/32026",
    ),
    "a size in no known unit": (SMALL + "resources: {memory: 16G}\n", "8:21: resources.memory: '16G': … GiB … 16GiB"),
    "a size beyond any machine": (
        SMALL + "resources: {memory: 9999999GiB}\n",
        "8:21: resources.memory: '9999999GiB': … GiB",
    ),
    "a text for a number": (SMALL + 'resources: {jobs: "8"}\n', "8:19: resources.jobs: '8': … 1 to 1024 … quotes: 8."),
    "a number that is too large": (SMALL + "resources: {jobs: 5000}\n", "8:19: resources.jobs: 5000: … 1 to 1024"),
    "a boolean for a number": (SMALL + "resources: {jobs: true}\n", "8:19: resources.jobs: true: … 1 to 1024"),
    "an option above the level": (
        SMALL + "    copts: [-O3, -mavx2]\n",
        "8:18: targets.standard.copts[1]: '-mavx2': … level x86-64, and avx2 is part of x86-64-v3 … Remove the option",
    ),
    "an option of no level": (
        LEVELS.replace("avx", "x86-64-v4") + "    copts: [-maes]\n",
        "8:13: targets.standard.copts[0]: '-maes': … level x86-64, and aes is part of no level",
    ),
    "a CPU above the level": (
        SMALL + "    copts: [-march=haswell]\n",
        "8:13: targets.standard.copts[0]: '-march=haswell': … x86-64-v3 is the lowest level with all of haswell",
    ),
    "a base image without a tag": (image("base: debian"), "3:9: image.base: 'debian': … debian:trixie-slim"),
    "a slim base of an image without a tag": (
        image("base: slim of debian"),
        "3:9: image.base: 'slim of debian': … tag",
    ),
    "a base of no flavour": (image('base: {tpu: "debian:trixie"}'), "3:10: image.base.tpu: … mean 'gpu'"),
    "a base of a release alone without a tag": (
        SMALL + "per_release: [{releases: '2.19.1', image: {base: {cpu: debian}}}]\n",
        "8:56: per_release[0].image.base.cpu: 'debian': … debian:trixie-slim",
    ),
    "a name of the images in an entry for releases": (
        SMALL + "per_release: [{releases: '2.19.1', image: {repository: x}}]\n",
        "8:44: per_release[0].image.repository: … image.repository",
    ),
    "a user's name": (image("user: tensorflow"), "3:9: image.user: 'tensorflow': … 0 to 2147483647"),
    "a user beyond what Docker takes": (image("user: 2147483648"), "3:9: image.user: 2147483648: … 0 to 2147483647"),
    "a duration without its unit": (
        image('health: {interval: "10"}'),
        "3:22: image.health.interval: '10': … Write it like 30s, 5m or 1h.",
    ),
    "no time between two health checks": (
        image("health: {interval: 0s}"),
        "3:22: image.health.interval: '0s': … seconds",
    ),
    "no failure at all": (image("health: {retries: 0}"), "3:21: image.health.retries: 0: … from 1 to 100"),
    "what is not a number": (SMALL + "resources: {jobs: .nan}\n", "8:19: resources.jobs: .nan: … 1 to 1024"),
    "a target in capitals": (replaced("standard", "Standard"), "5:3: targets.Standard: … lower-case"),
    "one id for two builds": (
        SMALL + "  other: {flavour: cpu, levels: [x86-64], copts: [-O3]}\n",
        "8:43: targets.other.copts: targets standard and other build 2.19.1-cpu-v1 with different copts.",
    ),
    "one id for two sets of flags": (
        replaced("[x86-64]", "[x86-64-v3]") + "  other: {extends: standard, flags: avx2-fma}\n",
        "8:37: targets.other.flags: 'avx2-fma': targets standard and other build 2.19.1-cpu-v3 with different flags.",
    ),
    "one alias for two variants": (
        replaced("[x86-64]", "[x86-64, x86-64-v3]"),
        "1:1: image: … '{release}-{target}': 2.19.1-cpu-v1 and 2.19.1-cpu-v3 … 2.19.1-standard. Add aliases:",
    ),
    "one alias for two variants through two templates": (
        image('aliases: ["{id}", "{release}-{target}"]').replace("  standard:", "  other:")
        + "  cpu-v1: {flavour: cpu, levels: [x86-64-v3]}\n",
        "3:21: image.aliases[1]: '{release}-{target}': 2.19.1-cpu-v1 and 2.19.1-cpu-v3 … 2.19.1-cpu-v1. '{id}'",
    ),
    "a tag that grows too long": (
        image(f'aliases: ["{{id}}-{"x" * 120}"]'),
        f"3:13: image.aliases[0]: '{{id}}-{'x' * 120}': for 2.19.1-cpu-v1 … 134 characters … 128",
    ),
    "an unknown base": (
        SMALL + "toolchain: {base: debian:bookwurm}\n",
        "8:19: toolchain.base: 'debian:bookwurm': … mean 'debian:bookworm'",
    ),
    "a mirror of an unknown base": (
        SMALL + "network: {base_images: {'ubuntu:20.4': mirror/ubuntu}}\n",
        "8:25: network.base_images.ubuntu:20.4: … mean 'ubuntu:20.04'",
    ),
    "one of the factory's own labels": (
        image("labels: {org.serving-factory.variant: x}"),
        "3:12: image.labels.org.serving-factory.variant: … another name",
    ),
}


@pytest.mark.parametrize(("text", "facts"), WRONG.values(), ids=WRONG.keys())
def test_each_mistake_is_reported_once_with_its_place(tmp_path: Path, text: str, facts: str) -> None:
    lines = problems(tmp_path, text)
    for line, expected in zip(lines, facts.split("\n"), strict=True):
        first, *others = expected.split(" … ")
        assert line.startswith(first.removesuffix("… "))
        assert re.search(".*".join(map(re.escape, [first, *others])), line), line
        assert line.endswith((".", "?", ":")), "what to do is a sentence"


def test_all_problems_are_reported_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = SMALL.replace("cpu", "cpuu").replace(IMAGE, "repository: Team/x").replace('"2.19.1"', "2.19")
    assert [line.partition(": ")[0] for line in problems(tmp_path, text)] == ["2:15", "3:12", "6:14"]


TEMPLATE_RULES = {
    "{foo}-{binary}": "is one of {id}, {release}, {series}, {flavour}, {flavour-suffix}, {level}, {binary}, {image}.",
    "{}-{binary}": "a placeholder is one of",
    "{id.__class__}-{binary}": "a placeholder is one of",
    "{id[0]}-{binary}": "a placeholder is one of",
    "{id!r}-{binary}": "a placeholder is one of",
    "{id:>400}-{binary}": "a placeholder is one of",
    "{id:{foo}}-{binary}": "a placeholder is one of",
    "{target}-{binary}": "a placeholder is one of",
    "{id-{binary}": "a placeholder is one of|a brace is not",
    "{binary": "a brace is not",
    "binary}": "a brace is not",
    "{id}": "a full tag names one binary: it must hold {binary}.",
    "": "a tag holds letters, digits",
    "a b-{binary}": "a tag holds letters, digits",
    ".{binary}": "a tag holds letters, digits",
    "{{{binary}": "a brace is not|a tag holds letters, digits",
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
    "reg.example.com:65535/a",
    "a" * 255,
)
BAD_REPOSITORIES = (
    *("", "A", "Team/x", "a/B", "a:tag", "a@sha256:1", "/a", "a/", "a//b", ".-./a", "a..b", "a___b", "a b", "a\n", "ä"),
    *("https://r.io/a", "r.io:x/a", "a;b", "a$b", "a" * 256, "r.io:99999/a", "r.io:65536/a", "r.io:0/a"),
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
        *("march=native", "", "-", "-O2 -g", "-O2;rm", "-D$(x)", "-D`x`", "-DX='a'", '-DX="a"', "-DX=*", "-O2\n"),
        *("-D|x", "-D\\"),
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
        ({"base": "debian:bookworm@sha256:1\nRUN x"}, "an image is"),
        ({"base": ""}, "an image is"),
        ({"compiler": "gcc-9 && x"}, "a compiler is gcc or clang"),
        ({"packages": ["-y"]}, "not a Debian package name"),
        ({"packages": ["a\nb"]}, "not a Debian package name"),
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


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "the file is empty"),
        ("# only a comment\n", "the file is empty"),
        ("null\n", "the file is empty"),
        ("~\n", "the file is empty"),
        ("- a\n", "the file is a list, not a mapping"),
        ("word\n", "the file is a text, not a mapping"),
        ("42\n", "the file is a text, not a mapping"),
    ],
)
def test_a_file_that_is_not_a_mapping(tmp_path: Path, text: str, what: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(MatrixError) as caught:
        load_matrix(file)
    assert caught.value.what == f"{file}:1:1: {what}"
    assert "image:, releases: and targets:" in caught.value.remedy


@pytest.mark.parametrize("value", ["!!int foo", "!!float x", "!!bool x", "!mine x", "9" * 5000, "{a: [b}"])
def test_values_that_yaml_itself_cannot_make(tmp_path: Path, value: str) -> None:
    with pytest.raises(MatrixError, match=r"matrix\.yaml:8:\d+: "):
        load(tmp_path, f"{SMALL}source: {value}\n")


@pytest.mark.parametrize("value", ["2024-13-45", "on", "12:30:45", "0o17"])
def test_what_only_yaml_1_1_takes_for_more_than_a_text_is_a_text(tmp_path: Path, value: str) -> None:
    with pytest.raises(MatrixError, match=rf"source: '{value}': there is no folder"):
        load(tmp_path, f"{SMALL}source: {value}\n")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(MatrixError, match="there is no such file"):
        load_matrix(tmp_path / "nowhere.yaml")
    with pytest.raises(MatrixError, match="this is a folder, not a file") as caught:
        load_matrix(tmp_path)
    assert str(tmp_path / "matrix.yaml") in caught.value.remedy
    (tmp_path / "loop").symlink_to("loop")
    names = {"a\0b": "correct its name", "x" * 300: "a shorter name", "/".join(["x" * 200] * 40): "a shorter name"}
    for name, remedy in {**names, "matrix.yaml/x": "a part of this path is a file", "loop": "symbolic links"}.items():
        write(tmp_path)
        with pytest.raises(MatrixError, match="cannot be read") as caught:
            load_matrix(tmp_path / name)
        assert len(caught.value.what) < 300
        assert remedy in caught.value.remedy


@pytest.mark.parametrize("text", [None, "", "a: b", "\t"])
def test_a_path_of_other_bytes_can_be_printed(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "matrix-\udcff.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(MatrixError) as caught:
        load_matrix(file)
    assert r"matrix-\udcff.yaml" in str(caught.value)
    assert str(caught.value).isascii()


def test_a_matrix_of_other_bytes_in_its_path_loads(tmp_path: Path) -> None:
    file = tmp_path / "matrix-\udcff.yaml"
    file.write_text(SMALL)
    assert load_matrix(file).variants


def test_a_byte_that_is_not_utf_8_is_reported_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(SMALL.encode() + "# \xe4\xe9\n".encode("latin-1"))
    with pytest.raises(MatrixError) as caught:
        load_matrix(tmp_path / "latin.yaml")
    assert caught.value.why == f"{tmp_path}/latin.yaml:8:3: byte 0xe4 is not UTF-8. Save the file as UTF-8."


def test_a_file_of_100_mb_is_refused_before_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "matrix.yaml"
    with file.open("wb") as stream:
        stream.truncate(100_000_000)
    with pytest.raises(MatrixError, match="a matrix file has at most 1 MiB"):
        load_matrix(file)


def test_a_file_just_too_large_and_one_that_is_not(tmp_path: Path) -> None:
    assert load(tmp_path, SMALL + "#" * (MAX_BYTES - len(SMALL))).variants
    with pytest.raises(MatrixError, match="at most 1 MiB"):
        load(tmp_path, SMALL + "#" * (MAX_BYTES - len(SMALL) + 1))


# --- what comes of a good file ----------------------------------------------------------------------------------------


def test_the_default_file_builds_what_a_team_builds_today() -> None:
    matrix = load_matrix(SHIPPED[0])
    last_patches = {release.series: tag for tag, release in releases().items() if release.version >= Version("2.18")}
    assert {variant.release for variant in matrix.variants} == set(last_patches.values())
    assert len(last_patches) >= 3
    assert list(matrix.targets) == ["cpu-standard", "cpu-optimized", "mkl-optimized", "gpu-standard", "gpu-optimized"]
    assert {len(ids) for ids in matrix.targets.values()} == {len(last_patches)}
    assert matrix.dropped == ()
    (classic,) = {variant.all_copts for variant in matrix.variants if "cpu-optimized" in matrix.targets_of(variant)}
    assert classic == ("-msse4.1", "-msse4.2", "-mavx", "-mavx2", "-mfma", "-O3")


def test_the_sample_expands() -> None:
    matrix = load_matrix(SHIPPED[1])
    assert matrix.targets == {
        "cpu-standard": ("2.19.1-cpu-v1",),
        "cpu-optimized": ("2.19.1-cpu-v3",),
        "mkl-optimized": ("2.19.1-mkl-v3",),
        "gpu-standard": ("2.19.1-gpu-cuda12.2-v1",),
        "gpu-optimized": ("2.19.1-gpu-cuda12.2-sm80-90-v3",),
    }
    assert set(matrix.targets) == set(load_matrix(SHIPPED[0]).targets), (
        "the sample has all targets of the default matrix"
    )


@pytest.mark.parametrize("change", [lambda text: text.replace("\n", "\r\n"), lambda text: "\ufeff" + text])
def test_line_ends_and_byte_order_marks_of_windows_do_no_harm(tmp_path: Path, change: object) -> None:
    assert callable(change)
    (tmp_path / "m.yaml").write_bytes(change(SMALL).encode())
    assert [variant.id for variant in load_matrix(tmp_path / "m.yaml").variants] == ["2.19.1-cpu-v1"]


def test_everything_of_a_file_arrives(tmp_path: Path) -> None:
    tree(tmp_path / "tree")
    matrix = load(
        tmp_path,
        document(
            image={"repository": "a/b", "tags": ["{level}-{binary}"], "aliases": [], "labels": {"b": "2", "a": "1"}},
            source="tree",
            toolchain={
                "base": "debian:bookworm",
                "compiler": "gcc-9",
                "packages": ["libfoo-dev"],
                "configs": {"mkl": ["one", "two"]},
            },
            bazel={"version": "4.2.3", "package": "bazel-bootstrap"},
            network={"base_images": {"debian:bookworm": "mirror:5000/debian@sha256:" + "0" * 64}},
        ),
    )
    assert matrix.images.labels == {"a": "1", "b": "2"}
    assert (matrix.images.tags, matrix.images.aliases) == (("{level}-{binary}",), ())
    settings = matrix.settings.of("2.19.1")
    assert settings.source == tmp_path / "tree"
    assert settings.bazel == BazelChoice(version="4.2.3", package="bazel-bootstrap", overrides={})
    assert settings.toolchain.configs == {Flavour.MKL: ("one", "two")}
    assert (settings.toolchain.base, settings.toolchain.compiler) == ("debian:bookworm", "gcc-9")
    assert matrix.network.base_images == {"debian:bookworm": "mirror:5000/debian@sha256:" + "0" * 64}


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


def test_a_chain_of_targets_has_an_end(tmp_path: Path) -> None:
    chain = "".join(f"  t{index}: {{extends: {f't{index - 1}' if index else 'standard'}}}\n" for index in range(12))
    assert load(tmp_path, SMALL + chain.partition("  t10")[0]).targets["t9"] == ("2.19.1-cpu-v1",)
    (line,) = problems(tmp_path, SMALL + chain)
    assert line.startswith("18:18: targets.t10.extends: 't9': more than 10 targets")


def test_very_many_problems_and_very_long_values_are_cut(tmp_path: Path) -> None:
    with pytest.raises(MatrixError) as caught:
        load(tmp_path, SMALL + "".join(f"k{index}: 1\n" for index in range(130)))
    lines = caught.value.why.split("\n")
    assert (caught.value.what.rpartition(": ")[2], len(lines)) == ("130 problems", 101)
    assert lines[-1] == f"{tmp_path}/matrix.yaml: and 30 more"
    (line,) = problems(tmp_path, replaced("team/serving", "X" * 9000))
    assert len(line) < 400


def test_problems_are_listed_in_the_order_of_the_file() -> None:
    def problem(place: Place | None, rule: str) -> Problem:
        return Problem(place=place, path=(), value="", rule=rule)

    error = matrix_error("f", [problem(Place(10, 1), "c"), problem(Place(9, 2), "b"), problem(None, "a")])
    assert error.what == "f: 3 problems"
    assert error.why == "f: a.\nf:9:2: b.\nf:10:1: c."
    assert re.fullmatch(r"f:1:1: w: v: r\. Do it\.", matrix_error("f", [FULL]).why)


FULL = Problem(place=Place(1, 1), path=("w",), value="v", rule="r", remedy="Do it.")


def test_the_documented_matrix_expands(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "matrix.md").read_text(encoding="utf-8")
    example = page.partition("```yaml\n")[2].partition("```")[0]
    matrix = load(tmp_path, example)
    assert any(re.fullmatch(r"2\.19\.\d+-gpu-cuda12\.2-sm80-90-v3", variant.id) for variant in matrix.variants)
    assert {one.reasons[-1].text for one in matrix.dropped} == {
        "the GPU nodes have drivers for CUDA 12",
        "our 2.16 clients have moved on",
    }


def test_a_path_is_one_line() -> None:
    assert dotted(("targets", "a\nb", "levels", 0)) == r"targets.'a\nb'.levels[0]"


@pytest.mark.parametrize(
    ("option", "rule"),
    [
        ("-march=native", "Use level native"),
        ("-mtune=native", "Use level native"),
        ("--copt=-O3", "begins with one '-'"),
        ("-ofile", "where the compiler writes"),
    ],
)
def test_compiler_options_that_are_refused(tmp_path: Path, option: str, rule: str) -> None:
    with pytest.raises(MatrixError) as caught:
        load(tmp_path, SMALL + f"    copts: [{option}]\n")
    assert rule in caught.value.why


def test_a_set_of_flags_is_for_its_level_and_the_others_keep_their_own(tmp_path: Path) -> None:
    image = {"repository": "r", "aliases": ["{id}"]}
    asked = {"flavour": "cpu", "levels": ["x86-64-v3", "x86-64-v4"], "flags": "avx2-fma"}
    v3, v4 = load(tmp_path, document(image=image, targets={"t": asked})).variants
    assert (v3.flag_set, v4.flag_set) == ("avx2-fma", None)
    assert "-mavx512f" in v4.all_copts


def test_a_targets_name_decides_nothing(tmp_path: Path) -> None:
    asked = {"flavour": "cpu", "levels": ["x86-64-v3"]}
    named, other = (load(tmp_path, document(targets={name: asked})).variants for name in ("cpu-optimized", "t"))
    assert named == other
