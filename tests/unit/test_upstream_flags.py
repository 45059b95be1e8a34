"""Flags for CPU features in upstream's own BUILD files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from packaging.version import Version

from serving_factory.catalogue.levels import LEVELS, cpuinfo_names, level_facts
from serving_factory.catalogue.releases import releases
from serving_factory.catalogue.upstream_flags import unlisted_flags, upstream_flags
from serving_factory.commands.catalogue import check_upstream
from serving_factory.errors import UpstreamDiffersError


def features(tag: str, namespace: str = "") -> set[str]:
    flags = upstream_flags(Version(tag))
    return {name for flag in flags if not flag.namespaces or namespace in flag.namespaces for name in flag.features}


def test_no_release_runs_below_sse3() -> None:
    assert [tag for tag in releases() if "sse3" not in features(tag)] == []


def test_sse4_2_came_in_parts() -> None:
    assert "sse4.2" not in features("2.0.0", "tensorflow::crc32c")
    assert "sse4.2" in features("2.1.0", "tensorflow::crc32c")
    assert "sse4.2" not in features("2.9.3")
    assert "sse4.2" in features("2.10.0")


def test_each_feature_has_its_name_in_proc_cpuinfo() -> None:
    assert cpuinfo_names(["sse4.2", "sse3"]) == ("pni", "sse4_2")
    for level in LEVELS:
        assert cpuinfo_names(level_facts(level).features) == level_facts(level).cpuinfo
    for flag in upstream_flags(Version("2.19.1")):
        assert len(cpuinfo_names(flag.features)) == len(flag.features)


def tensorflow(folder: Path, **files: str) -> Path:
    for name, text in {"tensorflow/tensorflow.bzl": "", **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("file", "text", "tag", "found"),
    [
        ("tensorflow/tensorflow.bzl", 'if_linux_x86_64(["-msse3"]) + if_ios(["-msse4.1"])', "1.9.1", []),
        ("tensorflow/tensorflow.bzl", '\n["-mavx2"]', "1.9.1", [("-mavx2", 2)]),
        ("tensorflow/core/kernels/BUILD", 'copts = ["-march=haswell"]', "1.9.1", [("-march=haswell", 1)]),
        ("tensorflow/core/kernels/BUILD", "# with -mavx* options", "1.9.1", []),
        ("tensorflow/lite/build_def.bzl", 'x = ["-msse4.2"]', "2.10.0", []),
        ("tensorflow/lite/build_def.bzl", 'x = ["-msse4.2"]', "2.9.0", [("-msse4.2", 1)]),
        ("third_party/new.BUILD", 'copts = ["-march=armv8-a"]', "2.9.0", []),
        ("third_party/new.BUILD", 'copts = ["-march=armadillo"]', "2.9.0", [("-march=armadillo", 1)]),
        ("third_party/new.BUILD", 'copts = ["-O2,-mavx2", "-mcrc32"]', "2.9.0", [("-mavx2", 1), ("-mcrc32", 1)]),
        ("third_party/new.BUILD", 'copts = ["-DX=#1", "-mgfni"]  # -mxop', "2.9.0", [("-mgfni", 1)]),
        ("tensorflow/tensorflow.bzl", '["-msse4.1"]', "1.9.1", [("-msse4.1", 1)]),
        ("tensorflow/lite/build_def.bzl", '"//tensorflow:ios_x86_64": [\n"-msse4.1"', "2.9.0", []),
        (".bazelrc", "build:nativeopt --copt=-march=native\nbuild --copt=-mavx", "2.9.0", [("-mavx", 2)]),
    ],
)
def test_flags_that_the_catalogue_does_not_have_are_found(
    tmp_path: Path, file: str, text: str, tag: str, found: list[tuple[str, int]]
) -> None:
    folder = tensorflow(tmp_path, **{file: text})
    assert [(one.flag, one.line) for one in unlisted_flags(folder, Version(tag))] == found


def test_a_checkout_of_tensorflow_is_looked_through(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tensorflow(tmp_path, BUILD='genrule(name = "x", cmd = "cmake .")', **{"third_party/x.BUILD": '"-mavx"'})
    with pytest.raises(UpstreamDiffersError, match="differ in 4 places"):
        check_upstream(folder, "1.15.0", json=True)
    found = {(one["file"], one["what"], one["upstream"]) for one in json.loads(capsys.readouterr().out)["differences"]}
    unknown = "cmake: nothing is known of cmake (host_programs.yaml)"
    assert found == {
        ("third_party/x.BUILD", "flag for CPU features", "-mavx"),
        *(("BUILD", f"{flavour}: host program", unknown) for flavour in ("cpu", "mkl", "gpu")),
    }
    (folder / "BUILD").unlink()
    (folder / "third_party" / "x.BUILD").unlink()
    check_upstream(folder, "1.15.0", json=False)
    assert "agrees with the catalogue's entry of 1.15.0" in capsys.readouterr().out
