"""A release as a document: what `invoke catalogue --json` prints, and its tables are made of."""

from __future__ import annotations

from serving_factory.catalogue.cuda import cudas
from serving_factory.catalogue.facts import Flavour, FlavourFacts, GpuFacts, Release
from serving_factory.catalogue.retired_bases import retired_bases

__all__ = ["Document", "describe"]

Document = dict[str, object]
"""What JSON knows: texts, numbers, truth values, None, lists and such documents."""


def describe(release: Release) -> Document:
    """Describe a release; what upstream has not is None, and what is unknown says so."""
    return {
        "release": release.tag,
        "date": release.date,
        "commit": release.commit,
        "tensorflow_commit": release.tensorflow_commit,
        "tensorflow_sha256": release.tensorflow_sha256,
        "bazel": release.bazel,
        "bazel_minimum": release.bazel_minimum,
        "bazel_sha256": release.bazel_sha256 or "unknown",
        "python": release.python,
        "bazel_python": release.bazel_python,
        "reported_version": release.reported or None,
        "bazelrc": release.bazelrc,
        "configs": {name: list(flags) for name, flags in release.configs.items()},
        "flavours": {flavour.value: _flavour(release.flavours.get(flavour)) for flavour in Flavour},
        "server": {
            "rest": release.server.rest,
            "model_status": release.server.model_status,
            "version_flag": release.server.version_flag,
            "grpc_health": release.server.grpc_health,
            "monitoring": release.server.monitoring,
            "integers_for_floats": release.server.integers_for_floats,
            "stamped": release.server.stamped,
            "models": dict(release.server.models),
            "half_plus_two": list(release.server.testdata),
            "flags": list(release.server.flags),
        },
    }


def _flavour(facts: FlavourFacts | None) -> Document | None:
    if facts is None:
        return None
    retired = retired_bases().get(facts.base)
    return {
        "base": facts.base,
        "base_replacement": retired.replacement if retired else None,
        "base_last_patch": retired.last_patch if retired else None,
        "runtime_base": facts.runtime_base,
        "os": facts.os,
        "compiler": facts.compiler,
        "python": facts.python,
        "default_options": list(facts.default_options),
        "fixed_flags": list(facts.fixed_flags),
        **(_gpu(facts.gpu) if facts.gpu else {}),
    }


def _gpu(facts: GpuFacts) -> Document:
    return {
        "cuda": facts.cuda,
        "toolkit": facts.toolkit,
        "minimum_driver": cudas()[facts.cuda].minimum_driver,
        "newest_gcc": cudas()[facts.cuda].newest_gcc,
        "cudnn": facts.cudnn,
        "nccl": facts.nccl,
        "nccl_from": facts.nccl_from.value,
        "tensorrt": facts.tensorrt,
        "tensorrt_packages": facts.tensorrt_packages,
        "capabilities": list(facts.capabilities),
        "capabilities_from": facts.capabilities_from.value,
        "config": facts.config,
    }
