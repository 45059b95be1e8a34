"""A remote cache or executor: what the matrix and the environment say, and the bazelrc that comes of it."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from serving_factory.commands.cache import remote_notes
from serving_factory.errors import MatrixError, UsageError
from serving_factory.matrix.environment import given
from serving_factory.matrix.load import load_matrix
from serving_factory.matrix.settings import Remote, Tls
from serving_factory.pipeline.bazel import remote_lines, unusable, uploads
from serving_factory.pipeline.events import Status, VariantResult
from serving_factory.pipeline.job import Job, Site
from serving_factory.pipeline.records import write_record
from serving_factory.recipes.recipe import recipe_for

from .matrices import document, load
from .stage_records import record

SECRET = "planted-5c1e77"


def lines(remote: Remote, bazel: str = "6.5.0", *, upload: bool = False) -> list[str]:
    return list(remote_lines(remote, Version(bazel), upload=upload))


def options(remote: Remote, bazel: str = "6.5.0", *, upload: bool = False) -> set[str]:
    start = "build:factory-remote "
    return {line.removeprefix(start) for line in lines(remote, bazel, upload=upload) if line.startswith(start)}


def test_a_cache_over_http_has_a_folder_for_each_toolchain() -> None:
    remote = Remote(cache="https://cache.example.com/bazel/", headers={})
    assert lines(remote)[0] == "# factory-remote cache.example.com 443"
    assert options(remote) == {
        "--remote_cache=https://cache.example.com/bazel/{toolchain}",
        "--remote_upload_local_results=false",
        "--nobuild_event_json_file_path_conversion",
        "--remote_local_fallback",
        "--remote_timeout=30",
        "--remote_retries=1",
    }


def test_over_grpc_it_has_an_instance_for_each_toolchain() -> None:
    remote = Remote(cache="grpc://10.0.0.7:9092", headers={})
    assert lines(remote)[0] == "# factory-remote 10.0.0.7 9092"
    assert {"--remote_cache=grpc://10.0.0.7:9092", "--remote_instance_name={toolchain}"} < options(remote)


def test_without_a_remote_there_are_no_lines() -> None:
    assert lines(Remote(headers={})) == []


@pytest.mark.parametrize(
    ("bazel", "upload", "asked"),
    [("4.2.3", False, True), ("2.1.0", False, True), ("6.0.0", False, False), ("4.2.3", True, False)],
)
def test_what_is_only_read_is_still_kept_on_disk(bazel: str, upload: bool, asked: bool) -> None:  # noqa: FBT001
    given = options(Remote(cache="http://c:80", headers={}), bazel, upload=upload)
    assert ("--incompatible_remote_results_ignore_disk" in given) == asked
    assert f"--remote_upload_local_results={str(upload).lower()}" in given


@pytest.mark.parametrize(("bazel", "alone"), [("4.2.3", True), ("5.0.0", False)])
def test_an_executor_wants_to_be_alone_before_bazel_5(bazel: str, alone: bool) -> None:  # noqa: FBT001
    remote = Remote(executor="grpcs://build.example.com", headers={})
    given = lines(remote, bazel)
    assert given[0] == "# factory-remote build.example.com 443"
    assert ("# factory-remote-alone" in given) == alone
    assert options(remote, bazel) >= {
        "--remote_executor=grpcs://build.example.com",
        "--remote_instance_name={toolchain}",
        "--remote_local_fallback",
    }


def test_an_executor_is_asked_whatever_the_sources_say_of_strategies() -> None:
    given = options(Remote(executor="grpc://build:80", headers={}))
    assert given >= {"--spawn_strategy=remote,local", "--genrule_strategy=remote,local"}
    assert not any("strategy" in option for option in options(Remote(cache="grpc://c:80", headers={})))


def test_an_executor_and_a_cache_must_both_answer() -> None:
    two = lines(Remote(executor="grpc://build:8980", cache="grpc://cache:9092", headers={}))
    assert two[:2] == ["# factory-remote build 8980", "# factory-remote cache 9092"]
    assert two.count("build:factory-remote --remote_instance_name={toolchain}") == 1
    one = lines(Remote(executor="grpc://build:8980", cache="grpc://build:8980", headers={}))
    assert [line for line in one if line.startswith("# ")] == ["# factory-remote build 8980"]


@pytest.mark.parametrize(
    ("remote", "bazel", "upload", "why"),
    [
        (Remote(cache="http://c:80", headers={}), "0.24.1", True, "no remote cache beside a disk cache"),
        (Remote(cache="http://c:80", headers={}), "0.27.0", True, ""),
        (Remote(cache="http://c:80", headers={}), "2.0.0", False, "no read-only remote cache beside a disk cache"),
        (Remote(cache="grpc://c:80", headers={}), "2.0.0", True, "no remote cache over gRPC beside a disk cache"),
        (Remote(cache="grpc://c:80", headers={}), "2.1.0", False, ""),
        (Remote(executor="grpc://c:80", headers={}), "2.0.0", False, "no remote execution as this factory asks for it"),
        (Remote(executor="grpc://c:80", headers={}), "2.1.0", False, ""),
        (Remote(cache="http://c:80", headers={"a": "b"}), "0.27.0", True, "no headers"),
        (Remote(cache="http://c:80", headers={"a": "b"}), "1.0.0", True, ""),
        (
            Remote(cache="http://c:80", headers={}, tls=Tls(client_certificate=Path("c"))),
            "3.7.2",
            True,
            "no client certificates",
        ),
    ],
)
def test_a_bazel_that_cannot_goes_without(remote: Remote, bazel: str, upload: bool, why: str) -> None:  # noqa: FBT001
    assert unusable(remote, Version(bazel), upload=upload) == why
    assert (lines(remote, bazel, upload=upload) == []) == bool(why) or remote.tls.client_certificate


def test_headers_are_quoted_and_never_announced() -> None:
    remote = Remote(cache="http://c:80", headers={"authorization": 'Bearer "a\\b"'})
    given = lines(remote)
    assert r'build:factory-remote "--remote_header=authorization=Bearer \"a\\b\""' in given
    assert given[-1] == "build --noannounce_rc"
    assert "Bearer" not in repr(remote)


def test_files_of_the_connection_go_along(tmp_path: Path) -> None:
    for name in ("ca", "who", "key"):
        (tmp_path / name).write_text(name)
    remote = Remote(
        cache="grpcs://c:443",
        headers={},
        tls=Tls(certificate=tmp_path / "ca", client_certificate=tmp_path / "who", client_key=tmp_path / "key"),
    )
    given = lines(remote)
    for name, option in {"ca": "tls_certificate", "who": "tls_client_certificate", "key": "tls_client_key"}.items():
        assert f"# factory-file {option} {base64.b64encode(name.encode()).decode()}" in given
        assert f"build:factory-remote --{option}=/dev/shm/factory-{option}" in given


@pytest.mark.parametrize(
    ("upload", "environ", "does"),
    [
        (None, {}, False),
        (None, {"CI": "true"}, True),
        (None, {"CI": "1"}, True),
        (None, {"CI": "false"}, False),
        (None, {"CI": ""}, False),
        (True, {}, True),
        (False, {"CI": "true"}, False),
    ],
)
def test_only_ci_uploads_unless_the_matrix_says_so(upload: bool | None, environ: dict[str, str], does: bool) -> None:  # noqa: FBT001
    assert uploads(Remote(headers={}, upload=upload), environ) is does


# --- what a run's end says --------------------------------------------------------------------------------------------

CACHE, EXECUTOR = {"cache": "grpc://c:9092"}, {"executor": "grpc://c:9092"}


@pytest.mark.parametrize(
    ("remote", "outputs", "given"),
    [
        (CACHE, {}, ""),
        ({}, {"silent_remote": "c:9092"}, ""),
        (CACHE, {"silent_remote": "c:9092"}, "Built without the remote cache, as c:9092 does not answer: {ids}.\n"),
        (
            CACHE,
            {"silent_remote": "c:9092", "remote_cache_hits": 3},
            "Built in part without the remote cache, as c:9092 does not answer: {ids}.\n",
        ),
        (
            EXECUTOR,
            {"silent_remote": "c:9092", "remote_actions": 2},
            "Built in part without remote execution, as c:9092 does not answer: {ids}.\n",
        ),
        (
            EXECUTOR,
            {"remote_trouble": "UNAUTHENTICATED"},
            "Built with trouble from remote execution (UNAUTHENTICATED): {ids}.\n",
        ),
    ],
)
def test_what_went_without_is_said_once(
    tmp_path: Path, remote: dict[str, str], outputs: dict[str, Any], given: str
) -> None:
    targets = {name: {"flavour": "cpu", "levels": [name]} for name in ("x86-64", "x86-64-v3")}
    matrix = load(tmp_path, document(bazel={"remote": remote}, targets=targets))
    site = Site(build=tmp_path / "build", models=tmp_path)
    jobs = [Job(recipe=recipe_for(variant, matrix), site=site) for variant in matrix.variants]
    assert len(jobs) == 2
    for job in jobs:
        identity = job.recipe.variant.id
        write_record(job.folder, record("compile", variant=identity, **outputs))
    ids = [job.recipe.variant.id for job in jobs]
    built = [VariantResult(variant=one, status=Status.BUILT) for one in ids]
    assert remote_notes(jobs, built) == given.format(ids=", ".join(ids))
    failed = [VariantResult(variant=one, status=Status.FAILED) for one in ids]
    assert remote_notes(jobs, failed) == ""


# --- the file and the environment -------------------------------------------------------------------------------------


def test_the_file_says_it_and_the_key_does_not(tmp_path: Path) -> None:
    plain = load(tmp_path, document())
    given = load(
        tmp_path, document(bazel={"remote": {"cache": "http://c:80", "upload": "auto", "headers": {"a": "b"}}})
    )
    release = given.variants[0].release
    assert given.settings.of(release).bazel.remote == Remote(cache="http://c:80", headers={"a": "b"})
    recipes = [recipe_for(matrix.variants[0], matrix) for matrix in (plain, given)]
    assert recipes[0].compile_key == recipes[1].compile_key


@pytest.mark.parametrize(
    ("remote", "rule"),
    [
        ({"cache": "cache.example.com"}, "http, https, grpc or grpcs"),
        ({"cache": "ftp://cache"}, "http, https, grpc or grpcs"),
        ({"executor": "http://build"}, "grpc or grpcs"),
        ({"executor": "grpc://build", "cache": "https://cache"}, "a cache over grpc or grpcs only"),
        ({"upload": "sometimes"}, "expected true, false or auto"),
        ({"headers": {"a b": "c"}}, "a header's name"),
        ({"headers": {"a": "b\nc"}}, "no control characters"),
        ({"tls": {"certificate": "nowhere.pem"}}, "there is no file"),
        ({"cache": "grpc://c:80", "tls": {"certificate": "matrix.yaml"}}, "grpc://c:80 is a URL without TLS"),
        ({"executor": "grpc://c:80", "tls": {"certificate": "matrix.yaml"}}, "grpc://c:80 is a URL without TLS"),
        (
            {"executor": "grpcs://b", "cache": "grpc://c:80", "tls": {"certificate": "matrix.yaml"}},
            "grpc://c:80 is a URL without TLS",
        ),
        ({"tls": {"client_key": "matrix.yaml"}}, "no use without client_certificate"),
        ({"tls": {"client_certificate": "matrix.yaml"}}, "no use without client_key"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, remote: object, rule: str) -> None:
    with pytest.raises(MatrixError, match=rule):
        load(tmp_path, document(bazel={"remote": remote}))


def test_the_environment_says_it(tmp_path: Path) -> None:
    file = load(tmp_path, document()).file
    environ = {
        "SERVING_FACTORY_REMOTE_CACHE": "https://cache.example.com",
        "SERVING_FACTORY_REMOTE_UPLOAD": "yes",
        "SERVING_FACTORY_REMOTE_HEADERS": f"authorization: Bearer {SECRET}\nx-team: serving\n",
    }
    matrix = load_matrix(file, given(environ, tmp_path))
    assert matrix.settings_of(matrix.variants[0]).bazel.remote == Remote(
        cache="https://cache.example.com",
        upload=True,
        headers={"authorization": f"Bearer {SECRET}", "x-team": "serving"},
    )


def test_a_header_that_is_none_is_refused_without_showing_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a line of it is not a header") as caught:
        given({"SERVING_FACTORY_REMOTE_HEADERS": SECRET}, tmp_path)
    assert SECRET not in str(caught.value)
