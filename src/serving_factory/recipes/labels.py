"""What an image says of itself: OCI labels, the JSON file inside it, and the few lines that its entrypoint reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from serving_factory.catalogue.cuda import cudas
from serving_factory.catalogue.levels import cpuinfo_names, level_facts
from serving_factory.catalogue.libraries import cuda_licences
from serving_factory.catalogue.releases import UPSTREAM_URL
from serving_factory.catalogue.upstream_flags import upstream_flags
from serving_factory.recipes.recipe import Recipe

RELEASE_LABEL = "org.opencontainers.image.version"
LEVEL_LABEL = "org.serving-factory.level"


@dataclass(frozen=True, slots=True, kw_only=True)
class HigherBinary:
    """A binary of a higher level in the same image."""

    level: str
    sha256: str
    cpu_flags: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltBinary:
    """What was read back from a compiled binary, as far as its image says it."""

    sha256: str  # of the stripped binary
    build_id: str | None  # the linker's; None where it wrote none
    version: str  # that the server itself reports
    compiler: str  # the compiler's own name and version
    bazel: str  # Bazel's version, as it says itself
    base_digest: str
    source: str  # commit, or digest of the source folder
    compile_key: str
    device_code: tuple[str, ...]  # machine code for GPUs, `sm_80`, that all of it has, and PTX, `compute_90`
    cpu_flags: tuple[str, ...]  # what /proc/cpuinfo must list: of the level, and what upstream's own flags add to that
    higher: tuple[HigherBinary, ...] = ()  # of an image with several levels, the others, the lowest first


def image_labels(
    recipe: Recipe, binary: BuiltBinary | None, *, base_id: str = "", devel: bool = False
) -> Mapping[str, str]:
    """Give the image's labels: OCI's annotation keys, our own, and the matrix file's. `base_id`: its base's digest."""
    # Where the binary was not read back (None), no label speaks of it.
    variant, name = recipe.variant, recipe.variant.release_name
    on, collects, slim = (recipe.base, False, False) if devel else (recipe.runtime_base, recipe.collects, recipe.slim)
    base, _, digest = on.image.partition("@")
    level = "all levels" if variant.combined else variant.level
    title = f"TensorFlow Serving {name}, {variant.flavour}, {level}{', devel' if devel else ''}"
    labels = {
        "org.opencontainers.image.title": title,
        RELEASE_LABEL: name,
        "org.opencontainers.image.revision": recipe.release.commit if recipe.upstream else "",
        "org.opencontainers.image.source": UPSTREAM_URL.removesuffix(".git") if recipe.upstream else "",
        "org.opencontainers.image.licenses": _licences(recipe),
        "org.opencontainers.image.base.name": "" if slim else base,
        "org.opencontainers.image.base.digest": "" if slim else digest,
        "org.serving-factory.slim-of": recipe.runtime_base.image if slim else "",
        "org.serving-factory.variant": variant.id,
        "org.serving-factory.like": variant.release if variant.own_release else "",
        "org.serving-factory.flavour": variant.flavour.value,
        LEVEL_LABEL: variant.level.value,
        "org.serving-factory.copts": " ".join(variant.all_copts),
        "org.serving-factory.cuda": variant.cuda or "",
        "org.serving-factory.capabilities": " ".join(_device_code(recipe, binary)),
    }
    if binary:
        labels |= {
            "org.opencontainers.image.revision": binary.source,
            "org.serving-factory.base.id": base_id,
            "org.serving-factory.build-base": recipe.base.name if collects else "",
            "org.serving-factory.build-base.id": binary.base_digest if collects else "",
            "org.serving-factory.compiler": binary.compiler,
            "org.serving-factory.bazel": binary.bazel,
            "org.serving-factory.binary.sha256": binary.sha256,
            "org.serving-factory.compile.key": binary.compile_key,
            "org.serving-factory.cpu-flags": " ".join(binary.cpu_flags),
            "org.serving-factory.higher-levels": " ".join(one.level for one in binary.higher),
        }
    return {name: value for name, value in sorted({**labels, **recipe.images.labels}.items()) if value}


def _licences(recipe: Recipe) -> str:
    """The licences of the server and of what was put beside it, as an SPDX expression; the base image has its own."""
    gpu = recipe.toolchain.gpu
    if gpu is None:
        return "Apache-2.0"
    left_out = dict(recipe.build_args).get("TENSORRT") == "0"
    tensorrt = gpu.tensorrt.server if gpu.tensorrt and not left_out else ()
    # A folder with CUDA is taken to hold what upstream's sources open.
    local = ("cuda", *(() if gpu.wheels else ("cudnn", "nccl"))) if gpu.local else ()
    return " AND ".join(("Apache-2.0", *cuda_licences((*gpu.cuda.server, *gpu.cuda.hermetic, *tensorrt, *local))))


def image_json(recipe: Recipe, binary: BuiltBinary | None) -> str:
    """Write the JSON file that every image carries; `binary` is null where it was not read back."""
    variant = recipe.variant
    document: dict[str, object] = {
        "variant": variant.id,
        "release": variant.release_name,
        "like": variant.release if variant.own_release else None,
        "tensorflow_serving_commit": recipe.release.commit if recipe.upstream else None,
        "tensorflow_commit": recipe.release.tensorflow_commit if recipe.upstream and not variant.own_release else None,
        "flavour": variant.flavour,
        "level": variant.level,
        "platform": variant.platform,
        "copts": list(variant.all_copts),
        "configs": list(recipe.toolchain.configs),
        "base": recipe.runtime_base.name,
        "slim": recipe.slim,
        "build_base": recipe.base.name,
        "binary": {name: value for name, value in asdict(binary).items() if name != "higher"} if binary else None,
    }
    if binary and binary.higher:
        document["higher"] = [asdict(one) for one in binary.higher]
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _device_code(recipe: Recipe, binary: BuiltBinary | None) -> tuple[str, ...]:
    return binary.device_code if binary else recipe.variant.device_code


def _known_cpu_flags(recipe: Recipe) -> tuple[str, ...]:
    facts = level_facts(recipe.variant.level)
    flags = upstream_flags(recipe.release.version) if recipe.upstream else ()
    added = {feature for flag in flags for feature in flag.features}
    return (*facts.cpuinfo, *cpuinfo_names(added - facts.features))


def image_env(recipe: Recipe, binary: BuiltBinary | None) -> str:
    """Write what the entrypoint and the health check read; without a binary, the level decides the CPU's flags."""
    variant = recipe.variant
    cpu_flags = binary.cpu_flags if binary else _known_cpu_flags(recipe)
    lines = {
        "VARIANT": variant.id,
        "RELEASE": variant.release_name,
        "FLAVOUR": variant.flavour.value,
        "LEVEL": variant.level.value,
        "CPU_FLAGS": " ".join(cpu_flags),
        "LOWER_IMAGE": recipe.lower_image,
        "REST": "yes" if recipe.release.server.rest else "no",
        "MODEL_STATUS": "yes" if recipe.release.server.model_status else "no",
    }
    for number, one in enumerate(
        reversed(binary.higher if binary else ()), 1
    ):  # the launcher takes the first that fits
        lines |= {f"LEVEL_{number}": one.level, f"CPU_FLAGS_{number}": " ".join(one.cpu_flags)}
    if variant.cuda:
        driver = cudas()[variant.cuda].minimum_driver
        lines |= {"CUDA": variant.cuda, "DRIVER": driver, "CAPABILITIES": " ".join(_device_code(recipe, binary))}
    return "".join(f'{name}="{value}"\n' for name, value in lines.items())
