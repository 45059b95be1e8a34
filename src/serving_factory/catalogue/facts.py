"""What is known of a release: frozen values, filled from the data files by `releases`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from packaging.version import Version

from serving_factory.errors import CatalogueError

_CONFIG = "--config="
_UBUNTU = re.compile(r"ubuntu:?(\d\d\.\d\d)")


class Flavour(StrEnum):
    """What the server computes with."""

    CPU = "cpu"
    MKL = "mkl"
    GPU = "gpu"


class CapabilitiesFrom(StrEnum):
    """How Bazel gets to know the compute capabilities."""

    ENVIRONMENT = "environment"
    CONFIG = "config"
    TENSORFLOW = "tensorflow"


class NcclFrom(StrEnum):
    """Which NCCL the server is linked to: apt's, TensorFlow's own source, Bazel's download, or TensorFlow's default."""

    PACKAGE = "package"
    SOURCE = "source"
    HERMETIC = "hermetic"
    TENSORFLOW = "tensorflow"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFacts:
    """What a gpu flavour has beyond any flavour."""

    cuda: str  # CUDA's version, `12.2`
    toolkit: str  # the same in full, as the base image's tag has it, `12.2.0`
    cudnn: str  # cuDNN's version; `6.x` where the base image decides
    nccl: str | None  # NCCL's version in apt; None where apt gives none
    nccl_from: NcclFrom  # which NCCL the server is linked to
    tensorrt: str | None  # TensorRT's version; None where it is not compiled in
    tensorrt_packages: str | None  # the version of the TensorRT packages in upstream's images, compiled in or not
    capabilities: tuple[str, ...]  # compute capabilities, as TensorFlow spells them; empty where upstream names none
    capabilities_from: CapabilitiesFrom  # how Bazel gets to know them
    config: str  # the Bazel config that turns CUDA on


@dataclass(frozen=True, slots=True, kw_only=True)
class FlavourFacts:
    """How upstream builds one flavour of a release."""

    base: str  # the image that upstream's devel image starts from
    runtime_base: str | None  # the image that upstream's runtime image starts from; None where there is no such image
    compiler: str  # the C++ compiler with its version, such as `gcc 9.4`, `gcc-10` or `hermetic clang`
    python: str  # of upstream's devel image, such as `3.9`
    default_options: tuple[str, ...]  # upstream's default build options, which a user may replace
    command_flags: tuple[str, ...]  # what upstream's command line names beside them
    kept_flags: tuple[str, ...]  # what must be kept when the default options are replaced
    # apt packages of upstream's devel image, sorted; those of Python, of the compiler and of CUDA apart
    packages: tuple[str, ...]
    gpu: GpuFacts | None = None  # what a gpu flavour has beyond; None for other flavours

    @property
    def os(self) -> str:
        """The plain image of the distribution that `base` is made of: `ubuntu:20.04`."""
        found = _UBUNTU.search(self.base)
        if found is None:
            raise CatalogueError(f"the base {self.base} names no Ubuntu")
        return f"ubuntu:{found[1]}"

    @property
    def compiler_package(self) -> str | None:
        """The compiler's apt package, `gcc` or `gcc-10`; None where Bazel downloads the compiler."""
        name = self.compiler.partition(" ")[0]
        return None if name == "hermetic" else name

    @property
    def fixed_flags(self) -> tuple[str, ...]:
        """The Bazel flags that every build of this flavour must have; a flag and its value are one text (`-c opt`)."""
        return self.command_flags + self.kept_flags

    @property
    def configs(self) -> tuple[str, ...]:
        """The names of the Bazel configs among the fixed flags, in order."""
        return tuple(flag.removeprefix(_CONFIG) for flag in self.fixed_flags if flag.startswith(_CONFIG))

    @property
    def plain_flags(self) -> tuple[str, ...]:
        """The fixed flags that are no configs, in order."""
        return tuple(flag for flag in self.fixed_flags if not flag.startswith(_CONFIG))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What a release's server can do, and what to try it with."""

    flags: tuple[str, ...]  # command-line flags, sorted
    model_status: bool  # whether REST answers `GET /v1/models/NAME`
    integers_for_floats: bool | None  # whether REST takes 1 where 1.0 is meant; None without REST
    stamped: bool  # whether `--version` has a `+dev.sha.` part
    # flavour (and `gpu_trt`, for TensorRT) -> the model of upstream's testdata folder to try it with
    models: Mapping[str, str]
    testdata: tuple[str, ...]  # every half_plus_two and half_plus_three of that folder, sorted

    @property
    def rest(self) -> bool:
        """Whether there is a REST API."""
        return "rest_api_port" in self.flags

    @property
    def version_flag(self) -> bool:
        """Whether `--version` is known."""
        return "version" in self.flags

    @property
    def grpc_health(self) -> bool:
        """Whether gRPC's health service can be turned on."""
        return "enable_grpc_healthcheck_service" in self.flags

    @property
    def monitoring(self) -> bool:
        """Whether a monitoring file (Prometheus) is known."""
        return "monitoring_config_file" in self.flags


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One upstream release."""

    tag: str  # the full tag, `2.19.1`
    date: str  # of the release, ISO 8601
    commit: str  # of tensorflow/serving, 40 hex digits
    tensorflow_commit: str  # of tensorflow/tensorflow, 40 hex digits
    # of that commit's archive, 64 hex digits; None where TensorFlow is a git submodule
    tensorflow_sha256: str | None = None
    reported: str = ""  # what the server's `--version` begins with; empty where it has no `--version`
    bazel: str  # the Bazel version of upstream's Dockerfiles
    bazel_minimum: str  # the oldest Bazel that upstream's WORKSPACE accepts
    bazel_sha256: str | None  # of that Bazel's Linux x86_64 binary; None where it is unknown
    python: str  # of upstream's devel images
    # the Python that Bazel's rules bring (`tensorflow`: what TensorFlow says); None where they take the image's
    bazel_python: str | None
    bazelrc: str  # path of the bazelrc file
    # its configs: name -> flags; a flag of another command than `build` begins with `COMMAND: `
    configs: Mapping[str, tuple[str, ...]]
    flavours: Mapping[Flavour, FlavourFacts]  # the flavours that exist upstream
    server: ServerFacts  # what its server can do
    own_name: str = ""  # of what is built like it under a name of its own; empty for upstream's release itself

    @property
    def title(self) -> str:
        """What is built: the tag, or the name of its own."""
        return self.own_name or self.tag

    @property
    def version(self) -> Version:
        """The tag as a comparable version."""
        return Version(self.tag)

    @property
    def series(self) -> str:
        """The release series that it belongs to, `2.19`."""
        return self.tag.rpartition(".")[0]
