"""matrix/settings.py: what a file says of how releases are built, and of this network."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from serving_factory.errors import MatrixError
from serving_factory.matrix.settings import BazelChoice

from .matrices import document, load, tree


def test_what_is_said_of_some_releases_takes_the_place_of_what_is_said_of_all(tmp_path: Path) -> None:
    for name in ("tree", "old"):
        tree(tmp_path / name)
    for name in ("grpc", "archives", "fixes"):
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
    usual, old, newer = (matrix.settings.of(tag) for tag in ("2.19.1", "1.9.1", "1.15.0"))
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


def one_problem(folder: Path, **sections: object) -> str:
    with pytest.raises(MatrixError) as caught:
        load(folder, document(**sections))
    (line,) = caught.value.why.splitlines()
    place, _, problem = line.partition(": ")
    assert re.fullmatch(rf"{folder}/matrix\.yaml:\d+:\d+", place)
    return problem


MIRROR = "https://mirror.example.com/path"

# Key, value → the facts of the message: the rule, and the remedy.
REFUSED: list[tuple[str, object, str]] = [
    ("source", "absent", "no folder … Name a folder"),
    ("source", "/", "no Bazel workspace in / … TensorFlow Serving"),
    ("source", ".", "no Bazel workspace … WORKSPACE"),
    ("source", "matrix.yaml", "is a file, not a folder"),
    ("source", "matrix.yaml/x", "no folder"),
    ("source", "x" * 300, "cannot be read: File name too long"),
    ("source", "/".join(["x" * 200] * 40), "cannot be read: File name too long"),
    ("source", "loop", "cannot be read: "),
    ("patches", ["absent"], "patches[0]: … no folder"),
    ("bazel.distdir", "absent", "no folder"),
    ("bazel.distdir", "matrix.yaml", "is a file, not a folder"),
    ("bazel.overrides", {"grpc": "absent"}, "overrides.grpc: … no folder"),
    ("bazel.overrides", {"@grpc": "."}, "overrides.@grpc: … without the @"),
    ("bazel.overrides", "hostile", "'a b' in it: … Move that folder"),
    ("bazel", {"version": "1", "binary": "absent"}, "bazel.binary: … no file … Name a file"),
    ("bazel", {"version": "1", "binary": "."}, "bazel.binary: … is a folder, not a file"),
    ("bazel.package", "bazel-bootstrap", 'version … version: "6.5.0"'),
    ("bazel.version", "4\nRUN x", "begins with a digit"),
    ("bazel.version", "4.2.3-foo~1", "begins with a digit"),
    ("bazel.options", "-k  --config=x", "[-k, --config=x]"),
    ("bazel.options", ["build"], "options[0]: … begins with '-'"),
    ("bazel.options", ["--x=$(y)"], "options[0]: … shell characters"),
    ("toolchain.compiler", "g++-9", "gcc or clang … g++ comes with it"),
    ("toolchain.compiler", "gcc9", "gcc or clang"),
    ("toolchain.python", "2.7.18", "one number or two … quotes"),
    ("toolchain.base", "m.example.com/ubuntu:20.04", "no such base image … network.base_images"),
    ("network.apt.mirror", "absent", "no folder … or write a URL with its scheme"),
    ("network.apt.mirror", "m.example.com", "no folder … or write a URL with its scheme"),
    ("network.apt.mirror", "https://m/{archive}/{snap}", "{snap} … {archive}, {snapshot}"),
    ("network.apt.mirror", "ht tp://x", f"blanks … {MIRROR}"),
    ("network.apt.mirror", "ftp://x", f"http or https … {MIRROR}"),
    ("network.apt.mirror", "https://u:p@[::1", f"the host or the port … {MIRROR}"),
    ("network.apt.mirror", "https://", "the host or the port"),
    ("network.apt.mirror", "https://m:99999/ubuntu", "the host or the port"),
    ("network.apt.mirror", "https://m.example.com?x=y", "what follows the host"),
    ("network.apt.snapshot", "2026-01-02", "a time in UTC"),
    ("network.apt.snapshot", "20261301T000000Z", "a time in UTC"),
    ("network.ca_certificates", ".", "is a folder, not a file"),
    ("network.pip_index", "simple", "http or https"),
    ("network.pip_index", "file:///srv/simple", f"http or https … {MIRROR}"),
    ("network.proxies.http", "http://a b", "blanks"),
    ("network.proxies.http", "socks5://proxy:1080", "http or https … http://proxy.example.com:3128"),
    ("network.proxies.https", "http://proxy:3128/path", "what follows the host"),
    ("network.git_mirrors", {"https://a/": "file:///srv/git"}, "http, https, ssh or git"),
    ("network.bazel_mirror", "ftp://b", "http or https"),
    ("network.offline", "yes", "true or false"),
]


@pytest.mark.parametrize(("key", "value", "facts"), REFUSED)
def test_a_value_is_checked_as_what_it_means(tmp_path: Path, key: str, value: object, facts: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "hostile" / "a b").mkdir(parents=True)
    sections: object = value
    for name in reversed(key.split(".")):
        sections = {name: sections}
    assert isinstance(sections, dict)
    problem = one_problem(tmp_path, **sections)
    assert problem.startswith(key)
    assert re.search(".*".join(map(re.escape, facts.split(" … "))), problem), problem
    assert len(problem) < 900


@pytest.mark.parametrize(
    "mirror", ["http://m", "https://u:p%40@[::1]:8080/x", "https://m_1.example.com/{archive}/", MIRROR]
)
def test_urls_that_can_be_reached_are_accepted(tmp_path: Path, mirror: str) -> None:
    assert load(tmp_path, document(network={"apt": {"mirror": mirror}})).network.apt_mirror == mirror


@pytest.mark.parametrize(
    ("entry", "facts"),
    [
        ({"toolchain": {}}, "per_release[0].releases: this key is required"),
        ({"releases": "<2"}, "per_release[0].releases: '<2': none of the file's releases"),
        ({"releases": "2.19.1", "source": "absent"}, "per_release[0].source: 'absent'"),
    ],
)
def test_an_entry_for_some_releases_obeys_the_same_rules(tmp_path: Path, entry: object, facts: str) -> None:
    assert one_problem(tmp_path, per_release=[entry]).startswith(facts)
