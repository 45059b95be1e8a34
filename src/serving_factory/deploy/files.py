"""Files of a service for Kubernetes and compose: from templates, each with a first line by which it is known again."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from serving_factory.catalogue.facts import Flavour
from serving_factory.catalogue.levels import LEVELS, node_labels
from serving_factory.matrix.variant import Variant

if TYPE_CHECKING:
    from jinja2 import Environment

_FIRST_LINE = "# Written by `./factory deploy`. It writes this file again only as long as its checksum is"
_KNOWN = re.compile(rf"{re.escape(_FIRST_LINE)} (?P<checksum>[0-9a-f]{{12}})\n(?P<rest>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What is served."""

    variant: Variant
    image: str  # with its digest
    user: int  # that the server runs as
    health: str  # the program in the image that asks for the model's status
    rest: bool  # whether the server has REST
    flags: frozenset[str]  # that the server knows
    model: str = ""  # the name of the model in the image; empty where the model comes from elsewhere

    @property
    def what(self) -> str:
        """What is served, as the name of a folder."""
        return "-".join(filter(None, (self.variant.id, self.model)))

    @property
    def name(self) -> str:
        """A DNS label, of at most 50 characters; it ends in a checksum where others could have the same letters."""
        name = f"serving-{re.sub('[^a-z0-9]+', '-', self.what.lower()).rstrip('-')}"
        if len(name) <= _LONGEST and (not self.model or _LABEL.fullmatch(self.model)):
            return name
        return f"{name[: _LONGEST - 7].rstrip('-')}-{_checksum(self.what)[:6]}"

    @property
    def gpu(self) -> bool:
        """Whether it computes on a GPU."""
        return self.variant.flavour is Flavour.GPU


_LABEL = re.compile("[a-z0-9]+(-[a-z0-9]+)*")
_LONGEST = 50  # of a label's 63 characters: suffixes are added


@dataclass(frozen=True, slots=True)
class _Size:
    """What a server of an overlay gets."""

    name: str
    cpus: int
    memory: str


_SIZES = (_Size("1-cpu", 1, "2Gi"), _Size("8-cpu", 8, "8Gi"))
_GPU_SIZES = (_Size("gpu", 4, "16Gi"),)
_BASE = ("deployment", "service", "hpa", "pdb", "networkpolicy", "kustomization")
_THREADS = ("tensorflow_inter_op_parallelism", "tensorflow_intra_op_parallelism")


def manifests(service: Service) -> Mapping[str, str]:
    """A Kustomize base and its overlays, and a runtime for KServe: all files, by their path."""
    values = {
        **_values(service),
        "variant": service.variant,
        "user": service.user or 65532,  # an image that runs as root by default runs as any other user too
        "health": service.health,
        "rest": service.rest,
        "baseline": service.variant.level is LEVELS[0],
        "terms": node_labels()[service.variant.level],
        # Before 1.15 one flag is for both pools.
        "threads": _THREADS if service.flags.issuperset(_THREADS) else ("tensorflow_session_parallelism",),
    }
    files = {f"base/{name}.yaml": _render(f"kubernetes/base/{name}.yaml.j2", values) for name in _BASE}
    for size in _GPU_SIZES if service.gpu else _SIZES:
        for name in ("kustomization", "deployment"):
            text = _render(f"kubernetes/overlay/{name}.yaml.j2", {**values, "size": size})
            files[f"overlays/{size.name}/{name}.yaml"] = text
    if service.rest and not service.model:  # KServe brings the model
        files["kserve/serving-runtime.yaml"] = _render("kubernetes/serving-runtime.yaml.j2", values)
    return files


def compose_files(service: Service, *, gateway: str) -> Mapping[str, str]:
    """A server with a gateway before it, and both in one container: all files, by their name.

    `gateway` is the folder of the gateway's Dockerfile, as these files see it.
    """
    values = {**_values(service), "gateway": gateway}
    return {name: _render(f"compose/{name}.j2", values) for name in ("compose.yaml", "compose.single.yaml")}


def _values(service: Service) -> Mapping[str, object]:
    return {"name": service.name, "image": service.image, "model": service.model, "gpu": service.gpu}


def _render(template: str, values: Mapping[str, object]) -> str:
    """Fill a template."""
    text = _templates().get_template(template).render(values)
    return f"{_FIRST_LINE} {_checksum(text)}\n{text}"


def is_own(text: str) -> bool:
    """Whether a text is as a run of this factory wrote it."""
    found = _KNOWN.fullmatch(text)
    return found is not None and found["checksum"] == _checksum(found["rest"])


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@cache
def _templates() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - YAML is no HTML; every value comes from checked data
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
