"""Keys and signatures: what cosign has, what is refused, and what two writers of one tag must not lose."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Timer

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from serving_factory.commands.keys import checker_of, keys, signer_of
from serving_factory.docker.http import Client, Patience
from serving_factory.docker.process import Cancel
from serving_factory.docker.referrers import Artifact, add_layer, attach, fallback_tag, referrers_of
from serving_factory.docker.registry import INDEX, Registry
from serving_factory.errors import (
    CancelledError,
    FactoryError,
    MatrixError,
    RegistryError,
    RegistryFaultError,
    SignatureError,
    SigningCommandError,
    SigningKeyError,
    UsageError,
)
from serving_factory.proofs.keys import PrivateKey, PublicKey
from serving_factory.proofs.signatures import (
    CommandCheck,
    CommandSigner,
    KeySigner,
    is_signed,
    require_signed,
    signatures_of,
    subjects_of,
)

from .byte_registry import ByteRegistry
from .matrices import document, load

IMAGE = "application/vnd.oci.image.manifest.v1+json"
DSSE = "application/vnd.dsse.envelope.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
REPOSITORY = "team/serving"


@pytest.fixture
def registry() -> Iterator[ByteRegistry]:
    with ByteRegistry.run() as made:
        yield made


@pytest.fixture
def digest(registry: ByteRegistry) -> str:
    return registry.put("x", IMAGE, b'{"schemaVersion":2}')


@pytest.fixture(scope="module")
def key() -> PrivateKey:
    return PrivateKey.new()


@pytest.fixture(scope="module")
def key_file(key: PrivateKey, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("key") / "cosign.key"
    file.write_bytes(key.encrypted(b"pw"))
    return file


# --- keys -------------------------------------------------------------------------------------------------------------


def test_a_key_file_is_read_with_its_password(key: PrivateKey, key_file: Path) -> None:
    assert PrivateKey.read(key_file, b"pw").public.fingerprint == key.public.fingerprint
    document = json.loads(base64.b64decode(b"".join(key_file.read_bytes().splitlines()[1:-1])))
    assert document["kdf"]["params"] == {"N": 65536, "r": 8, "p": 1}


def test_a_wrong_password_is_said(key_file: Path) -> None:
    with pytest.raises(SigningKeyError, match=r"password of the key .* is wrong"):
        PrivateKey.read(key_file, b"other")


def pem(key: PrivateKey, password: bytes = b"") -> bytes:
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)


@pytest.mark.parametrize(("held", "given"), [(b"", b""), (b"", b"unneeded"), (b"pw", b"pw")])
def test_a_key_of_openssl_does_as_well(key: PrivateKey, tmp_path: Path, held: bytes, given: bytes) -> None:
    (tmp_path / "key.pem").write_bytes(pem(key, held))
    assert PrivateKey.read(tmp_path / "key.pem", given).public.fingerprint == key.public.fingerprint


@pytest.mark.parametrize("given", [b"", b"other"])
def test_the_password_of_a_key_of_openssl_can_be_wrong(key: PrivateKey, tmp_path: Path, given: bytes) -> None:
    (tmp_path / "key.pem").write_bytes(pem(key, b"pw"))
    with pytest.raises(SigningKeyError, match="password"):
        PrivateKey.read(tmp_path / "key.pem", given)


def sigstore(**members: object) -> bytes:
    """A key file of cosign's with other content."""
    kdf = {"name": "scrypt", "params": {"N": 65536, "r": 8, "p": 1}, "salt": ""}
    document = {"kdf": kdf, "cipher": {"name": "nacl/secretbox", "nonce": ""}, "ciphertext": "", **members}
    body = base64.b64encode(json.dumps(document).encode()).decode()
    frame = "-----{} ENCRYPTED SIGSTORE PRIVATE KEY-----"
    return f"{frame.format('BEGIN')}\n{body}\n{frame.format('END')}\n".encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no key\n",
        b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n????\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n",
        sigstore(kdf={"name": "scrypt", "params": {"N": 2**30, "r": 8, "p": 1}, "salt": ""}),
        sigstore(kdf={"name": "argon2", "params": {}, "salt": ""}),
        sigstore(cipher={"name": "aes", "nonce": ""}),
        sigstore(kdf={}),
        sigstore(kdf=7),
        sigstore(cipher={"name": "nacl/secretbox", "nonce": 7}),
        b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n%b\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n"
        % base64.b64encode(b"[" * 100_000),
        rsa.generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    ],
)
def test_what_is_no_key_that_signs(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.key").write_bytes(content)
    with pytest.raises(SigningKeyError, match="holds no private key that can sign"):
        PrivateKey.read(tmp_path / "a.key", b"pw")


def test_a_missing_key_is_said(tmp_path: Path) -> None:
    with pytest.raises(SigningKeyError, match=r"a\.key cannot be read"):
        PrivateKey.read(tmp_path / "a.key", b"")


def test_a_public_key_is_read(key: PrivateKey, key_file: Path, tmp_path: Path) -> None:
    (tmp_path / "a.pub").write_bytes(key.public.pem())
    assert PublicKey.read(tmp_path / "a.pub").fingerprint == key.public.fingerprint
    with pytest.raises(SigningKeyError, match="It is a private key"):
        PublicKey.read(key_file)
    (tmp_path / "b.pub").write_bytes(b"none")
    with pytest.raises(SigningKeyError, match="holds no public key"):
        PublicKey.read(tmp_path / "b.pub")


def test_keys_new_writes_a_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COSIGN_PASSWORD", "secret words")
    keys("new", output=str(tmp_path / "a"))
    private, public = tmp_path / "a" / "cosign.key", tmp_path / "a" / "cosign.pub"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    read = PrivateKey.read(private, b"secret words")
    printed = capsys.readouterr().out
    assert read.public.fingerprint == PublicKey.read(public).fingerprint
    assert read.public.fingerprint in printed
    assert "secret" not in printed
    with pytest.raises(FactoryError, match="There is a key already"):
        keys("new", output=str(tmp_path / "a"))


def test_a_password_may_have_any_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environb, b"COSIGN_PASSWORD", b"\xe4\xff")
    keys("new", output=str(tmp_path))
    PrivateKey.read(tmp_path / "cosign.key", b"\xe4\xff")


def test_a_password_that_is_not_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(_: str) -> str:
        raise EOFError

    monkeypatch.delenv("COSIGN_PASSWORD", raising=False)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", end)
    with pytest.raises(SigningKeyError, match="No password was typed"):
        keys("new", output=str(tmp_path))


def test_keys_needs_a_verb(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`keys` needs a command"):
        keys("", output=str(tmp_path))


def test_a_password_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key_file: Path) -> None:
    monkeypatch.delenv("COSIGN_PASSWORD", raising=False)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    typed = iter(["pw", "pw", "pw", "other", "pw"])
    monkeypatch.setattr("getpass.getpass", lambda _: next(typed))
    keys("new", output=str(tmp_path / "a"))
    PrivateKey.read(tmp_path / "a" / "cosign.key", b"pw")
    with pytest.raises(SigningKeyError, match="two passwords differ"):
        keys("new", output=str(tmp_path / "b"))
    assert not (tmp_path / "b").exists()
    assert signer_of(load(tmp_path, document(signing={"key": str(key_file)}))) is not None


def test_without_a_terminal_there_must_be_a_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key_file: Path
) -> None:
    monkeypatch.delenv("COSIGN_PASSWORD", raising=False)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(SigningKeyError, match="needs a password, and there is none"):
        keys("new", output=str(tmp_path))
    with pytest.raises(SigningKeyError, match="needs a password, and there is none"):
        signer_of(load(tmp_path, document(signing={"key": str(key_file)})))


def test_a_dry_run_needs_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: PrivateKey, key_file: Path
) -> None:
    monkeypatch.delenv("COSIGN_PASSWORD", raising=False)
    matrix = load(tmp_path, document(signing={"key": str(key_file)}))
    unknown = signer_of(matrix, dry_run=True)
    assert unknown
    key_file.with_suffix(".pub").write_bytes(key.public.pem())
    known = signer_of(matrix, dry_run=True)
    monkeypatch.setenv("COSIGN_PASSWORD", "pw")
    real = signer_of(matrix)
    assert known
    assert real
    assert known.identity == real.identity != unknown.identity
    key_file.with_suffix(".pub").unlink()


def test_without_the_libraries_the_remedy_is_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "serving_factory.proofs.keys", None)
    with pytest.raises(SigningKeyError) as caught:
        signer_of(load(tmp_path, document(signing={"key": "cosign.key"})))
    assert "serving-factory[signing]" in caught.value.remedy


def test_the_core_does_without_the_libraries() -> None:
    code = "import tasks, sys, serving_factory.commands.list, serving_factory.commands.build\n"
    code += "print([name for name in ('cryptography', 'nacl', 'cyclonedx') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_looking_for_proofs_does_without_what_writes_them() -> None:
    """A push that is up to date looks, and that library takes longer to load than the whole command."""
    code = "import sys, serving_factory.proofs.signatures; print('cyclonedx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# --- the matrix file --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signing", "rule"),
    [
        ({"key": "a", "command": ["sign", "{image}"]}, "there is a key, too"),
        ({"command": ["sign"]}, "no word of it holds {image}"),
        ({"command": ["sign", "{image}"], "verify": ["see"]}, "no word of it holds {image}"),
        (
            {"command": ["sign", "{image}"], "verify": ["see", "{image}"], "public_key": "b"},
            "there is a public key, too",
        ),
        ({"key": "a", "verify": ["see", "{image}"]}, "it is for the signatures of a command"),
        ({"key": "a", "public_key": "b"}, "it is for the signatures of a command"),
        ({"command": ["sign", "{image}"], "attestations": True}, "they need a key"),
    ],
)
def test_a_file_with_signing_that_fits_not_together(tmp_path: Path, signing: dict[str, object], rule: str) -> None:
    with pytest.raises(MatrixError, match=re.escape(rule)):
        load(tmp_path, document(signing=signing))


def test_a_key_is_looked_for_by_what_signs_alone(tmp_path: Path) -> None:
    matrix = load(tmp_path, document(signing={"key": "nowhere.key"}))
    with pytest.raises(SigningKeyError, match=r"nowhere\.key cannot be read"):
        signer_of(matrix)
    assert signer_of(load(tmp_path)) is None


# --- signatures -------------------------------------------------------------------------------------------------------


def test_a_digest_is_signed_once(registry: ByteRegistry, digest: str, key: PrivateKey) -> None:
    signer = KeySigner(key)
    assert not is_signed(registry.client, REPOSITORY, digest, key.public)
    assert signer.sign(registry.client, REPOSITORY, digest)
    writes = len(registry.writes)
    assert not signer.sign(registry.client, REPOSITORY, digest)
    assert len(registry.writes) == writes
    for_cosign_2, for_cosign_3 = (one.message for one in signatures_of(registry.client, REPOSITORY, digest))
    assert json.loads(for_cosign_2)["critical"]["image"]["docker-manifest-digest"] == digest
    assert subjects_of(json.loads(for_cosign_3.split(b" ", 4)[-1])) == {digest}
    require_signed(registry.client, REPOSITORY, digest, key.public)


@pytest.mark.parametrize("suffix", [".sig", ""])
def test_a_form_of_the_signature_that_was_removed_is_made_again(
    registry: ByteRegistry, digest: str, key: PrivateKey, suffix: str
) -> None:
    signer = KeySigner(key)
    signer.sign(registry.client, REPOSITORY, digest)
    del registry.tags[fallback_tag(digest, suffix)]
    require_signed(registry.client, REPOSITORY, digest, key.public)
    assert not signer.is_signed(registry.client, REPOSITORY, digest)
    assert signer.sign(registry.client, REPOSITORY, digest)
    assert len(list(signatures_of(registry.client, REPOSITORY, digest))) == 2


@pytest.mark.parametrize(
    ("curve", "own"),
    [(ec.SECP256R1(), hashes.SHA256()), (ec.SECP384R1(), hashes.SHA384()), (ec.SECP521R1(), hashes.SHA512())],
)
def test_keys_of_other_curves_sign_as_cosign_checks(curve: ec.EllipticCurve, own: hashes.HashAlgorithm) -> None:
    """cosign 2.5 and 3.1 were seen to check with SHA-256, and 3.1 to sign with the curve's own."""
    key = ec.generate_private_key(curve)
    key.public_key().verify(PrivateKey(key).sign(b"said"), b"said", ec.ECDSA(hashes.SHA256()))
    public = PublicKey(key.public_key())
    for algorithm in (hashes.SHA256(), own):
        assert public.signed(b"said", key.sign(b"said", ec.ECDSA(algorithm)))
        assert not public.signed(b"said more", key.sign(b"said", ec.ECDSA(algorithm)))


def test_two_keys_sign_one_digest(registry: ByteRegistry, digest: str, key: PrivateKey) -> None:
    other = PrivateKey.new()
    KeySigner(key).sign(registry.client, REPOSITORY, digest)
    with pytest.raises(SignatureError, match="is not signed with this key"):
        require_signed(registry.client, REPOSITORY, digest, other.public)
    KeySigner(other).sign(registry.client, REPOSITORY, digest)
    for one in (key, other):
        require_signed(registry.client, REPOSITORY, digest, one.public)


def test_what_is_not_signed_is_said(registry: ByteRegistry, digest: str, key: PrivateKey) -> None:
    with pytest.raises(SignatureError, match="is not signed"):
        require_signed(registry.client, REPOSITORY, digest, key.public)


def test_a_signature_of_another_digest_does_not_count(registry: ByteRegistry, digest: str, key: PrivateKey) -> None:
    other = registry.put("y", IMAGE, b'{"schemaVersion":2 }')
    KeySigner(key).sign(registry.client, REPOSITORY, other)
    registry.tags[fallback_tag(digest, ".sig")] = registry.tags[fallback_tag(other, ".sig")]
    assert not is_signed(registry.client, REPOSITORY, digest, key.public)


def test_a_changed_message_does_not_count(registry: ByteRegistry, digest: str, key: PrivateKey) -> None:
    KeySigner(key).sign(registry.client, REPOSITORY, digest)
    stated = next(
        json.loads(one)["dsseEnvelope"]["payload"] for one in registry.blobs.values() if b"dsseEnvelope" in one
    )
    other = base64.b64encode(base64.b64decode(stated).replace(b"team/serving", b"evil/serving"))
    for name, content in registry.blobs.items():
        changed = content.replace(b"team/serving", b"evil/serving").replace(stated.encode(), other)
        registry.blobs[name] = changed
    assert len(list(signatures_of(registry.client, REPOSITORY, digest))) == 1, (
        "the bundle's: its digest is not compared"
    )
    assert not is_signed(registry.client, REPOSITORY, digest, key.public)


def statement(digest: str) -> bytes:
    subject = [{"name": REPOSITORY, "digest": {"sha256": digest.partition(":")[2]}}]
    return json.dumps({"subject": subject, "predicateType": "https://slsa.dev/provenance/v1"}).encode()


def test_a_statement_is_attested_once(registry: ByteRegistry, digest: str, key: PrivateKey) -> None:
    kind, signer = "https://slsa.dev/provenance/v1", KeySigner(key)
    assert signer.attested(registry.client, REPOSITORY, digest) == frozenset()
    signer.attest(registry.client, REPOSITORY, digest, statement(digest))
    writes = len(registry.writes)
    signer.attest(registry.client, REPOSITORY, digest, statement(digest))
    assert len(registry.writes) == writes
    assert signer.attested(registry.client, REPOSITORY, digest) == {kind}
    assert KeySigner(PrivateKey.new()).attested(registry.client, REPOSITORY, digest) == frozenset()
    assert not is_signed(registry.client, REPOSITORY, digest, key.public), "a statement about it is no signature of it"
    _, content = registry.manifests[registry.tags[fallback_tag(digest, ".att")]]
    (layer,) = json.loads(content)["layers"]
    assert layer["mediaType"] == DSSE
    assert layer["annotations"]["predicateType"] == kind
    assert json.loads(base64.b64decode(json.loads(registry.blobs[layer["digest"]])["payload"])) == json.loads(
        statement(digest)
    )
    assert subjects_of(json.loads(statement(digest))) == {digest}
    del registry.tags[fallback_tag(digest)]
    assert signer.attested(registry.client, REPOSITORY, digest) == frozenset(), "cosign 3 would not find it"


def put_bundle(registry: ByteRegistry, digest: str, key: PrivateKey, predicate: str) -> None:
    """What cosign 3 leaves."""
    said = json.dumps({**json.loads(statement(digest)), "predicateType": predicate}).encode()
    KeySigner(key).attest(registry.client, REPOSITORY, digest, said)
    del registry.tags[fallback_tag(digest)]
    _, content = registry.manifests[registry.tags.pop(fallback_tag(digest, ".att"))]
    envelope = json.loads(registry.blobs[json.loads(content)["layers"][0]["digest"]])
    bundle = Artifact(media_type=BUNDLE, content=json.dumps({"mediaType": BUNDLE, "dsseEnvelope": envelope}).encode())
    attach(registry.client, REPOSITORY, digest, bundle)


def test_a_bundle_of_sigstores_counts(registry: ByteRegistry, digest: str, key: PrivateKey) -> None:
    put_bundle(registry, digest, key, "https://sigstore.dev/cosign/sign/v1")
    require_signed(registry.client, REPOSITORY, digest, key.public)


def test_a_bundle_that_says_something_else_is_no_signature(
    registry: ByteRegistry, digest: str, key: PrivateKey
) -> None:
    """Such as an attestation of what a scan found in the image."""
    put_bundle(registry, digest, key, "https://cosign.sigstore.dev/attestation/vuln/v1")
    with pytest.raises(SignatureError, match="is not signed"):
        require_signed(registry.client, REPOSITORY, digest, key.public)


ENVELOPE = {"payloadType": "application/vnd.in-toto+json", "payload": "e30=", "signatures": [{"sig": "e30="}]}


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b" " * (5 * 2**20),
        b"[1]",
        b'{"dsseEnvelope": [1]}',
        json.dumps({"dsseEnvelope": {**ENVELOPE, "payload": "\u00e9"}}).encode(),
        json.dumps({"dsseEnvelope": {**ENVELOPE, "signatures": [{"sig": "\u00e9"}, 3]}}).encode(),
    ],
)
def test_what_others_attach_hides_no_signature(
    registry: ByteRegistry, digest: str, key: PrivateKey, content: bytes
) -> None:
    """Damaged, or larger than any signature, such as the report of a scan."""
    attach(registry.client, REPOSITORY, digest, Artifact(media_type=BUNDLE, content=content))
    odd = {"dev.cosignproject.cosign/signature": "\u00e9"}
    add_layer(
        registry.client,
        REPOSITORY,
        fallback_tag(digest, ".sig"),
        Artifact(media_type="application/x-any", content=content, annotations=odd),
    )
    assert not is_signed(registry.client, REPOSITORY, digest, key.public)
    assert KeySigner(key).sign(registry.client, REPOSITORY, digest)
    require_signed(registry.client, REPOSITORY, digest, key.public)


def command(registry: ByteRegistry, code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", f"import sys\n{code}", "{image}", registry.host)


def test_a_command_signs(registry: ByteRegistry, digest: str, key: PrivateKey, key_file: Path) -> None:
    code = (
        "from pathlib import Path\nfrom serving_factory.docker.registry import Registry\n"
        "from serving_factory.proofs.keys import PrivateKey\nfrom serving_factory.proofs.signatures import KeySigner\n"
        f"key = PrivateKey.read(Path({str(key_file)!r}), b'pw')\nname, _, digest = sys.argv[1].partition('@')\n"
        "KeySigner(key).sign(Registry(sys.argv[2]), name.partition('/')[2], digest)"
    )
    signer = CommandSigner(command(registry, code), key.public)
    assert signer.sign(registry.client, REPOSITORY, digest)
    assert not signer.sign(registry.client, REPOSITORY, digest)
    assert not CommandSigner(command(registry, "sys.exit(1)"), None).sign(registry.client, REPOSITORY, digest)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("print('no such key'); sys.exit(3)", "no such key\nIt ended with exit code 3"),
        ("pass", "is not signed."),
    ],
)
def test_a_command_that_did_not_sign(registry: ByteRegistry, digest: str, code: str, why: str) -> None:
    with pytest.raises(SigningCommandError) as caught:
        CommandSigner(command(registry, code), None).sign(registry.client, REPOSITORY, digest)
    assert f"{registry.host}/{REPOSITORY}@{digest}" in caught.value.what
    assert why in caught.value.why


def test_a_command_checks_what_was_signed(registry: ByteRegistry, digest: str, key: PrivateKey) -> None:
    """As cosign does by the identity in a certificate."""
    right, wrong = (CommandCheck(command(registry, code)) for code in ("", "print('no such identity'); sys.exit(12)"))
    assert not is_signed(registry.client, REPOSITORY, digest, right), "it is not asked about nothing"
    KeySigner(key).sign(registry.client, REPOSITORY, digest)
    assert CommandSigner(command(registry, "sys.exit(1)"), right).sign(registry.client, REPOSITORY, digest) is False
    require_signed(registry.client, REPOSITORY, digest, right)
    with pytest.raises(SigningCommandError) as caught:
        CommandSigner(command(registry, ""), wrong).sign(registry.client, REPOSITORY, digest)
    assert "is not signed as `signing.verify` demands." in caught.value.why
    assert "no such identity\nIt ended with exit code 12" in caught.value.why
    with pytest.raises(SigningCommandError, match="command that checks signatures did not check"):
        is_signed(registry.client, REPOSITORY, digest, CommandCheck(("no-such-program-here", "{image}")))


def test_a_command_gets_the_name_with_the_digest(registry: ByteRegistry, digest: str, key: PrivateKey) -> None:
    KeySigner(key).sign(registry.client, REPOSITORY, digest)
    says = CommandCheck(command(registry, "print(sys.argv[1]); sys.exit(1)"))
    assert says.fault(registry.client, REPOSITORY, digest).startswith(f"{registry.host}/{REPOSITORY}@{digest}\n")


def test_a_command_that_checks_ends_with_the_run(registry: ByteRegistry, digest: str, key: PrivateKey) -> None:
    KeySigner(key).sign(registry.client, REPOSITORY, digest)
    cancel = Cancel()
    asked = Registry(registry.host, client=Client(patience=Patience(cancel=cancel)))
    Timer(1.0, cancel.ask).start()
    began = time.monotonic()
    with pytest.raises(CancelledError):
        is_signed(asked, REPOSITORY, digest, CommandCheck(command(registry, "import time; time.sleep(100)")))
    assert time.monotonic() - began < 30


def test_what_checks_a_variant_is_what_the_matrix_file_says(tmp_path: Path, key: PrivateKey) -> None:
    def found(**signing: object) -> object:
        return checker_of(load(tmp_path, document(signing=signing)))

    sign = ["cosign", "sign", "{image}"]
    public = tmp_path / "cosign.pub"
    assert (found(), found(command=sign), found(key=str(tmp_path / "cosign.key"))) == (None, None, None)
    with pytest.raises(SigningKeyError, match="cannot be read"):
        found(command=sign, public_key=str(public))
    public.write_bytes(key.public.pem())
    for signing in ({"key": str(tmp_path / "cosign.key")}, {"command": sign, "public_key": str(public)}):
        by = found(**signing)
        assert isinstance(by, PublicKey)
        assert by.fingerprint == key.public.fingerprint
    assert found(command=sign, verify=["cosign", "verify", "{image}"]) == CommandCheck(("cosign", "verify", "{image}"))


def test_a_command_that_is_missing(registry: ByteRegistry, digest: str) -> None:
    with pytest.raises(SigningCommandError) as caught:
        CommandSigner(("no-such-program-here", "{image}"), None).sign(registry.client, REPOSITORY, digest)
    assert "no-such-program-here" in caught.value.why


# --- what a registry keeps beside an image ----------------------------------------------------------------------------

PAPER = Artifact(media_type="application/x-paper", content=b"one")
LEAF = Artifact(media_type="application/x-leaf", content=b"two", annotations={"a": "b"})


@pytest.mark.parametrize("listed", [False, True])
def test_artifacts_refer_to_a_manifest(registry: ByteRegistry, digest: str, listed: bool) -> None:  # noqa: FBT001
    registry.keeps_referrers = listed
    attached = [attach(registry.client, REPOSITORY, digest, one) for one in (PAPER, LEAF, PAPER)]
    assert attached[0] == attached[2]
    assert (fallback_tag(digest) in registry.tags) is not listed
    found = list(referrers_of(registry.client, REPOSITORY, digest))
    assert [one.artifact_type for one in found] == ["application/x-paper", "application/x-leaf"]
    assert [one.digest for one in found] == attached[:2]


def test_a_registry_that_only_says_that_it_keeps_the_list(registry: ByteRegistry, digest: str) -> None:
    registry.keeps_referrers, registry.refuses = True, "GET .*/referrers/"
    attached = attach(registry.client, REPOSITORY, digest, PAPER)
    assert [one.digest for one in referrers_of(registry.client, REPOSITORY, digest)] == [attached]


def test_what_was_written_is_waited_for(registry: ByteRegistry, digest: str) -> None:
    """As long as the registry still shows what was before."""
    tag, stale = fallback_tag(digest), [3]

    def lag(reference: str) -> None:
        if reference == tag and stale:
            stale.pop()
            registry.tags.pop(tag)

    registry.after_put = lag
    attach(registry.client, REPOSITORY, digest, PAPER)
    assert len(list(referrers_of(registry.client, REPOSITORY, digest))) == 1


def test_a_list_of_cosign_3_is_read_although_it_says_another_type(
    registry: ByteRegistry, digest: str, key: PrivateKey
) -> None:
    put_bundle(registry, digest, key, "https://sigstore.dev/cosign/sign/v1")
    kind, content = registry.manifests[registry.tags[fallback_tag(digest)]]
    said = {"artifactType": "application/vnd.oci.empty.v1+json"}
    index = json.loads(content)
    index["manifests"] = [{**one, **said} for one in index["manifests"]]
    registry.put(fallback_tag(digest), kind, json.dumps(index).encode())
    require_signed(registry.client, REPOSITORY, digest, key.public)


def test_two_writers_lose_nothing(registry: ByteRegistry, digest: str) -> None:
    """Another client writes the list between our write and our look at it."""
    tag = fallback_tag(digest)
    attach(registry.client, REPOSITORY, digest, PAPER)
    theirs, lost = registry.tags[tag], [True]

    def overwrite(reference: str) -> None:
        if reference == tag and lost:
            lost.clear()
            registry.tags[tag] = theirs

    registry.after_put = overwrite
    attach(registry.client, REPOSITORY, digest, LEAF)
    assert not lost
    assert len(list(referrers_of(registry.client, REPOSITORY, digest))) == 2


def test_a_list_that_never_keeps_an_entry(registry: ByteRegistry, digest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving_factory.docker.referrers._PAUSE", 0)

    def forget(reference: str) -> None:
        registry.tags.pop(reference, None)

    registry.after_put = forget
    with pytest.raises(RegistryFaultError, match="does not keep what is written"):
        attach(registry.client, REPOSITORY, digest, PAPER)


def test_a_registry_that_takes_no_artifacts(registry: ByteRegistry, digest: str) -> None:
    registry.refuses = "PUT .*/manifests/"
    with pytest.raises(RegistryError, match="does not take a manifest with a subject") as caught:
        attach(registry.client, REPOSITORY, digest, PAPER)
    assert "not taken" in caught.value.why
    assert "`signing`" in caught.value.remedy


def test_the_registry_reads_the_fallback_tag_as_the_digest(registry: ByteRegistry) -> None:
    """As GitLab does: what it gives is the image or index itself, whose entries are no referrers."""
    child = registry.put("child", IMAGE, b"{}")
    index = registry.put("index", INDEX, json.dumps({"manifests": [{"digest": child}]}).encode())
    registry.tags[fallback_tag(index)] = index
    assert list(referrers_of(registry.client, REPOSITORY, index)) == []
    attach(registry.client, REPOSITORY, index, PAPER)
    entries = json.loads(registry.manifests[registry.tags[fallback_tag(index)]][1])["manifests"]
    assert [one["artifactType"] for one in entries] == ["application/x-paper"]


def test_nothing_is_attached_to_nothing(registry: ByteRegistry) -> None:
    with pytest.raises(RegistryFaultError, match="to attach anything to"):
        attach(registry.client, REPOSITORY, "sha256:" + "0" * 64, PAPER)
