"""Files for compose: a server with a gateway before it, and both in one container."""

from __future__ import annotations

from collections.abc import Mapping

from serving_factory.deploy.files import Service, render


def compose_files(service: Service, *, gateway: str) -> Mapping[str, str]:
    """All files, by their name; `gateway` is the folder of the gateway's Dockerfile, as these files see it."""
    values = {
        "name": service.name,
        "image": service.image,
        "model": service.model,
        "gpu": service.gpu,
        "gateway": gateway,
    }
    return {name: render(f"compose/{name}.j2", values) for name in ("compose.yaml", "compose.single.yaml")}
