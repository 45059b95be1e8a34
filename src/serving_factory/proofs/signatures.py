"""Signatures of what a registry holds, by digest, as cosign writes and checks them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving_factory.docker.process import Cancel, run
from serving_factory.docker.referrers import Artifact, add_layer, attach, fallback_tag, layers_at, referrers_of
from serving_factory.docker.registry import ImageName, Registry, digest_of, listed, members
from serving_factory.errors import SignatureError, SigningCommandError
from serving_factory.proofs.described import IN_TOTO, SBOM
from serving_factory.proofs.keys import PrivateKey, PublicKey
from serving_factory.proofs.provenance import CYCLONEDX, PROVENANCE, statement

# sigstore/cosign, pkg/types/media.go and pkg/oci/static/signature.go
_SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
_SIGNATURE = "dev.cosignproject.cosign/signature"
_KIND = "cosign container image signature"
_SIGNED = "https://sigstore.dev/cosign/sign/v1"  # the predicate by which cosign 3 signs; others say something else
DSSE = "application/vnd.dsse.envelope.v1+json"
_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_BUNDLES = "application/vnd.dev.sigstore.bundle"  # of any version
_DOCUMENTS = {SBOM, IN_TOTO}
_SECONDS = 600.0  # in which a command of the user's has signed
_SHOWN = 10  # lines of its output
_NO_JSON = (ValueError, KeyError, TypeError, RecursionError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A signature that a registry keeps for a digest; `message` names that digest."""

    message: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class KeySigner:
    """Signs with a key file."""

    key: PrivateKey
    attestations: bool = False  # whether statements are signed for `cosign verify-attestation`, too

    @property
    def identity(self) -> str:
        """What distinguishes it from another signer."""
        return self.key.public.fingerprint

    def sign(self, registry: Registry, repository: str, digest: str) -> bool:
        """Sign a manifest or an index and read the signature back; False where this key has signed it already."""
        at_tag, in_bundle = (self._made_any(form(registry, repository, digest)) for form in _FORMS)
        if at_tag and in_bundle:
            return False
        name = f"{registry.host}/{repository}"
        if not at_tag:
            message = _message(name, digest)
            signature = {_SIGNATURE: base64.b64encode(self.key.sign(message)).decode("ascii")}
            artifact = Artifact(media_type=_SIMPLE_SIGNING, content=message, annotations=signature)
            add_layer(registry, repository, fallback_tag(digest, ".sig"), artifact)
        if not in_bundle:
            self._attach_bundle(registry, repository, digest, statement(name, digest, _SIGNED, {}))
        require_signed(registry, repository, digest, self.key.public)
        return True

    def is_signed(self, registry: Registry, repository: str, digest: str) -> bool:
        """Whether the registry has its signature in both forms."""
        return all(self._made_any(form(registry, repository, digest)) for form in _FORMS)

    def attest(self, registry: Registry, repository: str, digest: str, stated: bytes) -> None:
        """Sign an in-toto statement about a manifest, once, for `cosign verify-attestation`."""
        if not self._made_any(one for one in _attested(registry, repository, digest) if _payload(one) == stated):
            kind = {"predicateType": _predicate(stated), _SIGNATURE: ""}
            content = _encoded(self._envelope(stated))
            artifact = Artifact(media_type=DSSE, content=content, annotations=kind)
            add_layer(registry, repository, fallback_tag(digest, ".att"), artifact)
        if not self._made_any(one for one in _bundled(registry, repository, digest) if _payload(one) == stated):
            self._attach_bundle(registry, repository, digest, stated)

    def attested(self, registry: Registry, repository: str, digest: str) -> frozenset[str]:
        """The predicate types of what it has attested of a manifest, in both forms."""
        kinds = (
            {_predicate(_payload(one)) for one in form(registry, repository, digest) if self._made_any([one])}
            for form in (_attested, _bundled)
        )
        return frozenset(set.intersection(*kinds))

    def _made_any(self, signatures: Iterable[Signature]) -> bool:
        return any(self.key.public.signed(one.message, one.signature) for one in signatures)

    def _envelope(self, stated: bytes) -> Mapping[str, object]:
        """A statement, signed (DSSE)."""
        return {
            "payloadType": IN_TOTO,
            "payload": base64.b64encode(stated).decode("ascii"),
            "signatures": [{"keyid": "", "sig": base64.b64encode(self.key.sign(_pae(stated))).decode("ascii")}],
        }

    def _attach_bundle(self, registry: Registry, repository: str, digest: str, stated: bytes) -> None:
        """Sign a statement as cosign 3 does: where there is any bundle, it reads nothing else."""
        hint = base64.b64encode(bytes.fromhex(self.key.public.fingerprint)).decode("ascii")
        bundle = {
            "mediaType": _BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": hint}},
            "dsseEnvelope": self._envelope(stated),
        }
        content = {"dev.sigstore.bundle.content": "dsse-envelope"}
        said = {**content, "dev.sigstore.bundle.predicateType": _predicate(stated)}
        artifact = Artifact(media_type=_BUNDLE, content=_encoded(bundle), annotations=said)
        attach(registry, repository, digest, artifact)


@dataclass(frozen=True, slots=True)
class CommandCheck:
    """Checks signatures with a command of the user's, such as cosign by the identity in a certificate."""

    command: tuple[str, ...]  # `{image}` stands for the image's name with its digest

    def fault(self, registry: Registry, repository: str, digest: str) -> str:
        """What it says where it ends with an error; empty where it does not."""
        image = f"{ImageName(registry.host, repository)}@{digest}"
        try:
            return _fault(self.command, image, registry.cancel)
        except (OSError, TimeoutError) as error:
            raise SigningCommandError(
                f"The command that checks signatures did not check {image}.",
                why=str(error),
                remedy="Correct `signing.verify` in the matrix file, and try it by hand with that image.",
            ) from error


Checker = PublicKey | CommandCheck


@dataclass(frozen=True, slots=True)
class CommandSigner:
    """Signs with a command of the user's, such as cosign with a key in a cloud."""

    command: tuple[str, ...]  # `{image}` stands for the image's name with its digest
    check: Checker | None  # what its signatures are checked with; without one, that there is one

    @property
    def identity(self) -> str:
        """What distinguishes it from another signer."""
        if isinstance(self.check, PublicKey):
            return self.check.fingerprint
        return digest_of("\0".join(self.command).encode())

    def sign(self, registry: Registry, repository: str, digest: str) -> bool:
        """Sign a manifest or an index and read the signature back; False where it is signed already."""
        if self.is_signed(registry, repository, digest):
            return False
        image = f"{ImageName(registry.host, repository)}@{digest}"
        try:
            fault = _fault(self.command, image, registry.cancel)
            if not fault:
                require_signed(registry, repository, digest, self.check)
        except (OSError, TimeoutError) as error:
            raise self._failed(image, str(error)) from error
        except SignatureError as error:
            raise self._failed(image, "\n".join(filter(None, (error.what, error.why)))) from error
        if fault:
            raise self._failed(image, fault)
        return True

    def is_signed(self, registry: Registry, repository: str, digest: str) -> bool:
        """Whether the registry has a signature of its own."""
        return is_signed(registry, repository, digest, self.check)

    def _failed(self, image: str, why: str) -> SigningCommandError:
        return SigningCommandError(
            f"The command that signs did not sign {image}.",
            why=why,
            remedy="Correct `signing` in the matrix file, and try its commands by hand with that image.",
        )


Signer = KeySigner | CommandSigner


def has_proofs(registry: Registry, repository: str, digest: str, signer: Signer) -> bool:
    """Whether a registry has SBOM and provenance of an image, each signed, and attested where the signer does that."""
    signed = {
        one.artifact_type
        for one in referrers_of(registry, repository, digest)
        if one.artifact_type in _DOCUMENTS and signer.is_signed(registry, repository, one.digest)
    }
    if isinstance(signer, KeySigner) and signer.attestations:
        return signed == _DOCUMENTS and signer.attested(registry, repository, digest) >= {PROVENANCE, CYCLONEDX}
    return signed == _DOCUMENTS


def _fault(command: Sequence[str], image: str, cancel: Cancel | None) -> str:
    """Run a command about an image; give what it said last where it ended with an error, else nothing."""
    lines: list[str] = []
    filled = [word.replace("{image}", image) for word in command]
    code = run(filled, on_line=lines.append, timeout=_SECONDS, cancel=cancel)
    return "\n".join([*lines[-_SHOWN:], f"It ended with exit code {code}."]) if code else ""


def is_signed(registry: Registry, repository: str, digest: str, by: Checker | None) -> bool:
    """Whether a registry has a signature for a manifest or an index that counts."""
    try:
        require_signed(registry, repository, digest, by)
    except SignatureError:
        return False
    return True


def require_signed(registry: Registry, repository: str, digest: str, by: Checker | None) -> None:
    """Raise SignatureError where a registry has no signature that counts: of this key, by this command, else any."""
    found = list(signatures_of(registry, repository, digest))
    fault = ""
    if isinstance(by, CommandCheck):
        fault = by.fault(registry, repository, digest) if found else ""
    elif found and by and not any(by.signed(one.message, one.signature) for one in found):
        fault = f"signatures of other keys: {len(found)}; this key: sha256:{by.fingerprint}"
    if fault or not found:
        name = f"{ImageName(registry.host, repository)}@{digest}"
        raise SignatureError(
            f"{name} is not signed {way(by)}." if by and found else f"{name} is not signed.",
            why=fault,
            remedy="See who pushed it, and give the public key of who signs these images.",
        )


def way(by: Checker) -> str:
    """How a signature is to be made, for messages."""
    return "as `signing.verify` demands" if isinstance(by, CommandCheck) else "with this key"


def signatures_of(registry: Registry, repository: str, digest: str) -> Iterator[Signature]:
    """The signatures that name this digest, of whatever key: at cosign's `.sig` tag, and in Sigstore's bundles."""
    yield from _at_tag(registry, repository, digest)
    yield from _in_bundles(registry, repository, digest)


def _at_tag(registry: Registry, repository: str, digest: str) -> Iterator[Signature]:
    """As cosign 2 leaves them."""
    for layer, message in layers_at(registry, repository, fallback_tag(digest, ".sig")):
        signature = _decoded(members(layer.get("annotations")).get(_SIGNATURE))
        if signature and _names(message, digest):
            yield Signature(message=message, signature=signature)


def _in_bundles(registry: Registry, repository: str, digest: str) -> Iterator[Signature]:
    """As cosign 3 leaves them."""
    for one in _bundled(registry, repository, digest):
        stated = _document(_payload(one))
        if stated.get("predicateType") == _SIGNED and digest in subjects_of(stated):
            yield one


def _attested(registry: Registry, repository: str, digest: str) -> Iterator[Signature]:
    """What is signed at cosign 2's `.att` tag."""
    for _, content in layers_at(registry, repository, fallback_tag(digest, ".att")):
        yield from _of_envelope(_document(content))


_FORMS = (_at_tag, _in_bundles)


def _bundled(registry: Registry, repository: str, digest: str) -> Iterator[Signature]:
    """What is signed in Sigstore's bundles beside a manifest, whatever it says."""
    for referrer in referrers_of(registry, repository, digest):
        if referrer.artifact_type.startswith(_BUNDLES):
            for layer in listed(referrer.document.get("layers")):
                bundle = _document(registry.small_blob(repository, str(layer.get("digest"))) or b"")
                yield from _of_envelope(bundle.get("dsseEnvelope"))


def subjects_of(stated: Mapping[str, Any]) -> frozenset[str]:
    """The digests that an in-toto statement is about."""
    try:
        return frozenset(f"sha256:{one['digest']['sha256']}" for one in stated["subject"])
    except _NO_JSON:
        return frozenset()


def _message(name: str, digest: str) -> bytes:
    """What is signed: the format "simple signing" of containers/image."""
    critical = {
        "identity": {"docker-reference": name},
        "image": {"docker-manifest-digest": digest},
        "type": _KIND,
    }
    return _encoded({"critical": critical, "optional": None})


def _names(message: bytes, digest: str) -> bool:
    try:
        critical = json.loads(message)["critical"]
        return bool(critical["type"] == _KIND and critical["image"]["docker-manifest-digest"] == digest)
    except _NO_JSON:
        return False


def _pae(stated: bytes) -> bytes:
    """What DSSE signs (secure-systems-lab/dsse, protocol.md)."""
    return b"DSSEv1 %d %s %d %s" % (len(IN_TOTO), IN_TOTO.encode(), len(stated), stated)


def _payload(signature: Signature) -> bytes:
    """The statement in what DSSE signs."""
    return signature.message.split(b" ", 4)[-1]


def _predicate(stated: bytes) -> str:
    return str(_document(stated).get("predicateType"))


def _of_envelope(envelope: object) -> list[Signature]:
    if not isinstance(envelope, dict) or envelope.get("payloadType") != IN_TOTO:
        return []
    message = _pae(_decoded(envelope.get("payload")))
    signatures = [_decoded(one.get("sig")) for one in listed(envelope.get("signatures"))]
    return [Signature(message=message, signature=one) for one in signatures if one]


def _decoded(text: object) -> bytes:
    try:
        return base64.b64decode(str(text), validate=True)
    except ValueError:
        return b""


def _encoded(document: Mapping[str, object]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _document(content: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
