"""Comparing a checkout of tensorflow/serving with what the catalogue says of the release.

Only files are read. What no file says outright is not compared: what really compiles, and what the server can do beyond
its flags. A file that is not there (a sparse checkout) is not compared either, and reported; of the Dockerfiles' folder
one that is gone, or new, is a difference.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
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
_VERSION = f"{_SERVERS}/version.h"
_TESTDATA = "tensorflow_serving/servables/tensorflow/testdata"
_MODEL = re.compile(r"half_plus_(?:two|three)")
# Upstream's files for what is none of the flavours.
_OTHERS = {"Dockerfile.caffe-devel", "Dockerfile.devel-mkl-aarch64", "Dockerfile.ext-opset"}
# Flags that only change what Bazel prints.
_DISPLAY = re.compile(r"--(?:color|curses|output_filter)=.*|--verbose_failures")
_CAPABILITIES = "TF_CUDA_COMPUTE_CAPABILITIES"
_UNREADABLE = "cannot be read"


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
    """The differences, by file and line; and which paths of the checkout were there to be compared, and which not."""

    differences: tuple[Difference, ...]
    read: tuple[str, ...]
    absent: tuple[str, ...]


def release_of(folder: Path, known: Mapping[str, Release]) -> str | None:
    """Find which release a checkout is, by its commit, or else by its version.h."""
    try:
        commit, version = _head(folder), _text(folder / _VERSION)
    except OSError:
        return None
    by_commit = [release.tag for release in known.values() if release.commit == commit]
    if by_commit:
        return by_commit[-1]
    found = read_version(version or "")
    return found.value.partition("-")[0] if found else None


def check_upstream(folder: Path, release: Release) -> Comparison:
    """Compare a checkout with an entry of the catalogue."""
    check = _Check(folder, release)
    check.run()
    sources = ("WORKSPACE", release.bazelrc, _VERSION, f"{_SERVERS}/main.cc", _TESTDATA, _DOCKER)
    return Comparison(
        differences=tuple(sorted(check.found, key=lambda one: (one.file, one.line or 0, one.what))),
        read=tuple(name for name in sources if os.path.lexists(folder / name)),
        absent=tuple(name for name in sources if not os.path.lexists(folder / name)),
    )


class _Check:
    """The comparison of one checkout; its differences so far."""

    def __init__(self, folder: Path, release: Release) -> None:
        self.folder = folder
        self.release = release
        self.found: list[Difference] = []

    def run(self) -> None:
        parts: list[Callable[[], None]] = [
            self.commit,
            self.workspace,
            self.bazelrc,
            self.server,
            self.dockerfile_names,
        ]
        for flavour, facts in self.release.flavours.items():
            parts += [partial(self.devel, flavour, facts), partial(self.runtime, flavour, facts)]
        for part in parts:
            try:
                part()
            except OSError as error:
                self.differ(os.path.relpath(error.filename, self.folder), _UNREADABLE, theirs=str(error.strerror))

    def differ(self, file: str, what: str, *, ours: str = "", theirs: str = "", line: int | None = None) -> None:
        self.found.append(Difference(file=file, line=line, what=what, catalogue=ours, upstream=theirs))

    def compare(self, file: str, what: str, ours: str | None, theirs: Found | None) -> None:
        """Compare a value that both may have or lack."""
        value = theirs.value if theirs else ""
        if (ours or "") != value:
            self.differ(file, what, ours=ours or "", theirs=value, line=theirs.line if theirs else None)

    def compare_sets(
        self, file: str, what: str, ours: Collection[str], theirs: Collection[Found], *, line: int | None = None
    ) -> None:
        """Compare values of which each side may lack some; `line` is where one that is gone would stand."""
        line = line or next((found.line for found in theirs), None)
        for found in theirs:
            if found.value not in ours:
                self.differ(file, what, theirs=found.value, line=found.line)
        for value in ours:
            if value not in {found.value for found in theirs}:
                self.differ(file, what, ours=value, line=line)

    def compare_names(self, folder: str, what: str, ours: set[str], theirs: set[str]) -> None:
        """Compare the names of files."""
        for name in ours - theirs:
            self.differ(f"{folder}/{name}", what, ours=name)
        for name in theirs - ours:
            self.differ(f"{folder}/{name}", what, theirs=name)

    def commit(self) -> None:
        if (commit := _head(self.folder)) is not None:
            self.compare(".git/HEAD", "commit", self.release.commit, Found(commit, 1))

    def workspace(self) -> None:
        file, release = "WORKSPACE", self.release
        if (text := _text(self.folder / file)) is None:
            return
        found = read_workspace(text)
        # Without an archive TensorFlow is a submodule, and WORKSPACE knows nothing of its commit.
        if release.tensorflow_sha256 or "tensorflow_commit" in found:
            self.compare(file, "TensorFlow commit", release.tensorflow_commit, found.get("tensorflow_commit"))
        self.compare(file, "TensorFlow sha256", release.tensorflow_sha256, found.get("tensorflow_sha256"))
        self.compare(file, "oldest Bazel", release.bazel_minimum, found.get("bazel_minimum"))

    def bazelrc(self) -> None:
        file, ours = self.release.bazelrc, self.release.configs
        if (text := _text(self.folder / file)) is None:
            moved = next((other for other in (".bazelrc", "tools/bazel.rc") if (self.folder / other).is_file()), None)
            if moved:
                self.differ(moved, "bazelrc", ours=file, theirs=moved)
            return
        bazelrc = BazelrcFile(text)
        theirs = bazelrc.configs
        for error in bazelrc.unreadable.values():
            self.differ(file, _UNREADABLE, theirs=error.reason, line=error.line)
        for config in {*theirs, *ours} - bazelrc.unreadable.keys():
            if config not in theirs:
                self.differ(file, "config", ours=config)
            elif config not in ours:
                self.differ(file, "config", theirs=config, line=theirs[config][0].line)
            else:
                self.config(file, config, ours[config], theirs[config])

    def config(self, file: str, config: str, ours: tuple[str, ...], theirs: list[Found]) -> None:
        """Compare a config's flags; a changed list of capabilities is one difference, not two."""
        line = theirs[0].line if theirs else None
        mine = next((flag for flag in ours if _CAPABILITIES in flag), None)
        other = next((flag for flag in theirs if _CAPABILITIES in flag.value), None)
        if mine is not None and other is not None:
            listed = Found(_listed(other.value), other.line)
            self.compare(file, f"capabilities in config {config}", _listed(mine), listed)
            ours = tuple(flag for flag in ours if flag != mine)
            theirs = [flag for flag in theirs if flag is not other]
        self.compare_sets(file, f"config {config}", ours, theirs, line=line)

    def server(self) -> None:
        if (text := _text(self.folder / _VERSION)) is not None:
            self.compare(_VERSION, "reported version", self.release.reported, read_version(text))
        main = f"{_SERVERS}/main.cc"
        if (text := _text(self.folder / main)) is not None:
            flags = [Found(name, line) for name, line in read_flags(text).items()]
            self.compare_sets(main, "server flag", self.release.server.flags, flags)
        testdata = self.folder / _TESTDATA
        if testdata.is_dir():
            models = {path.name for path in testdata.iterdir() if path.is_dir() and _MODEL.search(path.name)}
            self.compare_names(_TESTDATA, "model", set(self.release.server.testdata), models)

    def dockerfile_names(self) -> None:
        if not (self.folder / _DOCKER).is_dir():
            return
        flavours = self.release.flavours
        ours = {_dockerfile(flavour, devel=True) for flavour in flavours}
        ours |= {_dockerfile(flavour, devel=False) for flavour, facts in flavours.items() if facts.runtime_base}
        theirs = {path.name for path in (self.folder / _DOCKER).glob("Dockerfile*")} - _OTHERS
        self.compare_names(_DOCKER, "Dockerfile", ours, theirs)

    def devel(self, flavour: Flavour, facts: FlavourFacts) -> None:
        file = f"{_DOCKER}/{_dockerfile(flavour, devel=True)}"
        if (text := _text(self.folder / file)) is None:
            return
        found = Dockerfile(text)
        options = found.variables.get("TF_SERVING_BUILD_OPTIONS")
        self.compare(file, f"{flavour}: base", facts.base, next(iter(found.images), None))
        self.compare(file, "Bazel", self.release.bazel, found.variables.get("BAZEL_VERSION"))
        self.compare(file, f"{flavour}: default options", " ".join(facts.default_options), options)
        try:
            flags = [flag for flag in found.build_flags() if not _DISPLAY.fullmatch(flag.value)]
            self.compare_sets(file, f"{flavour}: build flag", facts.command_flags, flags)
        except UnreadableError as error:
            self.differ(file, _UNREADABLE, theirs=error.reason, line=error.line)
        self.compare_sets(file, f"{flavour}: build package", facts.packages, found.packages())
        if python := found.python():
            self.compare(file, f"{flavour}: Python", facts.python, python)
        if facts.gpu:
            self.gpu(file, found, facts.gpu)

    def gpu(self, file: str, found: Dockerfile, gpu: GpuFacts) -> None:
        variables = found.variables
        for name, what, ours in (
            ("CUDA", "gpu: CUDA", gpu.cuda),
            ("TF_CUDA_VERSION", "gpu: CUDA", gpu.cuda),
            ("CUDNN_VERSION", "gpu: cuDNN", gpu.cudnn),
        ):
            if name in variables:
                self.compare(file, what, ours, variables[name])
        packages = found.pin(r"libnvinfer\d+")
        if packages or gpu.tensorrt_packages:
            self.compare(file, "gpu: TensorRT packages", gpu.tensorrt_packages, packages)
        needed = variables.get("TF_NEED_TENSORRT")
        if needed and (needed.value == "1") != bool(gpu.tensorrt):
            self.differ(file, "gpu: TensorRT", ours=gpu.tensorrt or "", theirs=needed.value, line=needed.line)
        if nccl := found.pin("libnccl2"):
            self.compare(file, "gpu: NCCL", gpu.nccl, Found(nccl.value.partition("-")[0], nccl.line))
        in_environment = gpu.capabilities_from is CapabilitiesFrom.ENVIRONMENT
        if in_environment or _CAPABILITIES in variables:
            listed = ",".join(gpu.capabilities) if in_environment else ""
            self.compare(file, "gpu: capabilities", listed, variables.get(_CAPABILITIES))

    def runtime(self, flavour: Flavour, facts: FlavourFacts) -> None:
        file = f"{_DOCKER}/{_dockerfile(flavour, devel=False)}"
        if facts.runtime_base is not None and (text := _text(self.folder / file)) is not None:
            images = Dockerfile(text).images
            self.compare(file, f"{flavour}: runtime base", facts.runtime_base, images[-1] if images else None)


def _dockerfile(flavour: Flavour, *, devel: bool) -> str:
    parts = ("devel" if devel else "", "" if flavour is Flavour.CPU else flavour.value)
    return ".".join(filter(None, ("Dockerfile", "-".join(filter(None, parts)))))


def _listed(flag: str) -> str:
    """The capabilities that a flag lists."""
    return flag.partition(f"{_CAPABILITIES}=")[2]


def _head(folder: Path) -> str | None:
    """The commit that is checked out; None where git's files do not say."""
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
