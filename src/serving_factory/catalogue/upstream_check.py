"""Comparing a checkout of tensorflow/serving with what the catalogue says of the release.

Only files are read. What no file says outright is not compared: what really compiles, and what the server can do beyond
its flags. A file that is not there (a sparse checkout) is not compared either, and told; of the Dockerfiles' folder one
that is gone, or new, is a difference.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from serving_factory.catalogue.facts import CapabilitiesFrom, Flavour, FlavourFacts, GpuFacts, Release
from serving_factory.catalogue.upstream_files import (
    BazelrcFile,
    Dockerfile,
    Found,
    UnreadableError,
    read_flags,
    read_version,
    read_workspace,
)

_DOCKER = "tensorflow_serving/tools/docker"
_SERVERS = "tensorflow_serving/model_servers"
_TESTDATA = "tensorflow_serving/servables/tensorflow/testdata"
_DEVEL: Mapping[Flavour, str] = {
    Flavour.CPU: "Dockerfile.devel",
    Flavour.MKL: "Dockerfile.devel-mkl",
    Flavour.GPU: "Dockerfile.devel-gpu",
}
_RUNTIME: Mapping[Flavour, str] = {
    Flavour.CPU: "Dockerfile",
    Flavour.MKL: "Dockerfile.mkl",
    Flavour.GPU: "Dockerfile.gpu",
}
# Upstream's files for what is none of the flavours.
_OTHERS = frozenset({"Dockerfile.caffe-devel", "Dockerfile.devel-mkl-aarch64", "Dockerfile.ext-opset"})
# Flags that only change what Bazel prints.
_DISPLAY = re.compile(r"--(?:color|curses|output_filter)=.*|--verbose_failures")
_CAPABILITIES = "TF_CUDA_COMPUTE_CAPABILITIES"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that a checkout says and the catalogue does not, or the other way round."""

    file: str  # path within the checkout
    line: int | None  # counted from 1; None where the file as a whole is meant
    what: str  # the fact, such as `gpu: base`
    catalogue: str  # what the catalogue says; empty where it says nothing
    upstream: str  # what the checkout says; empty where it says nothing


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of a comparison."""

    differences: tuple[Difference, ...]  # by file and line
    read: tuple[str, ...]  # what was there to be compared, paths within the checkout
    absent: tuple[str, ...]  # what was not


def release_of(folder: Path, known: Mapping[str, Release]) -> str | None:
    """Say which release a checkout is, by its commit, or else by its version.h.

    Returns:
        A full tag, known to the catalogue or not; None where nothing tells.
    """
    try:
        commit, version = _head(folder), _text(folder / _SERVERS / "version.h")
    except OSError:
        return None
    by_commit = [release.tag for release in known.values() if release.commit == commit]
    if by_commit:
        return by_commit[-1]
    found = read_version(version or "")
    return found.value.partition("-")[0] if found else None


def check_upstream(folder: Path, release: Release) -> Comparison:
    """Compare a checkout with an entry of the catalogue.

    Args:
        folder: the checkout's root.
        release: the entry.
    """
    checks = [
        _check_commit(folder, release),
        _check_workspace(folder, release),
        _check_bazelrc(folder, release),
        _check_server(folder, release),
        _check_dockerfile_names(folder, release),
    ]
    for flavour, facts in release.flavours.items():
        checks += [_check_devel(folder, release, flavour, facts), _check_runtime(folder, flavour, facts)]
    found = [difference for check in checks for difference in _guarded(folder, check)]
    sources = ("WORKSPACE", release.bazelrc, f"{_SERVERS}/version.h", f"{_SERVERS}/main.cc", _TESTDATA, _DOCKER)
    return Comparison(
        differences=tuple(sorted(found, key=lambda one: (one.file, one.line or 0, one.what))),
        read=tuple(name for name in sources if os.path.lexists(folder / name)),
        absent=tuple(name for name in sources if not os.path.lexists(folder / name)),
    )


def _guarded(folder: Path, check: Iterator[Difference]) -> Iterator[Difference]:
    """What a check finds; a file that the system does not let it read is a difference too."""
    try:
        yield from check
    except OSError as error:
        file = os.path.relpath(error.filename, folder)
        yield Difference(file=file, line=None, what="cannot be read", catalogue="", upstream=str(error.strerror))


def _unreadable(file: str, error: UnreadableError) -> Difference:
    return Difference(file=file, line=error.line, what="cannot be read", catalogue="", upstream=error.reason)


def _compare(file: str, what: str, catalogue: str | None, upstream: Found | None) -> Iterator[Difference]:
    """A value that both may have or lack."""
    theirs = upstream.value if upstream else ""
    if (catalogue or "") != theirs:
        line = upstream.line if upstream else None
        yield Difference(file=file, line=line, what=what, catalogue=catalogue or "", upstream=theirs)


def _compare_sets(
    file: str, what: str, catalogue: Iterable[str], upstream: Iterable[Found], *, line: int | None = None
) -> Iterator[Difference]:
    """Values of which each side may have some that the other lacks; `line` is where one that is gone would stand."""
    ours, theirs = list(catalogue), list(upstream)
    for found in theirs:
        if found.value not in ours:
            yield Difference(file=file, line=found.line, what=what, catalogue="", upstream=found.value)
    at = line or (theirs[0].line if theirs else None)
    for value in ours:
        if value not in {found.value for found in theirs}:
            yield Difference(file=file, line=at, what=what, catalogue=value, upstream="")


def _check_commit(folder: Path, release: Release) -> Iterator[Difference]:
    commit = _head(folder)
    if commit is not None:
        yield from _compare(".git/HEAD", "commit", release.commit, Found(commit, 1))


def _check_workspace(folder: Path, release: Release) -> Iterator[Difference]:
    text = _text(folder / "WORKSPACE")
    if text is None:
        return
    found = read_workspace(text)
    # Without an archive TensorFlow is a submodule, and WORKSPACE knows nothing of its commit.
    if release.tensorflow_sha256 or "tensorflow_commit" in found:
        yield from _compare("WORKSPACE", "TensorFlow commit", release.tensorflow_commit, found.get("tensorflow_commit"))
    yield from _compare("WORKSPACE", "TensorFlow sha256", release.tensorflow_sha256, found.get("tensorflow_sha256"))
    yield from _compare("WORKSPACE", "oldest Bazel", release.bazel_minimum, found.get("bazel_minimum"))


def _check_bazelrc(folder: Path, release: Release) -> Iterator[Difference]:
    name = release.bazelrc
    text = _text(folder / name)
    if text is None:
        moved = next((other for other in (".bazelrc", "tools/bazel.rc") if (folder / other).is_file()), None)
        if moved:
            yield Difference(file=moved, line=None, what="bazelrc", catalogue=name, upstream=moved)
        return
    bazelrc = BazelrcFile(text)
    configs = bazelrc.configs
    for error in bazelrc.unreadable.values():
        yield _unreadable(name, error)
    for config in sorted({*configs, *release.configs} - bazelrc.unreadable.keys()):
        ours, theirs = release.configs.get(config), configs.get(config)
        if theirs is None:
            yield Difference(file=name, line=None, what="config", catalogue=config, upstream="")
        elif ours is None:
            yield Difference(file=name, line=theirs[0].line, what="config", catalogue="", upstream=config)
        else:
            yield from _check_config(name, config, ours, theirs)


def _check_config(file: str, config: str, ours: tuple[str, ...], theirs: list[Found]) -> Iterator[Difference]:
    """The flags of a config; a changed list of capabilities is one difference, not a flag gone and a flag come."""
    mine = _capabilities_in(ours)
    other = next((flag for flag in theirs if _CAPABILITIES in flag.value), None)
    if mine is not None and other is not None:
        told = Found(other.value.partition(f"{_CAPABILITIES}=")[2], other.line)
        yield from _compare(file, f"capabilities in config {config}", mine, told)
        ours = tuple(flag for flag in ours if _CAPABILITIES not in flag)
        theirs = [flag for flag in theirs if flag is not other]
    line = theirs[0].line if theirs else other.line if other else None
    yield from _compare_sets(file, f"config {config}", ours, theirs, line=line)


def _capabilities_in(flags: Iterable[str]) -> str | None:
    return next((flag.partition(f"{_CAPABILITIES}=")[2] for flag in flags if _CAPABILITIES in flag), None)


def _check_server(folder: Path, release: Release) -> Iterator[Difference]:
    version = f"{_SERVERS}/version.h"
    text = _text(folder / version)
    if text is not None:
        yield from _compare(version, "reported version", release.reported, read_version(text))
    main = f"{_SERVERS}/main.cc"
    text = _text(folder / main)
    if text is not None:
        flags = [Found(name, line) for name, line in read_flags(text).items()]
        yield from _compare_sets(main, "server flag", release.server.flags, flags)
    if (folder / _TESTDATA).is_dir():
        there = {
            path.name for path in (folder / _TESTDATA).iterdir() if re.search(r"half_plus_(?:two|three)", path.name)
        }
        models = {name for name in there if (folder / _TESTDATA / name).is_dir()}
        for name in sorted(models ^ set(release.server.testdata)):
            ours, theirs = ("", name) if name in models else (name, "")
            yield Difference(file=f"{_TESTDATA}/{name}", line=None, what="model", catalogue=ours, upstream=theirs)


def _check_dockerfile_names(folder: Path, release: Release) -> Iterator[Difference]:
    if not (folder / _DOCKER).is_dir():
        return
    there = {path.name for path in (folder / _DOCKER).glob("Dockerfile*")} - _OTHERS
    known = {_DEVEL[flavour] for flavour in release.flavours}
    known |= {_RUNTIME[flavour] for flavour, facts in release.flavours.items() if facts.runtime_base}
    for name in sorted(there ^ known):
        ours, theirs = ("", name) if name in there else (name, "")
        yield Difference(file=f"{_DOCKER}/{name}", line=None, what="Dockerfile", catalogue=ours, upstream=theirs)


def _check_devel(folder: Path, release: Release, flavour: Flavour, facts: FlavourFacts) -> Iterator[Difference]:
    file = f"{_DOCKER}/{_DEVEL[flavour]}"
    text = _text(folder / file)
    if text is None:
        return
    found = Dockerfile(text)
    base = found.images[0] if found.images else None
    yield from _compare(file, f"{flavour}: base", facts.base, base)
    yield from _compare(file, "Bazel", release.bazel, found.variables.get("BAZEL_VERSION"))
    options = found.variables.get("TF_SERVING_BUILD_OPTIONS")
    yield from _compare(file, f"{flavour}: default options", " ".join(facts.default_options), options)
    try:
        flags = [flag for flag in found.build_flags() if not _DISPLAY.fullmatch(flag.value)]
        yield from _compare_sets(file, f"{flavour}: build flag", facts.command_flags, flags)
    except UnreadableError as error:
        yield _unreadable(file, error)
    yield from _compare_sets(file, f"{flavour}: build package", facts.packages, found.packages())
    if python := found.python():
        yield from _compare(file, f"{flavour}: Python", facts.python, python)
    if facts.gpu:
        yield from _check_gpu(file, found, facts.gpu)


def _check_gpu(file: str, found: Dockerfile, gpu: GpuFacts) -> Iterator[Difference]:
    variables = found.variables
    for name in ("CUDA", "TF_CUDA_VERSION"):
        if name in variables:
            yield from _compare(file, "gpu: CUDA", gpu.cuda, variables[name])
    if "CUDNN_VERSION" in variables:
        yield from _compare(file, "gpu: cuDNN", gpu.cudnn, variables["CUDNN_VERSION"])
    packages = found.pin(r"libnvinfer\d+")
    if packages or gpu.tensorrt_packages:
        yield from _compare(file, "gpu: TensorRT packages", gpu.tensorrt_packages, packages)
    needed = variables.get("TF_NEED_TENSORRT")
    if needed and (needed.value == "1") != bool(gpu.tensorrt):
        yield Difference(
            file=file, line=needed.line, what="gpu: TensorRT", catalogue=gpu.tensorrt or "", upstream=needed.value
        )
    nccl = found.pin("libnccl2")
    if nccl:
        yield from _compare(file, "gpu: NCCL", gpu.nccl, Found(nccl.value.partition("-")[0], nccl.line))
    if gpu.capabilities_from is CapabilitiesFrom.ENVIRONMENT or _CAPABILITIES in variables:
        ours = ",".join(gpu.capabilities) if gpu.capabilities_from is CapabilitiesFrom.ENVIRONMENT else ""
        yield from _compare(file, "gpu: capabilities", ours, variables.get(_CAPABILITIES))


def _check_runtime(folder: Path, flavour: Flavour, facts: FlavourFacts) -> Iterator[Difference]:
    file = f"{_DOCKER}/{_RUNTIME[flavour]}"
    text = _text(folder / file)
    if text is None or facts.runtime_base is None:
        return
    images = Dockerfile(text).images
    yield from _compare(file, f"{flavour}: runtime base", facts.runtime_base, images[-1] if images else None)


def _head(folder: Path) -> str | None:
    """The commit that is checked out; None where git's files do not tell."""
    head = (_text(folder / ".git" / "HEAD") or "").strip()
    if head.startswith("ref: "):
        head = (_text(folder / ".git" / head.removeprefix("ref: ")) or "").strip()
    return head if re.fullmatch(r"[0-9a-f]{40}", head) else None


def _text(file: Path) -> str | None:
    """A file's text; None where there is no such file."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
