"""What builds download, from where, and whether it can be had."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving_factory.catalogue.data import read_yaml
from serving_factory.catalogue.levels import Level
from serving_factory.catalogue.libraries import cuda_wheels
from serving_factory.catalogue.releases import releases
from serving_factory.docker.http import Reach, Route, reach_all
from serving_factory.doctor.checks import Verdict, check_downloads
from serving_factory.matrix.variant import Variant
from serving_factory.recipes.addresses import Download, Kind, archive_mirror, downloads_of
from serving_factory.recipes.recipe import recipe_for

from .http_servers import QuietHandler, serving
from .matrices import ROOT, document, load, tree

ADDRESS = re.compile(r"https?://[^\s\"'\\)]+")


PROVEN = tuple(read_yaml("addresses.yaml"))


def test_every_address_of_a_dockerfile_is_proven() -> None:
    paths = sorted(ROOT.glob("dockerfiles/*/*.Dockerfile"))
    lines = {line for path in paths for line in path.read_text(encoding="utf-8").splitlines()}
    found = {address for line in lines if not line.startswith("# gRPC") for address in ADDRESS.findall(line)}
    assert found
    assert {address for address in found if not address.startswith(PROVEN)} == set()
    assert not "https://example.com/bazel".startswith(PROVEN)


def test_what_is_downloaded_is_proven(tmp_path: Path) -> None:
    matrix = load(
        tmp_path, document(releases=list(releases()), targets={"cpu": {"flavour": "cpu", "levels": ["x86-64"]}})
    )
    unproven: set[str] = set()
    for tag, release in releases().items():
        for flavour, facts in release.flavours.items():
            cuda = facts.gpu.cuda if facts.gpu else None
            variant = Variant(release=tag, flavour=flavour, level=Level.V1, cuda=cuda)
            downloads = downloads_of(recipe_for(variant, matrix), matrix.network)
            requested = {one.place for one in downloads if one.kind in {Kind.FILE, Kind.HOST}}
            unproven |= {place for place in requested if not place.startswith(PROVEN)}
            assert {"base image", f"Bazel {release.bazel}"} <= {one.what for one in downloads}, variant.id
        assert archive_mirror(release.version), tag
    assert unproven == set()


def test_a_network_of_ones_own_is_asked_instead(tmp_path: Path) -> None:
    network: dict[str, Any] = {
        "bazel_mirror": "https://files.example.com/bazel/",
        "git_mirrors": {"https://github.com/": "https://git.example.com/"},
        "apt": {"mirror": "https://apt.example.com/{archive}"},
        "base_images": {"ubuntu:20.04": "r.example.com/ubuntu:20.04"},
    }
    matrix = load(tmp_path, document(releases=["2.19.1"], network=network))
    places = {
        one.what.split(",")[0]: one.shown
        for one in downloads_of(recipe_for(matrix.variants[0], matrix), matrix.network)
    }
    assert places["base image"] == "r.example.com/ubuntu:20.04"
    assert places["build packages and what they depend on"] == "https://apt.example.com/"
    assert places["Bazel 6.5.0"] == "https://files.example.com/bazel/6.5.0/bazel-6.5.0-linux-x86_64"
    assert places["sources"] == "https://git.example.com/tensorflow/serving.git"


def test_a_build_without_a_network_downloads_nothing(tmp_path: Path) -> None:
    tree(tmp_path / "tree")
    (tmp_path / "debs").mkdir()
    network = {"offline": True, "apt": {"mirror": "debs"}}
    matrix = load(tmp_path, document(releases=["2.19.1"], source="tree", network=network))
    assert downloads_of(recipe_for(matrix.variants[0], matrix), matrix.network) == ()


def test_what_folders_have_is_not_asked_for(tmp_path: Path) -> None:
    for name in ("archives", "overrides/org_tensorflow"):
        (tmp_path / name).mkdir(parents=True)
    bazel = {"distdir": "archives", "overrides": "overrides"}
    matrix = load(tmp_path, document(releases=["2.19.1"], bazel=bazel))
    whats = {one.what for one in downloads_of(recipe_for(matrix.variants[0], matrix), matrix.network)}
    assert "archives that the distdir lacks" in whats
    assert not whats & {"TensorFlow's sources", "archives that TensorFlow declares"}


def test_a_wheel_of_the_distdir_is_not_downloaded(tmp_path: Path) -> None:
    tree(tmp_path / "tree")
    (tmp_path / "archives").mkdir()
    first, *others = cuda_wheels()["12.2"]
    (tmp_path / "archives" / first.file).touch()
    own = {"source": "tree", "toolchain": {"cuda": "wheels"}, "bazel": {"distdir": "archives"}}
    targets = {"gpu": {"flavour": "gpu", "levels": ["x86-64"]}}
    matrix = load(tmp_path, document(releases=["2.19.1"], targets=targets, **own))
    whats = {one.what for one in downloads_of(recipe_for(matrix.variants[0], matrix), matrix.network)}
    assert {what for what in whats if "wheel" in what} == {f"{one.requirement}, a wheel" for one in others}


@pytest.mark.parametrize(
    ("reach", "verdict"),
    [(Reach.THERE, "ok"), (Reach.ANSWERS, "warn"), (Reach.GONE, "fail"), (Reach.SILENT, "fail")],
)
def test_an_answer_that_says_nothing_is_no_failure(reach: Reach, verdict: str) -> None:
    one = Download("Bazel", "https://files.example.com/bazel", Kind.FILE)
    assert check_downloads([one], {one.place: (reach, "HTTP 405")}).verdict == verdict


# --- asking -----------------------------------------------------------------------------------------------------------


class Answers(QuietHandler):
    """Answers HEAD with the status that the path names."""

    def do_HEAD(self) -> None:  # noqa: N802
        self.reply(int(self.path.strip("/")))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving(Answers) as server:
        yield f"http://127.0.0.1:{server.server_port}"


@pytest.mark.parametrize(
    ("status", "reach"),
    [
        (200, Reach.THERE),
        (404, Reach.GONE),
        (410, Reach.GONE),
        (401, Reach.REFUSED),
        (403, Reach.REFUSED),
        (405, Reach.ANSWERS),
        (503, Reach.ANSWERS),
    ],
)
def test_what_an_answer_means(server: str, status: int, reach: Reach) -> None:
    url = f"{server}/{status}"
    assert reach_all([url], route=Route())[url] == (reach, f"HTTP {status}")


def test_who_is_silent_holds_up_no_one(server: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        good = f"{server}/200"
        found = reach_all([url, good], route=Route(), seconds=0.2)
    assert found[good][0] is Reach.THERE
    assert found[url] == (Reach.SILENT, "none within 0 s")


def test_nothing_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
    assert reach_all([url], route=Route())[url][0] is Reach.SILENT
    assert reach_all(["no address"], route=Route())["no address"][0] is Reach.SILENT


FILE = Download("Bazel 6.5.0", "https://files.example.com/bazel", Kind.FILE)
HOST = Download("archives", "https://mirror.example.com", Kind.HOST)


@pytest.mark.parametrize(
    ("reaches", "verdict", "reported"),
    [
        ((Reach.THERE, Reach.GONE), Verdict.OK, "all 2 addresses answer: Bazel 6.5.0; archives"),
        ((Reach.GONE, Reach.THERE), Verdict.FAIL, "https://files.example.com/bazel: not there (x) for Bazel 6.5.0"),
        ((Reach.THERE, Reach.SILENT), Verdict.FAIL, "mirror.example.com: no answer (x) for archives"),
    ],
)
def test_what_is_made_of_it(reaches: tuple[Reach, Reach], verdict: Verdict, reported: str) -> None:
    found = {one.place: (reach, "x") for one, reach in zip((FILE, HOST), reaches, strict=True)}
    check = check_downloads((FILE, HOST, Download("apt", "somewhere", Kind.UNKNOWN)), found)
    assert check.verdict is verdict
    assert reported in check.found


def test_without_addresses_nothing_is_asked() -> None:
    assert check_downloads((Download("apt", "somewhere", Kind.UNKNOWN),), {}).verdict is Verdict.OK
