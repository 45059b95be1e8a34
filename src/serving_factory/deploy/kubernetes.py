"""A Kustomize base and its overlays, and a runtime for KServe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from serving_factory.catalogue.levels import LEVELS, node_labels
from serving_factory.deploy.files import Service, render


@dataclass(frozen=True, slots=True)
class Size:
    """What a server of an overlay gets."""

    name: str
    cpus: int
    memory: str


_SIZES = (Size("1-cpu", 1, "2Gi"), Size("8-cpu", 8, "8Gi"))
_GPU_SIZES = (Size("gpu", 4, "16Gi"),)
_BASE = ("deployment", "service", "hpa", "pdb", "networkpolicy", "kustomization")
_THREADS = ("tensorflow_inter_op_parallelism", "tensorflow_intra_op_parallelism")


def manifests(service: Service) -> Mapping[str, str]:
    """All files, by their path."""
    values = {
        "name": service.name,
        "variant": service.variant,
        "image": service.image,
        "user": service.user or 65532,  # an image that runs as root by default runs as any other user too
        "health": service.health,
        "rest": service.rest,
        "model": service.model,
        "gpu": service.gpu,
        "baseline": service.variant.level is LEVELS[0],
        "terms": node_labels()[service.variant.level],
        # Before 1.15 one flag is for both pools.
        "threads": _THREADS if service.flags.issuperset(_THREADS) else ("tensorflow_session_parallelism",),
    }
    files = {f"base/{name}.yaml": render(f"kubernetes/base/{name}.yaml.j2", values) for name in _BASE}
    for size in _GPU_SIZES if service.gpu else _SIZES:
        for name in ("kustomization", "deployment"):
            text = render(f"kubernetes/overlay/{name}.yaml.j2", {**values, "size": size})
            files[f"overlays/{size.name}/{name}.yaml"] = text
    if service.rest and not service.model:  # KServe brings the model
        files["kserve/serving-runtime.yaml"] = render("kubernetes/serving-runtime.yaml.j2", values)
    return files
