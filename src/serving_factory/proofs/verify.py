"""Checks of an image by what a registry has of it: what a consumer would do, without Docker and without records."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from serving_factory.catalogue.levels import Level
from serving_factory.docker.referrers import Referrer, document_of, referrers_of
from serving_factory.docker.registry import ImageName, Manifest, Registry, digest_of, listed, members
from serving_factory.errors import ArtifactError, FactoryError, ImageDiffersError, ProofError, SignatureError
from serving_factory.proofs.described import IN_TOTO, SBOM
from serving_factory.proofs.image import (
    IMAGE_FILE,
    AbsentError,
    Image,
    WrongError,
    fetch_image,
    find_manifest,
    images_of,
    is_index,
)
from serving_factory.proofs.keys import PublicKey
from serving_factory.proofs.signatures import Checker, is_signed, require_signed, signatures_of, subjects_of, way

BINARY = "usr/lib/serving-factory/tensorflow_model_server"
# Where an image with several levels has the others' servers
_HIGHER = {level.value: f"usr/lib/serving-factory/{level.value}/tensorflow_model_server" for level in Level}
_OURS = "org.serving-factory."
_OCI = "org.opencontainers.image."


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"  # what it needs is not there, or was not given


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check of one image."""

    name: str
    verdict: Verdict
    found: str  # in a sentence
    error: type[FactoryError]  # what a failure is


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What to check, and with what."""

    name: ImageName
    tag: str  # empty where only a digest was given
    digest: str  # empty where only a tag was given
    key: Checker | None
    lock: Mapping[str, str]  # base image → digest, as locked
    lock_file: str
    deep: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a registry gave."""

    asked: Subject
    registry: Registry
    held: str  # the digest that the tag stands for, or was asked for
    image: Image
    referrers: tuple[Referrer, ...]


def verify(registry: Registry, asked: Subject) -> list[Check]:
    """Check an image; of an index its signature, and each image in it, whose checks' names begin with the platform."""
    held, manifest = find_manifest(registry, asked.name, asked.tag, asked.digest)
    return (_of_index if is_index(manifest) else _of_image)(registry, asked, held, manifest)


def _of_index(registry: Registry, asked: Subject, held: str, manifest: Manifest) -> list[Check]:
    seen = _evidence(registry, asked, held, Image(manifest=manifest))
    found = [_checked(one, seen) for one in CHECKS if one.name in {"tag", "manifest", "signature"}]
    for platform, digest in images_of(manifest):
        part = replace(asked, tag="", digest=digest)
        # As an image, whatever it says: a registry could send indexes without end.
        of_part = _of_image(registry, part, *find_manifest(registry, part.name, part.tag, part.digest))
        found += [replace(one, name=f"{platform} {one.name}") for one in of_part if one.name != "tag"]
    return found


def _of_image(registry: Registry, asked: Subject, held: str, manifest: Manifest) -> list[Check]:
    with tempfile.TemporaryDirectory() as folder:
        copies = Path(folder) if asked.deep else None
        paths = {BINARY: copies, IMAGE_FILE: None, **dict.fromkeys(_HIGHER.values())}
        image = fetch_image(registry, asked.name.repository, manifest, paths)
        seen = _evidence(registry, asked, held, image)
        return [_checked(one, seen) for one in CHECKS]


def _evidence(registry: Registry, asked: Subject, held: str, image: Image) -> Evidence:
    referrers = tuple(referrers_of(registry, asked.name.repository, image.manifest.digest))
    return Evidence(asked=asked, registry=registry, held=held, image=image, referrers=referrers)


def _checked(one: _Kind, seen: Evidence) -> Check:
    try:
        verdict, found = Verdict.OK, one.look(seen)
    except WrongError as failed:
        verdict, found = Verdict.FAILED, str(failed)
    except AbsentError as unknown:
        verdict, found = (Verdict.FAILED if one.required else Verdict.SKIPPED), str(unknown)
    except (SignatureError, ArtifactError) as error:
        verdict, found = Verdict.FAILED, " ".join(filter(None, (error.what, error.why)))
    return Check(name=one.name, verdict=verdict, found=found, error=one.error)


def _same(found: object, expected: object, what: str) -> None:
    if found != expected:
        raise WrongError(f"{what}: expected {expected}, found {found or 'nothing'}")


# --- what is checked --------------------------------------------------------------------------------------------------


def _tag(seen: Evidence) -> str:
    asked = seen.asked
    if not asked.tag:
        raise AbsentError("only a digest was given")
    if asked.digest:
        _same(seen.held, asked.digest, f"the tag {asked.tag} stands for another digest")
    return f"{asked.tag} is {seen.held}"


def _manifest(seen: Evidence) -> str:
    _same(seen.image.manifest.digest, seen.asked.digest or seen.held, "the manifest has another digest than its name")
    if not seen.image.manifest.document:
        raise WrongError("the manifest is no JSON object")
    if is_index(seen.image.manifest) and not listed(seen.image.manifest.document.get("manifests")):
        raise WrongError("the index has no image")
    return f"{seen.image.manifest.media_type}, {len(seen.image.manifest.body)} bytes"


def _config(seen: Evidence) -> str:
    entry = members(seen.image.manifest.document.get("config"))
    if seen.image.config is None:
        raise WrongError("the registry has no configuration of the image")
    _same(
        digest_of(seen.image.config), entry.get("digest"), "the configuration has another digest than the manifest says"
    )
    _same(len(seen.image.config), entry.get("size"), "the configuration has another size than the manifest says")
    return f"{seen.image.settings.get('os')}/{seen.image.settings.get('architecture')}, {entry['digest']}"


def _layers(seen: Evidence) -> str:
    entries = listed(seen.image.manifest.document.get("layers"))
    for entry, layer in zip(entries, seen.image.layers, strict=True):
        if not layer.digest:
            raise WrongError(f"the layer {entry.get('digest')}: {layer.trouble}")
        _same(layer.digest, entry.get("digest"), "a layer has another digest than the manifest says")
        _same(layer.size, entry.get("size"), "a layer has another size than the manifest says")
    return f"{len(seen.image.layers)} layers, {sum(layer.size for layer in seen.image.layers)} bytes"


def _contents(seen: Evidence) -> str:
    expected = members(seen.image.settings.get("rootfs")).get("diff_ids")
    for layer in seen.image.layers:
        if layer.trouble:
            raise WrongError(f"the layer {layer.digest or '(none)'}: {layer.trouble}")
    _same(
        [layer.diff_id for layer in seen.image.layers],
        expected,
        "what the layers hold is not what the configuration lists",
    )
    return f"{len(seen.image.layers)} layers hold what the configuration lists"


def _user(seen: Evidence) -> str:
    user = str(members(seen.image.settings.get("config")).get("User") or "")
    name = user.partition(":")[0]
    if name == "root" or not name.lstrip("+-0"):  # Docker reads 00 as a number, too
        raise WrongError(f"the image runs as root: its user is '{user}'")
    return user


def _stop_signal(seen: Evidence) -> str:
    signal = str(members(seen.image.settings.get("config")).get("StopSignal") or "")
    _same(signal, "SIGTERM", "another signal stops it")
    return signal


def _binary(seen: Evidence) -> str:
    found = seen.image.file(BINARY).sha256
    _same(found, seen.image.label(f"{_OURS}binary.sha256"), "the binary is not that of the label")
    _same(found, seen.image.image_json["binary"].get("sha256"), "the binary is not that of image.json")
    higher = _higher(seen.image)
    for level, sha256 in higher:
        server = seen.image.file(_HIGHER.get(level, f"usr/lib/serving-factory/{level}"))
        _same(server.sha256, sha256, f"the server of level {level} is not that of image.json")
    unnamed = _HIGHER.keys() - {level for level, _ in higher}
    if found_more := [level for level in sorted(unnamed) if seen.image.uppermost(_HIGHER[level])]:
        raise WrongError(f"image.json does not name the servers of {', '.join(found_more)} that the image has")
    others = f"; those of {', '.join(level for level, _ in higher)} too" if higher else ""
    return f"sha256:{found}, as in the label and in image.json{others}"


def _higher(image: Image) -> list[tuple[str, object]]:
    """The levels and digests of further servers, by image.json."""
    return [(str(one.get("level")), one.get("sha256")) for one in listed(image.image_json.get("higher"))]


def _identity(seen: Evidence) -> str:
    document = seen.image.image_json
    for name, label in (
        ("variant", f"{_OURS}variant"),
        ("release", f"{_OCI}version"),
        ("flavour", f"{_OURS}flavour"),
        ("level", f"{_OURS}level"),
    ):
        _same(seen.image.label(label), document.get(name), f"the label {label} is not what image.json says")
    compiled = document["binary"].get("compile_key")
    _same(seen.image.label(f"{_OURS}compile.key"), compiled, "the compile key of the label is not that of image.json")
    return f"{document['variant']}, release {document['release']}, compile key {str(compiled)[:12]}"


def _base(seen: Evidence) -> str:
    name, digest = seen.image.label(f"{_OCI}base.name"), seen.image.labels.get(f"{_OCI}base.digest", "")
    locked = seen.asked.lock.get(name)
    if locked is None:
        raise AbsentError(f"{seen.asked.lock_file} does not have {name}")
    _same(digest, locked, f"{name} is another one than {seen.asked.lock_file} has")
    return f"{name}@{digest}, as locked"


def _signature(seen: Evidence) -> str:
    repository, digest, key = seen.asked.name.repository, seen.image.manifest.digest, seen.asked.key
    if key is None:
        signed = any(signatures_of(seen.registry, repository, digest))
        raise AbsentError("it is signed; --key checks by whom" if signed else "there is none")
    require_signed(seen.registry, repository, digest, key)
    return f"of the key sha256:{key.fingerprint}" if isinstance(key, PublicKey) else way(key)


def _proof(seen: Evidence, kind: str, what: str, look: Callable[[Evidence, Mapping[str, Any]], str]) -> str:
    """Look at a referrer's document, with a signature of its own where a key is given; one of several must pass."""
    repository = seen.asked.name.repository
    found = [one for one in seen.referrers if one.artifact_type == kind]
    key = seen.asked.key
    if not found:
        # Who has the key knows that a signed image has both: so that they were removed.
        raise (WrongError if key else AbsentError)(f"the registry has no {what} of it")
    if key:
        found = [one for one in found if is_signed(seen.registry, repository, one.digest, key)]
        if not found:
            raise WrongError(f"the {what} is not signed {way(key)}")
    fault: AbsentError | WrongError = WrongError(f"the {what} is damaged")
    for one in found:
        try:
            if document := document_of(seen.registry, repository, one):
                return look(seen, document)
        except (AbsentError, WrongError) as error:
            fault = error
    raise fault


def _sbom(seen: Evidence) -> str:
    return _proof(seen, SBOM, "SBOM", _about_image)


def _about_image(seen: Evidence, document: Mapping[str, Any]) -> str:
    about = members(members(document.get("metadata")).get("component"))
    hashes = [one.get("content") for one in listed(about.get("hashes"))]
    if seen.image.manifest.digest.partition(":")[2] not in hashes:
        raise WrongError(f"the SBOM is about another image: {about.get('name')} {about.get('version')}")
    components = listed(document.get("components"))
    held = [hashed.get("content") for one in components for hashed in listed(one.get("hashes"))]
    if seen.image.file(BINARY).sha256 not in held:
        raise WrongError("the SBOM does not have this image's binary")
    if missing := [level for level, sha256 in _higher(seen.image) if sha256 not in held]:
        raise WrongError(f"the SBOM does not have the servers of {', '.join(missing)}")
    return f"{document.get('bomFormat')} {document.get('specVersion')}, {len(components)} components"


def _provenance(seen: Evidence) -> str:
    return _proof(seen, IN_TOTO, "provenance", _made)


def _made(seen: Evidence, statement: Mapping[str, Any]) -> str:
    if seen.image.manifest.digest not in subjects_of(statement):
        raise WrongError("the provenance is about another image")
    try:
        predicate = statement["predicate"]
        internal = predicate["buildDefinition"]["internalParameters"]
        (product,) = predicate["runDetails"]["byproducts"]
        binary, key = product["digest"]["sha256"], internal["compile_key"]
        started = predicate["runDetails"]["metadata"]["startedOn"]
        external = predicate["buildDefinition"]["externalParameters"]
        higher = [(one.get("level"), one.get("binary_sha256")) for one in listed(external.get("higher"))]
        dependencies = listed(predicate["buildDefinition"]["resolvedDependencies"])
        models = [members(one.get("digest")).get("sha256") for one in dependencies]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WrongError("the provenance lacks what the factory writes") from error
    _same(binary, seen.image.file(BINARY).sha256, "the provenance is of another binary")
    _same(higher, _higher(seen.image), "the provenance is of other servers of higher levels")
    _same(key, seen.image.label(f"{_OURS}compile.key"), "the provenance has another compile key than the label")
    model = seen.image.labels.get(f"{_OURS}model.sha256")
    if model and model not in models:
        raise WrongError("the provenance does not have the model of the label")
    return f"{statement.get('predicateType')}, compiled {started}"


def _level(seen: Evidence) -> str:
    from serving_factory.proofs.deep import level_of

    level = seen.image.label(f"{_OURS}level")
    read = level_of(_kept(seen), level, seen.image.label(f"{_OCI}version"))
    if read.wrong:
        raise WrongError(read.wrong)
    if not read.proven:
        raise AbsentError(read.found)
    return read.found


def _device_code(seen: Evidence) -> str:
    from serving_factory.inspection.device_code import read_device_code

    found = " ".join(read_device_code(_kept(seen)).throughout)
    _same(found, seen.image.labels.get(f"{_OURS}capabilities", ""), "the code for GPUs is not that of the label")
    return found or "none, as the label says"


def _kept(seen: Evidence) -> Path:
    if kept := seen.image.file(BINARY).kept:
        return kept
    raise AbsentError("--deep reads the binary")


@dataclass(frozen=True, slots=True)
class _Kind:
    name: str
    look: Callable[[Evidence], str]
    error: type[FactoryError] = ImageDiffersError
    required: bool = field(default=True, kw_only=True)  # whether it fails where there is nothing to look at


CHECKS = (
    _Kind("tag", _tag, required=False),
    _Kind("manifest", _manifest),
    _Kind("config", _config),
    _Kind("layers", _layers),
    _Kind("contents", _contents),
    _Kind("user", _user),
    _Kind("stop_signal", _stop_signal),
    _Kind("binary", _binary),
    _Kind("identity", _identity),
    _Kind("base", _base, required=False),
    _Kind("signature", _signature, SignatureError, required=False),
    _Kind("sbom", _sbom, ProofError, required=False),
    _Kind("provenance", _provenance, ProofError, required=False),
    _Kind("level", _level, required=False),
    _Kind("device_code", _device_code, required=False),
)
