"""What `verify` finds in a registry: a whole image passes, a tampered one fails its own check with its own message."""

from __future__ import annotations

import errno
import gzip
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Event
from time import sleep
from types import SimpleNamespace
from typing import Any, cast

import pytest

from serving_factory.commands.shared import Asked
from serving_factory.commands.verify import verify as command
from serving_factory.docker.referrers import Artifact, attach, fallback_tag
from serving_factory.docker.registry import INDEX, ImageName, Registry
from serving_factory.errors import (
    CancelledError,
    DiskFullError,
    FactoryError,
    ImageDiffersError,
    NotBuiltError,
    ProofError,
    RegistryError,
    SignatureError,
    UnknownNameError,
    UsageError,
)
from serving_factory.inspection.facts import DeviceCode
from serving_factory.pipeline.records import write_record
from serving_factory.pipeline.stages import STAGES
from serving_factory.pipeline.stages.push import Place
from serving_factory.proofs import deep
from serving_factory.proofs.described import IN_TOTO, SBOM, Higher, Model
from serving_factory.proofs.image import read_layers
from serving_factory.proofs.keys import PrivateKey
from serving_factory.proofs.signatures import CommandCheck
from serving_factory.proofs.verify import BINARY, CHECKS, Check, Subject, Verdict, verify

from .byte_registry import ByteRegistry, digest_of
from .elf_files import Elf
from .matrices import write
from .published_image import BASE, COMPILE_KEY, KEY, MANIFEST, REPOSITORY, PublishedImage, archive
from .stage_records import record, write_records

OTHER = "sha256:" + "9" * 64


@pytest.fixture
def registry() -> Iterator[ByteRegistry]:
    with ByteRegistry.run() as made:
        yield made


def checks(
    registry: ByteRegistry,
    *,
    digest: str = "",
    tag: str = "x",
    read: bool = False,
    **other: Any,  # noqa: ANN401 - members of a Subject
) -> dict[str, Check]:
    asked: dict[str, Any] = {"key": KEY.public, "lock": {"debian:bookworm": BASE}, "lock_file": "matrix.lock"}
    name = ImageName(registry.host, REPOSITORY)
    subject = Subject(name=name, tag=tag, digest=digest, deep=read, **{**asked, **other})
    return {one.name: one for one in verify(registry.client, subject)}


def test_a_whole_image_passes(registry: ByteRegistry) -> None:
    digest = PublishedImage().publish(registry)
    registry.asked.clear()
    found = checks(registry, digest=digest)
    assert list(found) == [one.name for one in CHECKS]
    skipped = {name for name, one in found.items() if one.verdict is Verdict.SKIPPED}
    assert skipped == {"level", "device_code"}
    assert all(one.verdict is Verdict.OK for name, one in found.items() if name not in skipped)
    assert registry.writes == []


def test_an_image_with_a_model_passes(registry: ByteRegistry) -> None:
    model = Model(name="ranker", version=7, sha256="4" * 64, finished="2026-02-01T00:00:00+00:00")
    labels = {"org.serving-factory.model.sha256": model.sha256}
    PublishedImage(labels=labels, about={"model": model}).publish(registry)
    assert {one.verdict for one in checks(registry).values()} == {Verdict.OK, Verdict.SKIPPED}


def test_a_command_checks_signatures_in_place_of_a_key(registry: ByteRegistry) -> None:
    """Also those of SBOM and provenance: by name, the command gets each of the three."""
    digest = PublishedImage().publish(registry)
    found = checks(registry, key=CommandCheck(("true", "{image}")))
    assert {one.verdict for one in found.values()} == {Verdict.OK, Verdict.SKIPPED}
    assert found["signature"].found == "as `signing.verify` demands"
    only = f"case $0 in *{digest}) ;; *) echo no; exit 1 ;; esac"
    found = checks(registry, key=CommandCheck(("sh", "-c", only, "{image}")))
    assert [name for name, one in found.items() if one.verdict is Verdict.FAILED] == ["sbom", "provenance"]
    found = checks(registry, key=CommandCheck(("false", "{image}")))
    assert found["signature"].found.endswith("is not signed as `signing.verify` demands. It ended with exit code 1.")


V3_SERVER = "usr/lib/serving-factory/x86-64-v3/tensorflow_model_server"
V3_SHA256 = digest_of(b"v3").partition(":")[2]
V3 = Higher(level="x86-64-v3", copts=("-mavx2",), compile_key="e" * 64, binary_sha256=V3_SHA256)
SAYS_V3 = {"higher": [{"level": V3.level, "sha256": V3_SHA256}]}
WITH_V3 = PublishedImage(more={V3_SERVER: b"v3"}, says=SAYS_V3, about={"higher": (V3,)})


def test_an_image_with_several_levels_passes(registry: ByteRegistry) -> None:
    WITH_V3.publish(registry)
    found = checks(registry)
    assert {one.verdict for one in found.values()} == {Verdict.OK, Verdict.SKIPPED}
    assert found["binary"].found.endswith("; those of x86-64-v3 too")


# --- one tampered image for each check --------------------------------------------------------------------------------

Tamper = Callable[[ByteRegistry], None]


def published(**parts: Any) -> Tamper:  # noqa: ANN401 - the parts of an image
    def tamper(registry: ByteRegistry) -> None:
        PublishedImage(**parts).publish(registry)

    return tamper


def changed(where: Callable[[ByteRegistry, str], str], content: bytes | None) -> Tamper:
    """A whole image, of which the registry then holds something else under one digest, or nothing."""

    def tamper(registry: ByteRegistry) -> None:
        name = where(registry, PublishedImage().publish(registry))
        if content is None:
            del registry.blobs[name]
        else:
            registry.blobs[name] = content

    return tamper


def manifest_of(registry: ByteRegistry, digest: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(registry.manifests[digest][1])
    return found


def config(registry: ByteRegistry, digest: str) -> str:
    return str(manifest_of(registry, digest)["config"]["digest"])


def last_layer(registry: ByteRegistry, digest: str) -> str:
    return str(manifest_of(registry, digest)["layers"][-1]["digest"])


def proof(kind: str) -> Callable[[ByteRegistry, str], str]:
    def where(registry: ByteRegistry, digest: str) -> str:
        for entry in json.loads(registry.manifests[registry.tags[fallback_tag(digest)]][1])["manifests"]:
            if entry["artifactType"] == kind:
                return str(manifest_of(registry, entry["digest"])["layers"][0]["digest"])
        raise AssertionError(kind)

    return where


def other_manifest(registry: ByteRegistry) -> None:
    digest = PublishedImage().publish(registry)
    kind, content = registry.manifests[digest]
    registry.manifests[digest] = (kind, content.replace(b'"schemaVersion": 2', b'"schemaVersion": 3'))


def list_without(kind: str) -> Tamper:
    """The registry's list of what refers to the image lacks an entry."""

    def tamper(registry: ByteRegistry) -> None:
        tag = fallback_tag(PublishedImage().publish(registry))
        index = json.loads(registry.manifests[registry.tags[tag]][1])
        index["manifests"] = [one for one in index["manifests"] if one["artifactType"] != kind]
        registry.put(tag, INDEX, json.dumps(index).encode())

    return tamper


def unsigned(kind: str) -> Tamper:
    def tamper(registry: ByteRegistry) -> None:
        tag = fallback_tag(PublishedImage().publish(registry))
        for one in json.loads(registry.manifests[registry.tags[tag]][1])["manifests"]:
            if one["artifactType"] == kind:
                del registry.tags[fallback_tag(one["digest"], ".sig")], registry.tags[fallback_tag(one["digest"])]

    return tamper


def without_signature(registry: ByteRegistry) -> None:
    digest = PublishedImage().publish(registry)
    del registry.tags[fallback_tag(digest, ".sig")], registry.tags[fallback_tag(digest)]


def upper(name: str, kind: bytes) -> Tamper:
    """A whole image, and a layer above with one more member."""

    def tamper(registry: ByteRegistry) -> None:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/evil"
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as made:
            made.addfile(member)
        PublishedImage(above=[stream.getvalue()]).publish(registry)

    return tamper


def nonsense() -> bytes:
    """A layer with a header that Python's tarfile raises a ValueError of."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as made:
        member = tarfile.TarInfo("a")
        member.pax_headers = {"GNU.sparse.map": "x,y"}
        made.addfile(member)
    return gzip.compress(stream.getvalue())


NONSENSE = nonsense()
OTHER_BINARY = "f" * 64
TAMPERED: dict[str, tuple[str, str, Tamper]] = {
    "manifest": ("manifest", "the manifest has another digest than its name", other_manifest),
    "no configuration": ("config", "the registry has no configuration of the image", changed(config, None)),
    "configuration": ("config", "the configuration has another digest", changed(config, b"{}")),
    "no layer": ("layers", "the registry has no such blob", changed(last_layer, None)),
    "layer": ("layers", "a layer has another digest than the manifest says", changed(last_layer, gzip.compress(b""))),
    "damaged layer": ("contents", "it cannot be unpacked", published(layers=[gzip.compress(b"x")[:-4], b"\x1f\x8bx"])),
    "content": (
        "contents",
        "what the layers hold is not what the configuration lists",
        published(diff_ids=[OTHER, OTHER]),
    ),
    "root": ("user", "the image runs as root: its user is '0:0'", published(settings={"User": "0:0"})),
    "no user": ("user", "the image runs as root: its user is ''", published(settings={"User": ""})),
    "stop signal": ("stop_signal", "expected SIGTERM, found SIGKILL", published(settings={"StopSignal": "SIGKILL"})),
    "binary": (
        "binary",
        "the binary is not that of the label",
        published(labels={"org.serving-factory.binary.sha256": OTHER_BINARY}),
    ),
    "image.json": (
        "binary",
        "the binary is not that of image.json",
        published(says={"binary": {"sha256": OTHER_BINARY, "compile_key": COMPILE_KEY}}),
    ),
    "binary of a higher level": (
        "binary",
        "the server of level x86-64-v3 is not that of image.json",
        published(more={V3_SERVER: b"another"}, says={"higher": [{"level": "x86-64-v3", "sha256": OTHER_BINARY}]}),
    ),
    "binary of a level that is not named": (
        "binary",
        "image.json does not name the servers of x86-64-v3 that the image has",
        published(more={V3_SERVER: b"another"}),
    ),
    "link to one of a level that is not named": (
        "binary",
        "image.json does not name the servers of x86-64-v3",
        upper(V3_SERVER, tarfile.SYMTYPE),
    ),
    "no binary of a higher level": (
        "binary",
        f"the image has no file /{V3_SERVER}",
        published(says={"higher": [{"level": "x86-64-v3", "sha256": OTHER_BINARY}]}),
    ),
    "no binary": (
        "binary",
        "the image has no file /usr/lib/serving-factory/tensorflow_model_server",
        published(layers=[gzip.compress(archive({"a": b""}))] * 2),
    ),
    "link in its place": ("binary", "an upper layer removes /usr/lib", upper(BINARY, tarfile.SYMTYPE)),
    "link to it": ("binary", "an upper layer removes /usr/lib", upper(f"./usr//{BINARY[4:]}", tarfile.LNKTYPE)),
    "link in its folder's place": (
        "binary",
        "an upper layer removes",
        upper("usr/lib/serving-factory", tarfile.SYMTYPE),
    ),
    "folder in its place": ("binary", "an upper layer removes", upper(BINARY, tarfile.DIRTYPE)),
    "removed": ("binary", "an upper layer removes", upper("usr/lib/.wh.serving-factory", tarfile.REGTYPE)),
    "removed with all": ("binary", "an upper layer removes", upper("usr/lib/.wh..wh..opq", tarfile.REGTYPE)),
    "another path to it": (
        "binary",
        "the binary is not that of the label",
        upper("usr//lib/./serving-factory/a/../tensorflow_model_server", tarfile.REGTYPE),
    ),
    "headers without sense": ("contents", "it cannot be unpacked", published(layers=[NONSENSE])),
    "no labels": ("identity", "the image has no label", published(settings={"Labels": {}}, says={"variant": None})),
    "root by another number": ("user", "the image runs as root", published(settings={"User": "00"})),
    "no facts": ("identity", "image.json cannot be read", published(says={"binary": 7})),
    "variant": (
        "identity",
        "the label org.serving-factory.variant is not what image.json says",
        published(labels={"org.serving-factory.variant": "2.19.1-cpu-v3"}),
    ),
    "compile key": (
        "identity",
        "the compile key of the label is not that of image.json",
        published(labels={"org.serving-factory.compile.key": "0" * 64}),
    ),
    "base": (
        "base",
        "debian:bookworm is another one than matrix.lock has",
        published(labels={"org.opencontainers.image.base.digest": OTHER}),
    ),
    "base that is not pinned": (
        "base",
        "found nothing",
        published(labels={"org.opencontainers.image.base.digest": ""}),
    ),
    "signature": ("signature", "is not signed.", without_signature),
    "key": ("signature", "is not signed with this key", published(signer=PrivateKey.new())),
    "SBOM": ("sbom", "the SBOM is about another image", published(about={"digest": OTHER})),
    "SBOM of another binary": (
        "sbom",
        "the SBOM does not have this image's binary",
        published(about={"binary_sha256": OTHER_BINARY}),
    ),
    "SBOM without a server": (
        "sbom",
        "the SBOM does not have the servers of x86-64-v3",
        published(more={V3_SERVER: b"v3"}, says=SAYS_V3),
    ),
    "damaged SBOM": ("sbom", "the SBOM is damaged", changed(proof(SBOM), b"{}")),
    "no SBOM": ("sbom", "the registry has no SBOM of it", list_without(SBOM)),
    "unsigned SBOM": ("sbom", "the SBOM is not signed with this key", unsigned(SBOM)),
    "provenance": ("provenance", "the provenance is about another image", published(about={"digest": OTHER})),
    "provenance of another binary": (
        "provenance",
        "the provenance is of another binary",
        published(about={"binary_sha256": OTHER_BINARY}),
    ),
    "provenance of another server": (
        "provenance",
        "the provenance is of other servers of higher levels",
        published(
            more={V3_SERVER: b"v3"},
            says=SAYS_V3,
            about={"higher": (replace(V3, binary_sha256=OTHER_BINARY),)},
        ),
    ),
    "provenance of another compile": (
        "provenance",
        "the provenance has another compile key than the label",
        published(about={"compile_key": "0" * 64}),
    ),
    "damaged provenance": ("provenance", "the provenance is damaged", changed(proof(IN_TOTO), b"[]")),
    "no provenance": ("provenance", "the registry has no provenance of it", list_without(IN_TOTO)),
    "another model": (
        "provenance",
        "the provenance does not have the model of the label",
        published(labels={"org.serving-factory.model.sha256": "4" * 64}),
    ),
    "unsigned provenance": ("provenance", "the provenance is not signed with this key", unsigned(IN_TOTO)),
}
"""What was changed: the check that fails, and what it says."""


@pytest.mark.parametrize("case", TAMPERED)
def test_a_tampered_image_fails_its_own_check(registry: ByteRegistry, case: str) -> None:
    name, message, tamper = TAMPERED[case]
    tamper(registry)
    found = checks(registry)[name]
    assert found.verdict is Verdict.FAILED
    assert message in found.found


def test_each_check_has_a_tampered_image() -> None:
    elsewhere = {"tag", "level", "device_code"}
    assert {one.name for one in CHECKS} == {name for name, _, _ in TAMPERED.values()} | elsewhere


def test_a_tag_must_stand_for_the_digest(registry: ByteRegistry) -> None:
    digest = PublishedImage().publish(registry)
    PublishedImage(binary=b"another").publish(registry)
    found = checks(registry, digest=digest)["tag"]
    assert found.verdict is Verdict.FAILED
    assert "the tag x stands for another digest" in found.found
    assert checks(registry, digest=digest, tag="")["tag"].verdict is Verdict.SKIPPED


@pytest.mark.parametrize(
    ("tamper", "name", "why"),
    [
        (list_without(SBOM), "sbom", "the registry has no SBOM of it"),
        (list_without(IN_TOTO), "provenance", "the registry has no provenance of it"),
    ],
)
def test_without_a_key_what_is_not_there_is_skipped(
    registry: ByteRegistry, tamper: Tamper, name: str, why: str
) -> None:
    tamper(registry)
    found = checks(registry, key=None)[name]
    assert (found.verdict, found.found) == (Verdict.SKIPPED, why)


def test_without_a_key_or_a_lock_those_checks_are_skipped(registry: ByteRegistry) -> None:
    PublishedImage().publish(registry)
    found = checks(registry, key=None, lock={})
    assert {name for name, one in found.items() if one.verdict is Verdict.SKIPPED} == {
        *("base", "signature", "level", "device_code")
    }
    assert found["signature"].found == "it is signed; --key checks by whom"
    assert found["base"].found == "matrix.lock does not have debian:bookworm"


@pytest.mark.parametrize(
    "content",
    [
        b"7",
        b"{}",
        b'{"config": 7, "layers": 3}',
        b'{"config": {"digest": 5}, "layers": [1, "a", {}, {"digest": []}]}',
        b'{"config": {"digest": "CONFIG"}, "layers": []}',
    ],
)
@pytest.mark.parametrize(
    "config", [b"[]", b"{", b'{"config": 3, "rootfs": []}', b'{"config": {"Labels": 1, "User": []}}']
)
def test_a_registry_may_send_anything(registry: ByteRegistry, content: bytes, config: bytes) -> None:
    named = content.replace(b"CONFIG", registry.put_blob(config).encode())
    digest = registry.put("x", MANIFEST, named)
    for tag in (fallback_tag(digest), fallback_tag(digest, ".sig")):
        registry.put(tag, INDEX, b'{"manifests": [1, {}, {"digest": 7}], "layers": [2, {}, {"annotations": 1}]}')
    found = checks(registry, read=True)
    assert found["layers" if b"3" in content else "user"].verdict in {Verdict.OK, Verdict.FAILED}
    assert found["binary"].verdict is Verdict.FAILED
    assert found["signature"].verdict is Verdict.FAILED


def test_an_sbom_may_say_anything(registry: ByteRegistry) -> None:
    digest = PublishedImage(signer=None).publish(registry)
    said = {"metadata": {"component": {"hashes": [{"content": []}]}}, "components": 1}
    attach(registry.client, REPOSITORY, digest, Artifact(media_type=SBOM, content=json.dumps(said).encode()))
    assert checks(registry, key=None)["sbom"].verdict is Verdict.FAILED


@pytest.mark.parametrize(
    "predicate",
    [
        7,
        {"buildDefinition": []},
        {"buildDefinition": {"externalParameters": [], "internalParameters": {"compile_key": 1}}},
        {
            "buildDefinition": {
                "externalParameters": {"higher": [1]},
                "internalParameters": {"compile_key": 1},
                "resolvedDependencies": [1],
            },
            "runDetails": {"byproducts": [{"digest": {"sha256": 1}}], "metadata": {"startedOn": 1}},
        },
    ],
)
def test_a_provenance_may_say_anything(registry: ByteRegistry, predicate: object) -> None:
    digest = PublishedImage(signer=None).publish(registry)
    said = {"subject": [{"digest": {"sha256": digest.partition(":")[2]}}], "predicate": predicate}
    attach(registry.client, REPOSITORY, digest, Artifact(media_type=IN_TOTO, content=json.dumps(said).encode()))
    assert checks(registry, key=None)["provenance"].verdict is Verdict.FAILED


@pytest.mark.parametrize("kind", [SBOM, IN_TOTO])
@pytest.mark.parametrize("content", [b'{"bomFormat": "CycloneDX"}', b"{"])
def test_documents_of_others_beside_ours_do_no_harm(registry: ByteRegistry, kind: str, content: bytes) -> None:
    """Such as the SBOM that a scanner attached."""
    digest = PublishedImage().publish(registry)
    attach(registry.client, REPOSITORY, digest, Artifact(media_type=kind, content=content))
    for key in (KEY.public, None):
        found = checks(registry, key=key)
        assert {found[name].verdict for name in ("sbom", "provenance")} == {Verdict.OK}


def test_a_layer_that_fails_ends_the_others() -> None:
    """As Ctrl-C does: they may be large."""
    began, ended = Event(), Event()

    def blob(_repository: str, digest: str, sink: Callable[[bytes], object]) -> bool:
        if digest == "broken":
            assert began.wait(20)
            raise RegistryError("cut")
        began.set()
        with suppress(CancelledError):
            for _ in range(500):
                sink(b"x")
                sleep(0.01)
            return True
        ended.set()
        raise CancelledError("")

    registry = cast("Registry", SimpleNamespace(blob=blob))
    with pytest.raises(RegistryError, match="cut"):
        read_layers(registry, "a", [{"digest": "broken"}, {"digest": "large"}], {})
    assert ended.is_set()


class FullDisk(io.BytesIO):
    """A file on a disk without space."""

    name = "/full"

    def write(self, _: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("files", ["TemporaryFile", "NamedTemporaryFile"])
def test_a_full_disk_is_no_fault_of_registry_or_image(
    registry: ByteRegistry, monkeypatch: pytest.MonkeyPatch, files: str
) -> None:
    PublishedImage().publish(registry)
    monkeypatch.setattr(f"tempfile.{files}", lambda **_: FullDisk())
    with pytest.raises(DiskFullError):
        checks(registry, read=True)


def test_an_image_that_is_not_there(registry: ByteRegistry) -> None:
    with pytest.raises(RegistryError, match=r"has no image .*team/serving:x"):
        checks(registry)


def test_each_image_of_an_index_is_checked(registry: ByteRegistry) -> None:
    first, second = (PublishedImage(binary=one).publish(registry, one.decode()) for one in (b"1", b"3"))
    about = {"os": "linux", "architecture": "amd64"}
    listed = [
        {"mediaType": MANIFEST, "digest": digest, "size": 1, "platform": {**about, **more}}
        for digest, more in ((first, {}), (second, {"variant": "v3"}))
    ]
    registry.put("x", INDEX, json.dumps({"schemaVersion": 2, "manifests": listed}).encode())
    found = checks(registry)
    assert list(found)[:3] == ["tag", "manifest", "signature"]
    assert found["signature"].verdict is Verdict.FAILED, "the index itself is not signed"
    assert found["linux/amd64 signature"].verdict is Verdict.OK
    assert found["linux/amd64/v3 binary"].verdict is Verdict.OK
    registry.blobs[last_layer(registry, second)] = b""
    assert checks(registry)["linux/amd64/v3 layers"].verdict is Verdict.FAILED


@pytest.mark.parametrize("listed", [[], 7])
def test_an_index_without_an_image_fails(registry: ByteRegistry, listed: object) -> None:
    registry.put("x", INDEX, json.dumps({"manifests": listed}).encode())
    found = checks(registry, key=None)["manifest"]
    assert (found.verdict, found.found) == (Verdict.FAILED, "the index has no image")


def test_an_index_in_an_index_is_no_image(registry: ByteRegistry) -> None:
    """However many a registry sends: it may answer each digest with the same index."""
    content = json.dumps({"manifests": [{"digest": OTHER, "platform": {"os": "linux"}}]}).encode()
    registry.put("x", INDEX, content)
    registry.manifests[OTHER] = (INDEX, content)
    assert checks(registry)["linux manifest"].verdict is Verdict.FAILED


# --- reading the binary again -----------------------------------------------------------------------------------------


@pytest.fixture
def device_code(monkeypatch: pytest.MonkeyPatch) -> None:
    found = DeviceCode(fat_binaries={"sm_80": 1}, sizes={"sm_80": 1})
    monkeypatch.setattr("serving_factory.inspection.device_code.read_device_code", lambda _: found)


@pytest.mark.usefixtures("device_code")
def test_the_level_is_read_again(registry: ByteRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []

    def level_of(binary: Path, level: str, release: str) -> deep.LevelRead:
        seen.append(binary.read_bytes())
        return deep.LevelRead(wrong="code above the level" * (level == "x86-64"), found=f"{level} {release}")

    monkeypatch.setattr(deep, "level_of", level_of)
    PublishedImage().publish(registry)
    found = checks(registry, read=True)
    assert (found["level"].verdict, found["level"].found) == (Verdict.FAILED, "code above the level")
    assert seen == [b"a server"]


@pytest.mark.usefixtures("device_code")
@pytest.mark.parametrize(("label", "verdict"), [("sm_80", Verdict.OK), ("sm_80 sm_90", Verdict.FAILED)])
def test_the_code_for_gpus_is_read_again(
    registry: ByteRegistry, monkeypatch: pytest.MonkeyPatch, label: str, verdict: Verdict
) -> None:
    monkeypatch.setattr(deep, "level_of", lambda *_: deep.LevelRead(found="as it must be"))
    PublishedImage(labels={"org.serving-factory.capabilities": label}).publish(registry)
    found = checks(registry, read=True)
    assert found["level"].found == "as it must be"
    assert found["device_code"].verdict is verdict
    assert "sm_80" in found["device_code"].found


def test_what_is_no_program_fails(registry: ByteRegistry) -> None:
    PublishedImage().publish(registry)
    found = checks(registry, read=True)
    assert {found[name].verdict for name in ("level", "device_code")} == {Verdict.FAILED}
    assert "no sound ELF file" in found["level"].found


@pytest.mark.parametrize(("level", "wrong"), [("x86-64", False), ("x86-64-v3", True)])
def test_a_level_is_compared_with_the_code(tmp_path: Path, level: str, wrong: bool) -> None:  # noqa: FBT001
    """A program without symbols, and without an instruction of the higher level."""
    file = Elf(text=b"\xc3" * 64).write(tmp_path / "server")
    assert bool(deep.level_of(file, level, "2.19.1").wrong) is wrong


@pytest.mark.usefixtures("device_code")
def test_a_level_that_is_not_proven_is_skipped(registry: ByteRegistry, tmp_path: Path) -> None:
    """Without symbols nobody knows whose code has an instruction above the level."""
    vfmadd = b"\xc4\xe2\xf1\xb8\xc2"
    PublishedImage(binary=Elf(text=vfmadd * 8 + b"\xc3").write(tmp_path / "server").read_bytes()).publish(registry)
    level = checks(registry, read=True)["level"]
    assert level.verdict is Verdict.SKIPPED
    assert "not proven" in level.found


@pytest.mark.usefixtures("device_code")
def test_the_uppermost_server_is_read(registry: ByteRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [gzip.compress(archive({BINARY: content})) for content in (b"lower" * 2**20, b"upper")]
    monkeypatch.setattr(deep, "level_of", lambda file, *_: deep.LevelRead(found=file.read_bytes().decode()))
    PublishedImage(layers=layers).publish(registry)
    assert checks(registry, read=True)["level"].found == "upper"


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    (tmp_path / "matrix.lock").write_text(f"bases: {{'debian:bookworm': '{BASE}'}}")
    (tmp_path / "cosign.pub").write_bytes(KEY.public.pem())
    return Asked(matrix=str(write(tmp_path)))


def run(asked: Asked, image: str) -> None:
    command(asked, image, key=str(Path(asked.matrix).parent / "cosign.pub"), deep=False, json=False)


def test_the_command_prints_a_line_for_each_check(
    registry: ByteRegistry, asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = PublishedImage().publish(registry)
    run(asked, f"{registry.host}/{REPOSITORY}:x@{digest}")
    printed = capsys.readouterr().out
    assert all(one.name in printed for one in CHECKS)
    assert "15 checks: 13 ok, 2 skipped" in printed


@pytest.mark.parametrize(
    ("case", "error"), [("root", ImageDiffersError), ("key", SignatureError), ("damaged SBOM", ProofError)]
)
def test_a_failure_has_an_exit_code_of_its_own(
    registry: ByteRegistry, asked: Asked, case: str, error: type[FactoryError]
) -> None:
    name, message, tamper = TAMPERED[case]
    tamper(registry)
    with pytest.raises(error) as caught:
        run(asked, f"{registry.host}/{REPOSITORY}:x")
    assert name in caught.value.what
    assert message in caught.value.why


def test_a_variants_name_stands_for_what_was_pushed_of_it(
    registry: ByteRegistry, asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    variant = "2.19.1-cpu-v1"
    with pytest.raises(UnknownNameError, match=f"did you mean '{variant}'"):
        run(asked, "2.19.1-cpu-v2")
    with pytest.raises(NotBuiltError, match="no image that passed"):
        run(asked, variant)
    write_records(asked.folder / variant, *STAGES[:-1])
    with pytest.raises(NotBuiltError, match="not pushed"):
        run(asked, variant)
    digests = {"full": PublishedImage().publish(registry)}
    place = Place(registry=registry.host, repository=REPOSITORY, digests=digests, not_moved={}, pushed_layers=1)
    write_record(asked.folder / variant, record("push", variant=variant, places=(place,)))
    run(asked, variant)
    assert "15 checks: " in capsys.readouterr().out


@pytest.mark.parametrize("image", ["", "r.example/a@sha256:1", "r.example/UPPER"])
def test_a_name_that_is_none(asked: Asked, image: str) -> None:
    with pytest.raises(UsageError):
        run(asked, image)
