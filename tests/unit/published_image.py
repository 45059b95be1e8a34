"""An image in a registry of bytes, with all that proves it; of which each part can be changed."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from serving_factory.docker.referrers import Artifact, attach
from serving_factory.proofs.described import IN_TOTO, SBOM, Described, External, Library, Package
from serving_factory.proofs.keys import PrivateKey
from serving_factory.proofs.provenance import provenance
from serving_factory.proofs.sbom import sbom
from serving_factory.proofs.signatures import KeySigner

from .byte_registry import ByteRegistry, digest_of

REPOSITORY = "team/serving"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
SERVER = "usr/lib/serving-factory/tensorflow_model_server"
COMPILE_KEY = "c" * 64
BASE = "sha256:" + "b" * 64
KEY = PrivateKey.new()


def archive(files: Mapping[str, bytes]) -> bytes:
    """A layer, not packed."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as made:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return stream.getvalue()


@dataclass
class PublishedImage:
    """The parts of an image, in the order in which one names the other."""

    binary: bytes = b"a server"
    base: bytes = b"root"  # what its base holds
    more: dict[str, bytes] = field(default_factory=dict)  # other files beside the server
    labels: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)  # of the configuration's `config`
    says: dict[str, Any] = field(default_factory=dict)  # image.json
    diff_ids: list[str] | None = None
    layers: list[bytes] = field(default_factory=list)  # packed
    above: list[bytes] = field(default_factory=list)  # more layers, not packed
    about: dict[str, Any] = field(default_factory=dict)  # what SBOM and provenance say instead
    signer: PrivateKey | None = KEY

    def publish(self, registry: ByteRegistry, tag: str = "x") -> str:
        """Put all of it into a registry; give the image's digest."""
        sha256 = digest_of(self.binary).partition(":")[2]
        binary = {"sha256": sha256, "compile_key": COMPILE_KEY}
        said = {"variant": "2.19.1-cpu-v1", "release": "2.19.1", "flavour": "cpu", "level": "x86-64", "binary": binary}
        server = {
            SERVER: self.binary,
            "usr/share/serving-factory/image.json": json.dumps({**said, **self.says}).encode(),
        }
        plain = [archive({"etc/passwd": self.base}), archive({**server, **self.more}), *self.above]
        packed = self.layers or [gzip.compress(one, mtime=0) for one in plain]
        labels = {
            "org.opencontainers.image.version": "2.19.1",
            "org.opencontainers.image.base.name": "debian:bookworm",
            "org.opencontainers.image.base.digest": BASE,
            "org.serving-factory.variant": "2.19.1-cpu-v1",
            "org.serving-factory.flavour": "cpu",
            "org.serving-factory.level": "x86-64",
            "org.serving-factory.binary.sha256": sha256,
            "org.serving-factory.compile.key": COMPILE_KEY,
            **self.labels,
        }
        config = {
            "os": "linux",
            "architecture": "amd64",
            "config": {"User": "65532:65532", "StopSignal": "SIGTERM", "Labels": labels, **self.settings},
            "rootfs": {"type": "layers", "diff_ids": self.diff_ids or [digest_of(one) for one in plain]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": entry(registry, CONFIG, json.dumps(config).encode()),
            "layers": [entry(registry, LAYER, one) for one in packed],
        }
        digest = registry.put(tag, MANIFEST, json.dumps(manifest).encode())
        self._prove(registry, digest, sha256)
        return digest

    def _prove(self, registry: ByteRegistry, digest: str, sha256: str) -> None:
        if self.signer is None:
            return
        about = described(**{"digest": digest, "binary_sha256": sha256, **self.about})
        signer, client = KeySigner(self.signer), registry.client
        for kind, content in ((SBOM, sbom(about)), (IN_TOTO, provenance(about))):
            signer.sign(
                client, REPOSITORY, attach(client, REPOSITORY, digest, Artifact(media_type=kind, content=content))
            )
        signer.sign(client, REPOSITORY, digest)


def entry(registry: ByteRegistry, media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": registry.put_blob(content), "size": len(content)}


def described(**other: Any) -> Described:  # noqa: ANN401 - any member
    """What is known of an image."""
    known: dict[str, Any] = {
        "repository": f"r.example/{REPOSITORY}",
        "digest": BASE,
        "variant": "2.19.1-cpu-v1",
        "release": "2.19.1",
        "flavour": "cpu",
        "level": "x86-64",
        "platform": "linux/amd64",
        "parameters": {"copts": ["-mavx"]},
        "binary_sha256": "f" * 64,
        "binary_version": "2.19.1",
        "build_id": "dd10",
        "distribution": {"ID": "debian", "VERSION_ID": "12"},
        "packages": (Package("libc6", "2.36-9", "2.36-9", "glibc", "amd64"),),
        "libraries": (Library(path="/usr/lib/x86_64-linux-gnu/libcudart.so.12", sha256="d" * 64),),
        "externals": (
            External(
                name="zlib",
                urls=("https://mirror.example/zlib-1.3.tar.gz", "https://zlib.example/zlib-1.3.tar.gz"),
                sha256="a" * 64,
                ref="",
                overridden=False,
                licences=(("LICENSE", "1" * 64),),
            ),
            External(
                name="abseil", urls=("https://git.example/abseil",), sha256="", ref="v1", overridden=True, licences=()
            ),
            External(name="here", urls=(), sha256="", ref="", overridden=False, licences=()),
        ),
        "compiler": "gcc-12 (Debian) 12.2.0",
        "bazel": "bazel 6.5.0",
        "configs": ("release",),
        "arguments": {"COPTS": "-mavx"},
        "source": "https://github.com/tensorflow/serving.git#" + "a" * 40,
        "bases": {"debian:bookworm": BASE, "local:base": ""},
        "compile_key": COMPILE_KEY,
        "package_key": "e" * 64,
        "factory": "0.1.0",
        "started": "2026-01-01T00:00:00+00:00",
        "finished": "2026-01-01T01:00:00+00:00",
    }
    return Described(**{**known, **other})
