"""Key pairs as cosign 2.2 and later have them; sign with one, and check a signature.

A private key lies in a file encrypted: PKCS #8 in NaCl's secretbox, under a key that scrypt makes of the password
(secure-systems-lab/go-securesystemslib, encrypted/encrypted.go).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from serving_factory.errors import SigningKeyError

PASSWORD = "COSIGN_PASSWORD"  # noqa: S105 - the variable that cosign reads, too
PRIVATE, PUBLIC = "cosign.key", "cosign.pub"
_SCRYPT = {"N": 2**16, "r": 8, "p": 1}
_KNOWN_SCRYPT = tuple({**_SCRYPT, "N": 2**power} for power in (15, 16, 17))
_SCRYPT_BYTES = 2**28  # of memory: 128 * N * r, and some more
_LINE = 64
_BLOCK = re.compile(rb"-----BEGIN ENCRYPTED (?:SIGSTORE|COSIGN) PRIVATE KEY-----(.*?)-----END ENCRYPTED ", re.DOTALL)
# cosign 2.5 and 3.1 check by a key of any curve signatures of SHA-256 alone, but 3.1 signs with the curve's own hash.
_ECDSA = ec.ECDSA(hashes.SHA256())
_OF_CURVES: Mapping[int, ec.ECDSA] = {384: ec.ECDSA(hashes.SHA384()), 521: ec.ECDSA(hashes.SHA512())}
_Public = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


@dataclass(frozen=True, slots=True)
class PublicKey:
    """Checks signatures."""

    key: _Public

    @classmethod
    def read(cls, file: Path) -> PublicKey:
        """Read a PEM file; SigningKeyError where it holds none of a kind that cosign takes."""
        content = _content(file)
        try:
            found = serialization.load_pem_public_key(content)
        except (ValueError, UnsupportedAlgorithm):
            found = None
        if not isinstance(found, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
            other = " It is a private key." if b"PRIVATE KEY" in content else ""
            raise SigningKeyError(
                f"{file} holds no public key.{other}",
                remedy=f"Name a PEM file with an ECDSA or RSA key, such as {PUBLIC} of `./factory keys new`.",
            )
        return cls(found)

    @property
    def fingerprint(self) -> str:
        """Sha256 of the key (DER, SubjectPublicKeyInfo)."""
        return hashlib.sha256(self._encoded(serialization.Encoding.DER)).hexdigest()

    def pem(self) -> bytes:
        """What its file holds."""
        return self._encoded(serialization.Encoding.PEM)

    def _encoded(self, encoding: serialization.Encoding) -> bytes:
        return self.key.public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)

    def signed(self, message: bytes, signature: bytes) -> bool:
        """Whether the signature is this key's, of this message."""
        if isinstance(self.key, rsa.RSAPublicKey):
            return _passes(partial(self.key.verify, signature, message, padding.PKCS1v15(), hashes.SHA256()))
        own = _OF_CURVES.get(self.key.curve.key_size, _ECDSA)
        return any(_passes(partial(self.key.verify, signature, message, one)) for one in (_ECDSA, own))


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """Signs with an ECDSA key."""

    key: ec.EllipticCurvePrivateKey

    @classmethod
    def new(cls) -> PrivateKey:
        """Make a P-256 key."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def read(cls, file: Path, password: bytes) -> PrivateKey:
        """Decrypt a key file of cosign's, or a PEM file of OpenSSL's; SigningKeyError where that does not work."""
        content = _content(file)
        block = _BLOCK.search(content)
        try:
            if block:
                found = serialization.load_der_private_key(_decrypted(block[1], password), None)
            else:
                found = serialization.load_pem_private_key(content, password or None)
        except CryptoError as error:
            raise _wrong_password(file) from error
        except TypeError as error:  # a password where the file needs none, or the other way round
            if block:
                raise _no_key(file) from error
            if b"ENCRYPTED" in content:
                raise _wrong_password(file) from error
            found = serialization.load_pem_private_key(content, None)
        except (ValueError, KeyError, RecursionError, UnsupportedAlgorithm) as error:
            if "password" in str(error).lower():
                raise _wrong_password(file) from error
            raise _no_key(file) from error
        if not isinstance(found, ec.EllipticCurvePrivateKey):
            raise _no_key(file)
        return cls(found)

    @property
    def public(self) -> PublicKey:
        """What checks its signatures."""
        return PublicKey(self.key.public_key())

    def sign(self, message: bytes) -> bytes:
        """Sign a message (DER)."""
        return self.key.sign(message, _ECDSA)

    def encrypted(self, password: bytes) -> bytes:
        """What its file holds, under a password."""
        form = serialization.PrivateFormat.PKCS8
        plain = self.key.private_bytes(serialization.Encoding.DER, form, serialization.NoEncryption())
        salt = os.urandom(32)
        box = SecretBox(_stretched(password, salt, _SCRYPT)).encrypt(plain)
        document = {
            "kdf": {"name": "scrypt", "params": _SCRYPT, "salt": _base64(salt)},
            "cipher": {"name": "nacl/secretbox", "nonce": _base64(box.nonce)},
            "ciphertext": _base64(box.ciphertext),
        }
        body = base64.b64encode(json.dumps(document, separators=(",", ":")).encode()).decode()
        lines = [body[at : at + _LINE] for at in range(0, len(body), _LINE)]
        head, end = (f"-----{word} ENCRYPTED SIGSTORE PRIVATE KEY-----" for word in ("BEGIN", "END"))
        return "\n".join([head, *lines, end, ""]).encode()


def is_encrypted(file: Path) -> bool:
    """Whether a key file needs a password."""
    return b"ENCRYPTED" in _content(file)


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SigningKeyError(
            f"The key {file} cannot be read.",
            why=str(error.strerror),
            remedy="Correct its path or its permissions; `./factory keys new` makes a key pair.",
        ) from error


def _decrypted(body: bytes, password: bytes) -> bytes:
    document = json.loads(base64.b64decode(body))
    params = document["kdf"]["params"]
    if document["kdf"]["name"] != "scrypt" or params not in _KNOWN_SCRYPT:
        raise ValueError("another derivation of the key than cosign's")
    if document["cipher"]["name"] != "nacl/secretbox":
        raise ValueError("another cipher than cosign's")
    salt, nonce = (base64.b64decode(text) for text in (document["kdf"]["salt"], document["cipher"]["nonce"]))
    box = SecretBox(_stretched(password, salt, params))
    return box.decrypt(base64.b64decode(document["ciphertext"]), nonce)


def _stretched(password: bytes, salt: bytes, params: dict[str, int]) -> bytes:
    cost, block, parallel = params["N"], params["r"], params["p"]
    return hashlib.scrypt(
        password, salt=salt, n=cost, r=block, p=parallel, maxmem=_SCRYPT_BYTES, dklen=SecretBox.KEY_SIZE
    )


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _passes(check: Callable[[], None]) -> bool:
    try:
        check()
    except InvalidSignature:
        return False
    return True


def _wrong_password(file: Path) -> SigningKeyError:
    return SigningKeyError(
        f"The password of the key {file} is wrong.",
        remedy=f"Give the right one in {PASSWORD}, or leave that unset and type it.",
    )


def _no_key(file: Path) -> SigningKeyError:
    return SigningKeyError(
        f"{file} holds no private key that can sign.",
        remedy="Name a key file of cosign's, such as `./factory keys new` makes, or a PEM file with an ECDSA key.",
    )
