"""What a registry keeps beside an image: manifests that refer to it (OCI 1.1), and cosign's tags made of its digest."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from serving_factory.docker.registry import INDEX, MANIFESTS, Manifest, Registry, digest_of, listed, members
from serving_factory.errors import RegistryError, RegistryFaultError

IMAGE = MANIFESTS[1]
_CONFIG = "application/vnd.oci.image.config.v1+json"
_EMPTY = b"{}"  # image specification, "Guidance for an Empty Descriptor"
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
_ATTEMPTS = 8  # writers of one tag that get in each other's way
_PAUSE = 0.1  # seconds; it doubles


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A document that is kept beside an image."""

    media_type: str
    content: bytes
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Referrer:
    """A manifest that refers to an image."""

    digest: str
    artifact_type: str
    document: Mapping[str, Any]  # the manifest


def fallback_tag(digest: str, suffix: str = "") -> str:
    """The tag that stands for a digest: of its referrers, or with a suffix such as `.sig` one of cosign's."""
    return f"{digest.replace(':', '-')}{suffix}"


def attach(registry: Registry, repository: str, subject: str, artifact: Artifact) -> str:
    """Store a document as a referrer of a manifest, once; give the referrer's digest."""
    held = registry.manifest(repository, subject)
    if held is None:
        raise RegistryFaultError(  # some show what was pushed only after a while
            f"The registry {registry.host} has no {repository}@{subject} to attach anything to.",
            remedy="Push the image first.",
        )
    about = descriptor(held.media_type or IMAGE, subject, len(held.body))
    content = {**artifact.annotations}
    registry.put_blob(repository, _EMPTY)
    layer = descriptor(artifact.media_type, registry.put_blob(repository, artifact.content), len(artifact.content))
    made = _manifest(
        {
            "artifactType": artifact.media_type,
            "config": descriptor(_EMPTY_TYPE, digest_of(_EMPTY), len(_EMPTY)),
            "layers": [layer],
            "subject": about,
            **({"annotations": content} if content else {}),
        }
    )
    with _refused(registry, "a manifest with a subject"):
        answer = registry.put_manifest(repository, made.digest, made)
    # Where the registry does not keep the list itself, the client does. Some say that they do, and do not.
    if "oci-subject" not in answer or registry.referrers(repository, subject) is None:
        listed = {**descriptor(IMAGE, made.digest, len(made.body)), "artifactType": artifact.media_type}
        _append(registry, repository, fallback_tag(subject), _listing(listed, subject))
    return made.digest


def referrers_of(registry: Registry, repository: str, subject: str) -> Iterator[Referrer]:
    """What refers to a manifest, by the registry's own list or the index at the fallback tag."""
    # Of their types the manifests are asked: cosign 3.1.1 lists its bundles with the type of their empty configuration.
    entries = registry.referrers(repository, subject)
    if entries is None:
        entries = _entries(registry.manifest(repository, fallback_tag(subject)), subject)
    for entry in entries:
        digest = str(entry.get("digest"))
        held = registry.manifest(repository, digest)
        if held is None or held.digest != digest:
            continue
        document = held.document
        if members(document.get("subject")).get("digest") == subject:
            yield Referrer(digest=digest, artifact_type=str(document.get("artifactType") or ""), document=document)


def document_of(registry: Registry, repository: str, referrer: Referrer) -> Mapping[str, Any] | None:
    """Fetch the JSON document that a referrer holds; None where it is damaged."""
    layers = listed(referrer.document.get("layers"))
    digest = str(layers[0].get("digest")) if layers else ""
    try:
        content = registry.small_blob(repository, digest) or b""
        document = json.loads(content) if digest_of(content) == digest else None
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def add_layer(registry: Registry, repository: str, tag: str, artifact: Artifact) -> str:
    """Add a document to the image at one of cosign's tags, which may hold others; give that image's digest."""
    registry.put_blob(repository, artifact.content)
    layer = descriptor(artifact.media_type, digest_of(artifact.content), len(artifact.content))
    layer["annotations"] = dict(artifact.annotations)

    def change(held: Manifest | None) -> Manifest | None:
        layers = listed(held.document.get("layers")) if held else []
        if layer in layers:
            return None
        layers.append(layer)
        # cosign reads the configuration's list of layers.
        diffs = {"type": "layers", "diff_ids": [one["digest"] for one in layers]}
        config = _encoded({"architecture": "", "os": "", "config": {}, "rootfs": diffs})
        described = descriptor(_CONFIG, registry.put_blob(repository, config), len(config))
        return _manifest({"config": described, "layers": layers})

    return _append(registry, repository, tag, change)


def layers_at(registry: Registry, repository: str, tag: str) -> Iterator[tuple[Mapping[str, Any], bytes]]:
    """The layers of the image at one of cosign's tags, each with its content; those that are damaged are left out."""
    held = registry.manifest(repository, tag)
    for layer in listed(held.document.get("layers")) if held else ():
        content = registry.small_blob(repository, str(layer.get("digest")))
        if content is not None and digest_of(content) == layer.get("digest"):
            yield layer, content


def descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    """How manifests name a content."""
    return {"mediaType": media_type, "digest": digest, "size": size}


def _entries(held: Manifest | None, subject: str) -> list[Mapping[str, Any]]:
    """The list at the fallback tag."""
    # GitLab reads the tag as the digest: what it gives then is the subject itself, an index perhaps.
    return [] if held is None or held.digest == subject else listed(held.document.get("manifests"))


def _listing(entry: Mapping[str, Any], subject: str) -> Callable[[Manifest | None], Manifest | None]:
    def change(held: Manifest | None) -> Manifest | None:
        entries = _entries(held, subject)
        if any(one.get("digest") == entry["digest"] for one in entries):
            return None
        content = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [*entries, entry]}
        return Manifest(body=_encoded(content), media_type=INDEX)

    return change


def _append(registry: Registry, repository: str, tag: str, change: Callable[[Manifest | None], Manifest | None]) -> str:
    """Change what a tag stands for until it has the change: others may write the same tag at the same time."""
    for attempt in range(_ATTEMPTS):
        time.sleep(_PAUSE * (2 ** max(attempt - 1, 0) - 1))  # some show what was written only after a while
        held = registry.manifest(repository, tag)
        changed = change(held)
        if changed is None:
            return held.digest if held else ""
        with _refused(registry, f"the tag {tag}"):
            registry.put_manifest(repository, tag, changed)
    raise RegistryFaultError(
        f"The registry {registry.host} does not keep what is written to {repository}:{tag}.",
        why=f"It was written {_ATTEMPTS} times, and each time read without the change.",
        remedy="See what else writes that tag; then run the same command again.",
    )


def _manifest(members: Mapping[str, Any]) -> Manifest:
    return Manifest(body=_encoded({"schemaVersion": 2, "mediaType": IMAGE, **members}), media_type=IMAGE)


def _encoded(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


@contextmanager
def _refused(registry: Registry, what: str) -> Iterator[None]:
    """Say what a registry does not take, where it takes images."""
    try:
        yield
    except RegistryError as error:
        raise RegistryError(
            f"The registry {registry.host} does not take {what}.",
            why=error.why,
            remedy="Signatures, SBOM and provenance are OCI artifacts: use a registry that takes them, or leave "
            "`signing` out of the matrix file.",
        ) from error
