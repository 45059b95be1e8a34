"""matrix/settings.py: what a file says of how releases are built, and of this network."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving_factory.errors import MatrixError
from serving_factory.matrix.settings import BazelChoice

from .matrices import document, load


def test_what_is_said_of_some_releases_takes_the_place_of_what_is_said_of_all(tmp_path: Path) -> None:
    for name in ("tree", "old", "grpc", "archives", "fixes"):
        (tmp_path / name).mkdir()
    (tmp_path / "bazel-0.17.2").touch()
    (tmp_path / "fixes" / "gettid.patch").touch()
    matrix = load(
        tmp_path,
        document(
            releases=["2.19.1", "1.9.1", "1.15.0"],
            source="tree",
            toolchain={"base": "debian:bookworm", "packages": ["libfoo-dev"]},
            bazel={"version": "4.2.3", "package": "bazel-bootstrap", "options": ["--keep_going"]},
            per_release=[
                {
                    "releases": "<2",
                    "source": "old",
                    "patches": ["fixes"],
                    "toolchain": {"base": "ubuntu:20.04", "compiler": "gcc-9", "python": "2.7"},
                    "bazel": {
                        "version": "0.17.2",
                        "binary": "bazel-0.17.2",
                        "distdir": "archives",
                        "overrides": {"grpc": "grpc"},
                        "startup_options": ["--host_jvm_args=-Xmx2g"],
                    },
                },
                {"releases": "1.15.0", "toolchain": {"compiler": "gcc-10"}},
            ],
        ),
    )
    usual, old, newer = (matrix.settings_of(tag) for tag in ("2.19.1", "1.9.1", "1.15.0"))
    assert (usual.source, usual.patches, usual.toolchain.base) == (tmp_path / "tree", (), "debian:bookworm")
    assert (old.source, old.patches) == (tmp_path / "old", (tmp_path / "fixes",))
    assert (old.toolchain.base, old.toolchain.compiler, old.toolchain.python) == ("ubuntu:20.04", "gcc-9", "2.7")
    assert old.toolchain.packages == ("libfoo-dev",), "what an entry does not say stays"
    assert old.bazel == BazelChoice(
        version="0.17.2",
        binary=tmp_path / "bazel-0.17.2",
        distdir=tmp_path / "archives",
        overrides={"grpc": tmp_path / "grpc"},
        options=("--keep_going",),
        startup_options=("--host_jvm_args=-Xmx2g",),
    ), "another version does not come from the package of the first"
    assert newer.toolchain.compiler == "gcc-10", "the later entry wins"
    assert newer.bazel == old.bazel


def test_a_mirror_of_apt_is_a_url_or_a_folder(tmp_path: Path) -> None:
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "Packages").touch()
    network = load(tmp_path, document(network={"apt": {"mirror": "packages"}})).network
    assert (network.apt_mirror, network.apt_folder) == (None, tmp_path / "packages")
    network = load(tmp_path, document(network={"apt": {"mirror": "https://m.example.com/x"}})).network
    assert (network.apt_mirror, network.apt_folder) == ("https://m.example.com/x", None)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"source": "absent"}, "source: 'absent': there is no folder"),
        ({"patches": ["absent"]}, r"patches\[0\]: 'absent': there is no folder"),
        ({"bazel": {"distdir": "absent"}}, "bazel.distdir: 'absent': there is no folder"),
        ({"bazel": {"overrides": {"grpc": "absent"}}}, "bazel.overrides.grpc: 'absent': there is no folder"),
        ({"bazel": {"version": "1.0", "binary": "absent"}}, "bazel.binary: 'absent': there is no file"),
        ({"toolchain": {"compiler": "g++-9"}}, "'g[+][+]-9': a compiler is gcc or clang, .* g[+][+] comes with it"),
        ({"toolchain": {"compiler": "gcc9"}}, "'gcc9': a compiler is gcc or clang"),
        ({"toolchain": {"python": "2.7.18"}}, "'2.7.18': a Python is named by one number or two. Write them in quotes"),
        ({"toolchain": {"base": "m.example.com/ubuntu:20.04"}}, "no such base image.*goes to network.base_images"),
        ({"network": {"apt": {"mirror": "m.example.com"}}}, "there is no folder .*, or write a URL with its scheme"),
        ({"bazel": {"options": "-k  --config=x"}}, r"bazel.options: .* \[-k, --config=x\]"),
        ({"bazel": {"package": "bazel-bootstrap"}}, "bazel.package: .*: it is not said which version that is"),
        ({"bazel": {"version": "4\nRUN x"}}, "a version begins with a digit"),
        ({"bazel": {"version": "4.2.3-foo~1"}}, "a version begins with a digit"),
        ({"bazel": {"options": ["build"]}}, "an option of Bazel begins with '-'"),
        ({"bazel": {"options": ["--x=$(y)"]}}, "an option of Bazel begins with '-'"),
        ({"bazel": {"overrides": {"@grpc": "."}}}, "no name of an external repository"),
        ({"toolchain": {"python": "2.7.18"}}, "a Python is named by one number or two"),
        ({"network": {"apt": {"mirror": "absent"}}}, "network.apt.mirror: 'absent': there is no folder"),
        ({"network": {"apt": {"mirror": "https://m/{archive}/{snap}"}}}, "nothing stands for {snap}. There are: {arch"),
        ({"network": {"apt": {"snapshot": "2026-01-02"}}}, "a snapshot is a time in UTC"),
        ({"network": {"ca_certificates": "."}}, "network.ca_certificates: '.': there is no file"),
        ({"network": {"pip_index": "simple"}}, "a URL has a scheme"),
        ({"network": {"proxies": {"http": "http://a b"}}}, "a URL has a scheme"),
        ({"network": {"offline": "yes"}}, "expected true or false"),
        ({"per_release": [{"toolchain": {}}]}, r"per_release\[0\].releases: .*this key is required"),
        ({"per_release": [{"releases": "<2"}]}, r"per_release\[0\].releases: '<2': none of the releases above"),
        ({"per_release": [{"releases": "2.19.1", "source": "absent"}]}, r"per_release\[0\].source: 'absent'"),
    ],
)
def test_what_cannot_be_used_is_told(tmp_path: Path, values: dict[str, object], told: str) -> None:
    with pytest.raises(MatrixError) as caught:
        load(tmp_path, document(**values))
    assert caught.match(told)
