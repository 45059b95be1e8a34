"""Preflight: what is read out of what Bazel says. The folders in recorded/ are what preflight.sh left of a workspace.

It needs a and r (in the distdir), b and s (nowhere), c (in the distdir, and not what is pinned), d (overridden) and
f, a single file that is nowhere; it declares `unused`. In the stopped ones a file of @s must be read to know what is
declared. Those of Bazel 7.7.1 are shortened by most of what Bazel itself declares; in its `toolchains` nothing replaces
bazel_skylib, which Bazel's own toolchains need.
"""

from __future__ import annotations

import base64
import shutil
from pathlib import Path
from typing import TextIO

import pytest

from serving_factory.commands.preflight import preflight_page
from serving_factory.docker.buildx import BuildFailed
from serving_factory.errors import CompileError, FetchError
from serving_factory.pipeline.job import Job, Site
from serving_factory.pipeline.preflight import (
    Declared,
    Found,
    Report,
    declared_repositories,
    read_report,
    run_preflight,
)
from serving_factory.pipeline.stages import compile as compile_stage
from serving_factory.recipes.recipe import recipe_for

from .matrices import document, load, tree

RECORDED = Path(__file__).parent / "recorded"
BAZELS = ["0.17.2", "4.2.3", "7.7.1"]


def recorded(name: str) -> Report:
    return read_report(RECORDED / f"preflight-bazel-{name}")


@pytest.mark.parametrize("bazel", BAZELS)
def test_all_that_is_missing_is_reported_at_once(bazel: str) -> None:
    report = recorded(bazel)
    assert [(one.name, one.rule, one.file, one.sha256 and one.sha256[:4]) for one in report.missing] == [
        ("b", "http_archive", "b-1.0.tar.gz", "2575"),
        ("c", "http_archive", "c-1.0.tar.gz", "0000"),
        ("f", "http_file", "downloaded", "4444"),
        ("s", "tf_http_archive", "s-1.0.tar.gz", "2222"),
    ]
    assert report.missing[0].urls == (
        "https://mirror.example.com/b/archive/b-1.0.tar.gz",
        "https://example.com/b-1.0.tar.gz",
    )
    assert (report.failed, report.stopped, report.errors) == (True, False, ())


@pytest.mark.parametrize(
    ("step", "message", "remedy"),
    [
        ("[base_build 3/5] RUN apt", "wants to download something, and builds have no network", "network.apt.mirror"),
        (
            "[internal] load metadata for m/u:1",
            r"a download failed in .* load metadata",
            "`network:` in the matrix file",
        ),
        ("[context ubuntu:18.04] load metadata for m/u:1", "the engine has no image m/u:1", "network.base_images"),
    ],
)
def test_a_preflight_that_does_not_come_to_bazel_fails_as_a_build_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, message: str, remedy: str
) -> None:
    text = 'failed to do request: Head "https://r.example.com/v2/": dial tcp: lookup r.example.com: no such host'

    def build(_request: object, **_more: object) -> None:
        raise BuildFailed(step=step, tail=(), exit_code=1, text=text)

    monkeypatch.setattr(compile_stage, "build", build)
    tree(tmp_path / "tree")
    network = {"base_images": {"ubuntu:18.04": "m/u:1"}, "offline": "base_build" in step}
    matrix = load(tmp_path, document(releases=["2.11.1"], source="tree", network=network))
    site = Site(build=tmp_path / "build", models=tmp_path)
    heard: list[str] = []
    with pytest.raises(FetchError, match=message) as caught:
        run_preflight(Job(recipe=recipe_for(matrix.variants[0], matrix), site=site), heard.append)
    assert remedy in caught.value.remedy
    assert "no such host" in caught.value.why
    assert heard[-1].endswith("preflight.log")


def test_packages_that_the_folder_does_not_have_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(_request: object, *, log: TextIO, **_more: object) -> None:
        log.write(
            "[base_build 3/5] E: Unable to locate package g++-9\n[base_build 3/5] E: Unable to locate package zip\n"
        )
        raise BuildFailed(step="[base_build 3/5] RUN apt", tail=(), exit_code=100, text="")

    monkeypatch.setattr(compile_stage, "build", build)
    (tmp_path / "Packages").touch()
    matrix = load(tmp_path, document(network={"apt": {"mirror": "."}}))
    site = Site(build=tmp_path / "build", models=tmp_path)
    with pytest.raises(CompileError, match="packages are missing in ") as caught:
        run_preflight(Job(recipe=recipe_for(matrix.variants[0], matrix), site=site), lambda _text: None)
    assert caught.value.why == "g++-9, zip"
    assert "docs/matrix.md" in caught.value.remedy


@pytest.mark.parametrize("bazel", BAZELS)
def test_a_wrong_archive_in_the_distdir_is_reported(bazel: str) -> None:
    problems = {one.name: one.problem for one in recorded(bazel).missing}
    distdir = (RECORDED / f"preflight-bazel-{bazel}" / "distdir").read_text(encoding="utf-8").split()
    assert problems["c"] == f"the distdir's file of that name has sha256 {distdir[distdir.index('c-1.0.tar.gz') - 1]}"
    assert problems["b"] == ("not in the distdir" if bazel == "0.17.2" else "Unknown host: example.com")


@pytest.mark.parametrize("bazel", BAZELS)
def test_what_is_there_is_listed_with_where_it_came_from(bazel: str) -> None:
    found = {one.name: one for one in recorded(bazel).found}
    assert found["a"] == Found(name="a", origin="distdir", file="a-1.0.tar.gz")
    assert found["r"] == Found(name="r", origin="distdir", file="r-1.0.tar.gz")
    assert found["d"] == Found(name="d", origin="override")
    more = {"bazel_skylib", "rules_python"} if bazel == "7.7.1" else set()  # its toolchains need them
    assert set(found) - {"rules_cc", "rules_java"} == {"a", "r", "d", *more}


@pytest.mark.parametrize("bazel", BAZELS)
def test_what_was_not_looked_at_is_listed_apart(bazel: str) -> None:
    assert "unused" in {one.name for one in recorded(bazel).unseen}
    assert not {one.name for one in recorded(bazel).unseen if one.name.startswith("remote")}, "Bazel's own"


@pytest.mark.parametrize("bazel", BAZELS)
def test_a_workspace_that_cannot_be_read_is_reported(bazel: str) -> None:
    report = recorded(f"{bazel}-stopped")
    (missing,) = report.missing
    assert (missing.name, missing.file, missing.sha256) == ("s", "s-1.0.tar.gz", "2" * 64)
    assert missing.urls == ("https://mirror.example.com/s-1.0.tar.gz",)
    assert report.stopped
    assert {one.name for one in report.unseen} == {"b", "c", "f", "g", "unused"}, "a and r are in the distdir"


def test_toolchains_that_bazel_7_cannot_resolve_stop_it() -> None:
    report = recorded("7.7.1-toolchains")
    assert [(one.name, one.file) for one in report.missing] == [("bazel_skylib", "bazel-skylib-1.6.1.tar.gz")]
    assert report.stopped
    assert {one.name for one in report.unseen} == {"b", "c", "f", "s", "unused"}


def changed(tmp_path: Path, **files: str) -> Report:
    """A recorded preflight, with other files."""
    folder = tmp_path / "preflight"
    shutil.copytree(RECORDED / "preflight-bazel-0.17.2", folder)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text, encoding="utf-8")
    return read_report(folder)


def test_toolchains_that_are_missing_stop_it_too(tmp_path: Path) -> None:
    line = (
        "ERROR: While resolving toolchains for target //:m: com.google.devtools.build.lib.packages."
        "RepositoryFetchException: no such package '@rules_cc//cc': java.io.IOException: Error downloading "
        "[https://example.com/x/b1c.zip] to /factory/bazel/9/external/rules_cc/temp2/b1c.zip: Unknown host\n"
    )
    report = changed(tmp_path, bazel_log=line)
    assert [(one.name, one.file, one.urls) for one in report.missing] == [
        ("rules_cc", "b1c.zip", ("https://example.com/x/b1c.zip",))
    ]
    assert report.stopped


def test_what_was_in_the_cache_before_differs_from_what_is_downloaded(tmp_path: Path) -> None:
    log = "INFO: Found 1 target...\n"
    unused = "3" * 64
    report = changed(tmp_path, bazel_log=log, bazel_exit="0\n", external="unused\nlocal\n", cache=f"{unused}\n")
    assert report.found == (Found(name="unused", origin="cache"), Found(name="local", origin="local"))
    assert (report.missing, report.failed) == ((), False)
    shutil.rmtree(tmp_path / "preflight")
    report = changed(tmp_path, bazel_log=log, bazel_exit="0\n", external="unused\n", cache="")
    assert report.found == (Found(name="unused", origin="download"),)


def test_an_analysis_that_fails_for_another_reason_is_reported(tmp_path: Path) -> None:
    report = changed(tmp_path, bazel_log="ERROR: /ws/BUILD:1:1: name 'x' is not defined\nINFO: a\n", query_log="")
    assert (report.missing, report.failed) == ((), True)
    assert report.errors == ("ERROR: /ws/BUILD:1:1: name 'x' is not defined",)


def test_a_repository_that_is_no_archive_is_reported_by_what_went_wrong(tmp_path: Path) -> None:
    log = "ERROR: no such package '@@g//lib': error running 'git clone' and referenced by '//:m'\n"
    (missing,) = changed(tmp_path, bazel_log=log, query_log="").missing
    assert (missing.name, missing.file, missing.urls, missing.sha256) == ("g", "", (), None)
    assert missing.problem == "error running 'git clone'"


# --- what sources declare ---------------------------------------------------------------------------------------------


def test_declarations_are_read_from_starlark() -> None:
    digest = base64.b64encode(bytes.fromhex("ab" * 32)).decode()
    text = f"""
workspace(name = "tf_serving")
load("//:a.bzl", "tensorflow_http_archive")
tensorflow_http_archive(name = "org_tensorflow", sha256 = "{"1" * 64}", git_commit = "25c1")
def more(path_prefix = ""):
    native.new_http_archive(name = "grpc", urls = ["https://a/b.tgz", "https://c/b.tgz"], sha256 = "{"2" * 64}")
    http_archive(name = "new", url = "https://a/n.zip", integrity = "sha256-{digest}")
    git_repository(name = "git", remote = "https://a/g.git", sha256 = SHA, urls = BASE + ["x"])
    http_archive(name = path_prefix + "computed", sha256 = "{"3" * 64}")
"""
    found = {one.name: one for one in declared_repositories(text)}
    assert found["org_tensorflow"] == Declared(name="org_tensorflow", rule="tensorflow_http_archive", sha256="1" * 64)
    assert found["grpc"].urls == ("https://a/b.tgz", "https://c/b.tgz")
    assert found["grpc"].rule == "native.new_http_archive"
    assert found["new"].sha256 == "ab" * 32
    assert found["git"] == Declared(name="git", rule="git_repository", urls=("https://a/g.git",))
    assert "computed" not in found


def test_what_python_cannot_read_costs_only_itself() -> None:
    text = 'a(\n  name = "a",\n  import = 1,\n)\n\nb(\n  name = "b",\n  url = "u",\n)\n'
    assert [one.name for one in declared_repositories(text)] == ["b"]


# --- for people -------------------------------------------------------------------------------------------------------


def page(report: Report) -> str:
    return "\n".join([*preflight_page("1.9.1-cpu-v1", report), ""])


def test_the_page_of_what_is_missing() -> None:
    text = page(recorded("4.2.3"))
    assert text.startswith(
        "1.9.1-cpu-v1: repositories available: 2 from the distdir, 3 from overrides\n\nmissing  file"
    )
    assert "b        b-1.0.tar.gz  2575" in text
    assert "What these depend on shows once they are available." in text
    assert "WORKSPACE declares 1 more that may or may not be needed" in text
    assert "Nothing is missing" not in text


def test_the_page_of_a_workspace_that_cannot_be_read() -> None:
    assert "Bazel stopped at these" in page(recorded("0.17.2-stopped"))


def test_the_page_of_nothing_missing(tmp_path: Path) -> None:
    asked = {"bazel_log": "", "query_log": "", "bazel_exit": "0\n", "external": "d\n"}
    report = changed(tmp_path / "one", **asked)
    assert "Bazel could not list the programs that the rules call" in page(report)
    report = changed(tmp_path / "two", **asked, genrules_exit="3\n")
    assert page(report) == "1.9.1-cpu-v1: repositories available: 1 from overrides\nNothing is missing.\n"
    failed = changed(tmp_path / "other", bazel_log="ERROR: odd\n", query_log="", external="")
    assert page(failed) == "1.9.1-cpu-v1: repositories available: none\nERROR: odd\n"
