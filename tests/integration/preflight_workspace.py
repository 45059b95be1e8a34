"""A workspace that needs archives: some are in its distdir, one is overridden, others are nowhere."""

from __future__ import annotations

import gzip
import hashlib
import io
import subprocess
import tarfile
from pathlib import Path

from .pipeline import ROOT

TARGET_FOLDER = "tensorflow_serving/model_servers"
MISSING = ("b", "c", "s")
PINNED_C = "c" * 64

REPO_BZL = """\
def _impl(ctx):
    ctx.download_and_extract(ctx.attr.urls, "", ctx.attr.sha256, "", ctx.attr.strip_prefix)

tf_http_archive = repository_rule(
    implementation = _impl,
    attrs = {"urls": attr.string_list(mandatory = True), "sha256": attr.string(), "strip_prefix": attr.string()},
)
"""

SERVER = """\
#include <cstdio>

int main() {
  std::puts("TensorFlow ModelServer: 1.9.1");
  return 0;
}
"""


def make_archive(name: str, mark: str) -> bytes:
    """The archive NAME-1.0.tar.gz of a repository with one library of that name.

    Args:
        name: the repository's name.
        mark: makes it another archive than any that Bazel's cache has; the same mark gives the same bytes.
    """
    files = {
        "WORKSPACE": f'workspace(name = "{name}")\n',
        "BUILD": f'cc_library(name = "{name}", srcs = ["{name}.cc"], visibility = ["//visibility:public"])\n',
        f"{name}.cc": f"int {name}() {{ return 1; }}  // {mark}\n",
    }
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path, text in files.items():
            entry = tarfile.TarInfo(f"{name}-1.0/{path}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return gzip.compress(packed.getvalue(), mtime=0)


def write_workspace(folder: Path, *, mark: str, stopped: bool = False) -> None:
    """Write `source`, `distdir` and `overrides` into a folder, for a matrix file beside them.

    Args:
        folder: where to.
        mark: of its archives.
        stopped: let WORKSPACE load a file of @s, which is missing.
    """
    archives = {name: make_archive(name, mark) for name in ("a", "b", "c", "r", "s")}
    pins = {name: hashlib.sha256(data).hexdigest() for name, data in archives.items()} | {"c": PINNED_C, "d": "d" * 64}
    _write(folder / "source", _sources(pins, stopped=stopped))
    (folder / "distdir").mkdir()
    for name in ("a", "c", "r"):
        (folder / "distdir" / f"{name}-1.0.tar.gz").write_bytes(archives[name])
    (folder / "overrides").mkdir()
    # Not tarfile: which filter it wants, and knows, differs from one Python 3.11 to the next.
    subprocess.run(["tar", "-xz", "-C", folder / "overrides"], input=make_archive("d", mark), check=True)
    for name in ("rules_cc", "rules_java"):
        (folder / "overrides" / name).symlink_to(ROOT / "samples" / "model_server" / "third_party" / name)


def _sources(pins: dict[str, str], *, stopped: bool) -> dict[str, str]:
    declared = [
        f'{"tf_http_archive" if name in "rs" else "http_archive"}(name = "{name}", '
        f'urls = ["https://mirror.invalid/{name}-1.0.tar.gz", "https://code.invalid/{name}-1.0.tar.gz"], '
        f'sha256 = "{digest}", strip_prefix = "{name}-1.0")'
        for name, digest in sorted(pins.items())
    ]
    loads = ['load("@s//:defs.bzl", "deps")', "deps()"] if stopped else []
    dependencies = ", ".join(f'"@{name}//:{name}"' for name in sorted(pins))
    return {
        "WORKSPACE": "\n".join(
            [
                'workspace(name = "tf_serving")',
                'load("@bazel_tools//tools/build_defs/repo:http.bzl", "http_archive")',
                'load("//:repo.bzl", "tf_http_archive")',
                *declared,
                *loads,
                "",
            ]
        ),
        "BUILD": "",
        "LICENSE": "None.\n",
        "repo.bzl": REPO_BZL,
        f"{TARGET_FOLDER}/BUILD": 'cc_binary(name = "tensorflow_model_server", srcs = ["main.cc"], '
        f"deps = [{dependencies}])\n",
        f"{TARGET_FOLDER}/main.cc": SERVER,
    }


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
