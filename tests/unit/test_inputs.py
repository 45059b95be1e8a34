"""The inputs: rules of the matrix file, the value in a recipe, and what the compile stage makes ready."""

from __future__ import annotations

import base64
import hashlib
import shlex
import shutil
import ssl
import stat
import struct
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving_factory.errors import MatrixError, RecipeError
from serving_factory.pipeline.bazel import bazelrc
from serving_factory.pipeline.digests import tree_digest
from serving_factory.pipeline.inputs import java_truststore, secret_files, secrets_of, stage_inputs
from serving_factory.pipeline.job import Job, Site
from serving_factory.pipeline.stages.compile import COMPILE, devel_image_command
from serving_factory.recipes.explain import explain
from serving_factory.recipes.inputs import mirrored
from serving_factory.recipes.recipe import Recipe, recipe_for

from .matrices import document, load

PEM = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"
SNAPSHOT = "20260301T000000Z"


def files(folder: Path) -> None:
    """What the inputs of these tests name."""
    for name, text in {
        "apt/Packages": "",
        "debs/a.deb": "",
        "distdir/a.tar.gz": "",
        "zlib/WORKSPACE": "",
        "zlib/sub/zlib.h": "a header",
        "one/b.patch": "b",
        "one/external/grpc/a.patch": "grpc",
        "two/a.patch": "a",
        "two/README": "no patch",
        "bazel-binary": "#!",
        "ca.pem": PEM,
        "rules": "rewrite (.*) $1\n",
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def recipe(folder: Path, **sections: Any) -> Recipe:  # noqa: ANN401 - as YAML has them
    files(folder)
    matrix = load(folder, document(**sections))
    return recipe_for(matrix.variants[0], matrix)


def everything(folder: Path) -> Recipe:
    return recipe(
        folder,
        bazel={
            "version": "4.2.3",
            "package": "bazel-bootstrap",
            "binary": "bazel-binary",
            "distdir": "distdir",
            "overrides": {"zlib": "zlib"},
            "options": ["--define=a=b", "-k"],
            "startup_options": ["--host_jvm_args=-Xmx2g"],
        },
        patches=["one", "two"],
        network={
            "apt": {"mirror": "https://u:hush@apt/{snapshot}", "snapshot": SNAPSHOT},
            "pip_index": "https://pip/simple",
            "git_mirrors": {"https://github.com/": "https://mirror/"},
            "bazel_mirror": "https://bazel/",
            "downloader_config": "rules",
            "proxies": {"https": "http://u:hush@proxy:1", "no": "localhost"},
            "ca_certificates": "ca.pem",
        },
    )


# --- the file's rules -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sections", "reported"),
    [
        ({"network": {"apt": {"mirror": "https://m/{snapshot}"}}}, "{snapshot} has no value"),
        ({"network": {"apt": {"snapshot": SNAPSHOT}}}, "no mirror has {snapshot} in its URL"),
        ({"network": {"apt": {"mirror": "https://m", "snapshot": SNAPSHOT}}}, "no mirror has {snapshot} in its URL"),
        ({"network": {"apt": {"mirror": "debs"}}}, "debs has packages, but no index Packages"),
        ({"network": {"git_mirrors": {"https://a/": "https://u:hush@b/"}}}, "a password cannot be kept secret here"),
        ({"network": {"bazel_mirror": "https://hush@b"}}, "a password cannot be kept secret here"),
        ({"network": {"ca_certificates": "rules"}}, "there is no certificate in it"),
        ({"patches": ["zlib"]}, "there is no patch in "),
        ({"per_release": [{"releases": "2.19.1", "patches": ["one", "zlib"]}]}, "there is no patch in "),
    ],
)
def test_inputs_that_lead_nowhere_are_reported(tmp_path: Path, sections: dict[str, Any], reported: str) -> None:
    files(tmp_path)
    with pytest.raises(MatrixError) as caught:
        load(tmp_path, document(**sections))
    (line,) = caught.value.why.splitlines()
    assert reported in line
    assert "hush" not in line, "what is shown on a screen is soon in a log"


# --- the value --------------------------------------------------------------------------------------------------------


def test_a_recipe_without_inputs_is_the_usual_one(tmp_path: Path) -> None:
    usual = recipe(tmp_path)
    assert usual.build_args == (("COPTS", ""),)
    assert usual.contexts(tmp_path) == (("source", usual.source),)
    assert secrets_of(usual.inputs) == {}
    assert bazelrc(usual) == ""


def test_what_is_no_secret_enters_by_contexts_and_arguments(tmp_path: Path) -> None:
    made = everything(tmp_path)
    contexts = dict(made.contexts(tmp_path / "staged"))
    assert contexts == {
        "source": str(made.source).replace("https://github.com/", "https://mirror/"),
        "distdir": str(tmp_path / "distdir"),
        **{name: str(tmp_path / "staged" / name) for name in ("bazel", "overrides", "patches")},
    }
    assert dict(made.build_args) == {
        "COPTS": "",
        "APT_SNAPSHOT": SNAPSHOT,
        "BAZEL_OPTIONS": "--define=a=b -k",
        "BAZEL_STARTUP_OPTIONS": "--host_jvm_args=-Xmx2g",
        "BAZEL_MIRROR": "https://bazel",
    }
    assert "hush" not in str((contexts, made.build_args))


def test_what_is_secret_enters_by_secrets(tmp_path: Path) -> None:
    made = everything(tmp_path)
    secrets = secrets_of(made.inputs)
    exports = dict(word.partition("=")[::2] for word in shlex.split(secrets["network"].decode()) if word != "export")
    assert exports == {
        **dict.fromkeys(("https_proxy", "HTTPS_PROXY"), "http://u:hush@proxy:1"),
        **dict.fromkeys(("no_proxy", "NO_PROXY"), "localhost"),
        "PIP_INDEX_URL": "https://pip/simple",
        "APT_MIRROR": "https://u:hush@apt/{snapshot}",
        "GIT_MIRRORS": "https://github.com/ https://mirror/",
        "BAZEL_DOWNLOADER_CONFIG": "rewrite (.*) $1\n",
    }
    assert secrets["ca"].decode() == PEM
    assert bazelrc(made) == "build --experimental_downloader_config=/run/inputs/downloader.cfg\n"


def test_an_old_bazel_is_not_given_what_it_does_not_know(tmp_path: Path) -> None:
    made = recipe(tmp_path, bazel={"version": "3.1.0", "package": "bazel-old"}, network={"downloader_config": "rules"})
    assert bazelrc(made) == ""
    assert secrets_of(made.inputs) == {}
    matrix = load(tmp_path, (tmp_path / "matrix.yaml").read_text())
    (reported,) = dict(explain(made, matrix, devel_command=""))["inputs"]
    assert reported[:2] == ("downloader_config", "Bazel 3.1.0 has no downloader config: not used")


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("https://github.com/a/b.git#c0ffee", "https://m/gh/a/b.git#c0ffee"),
        ("https://github.com/tensorflow/x.git", "https://m/tf/x.git"),
        ("https://example.com/x.git", "https://example.com/x.git"),
    ],
)
def test_the_longest_beginning_counts(url: str, asked: str) -> None:
    mirrors = {"https://github.com/": "https://m/gh/", "https://github.com/tensorflow/": "https://m/tf/"}
    assert mirrored(url, mirrors) == asked
    assert mirrored(url, dict(reversed(mirrors.items()))) == asked


def test_explain_shows_the_inputs_and_no_password(tmp_path: Path) -> None:
    made = everything(tmp_path)
    matrix = load(tmp_path, (tmp_path / "matrix.yaml").read_text())
    command = devel_image_command(made, tmp_path)
    sections = dict(explain(made, matrix, devel_command=command))
    inputs = {
        f"{one.name} {one.of}".rstrip(): (one.value, one.origin.partition(", matrix.yaml:")[0])
        for one in sections["inputs"]
    }
    assert inputs["https_proxy"] == ("http://***@proxy:1", "network.proxies.https")
    assert inputs["override zlib"] == (str(tmp_path / "zlib"), "bazel.overrides.zlib")
    assert inputs["patches 2"] == (str(tmp_path / "two"), "patches[1]")
    assert sections["devel_image"][0].value == command
    assert f"--build-context patches={tmp_path}/recipe/inputs/patches" in command
    assert "hush" not in str(sections)


# --- the key ----------------------------------------------------------------------------------------------------------


def key(folder: Path, made: Recipe) -> str:
    return COMPILE.key(Job(recipe=replace(made, source="url"), site=Site(build=folder, models=folder)))


def test_what_is_built_is_in_the_key_and_where_it_comes_from_is_not(tmp_path: Path) -> None:
    apt = {"mirror": "https://one/{snapshot}", "snapshot": SNAPSHOT}
    usual = key(tmp_path, recipe(tmp_path))
    same: dict[str, Any]
    for same in (
        {"network": {"proxies": {"http": "http://p:1"}, "pip_index": "https://i", "bazel_mirror": "https://b"}},
        {"network": {"ca_certificates": "ca.pem", "offline": True, "downloader_config": "rules"}},
        {"network": {"git_mirrors": {"https://github.com/": "https://mirror/"}, "apt": {"mirror": "apt"}}},
        {"bazel": {"distdir": "distdir"}},
    ):
        assert key(tmp_path, recipe(tmp_path, **same)) == usual
    others: list[dict[str, Any]] = [
        {"network": {"apt": apt}},
        {"network": {"apt": {**apt, "snapshot": "20260401T000000Z"}}},
        {"bazel": {"options": ["-k"]}},
        {"bazel": {"startup_options": ["-k"]}},
        {"bazel": {"overrides": {"zlib": "zlib"}}},
        {"bazel": {"overrides": {"other": "zlib"}}},
        {"bazel": {"overrides": {"zlib": "two"}}},
        {"patches": ["one", "two"]},
        {"patches": ["two", "one"]},
    ]
    assert len({usual, *(key(tmp_path, recipe(tmp_path, **other)) for other in others)}) == len(others) + 1


def test_the_binary_of_bazel_is_in_the_key(tmp_path: Path) -> None:
    keys = set()
    for content in ("one", "other"):
        made = everything(tmp_path)
        (tmp_path / "bazel-binary").write_text(content)
        keys.add(key(tmp_path, made))
    assert len(keys) == 2


# --- made ready -------------------------------------------------------------------------------------------------------


def test_folders_are_put_together(tmp_path: Path) -> None:
    made, staged = everything(tmp_path), tmp_path / "staged"
    (tmp_path / "zlib" / "link").symlink_to("sub/zlib.h")
    (staged / "overrides" / "gone").mkdir(parents=True)
    stage_inputs(made.inputs, staged)
    assert (staged / "bazel" / "bazel").read_text() == "#!"
    assert tree_digest(staged / "overrides" / "zlib") == tree_digest(tmp_path / "zlib")
    assert [path.name for path in (staged / "overrides").iterdir()] == ["zlib"], "what was there is gone"
    patches = {
        str(path.relative_to(staged / "patches")): path.read_text() for path in staged.glob("patches/**/*.patch")
    }
    assert patches == {"00-b.patch": "b", "01-a.patch": "a", "external/grpc/00-a.patch": "grpc"}


def test_what_cannot_be_linked_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "another disk")

    monkeypatch.setattr("os.link", refuse)
    made, staged = everything(tmp_path), tmp_path / "staged"
    stage_inputs(made.inputs, staged)
    assert (staged / "overrides" / "zlib" / "sub" / "zlib.h").read_text() == "a header"
    assert (staged / "bazel" / "bazel").read_text() == "#!"


def test_secrets_are_files_for_a_while(tmp_path: Path) -> None:
    folder = tmp_path / "variant"
    (folder / ".secrets").mkdir(parents=True)
    (folder / ".secrets" / "left").write_text("by a factory that was killed")
    with secret_files(folder, {"network": b"a", "ca": b"b"}) as secrets:
        assert {name: path.read_text() for name, path in secrets} == {"network": "a", "ca": "b"}
        assert {stat.S_IMODE(path.stat().st_mode) for _, path in secrets} == {0o600}
        assert stat.S_IMODE((folder / ".secrets").stat().st_mode) == 0o700
        assert not (folder / ".secrets" / "left").exists()
    assert list(folder.iterdir()) == []


def test_without_secrets_there_is_no_folder_for_them(tmp_path: Path) -> None:
    with secret_files(tmp_path, {}) as secrets:
        assert secrets == ()
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_secrets_are_gone_however_the_build_ends(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), secret_files(tmp_path, {"network": b"a"}):
        raise error
    assert list(tmp_path.iterdir()) == []


# --- the keystore -----------------------------------------------------------------------------------------------------


def keystore(content: bytes) -> dict[str, bytes]:
    """Read a Java keystore of the format JKS: alias → certificate. Fails where a byte is not as it should be."""
    store, digest = content[:-20], content[-20:]
    assert digest == hashlib.sha1("changeit".encode("utf-16-be") + b"Mighty Aphrodite" + store).digest()  # noqa: S324
    magic, version, count = struct.unpack_from(">III", store)
    assert (magic, version) == (0xFEEDFEED, 2)
    at, found = 12, {}
    for _ in range(count):
        kind, length = struct.unpack_from(">IH", store, at)
        alias = store[at + 6 : at + 6 + length].decode()
        at += 6 + length
        assert (kind, store[at : at + 15]) == (2, bytes(8) + b"\0\5X.509")
        (size,) = struct.unpack_from(">I", store, at + 15)
        found[alias] = store[at + 19 : at + 19 + size]
        at += 19 + size
    assert at == len(store)
    assert len(found) == count
    return found


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["unix", "dos"])
def test_bazel_trusts_the_given_certificates_beside_the_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    lines = ["subject=CN = one", "-----BEGIN CERTIFICATE-----", base64.b64encode(b"\xff\0mine").decode()]
    text = end.join([*lines, "-----END CERTIFICATE-----", ""])
    monkeypatch.setattr("ssl.SSLContext.get_ca_certs", lambda *_args, **_options: [b"one", b"other"])
    made = recipe(tmp_path, network={"ca_certificates": "ca.pem"})
    (tmp_path / "ca.pem").write_bytes((text * 2).encode())
    secrets = secrets_of(made.inputs)
    assert set(secrets) == {"ca", "truststore"}
    assert list(keystore(secrets["truststore"]).values()) == [b"one", b"other", b"\xff\0mine"]


def test_a_certificate_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    made = recipe(tmp_path, network={"ca_certificates": "ca.pem"})
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\nQ\n-----END CERTIFICATE-----\n")
    with pytest.raises(RecipeError) as caught:
        secrets_of(made.inputs)
    assert str(tmp_path / "ca.pem") in caught.value.what
    assert caught.value.remedy


@pytest.mark.skipif(shutil.which("keytool") is None, reason="there is no Java here")
def test_java_reads_the_keystore(tmp_path: Path) -> None:
    certificates = ssl.create_default_context().get_ca_certs(binary_form=True)[:3]
    (tmp_path / "store").write_bytes(java_truststore(certificates))
    command = ["keytool", "-list", "-keystore", str(tmp_path / "store"), "-storepass", "changeit"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.stdout.count("trustedCertEntry") == len(certificates) > 0, done.stdout
