"""The SBOM of an image, CycloneDX 1.6: distribution packages, the server, its libraries, and what compiled it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import datetime

from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from serving_factory.errors import ProofError
from serving_factory.proofs.described import Described, External, Package

_NAMESPACE = uuid.UUID("0c0d8c1b-6b0c-5d0e-9b53-3f5b0a2f7d11")  # any: serial numbers are made of it and the digest


def sbom(about: Described) -> bytes:
    """Write the SBOM: the same image gives the same bytes."""
    image = _image(about)
    parts = list(_components(about))
    bom = Bom(serial_number=uuid.uuid5(_NAMESPACE, about.digest), components=parts)
    bom.metadata.timestamp = datetime.fromisoformat(about.finished)
    bom.metadata.component = image
    bom.register_dependency(image, [one for one in parts if one.scope is ComponentScope.REQUIRED])
    text = JsonV1Dot6(bom).output_as_string()
    if wrong := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise ProofError(
            f"The SBOM of {about.variant} would not be CycloneDX 1.6.",
            why=str(wrong),
            remedy="Report this: a name or a version in the image is not as the format has it.",
        )
    return text.encode()


def _image(about: Described) -> Component:
    name = about.repository.rpartition("/")[2]
    place = {"repository_url": about.repository, "arch": about.platform.rpartition("/")[2]}
    return Component(
        type=ComponentType.CONTAINER,
        name=about.repository,
        version=about.digest,
        bom_ref="image",
        purl=PackageURL("oci", None, name, about.digest, place),
        hashes=_sha256(about.digest.partition(":")[2]),
        properties=[
            Property(name=f"serving-factory:{one}", value=value)
            for one, value in (("variant", about.variant), ("flavour", about.flavour), ("level", about.level))
        ],
    )


def _components(about: Described) -> Iterator[Component]:
    build_id = [Property(name="serving-factory:build-id", value=about.build_id)] if about.build_id else []
    yield _server(about, "binary", about.binary_sha256, build_id)
    for one in about.higher:
        level = Property(name="serving-factory:level", value=one.level)
        yield _server(about, f"binary:{one.level}", one.binary_sha256, [level])
    if model := about.model:
        yield Component(
            type=ComponentType.MACHINE_LEARNING_MODEL,
            name=model.name,
            version=str(model.version),
            bom_ref="model",
            scope=ComponentScope.REQUIRED,
            hashes=_sha256(model.sha256),
        )
    yield from (_package(one, about) for one in about.packages)
    for library in about.libraries:
        yield Component(
            type=ComponentType.LIBRARY,
            name=library.path.rpartition("/")[2],
            bom_ref=f"file:{library.path}",
            scope=ComponentScope.REQUIRED,
            hashes=_sha256(library.sha256),
            properties=[Property(name="serving-factory:path", value=library.path)],
        )
    yield from map(_external, about.externals)
    # What made the binary and is not in the image.
    for name, version in (("compiler", about.compiler), ("bazel", about.bazel)):
        if version:
            yield Component(
                type=ComponentType.APPLICATION,
                name=name,
                version=version,
                bom_ref=f"tool:{name}",
                scope=ComponentScope.EXCLUDED,
            )


def _server(about: Described, bom_ref: str, sha256: str, properties: list[Property]) -> Component:
    return Component(
        type=ComponentType.APPLICATION,
        name="tensorflow_model_server",
        version=about.binary_version or about.release,
        bom_ref=bom_ref,
        scope=ComponentScope.REQUIRED,
        hashes=_sha256(sha256),
        properties=properties,
    )


def _external(one: External) -> Component:
    """What Bazel compiled in; its address has the checksum that the sources state."""
    found = [("repository", one.name), *((("ref", one.ref),) if one.ref else ())]
    found += [("overridden", "true")] if one.overridden else []
    found += [("licence-file", f"{name} sha256:{digest}") for name, digest in one.licences]
    hashes = _sha256(one.sha256) if one.sha256 else ()
    return Component(
        type=ComponentType.LIBRARY,
        name=one.name,
        version=one.ref or None,
        bom_ref=f"bazel:{one.name}",
        scope=ComponentScope.REQUIRED,
        properties=[Property(name=f"serving-factory:{name}", value=value) for name, value in found],
        external_references=[
            ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=XsUri(url), hashes=hashes)
            for url in one.urls
        ],
    )


def _package(package: Package, about: Described) -> Component:
    distribution = about.distribution.get("ID", "")
    release = f"{distribution}-{about.distribution.get('VERSION_ID', '')}".rstrip("-")
    known = {"arch": package.architecture, "distro": release, "upstream": package.source}
    qualifiers = {name: value for name, value in known.items() if value}
    return Component(
        type=ComponentType.LIBRARY,
        name=package.name,
        version=package.version,
        bom_ref=f"deb:{package.name}:{package.architecture}@{package.version}",
        scope=ComponentScope.REQUIRED,
        purl=PackageURL("deb", distribution or None, package.name, package.version, qualifiers),
    )


def _sha256(digest: str) -> list[HashType]:
    return [HashType(alg=HashAlgorithm.SHA_256, content=digest)]
