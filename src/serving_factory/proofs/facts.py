"""What an image says of itself, by the engine that has it or by a registry alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from serving_factory.docker.engine import Engine
from serving_factory.docker.referrers import document_of, referrers_of
from serving_factory.docker.registry import ImageName, Manifest, Registry, listed, members
from serving_factory.errors import ArtifactError, ImageDiffersError, UnknownNameError
from serving_factory.proofs.described import DPKG_RECORDS, IMAGE_JSON, IN_TOTO, SBOM, packages_in
from serving_factory.proofs.image import (
    IMAGE_FILE,
    AbsentError,
    Image,
    Layer,
    WrongError,
    fetch_image,
    find_manifest,
    images_of,
    is_index,
)

_STATUS, _STATUS_FOLDER = DPKG_RECORDS[0].removeprefix("/"), f"{DPKG_RECORDS[1].removeprefix('/')}/"
_OURS = "name an image that this factory made"
Said = TypeVar("Said")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """What an image says of itself."""

    name: str  # as it was typed; of an image in an index, with its platform
    image: str  # its id in the engine, or its manifest's digest in the registry
    config: str  # the digest of its configuration
    size: int  # bytes: of the engine's unpacked, of a registry's packed layers
    labels: Mapping[str, str]
    facts: Mapping[str, Any]  # its image.json; empty where it has none, as upstream's images
    packages: Mapping[str, str]  # name → version
    # Of its SBOM and its provenance, which only a registry has; None where it has none.
    externals: Mapping[str, str] | None = None  # external repository → commit, tag or sha256
    factory: str | None = None  # the version of this factory that made it


def facts_in_engine(engine: Engine, name: str, owner: str) -> ImageFacts:
    """Read an image of the engine; nothing is run."""
    image = engine.image_id(name)
    if image is None:
        remedy = f"docker pull {name}; or name it with its registry, which is asked then: docker.io/team/serving:2.19.1"
        raise UnknownNameError(f"the engine has no image {name}", remedy=remedy)
    files = dict(engine.read_files(image, *DPKG_RECORDS, IMAGE_JSON, owner=owner))
    try:
        facts = json.loads(files.pop(IMAGE_JSON, b"{}"))
        why = "" if isinstance(facts, dict) else "it is no JSON object"
    except (ValueError, RecursionError) as error:
        facts, why = {}, str(error)
    if why:
        raise ArtifactError(f"{IMAGE_JSON} in {name} cannot be read", why=why, remedy=_OURS)
    return ImageFacts(
        name=name,
        image=image,
        config=image,
        size=engine.image_size(image),
        labels=engine.image_labels(image),
        facts=facts,
        packages={one.name: one.version for one in packages_in(files)},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryImage:
    """An image in a registry, as it was named."""

    name: str
    registry: Registry
    repository: str
    manifest: Manifest


def find_images(registry: Registry, text: str) -> Mapping[str, RegistryImage]:
    """Find what a name stands for, by platform: the images of an index, or one image, whose platform is not named."""
    name, reference = ImageName.parse_reference(text)
    by_digest = "@" in text
    _, manifest = find_manifest(registry, name, "" if by_digest else reference, reference if by_digest else "")
    whole = RegistryImage(name=text, registry=registry, repository=name.repository, manifest=manifest)
    if by_digest and manifest.digest != reference:
        raise _damaged(text, f"the registry sent {manifest.digest}")
    if not is_index(manifest):
        return {"": whole}
    found = {}
    for platform, digest in images_of(manifest):
        _, one = find_manifest(registry, name, "", digest)
        if one.digest != digest:
            raise _damaged(text, f"the registry sent {one.digest} for {digest}")
        found[platform] = RegistryImage(
            name=f"{text} ({platform})", registry=registry, repository=name.repository, manifest=one
        )
    return found


def facts_in_registry(held: RegistryImage, known: dict[str, Layer]) -> ImageFacts:
    """Read an image of a registry; `known` has the layers that were read before, and then this image's, too."""
    manifest, name = held.manifest, held.name
    paths = dict.fromkeys((IMAGE_FILE, _STATUS, _STATUS_FOLDER))
    config = members(manifest.document.get("config"))
    if not str(config.get("mediaType")).endswith((".image.config.v1+json", ".container.image.v1+json")):
        raise ArtifactError(f"{name} is no image", why=f"it is {config.get('mediaType')}", remedy=_OURS)
    image = fetch_image(held.registry, held.repository, manifest, paths, known)
    layers = listed(manifest.document.get("layers"))
    for entry, layer in zip(layers, image.layers, strict=True):
        if layer.digest != entry.get("digest"):
            raise _damaged(name, f"the layer {entry.get('digest')}: {layer.trouble or f'it is {layer.digest}'}")
        if layer.trouble:
            raise ArtifactError(
                f"{name} cannot be read", why=f"the layer {layer.digest}: {layer.trouble}", remedy=_OURS
            )
        known[layer.digest] = layer
    try:
        return ImageFacts(
            name=name,
            image=manifest.digest,
            config=str(config.get("digest")),
            size=sum(layer.size for layer in image.layers),
            labels=image.labels,
            facts=image.image_json if image.uppermost(IMAGE_FILE) else {},
            packages=_packages(image),
            externals=_said(held, SBOM, _externals),
            factory=_said(held, IN_TOTO, _factory),
        )
    except (WrongError, AbsentError) as error:
        raise ArtifactError(f"{name} cannot be read", why=str(error), remedy=_OURS) from error


def _damaged(name: str, why: str) -> ImageDiffersError:
    return ImageDiffersError(f"{name} is damaged in its registry", why=why, remedy="push the image again")


def _packages(image: Image) -> Mapping[str, str]:
    status = image.uppermost(_STATUS)
    files = {_STATUS: status} if status else {}
    files |= image.files_in(_STATUS_FOLDER)
    return {one.name: one.version for one in packages_in({path: file.content for path, file in files.items()})}


def _said(held: RegistryImage, kind: str, read: Callable[[Mapping[str, Any]], Said | None]) -> Said | None:
    """What the last of the factory's documents of a kind says; no signature is checked."""
    found = None
    for one in referrers_of(held.registry, held.repository, held.manifest.digest):
        if one.artifact_type == kind and (document := document_of(held.registry, held.repository, one)):
            said = read(document)
            found = found if said is None else said
    return found


def _externals(sbom: Mapping[str, Any]) -> Mapping[str, str] | None:
    """What Bazel compiled in: by commit or tag, else by the checksum of its archive; None of an SBOM of others."""
    found = {}
    components = listed(sbom.get("components"))
    for one in components:
        if str(one.get("bom-ref")).startswith("bazel:"):
            hashes = [
                hashed for place in listed(one.get("externalReferences")) for hashed in listed(place.get("hashes"))
            ]
            found[str(one.get("name"))] = str(one.get("version") or (hashes[0].get("content") if hashes else ""))
    return found if any(one.get("bom-ref") == "binary" for one in components) else None


def _factory(provenance: Mapping[str, Any]) -> str | None:
    details = members(members(provenance.get("predicate")).get("runDetails"))
    version = members(members(details.get("builder")).get("version")).get("serving-factory")
    return None if version is None else str(version)
