"""dockerfiles/context/inputs.sh, sourced by bash as a build step does, in a folder that stands for the root."""

from __future__ import annotations

import base64
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "dockerfiles" / "context" / "inputs.sh"
SNAPSHOT = "20260301T000000Z"


@dataclass(frozen=True, slots=True)
class Root:
    """A folder that stands for the root of a build container, with programs that record how they are called."""

    folder: Path

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def program(self, name: str, text: str) -> None:
        self.write(f"bin/{name}", f"#!/bin/bash\n{text}\n")
        (self.folder / "bin" / name).chmod(0o755)

    def network(self, **values: str) -> None:
        self.write("run/secrets/network", "".join(f"export {k}={shlex.quote(v)}\n" for k, v in values.items()))

    def run(self, command: str, **env: str) -> str:
        """What a build step prints that sources the script, and then does something; at the end, where it failed."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f". {SCRIPT}\n{command}"],
            env={"PATH": f"{self.folder}/bin:/usr/bin:/bin", "FACTORY_TEST_ROOT": str(self.folder), **env},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.stderr == ""
        return done.stdout.replace(str(self.folder), "") + (f"exit {done.returncode}\n" if done.returncode else "")

    def scratch(self, name: str) -> str:
        return (self.folder / "run/inputs" / name).read_text(encoding="utf-8")


@pytest.fixture
def root(tmp_path: Path) -> Root:
    (tmp_path / "run/inputs").mkdir(parents=True)
    made = Root(tmp_path)
    made.program("apt-get", 'printf "%s\\n" "$DEBIAN_FRONTEND" "$@"')
    return made


def pem(*certificates: bytes) -> str:
    """Certificates as files have them, with words between them; what is in them is of no matter here."""
    return "".join(
        f"subject=CN = one\n-----BEGIN CERTIFICATE-----\n{base64.encodebytes(one).decode()}-----END CERTIFICATE-----\n"
        for one in certificates
    )


# --- nothing given ----------------------------------------------------------------------------------------------------


def test_without_inputs_nothing_changes_but_where_tools_write(root: Root) -> None:
    root.write("etc/apt/sources.list", "deb http://deb.example/debian bookworm main\n")
    shown = root.run('echo "$HOME"; env')
    assert shown.splitlines()[0] == "/run/inputs"
    for name in ("PROXY", "SSL", "CA", "PIP", "proxy"):
        assert name not in shown
    assert "sources" not in root.run("apt_get update")


def test_functions_fail_where_what_they_run_fails(root: Root) -> None:
    root.program("apt-get", "exit 100")
    root.program("dpkg-query", "exit 1")
    assert root.run("apt_install gcc; echo on") == "exit 100\n"
    assert root.run("apt_install gcc && echo on") == "exit 100\n"


# --- proxies, pip, git ------------------------------------------------------------------------------------------------


def test_proxies_and_the_index_reach_what_runs_after(root: Root) -> None:
    root.network(https_proxy="http://u:it's@proxy:3128", PIP_INDEX_URL="https://index/simple")
    shown = root.run("env")
    assert "https_proxy=http://u:it's@proxy:3128\n" in shown
    assert "PIP_INDEX_URL=https://index/simple\n" in shown
    assert "RULES_PYTHON_PIP_ISOLATED=0\n" in shown


def test_git_looks_where_the_settings_say(root: Root) -> None:
    root.network(GIT_MIRRORS="https://code.example/ https://mirror/code/\nhttps://other.example/a.git file:///a.git")
    for address, used in (
        ("https://code.example/x/y.git", "https://mirror/code/x/y.git"),
        ("https://other.example/a.git", "file:///a.git"),
        ("https://third.example/a.git", "https://third.example/a.git"),
    ):
        assert root.run(f"git ls-remote --get-url {address}") == f"{used}\n"


# --- certificates -----------------------------------------------------------------------------------------------------


def test_certificates_are_trusted_beside_the_systems(root: Root) -> None:
    root.write("etc/ssl/certs/ca-certificates.crt", pem(b"one", b"two").rstrip("\n"))
    root.write("run/secrets/ca", pem(b"mine"))
    shown = root.run("env")
    for name in ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT", "REQUESTS_CA_BUNDLE"):
        assert f"\n{name}=/run/inputs/ca.pem\n" in f"\n{shown}"
    assert root.scratch("ca.pem").count("BEGIN") == 3
    assert "\nAcquire::https::CaInfo=/run/inputs/ca.pem\n" in root.run("apt_get update")


# --- apt --------------------------------------------------------------------------------------------------------------

LIST = """\
# deb http://old.example/debian bookworm main
deb [arch=amd64 signed-by=/k.gpg] http://deb.example/debian bookworm main
deb-src https://deb.example:80/debian/ bookworm main
deb http://security.example/debian-security bookworm-security main
"""
DEB822 = """\
Types: deb
# http://old.example/ubuntu
URIs: http://archive.example/ubuntu/ http://other.example/ubuntu
Suites: noble
Signed-By: /usr/share/keyrings/archive.gpg
"""


@pytest.mark.parametrize(
    ("mirror", "snapshot", "debian", "ubuntu"),
    [
        ("https://m", "", "https://m/debian", "https://m/ubuntu"),
        ("http://m/a&b#1/", "", "http://m/a&b#1/debian", "http://m/a&b#1/ubuntu"),
        ("https://u:p@m/apt-{archive}", "", "https://u:p@m/apt-debian", "https://u:p@m/apt-ubuntu"),
        ("http://m/{snapshot}", SNAPSHOT, f"http://m/{SNAPSHOT}/debian", f"http://m/{SNAPSHOT}/ubuntu"),
        ("http://m/{archive}/{snapshot}/", SNAPSHOT, f"http://m/debian/{SNAPSHOT}", f"http://m/ubuntu/{SNAPSHOT}"),
    ],
)
def test_a_mirror_takes_the_place_of_every_host(
    root: Root, mirror: str, snapshot: str, debian: str, ubuntu: str
) -> None:
    root.write("etc/apt/sources.list", LIST)
    root.write("etc/apt/sources.list.d/base.sources", DEB822)
    root.network(APT_MIRROR=mirror)
    shown = root.run("apt_get update", APT_SNAPSHOT=snapshot)
    assert "\nDir::Etc::SourceList=/dev/null\n-o\nDir::Etc::SourceParts=/run/inputs/apt/sources\n" in shown
    assert ("Acquire::Check-Valid-Until=false" in shown) == bool(snapshot)
    security = debian.replace("debian", "debian-security")
    assert root.scratch("apt/sources/base.list") == LIST.replace("http://deb.example/debian", debian).replace(
        "https://deb.example:80/debian/", debian
    ).replace("http://security.example/debian-security", security)
    assert root.scratch("apt/sources/base.sources") == DEB822.replace(
        "http://archive.example/ubuntu/ http://other.example/ubuntu", f"{ubuntu} {ubuntu}"
    )
    assert (root.folder / "etc/apt/sources.list").read_text() == LIST, "the image's own list stays as it is"


def test_a_list_that_is_written_later_is_rewritten_too(root: Root) -> None:
    root.network(APT_MIRROR="http://m")
    late = 'mkdir -p "$FACTORY_TEST_ROOT/etc/apt/sources.list.d"; echo "deb http://x.example/a/b ./"'
    root.run(f'apt_get update; {late} >"$FACTORY_TEST_ROOT/etc/apt/sources.list.d/x.list"; apt_get update')
    assert root.scratch("apt/sources/x.list") == "deb http://m/a/b ./\n"


def test_a_folder_is_the_only_source(root: Root) -> None:
    root.write("etc/apt/sources.list", LIST)
    root.write("inputs/apt/Packages", "Package: a\n")
    root.network(APT_MIRROR="http://m")
    shown = root.run("apt_get install a")
    assert shown.splitlines()[-2:] == ["install", "a"]
    assert "\nDir::Etc::SourceParts=/run/inputs/apt/sources\n" in shown
    (only,) = (root.folder / "run/inputs/apt/sources").iterdir()
    assert only.read_text() == f"deb [trusted=yes] file:{root.folder}/inputs/apt ./\n"


def test_apt_asks_hosts_directly_that_no_proxy_is_for(root: Root) -> None:
    root.write("etc/apt/sources.list", "deb https://deb.corp.example:8443/debian bookworm main\n")
    direct = "\nAcquire::https::Proxy::{}=DIRECT\n"
    for names, direct_is_used in (
        ("a.example,.corp.example", True),
        ("deb.corp.example", True),
        ("*", True),
        ("*.corp.example:8443", True),
        ("orp.example", False),
        ("", False),
    ):
        assert (direct.format("deb.corp.example") in root.run("apt_get update", no_proxy=names)) is direct_is_used, (
            names
        )
    shown = root.run("apt_get update", APT_MIRROR="https://u:p@172.17.0.1:80/{archive}", no_proxy="172.17.0.1")
    assert direct.format("172.17.0.1") in shown


def test_nothing_of_apts_lists_stays(root: Root) -> None:
    assert root.run("apt_get update").splitlines()[:2] == ["noninteractive", "-o"]
    assert "\nDir::State::Lists=/run/inputs/apt/lists\n" in root.run("apt_get update")


INSTALLED = 'case ${!#} in gcc|"g++") echo "installed 4:12.2-1" ;; old) echo "config-files 1" ;; *) exit 1 ;; esac'


@pytest.mark.parametrize("packages", ["gcc", "gcc g++", "gcc=4:12.2-1 g++"])
def test_a_prepared_base_is_asked_for_nothing(root: Root, packages: str) -> None:
    root.program("dpkg-query", INSTALLED)
    assert root.run(f"apt_install {packages}") == ""


@pytest.mark.parametrize("packages", ["gcc git", "gcc=4:12.2-2", "old", "gcc g++ old"])
def test_what_is_not_all_there_is_installed(root: Root, packages: str) -> None:
    root.program("dpkg-query", INSTALLED)
    lines = root.run(f"apt_install {packages}").splitlines()
    assert lines.count("update") == 1
    assert lines[lines.index("install") :] == [
        "install", "--yes", "--no-install-recommends", "-o", "Dpkg::Options::=--force-unsafe-io", *packages.split(),
    ]  # fmt: skip


def test_an_empty_folder_is_no_input(root: Root) -> None:
    (root.folder / "inputs" / "apt").mkdir(parents=True)
    assert "sources" not in root.run("apt_get update")


def test_the_rules_for_downloads_become_a_file(root: Root) -> None:
    root.network(BAZEL_DOWNLOADER_CONFIG="rewrite a b\nblock c")
    assert "BAZEL_DOWNLOADER_CONFIG" not in root.run("env")
    assert root.scratch("downloader.cfg") == "rewrite a b\nblock c\n"
