"""docs/new-release.md, done: a made-up 9.9.9 on a copy of the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from serving_factory.catalogue import data
from serving_factory.catalogue.facts import Flavour, Release
from serving_factory.catalogue.releases import read_releases, releases
from serving_factory.catalogue.upstream_check import check_upstream, release_of
from serving_factory.commands.catalogue import describe

from .catalogue_rules import problems
from .upstream_trees import DEVEL, DEVEL_GPU, SERVERS, Tree, main_cc, tree_2_19_1, write_tree

ROOT = Path(__file__).parents[2]
NEAREST = "2.19.1"
COMMIT, TENSORFLOW, SHA256 = "a" * 40, "b" * 40, "c" * 64

ENTRY = f"""
"9.9":
  like: "2.19"
  bazel: "8.0.0"
  configs:
    release: [--copt=-mavx2]
  gpu:
    capabilities: [sm_80, compute_90]
  server:
    flags: {{a_flag_that_came: true, version: null}}
  releases:
    "9.9.9":
      date: "2031-01-01"
      commit: {COMMIT}
      tensorflow_commit: {TENSORFLOW}
      tensorflow_sha256: {SHA256}
      reported: 9.9.9
"""


def upstream() -> Tree:
    """What upstream would have changed from 2.19.1 to 9.9.9."""
    tree = {**tree_2_19_1(), ".git/HEAD": COMMIT}
    tree = {
        name: text.replace("VERSION 6.5.0", "VERSION 8.0.0").replace("VERSION=6.5.0", "VERSION=8.0.0")
        for name, text in tree.items()
    }
    tree[".bazelrc"] = (
        tree[".bazelrc"]
        .replace("build:release --copt=-mavx\nbuild:release --copt=-msse4.2\n", "build:release --copt=-mavx2\n")
        .replace("sm_50,sm_60,sm_70,sm_80,compute_90", "sm_80,compute_90")
    )
    known = releases()[NEAREST]
    tree["WORKSPACE"] = (
        tree["WORKSPACE"].replace(known.tensorflow_commit, TENSORFLOW).replace(str(known.tensorflow_sha256), SHA256)
    )
    tree[f"{SERVERS}/version.h"] = "".join(
        f"#define TF_MODELSERVER_{part}_VERSION 9\n" for part in ("MAJOR", "MINOR", "PATCH")
    )
    flags = tuple(flag for flag in known.server.flags if flag != "version")
    tree[f"{SERVERS}/main.cc"] = main_cc((*flags, "a_flag_that_came"))
    return tree


def file(name: str) -> str:
    return (Path(data.__file__).parent / name).read_text(encoding="utf-8")


def read(folder: Path) -> tuple[Any, Any]:
    """The copy of the two files."""
    return tuple(yaml.safe_load((folder / name).read_text("utf-8")) for name in ("releases.yaml", "bazel.yaml"))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name, more in (("releases.yaml", ENTRY), ("bazel.yaml", '"8.0.0": unknown\n')):
        (tmp_path / name).write_text(file(name) + more, encoding="utf-8")
    return tmp_path


def test_the_checker_lists_what_the_entry_has_to_state(tmp_path: Path) -> None:
    checkout = write_tree(tmp_path, upstream())
    assert release_of(checkout, releases()) == "9.9.9"
    found = check_upstream(checkout, releases()[NEAREST]).differences
    assert {(one.file, one.what, one.upstream) for one in found} == {
        (".git/HEAD", "commit", COMMIT),
        ("WORKSPACE", "TensorFlow commit", TENSORFLOW),
        ("WORKSPACE", "TensorFlow sha256", SHA256),
        (".bazelrc", "config release", "--copt=-mavx2"),
        (".bazelrc", "config release", ""),
        (".bazelrc", "capabilities in config cuda_clang", "sm_80,compute_90"),
        (DEVEL, "Bazel", "8.0.0"),
        (f"{DEVEL}-mkl", "Bazel", "8.0.0"),
        (DEVEL_GPU, "Bazel", "8.0.0"),
        (f"{SERVERS}/version.h", "reported version", "9.9.9"),
        (f"{SERVERS}/main.cc", "server flag", "a_flag_that_came"),
        (f"{SERVERS}/main.cc", "server flag", ""),
    }


def test_one_entry_makes_a_whole_release(copy: Path) -> None:
    lines, checksums = read(copy)
    known = read_releases(lines, checksums)
    assert len(known) == len(releases()) + 1
    made: Release = known["9.9.9"]
    assert made.flavours[Flavour.CPU] == releases()["2.19.0"].flavours[Flavour.CPU]
    gpu = made.flavours[Flavour.GPU].gpu
    assert gpu
    assert gpu.capabilities == ("sm_80", "compute_90")
    assert (made.bazel, made.bazel_sha256, made.server.version_flag) == ("8.0.0", None, False)
    assert describe(made)["bazel_sha256"] == "unknown"


def test_with_the_entry_nothing_differs(copy: Path, tmp_path: Path) -> None:
    made = read_releases(*read(copy))["9.9.9"]
    assert check_upstream(write_tree(tmp_path / "checkout", upstream()), made).differences == ()


def test_the_rules_find_what_the_entry_has_wrong(copy: Path) -> None:
    """It gave up --version, and still says what that reports."""
    lines, checksums = read(copy)
    assert problems(read_releases(lines, checksums), lines, checksums) == [
        "9.9.9: --version and what it reports do not go together"
    ]
    del lines["9.9"]["server"]["flags"]["version"]
    assert problems(read_releases(lines, checksums), lines, checksums) == []
    del checksums["8.0.0"]
    assert problems(read_releases(lines, checksums), lines, checksums) == [
        "bazel.yaml: 8.0.0: neither a sha256 nor unknown"
    ]


def test_the_page_names_files_that_exist() -> None:
    page = (ROOT / "docs" / "new-release.md").read_text(encoding="utf-8")
    for name in ("data/releases.yaml", "data/bazel.yaml", "data/cuda.yaml"):
        assert f"src/serving_factory/catalogue/{name}" in page
        assert (ROOT / "src" / "serving_factory" / "catalogue" / name).is_file()
    assert (ROOT / "src" / "serving_factory" / "recipes" / "toolchain.py").is_file()


def test_the_examples_of_the_page_are_entries() -> None:
    page = (ROOT / "docs" / "new-release.md").read_text(encoding="utf-8")
    patch = page.partition("```yaml\n")[2].partition("```")[0]
    lines = yaml.safe_load(file("releases.yaml"))
    lines["2.20"]["releases"].update(yaml.safe_load(patch))
    made = read_releases(lines, yaml.safe_load(file("bazel.yaml")))["2.20.1"]
    assert made.server == releases()["2.20.0"].server
    assert made.flavours == releases()["2.20.0"].flavours
