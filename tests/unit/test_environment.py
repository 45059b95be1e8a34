"""matrix/environment.py: what the environment says takes the place of what the file says, under the file's rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving_factory.errors import MatrixError, UsageError
from serving_factory.matrix.environment import VARIABLES, given
from serving_factory.matrix.load import load_matrix
from serving_factory.matrix.matrix import Matrix, origin, release_origin

from .matrices import document, write

HERE = Path("/here")
FILE = document(
    releases=["2.19.1", "1.9.1"],
    network={
        "base_images": {"ubuntu:20.04": "file/ubuntu", "debian:bookworm": "file/debian"},
        "proxies": {"https": "http://file:1"},
        "pip_index": "https://file/simple",
    },
    bazel={"distdir": "."},
    per_release=[{"releases": "1.9.1", "bazel": {"distdir": ".."}, "toolchain": {"base": "ubuntu:20.04"}}],
)


def loaded(folder: Path, **environ: str) -> Matrix:
    return load_matrix(write(folder, FILE), given(environ, folder))


def test_without_variables_the_file_holds(tmp_path: Path) -> None:
    blank = {"SERVING_FACTORY_OFFLINE": " ", "SERVING_FACTORY_PIP_INDEX": "\t", "SERVING_FACTORY_GIT_MIRRORS": " "}
    assert given({"PATH": "/bin", "HTTPS_PROXY": "", **blank}, HERE) == ()
    matrix = loaded(tmp_path)
    assert matrix.network.proxies.https == "http://file:1"
    assert origin(matrix, ("network", "proxies", "https")).startswith("network.proxies.https, matrix.yaml:")


def test_every_variable_reaches_its_setting(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    (tmp_path / "rules").touch()
    (tmp_path / "archives").mkdir()
    matrix = loaded(
        tmp_path,
        SERVING_FACTORY_BASE_IMAGES="ubuntu:20.04=env/ubuntu:20.04",
        SERVING_FACTORY_APT_MIRROR="https://apt/{snapshot}",
        SERVING_FACTORY_APT_SNAPSHOT="20260301T000000Z",
        SERVING_FACTORY_PIP_INDEX="https://pip/simple",
        SERVING_FACTORY_GIT_MIRRORS="https://a/=https://b/ https://c/x.git=https://d/y.git",
        SERVING_FACTORY_BAZEL_MIRROR="https://bazel",
        SERVING_FACTORY_BAZEL_DISTDIR="archives",
        SERVING_FACTORY_REMOTE_CACHE="grpcs://cache",
        SERVING_FACTORY_REMOTE_EXECUTOR="grpcs://build:443",
        SERVING_FACTORY_REMOTE_UPLOAD="auto",
        SERVING_FACTORY_REMOTE_HEADERS="x-api-key: some secret",
        SERVING_FACTORY_DOWNLOADER_CONFIG="rules",
        SERVING_FACTORY_CA_CERTIFICATES="ca.pem",
        SERVING_FACTORY_OFFLINE="yes",
        HTTP_PROXY="proxy:3128",
        https_proxy="http://u:p@proxy:3129",
        NO_PROXY="localhost,.example.com",
    )
    remote = matrix.settings.of("2.19.1").bazel.remote
    assert (remote.cache, remote.executor, remote.upload) == ("grpcs://cache", "grpcs://build:443", None)
    assert remote.headers == {"x-api-key": "some secret"}
    network = matrix.network
    assert network.base_images == {"ubuntu:20.04": "env/ubuntu:20.04", "debian:bookworm": "file/debian"}
    assert (network.apt_mirror, network.apt.snapshot) == ("https://apt/{snapshot}", "20260301T000000Z")
    assert (network.pip_index, network.bazel_mirror) == ("https://pip/simple", "https://bazel")
    assert network.git_mirrors == {"https://a/": "https://b/", "https://c/x.git": "https://d/y.git"}
    assert (network.downloader_config, network.ca_certificates) == (tmp_path / "rules", tmp_path / "ca.pem")
    assert network.offline
    assert (network.proxies.http, network.proxies.https) == ("http://proxy:3128", "http://u:p@proxy:3129")
    assert network.proxies.no == "localhost,.example.com"
    for release in ("2.19.1", "1.9.1"):
        assert matrix.settings.of(release).bazel.distdir == tmp_path / "archives", "the environment wins"
    assert matrix.settings.of("1.9.1").toolchain.base == "ubuntu:20.04", "the rest of the entry stays"
    for names, path, _ in VARIABLES:
        shown = [origin(matrix, where) for where in matrix.document.given if where[: len(path)] == path]
        assert shown
        assert set(shown) <= {f"environment, {name}" for name in names}


def test_where_a_value_for_some_releases_comes_from(tmp_path: Path) -> None:
    path = ("bazel", "distdir")
    matrix = loaded(tmp_path)
    assert release_origin(matrix, "2.19.1", path).startswith("bazel.distdir, ")
    assert release_origin(matrix, "1.9.1", path).startswith("per_release[0].bazel.distdir, ")
    matrix = loaded(tmp_path, SERVING_FACTORY_BAZEL_DISTDIR=".")
    assert release_origin(matrix, "1.9.1", path) == "environment, SERVING_FACTORY_BAZEL_DISTDIR"


@pytest.mark.parametrize(
    ("variable", "value", "facts"),
    [
        ("SERVING_FACTORY_APT_MIRROR", "absent", "'/here/absent': there is no folder /here/absent."),
        ("SERVING_FACTORY_APT_SNAPSHOT", "yesterday", "'yesterday': a snapshot is a time in UTC."),
        ("SERVING_FACTORY_BASE_IMAGES", "ubuntu:1=x", "nothing stands on such a base image"),
        ("SERVING_FACTORY_BASE_IMAGES", "ubuntu:20.04=X", "'X': an image is "),
        ("SERVING_FACTORY_BAZEL_DISTDIR", "absent", "'/here/absent': there is no folder /here/absent."),
        ("HTTPS_PROXY", "http://u:secret@a b", "'http://***@a b': a URL holds no blanks"),
        ("HTTP_PROXY", "http://u:se$cret@a", "'http://***@a': a URL holds no blanks, quotes, dollar signs"),
        ("HTTP_PROXY", "socks5://proxy:1080", "'socks5://proxy:1080': a URL begins with http or https"),
        ("SERVING_FACTORY_APT_MIRROR", "ht tp://x", "'ht tp://x': a URL holds no blanks"),
        ("SERVING_FACTORY_APT_MIRROR", "ftp://x", "'ftp://x': a URL begins with http or https"),
        ("SERVING_FACTORY_APT_MIRROR", "https://u:p@[::1", "'https://***@[::1': the host or the port"),
        ("SERVING_FACTORY_PIP_INDEX", "file:///srv", "'file:///srv': a URL begins with http or https"),
        ("SERVING_FACTORY_BAZEL_DISTDIR", "x" * 300, "there is no folder /here/xxx"),
        ("SERVING_FACTORY_CA_CERTIFICATES", "/", "/ is a folder, not a file"),
        ("NO_PROXY", "a;b", "'a;b': not a list of hosts"),
    ],
)
def test_a_bad_value_is_reported_by_the_files_rules(tmp_path: Path, variable: str, value: str, facts: str) -> None:
    with pytest.raises(MatrixError) as caught:
        load_matrix(write(tmp_path, FILE), given({variable: value}, HERE))
    (line,) = dict.fromkeys(caught.value.why.splitlines())
    assert line.startswith(f"environment: {variable}: ")
    assert facts in line


@pytest.mark.parametrize(
    ("variable", "value", "facts"),
    [
        ("SERVING_FACTORY_OFFLINE", "perhaps", "perhaps: this is neither yes nor no"),
        ("SERVING_FACTORY_GIT_MIRRORS", "https://a=https://b https://c", "'https://c' is not a pair"),
        ("SERVING_FACTORY_BAZEL_DISTDIR", "archives-\udcff", "not UTF-8"),
        ("SERVING_FACTORY_BASE_IMAGES", "=x", "'x' is not a pair"),
    ],
)
def test_a_text_that_cannot_be_read_is_reported(variable: str, value: str, facts: str) -> None:
    with pytest.raises(UsageError) as caught:
        given({variable: value}, HERE)
    assert variable in caught.value.what
    assert facts in caught.value.what
    assert caught.value.remedy


def test_an_unknown_variable_is_reported() -> None:
    with pytest.raises(UsageError, match="SERVING_FACTORY_DISTDIR: ") as caught:
        given({"SERVING_FACTORY_DISTDIR": "archives"}, HERE)
    assert "SERVING_FACTORY_BAZEL_DISTDIR" in caught.value.remedy


@pytest.mark.parametrize(
    ("value", "hosts"),
    [
        ("localhost, 127.0.0.1,[::1]", "localhost,127.0.0.1,[::1]"),
        ("localhost .corp.example.com\t10.0.0.0/8,", "localhost,.corp.example.com,10.0.0.0/8"),
    ],
)
def test_hosts_without_a_proxy_are_separated_as_curl_does(tmp_path: Path, value: str, hosts: str) -> None:
    assert loaded(tmp_path, NO_PROXY=value).network.proxies.no == hosts


@pytest.mark.parametrize(("value", "meant"), [("1", True), ("TRUE", True), ("no", False), ("0", False)])
def test_yes_and_no(value: str, meant: bool) -> None:  # noqa: FBT001 - a parameter of pytest's
    (one,) = given({"SERVING_FACTORY_OFFLINE": value}, HERE)
    assert one.value is meant


def test_a_file_of_the_wrong_shape_is_reported_all_the_same(tmp_path: Path) -> None:
    file = write(tmp_path, document(network=["x"], per_release="x"))
    with pytest.raises(MatrixError) as caught:
        load_matrix(file, given({"HTTP_PROXY": "p:1"}, HERE))
    assert "network: expected a mapping" in caught.value.why
    assert "per_release: 'x': expected a list" in caught.value.why
