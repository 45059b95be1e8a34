"""How long `verify` takes for an image of 100 MB in a registry on loopback, with its signatures, SBOM and provenance.

usage: python -m benchmarks.verifying

The image's base and its server are 50 MB each of bytes that compress to three quarters. The registry is the tests',
Debian's docker-registry with a password. Ends with exit code 1 when the best of three rounds takes 3 s or longer.
"""

from __future__ import annotations

import random
import sys
import time

from benchmarks.measuring import best, parser
from serving_factory.docker.registry import ImageName, Manifest, Registry
from serving_factory.proofs.verify import Subject, Verdict, verify
from tests.integration import conftest  # noqa: F401 - it says how containers for tests are started
from tests.integration.registry import LocalRegistry
from tests.unit.byte_registry import ByteRegistry
from tests.unit.published_image import BASE, KEY, REPOSITORY, PublishedImage

LIMIT = 3.0
HALF = 50_000_000
ROUNDS = 3


def content(seed: int) -> bytes:
    """Bytes of which each has six bits that mean something."""
    six_bits = bytes(value & 63 for value in range(256))
    return random.Random(seed).randbytes(HALF).translate(six_bits)  # noqa: S311 - no secret


def publish(registry: Registry) -> None:
    """Put the image with all that proves it into a registry."""
    with ByteRegistry.run() as made:
        PublishedImage(base=content(1), binary=content(2)).publish(made)
    for blob in made.blobs.values():
        registry.put_blob(REPOSITORY, blob)
    manifests = {digest: Manifest(body=body, media_type=kind) for digest, (kind, body) in made.manifests.items()}
    for reference, digest in [*zip(manifests, manifests, strict=True), *made.tags.items()]:
        registry.put_manifest(REPOSITORY, reference, manifests[digest])


def main() -> int:
    """Measure and print."""
    parser(__doc__).parse_args()
    with LocalRegistry.run() as local:
        registry = Registry(local.host, credentials=local.credentials)
        publish(registry)
        subject = Subject(
            name=ImageName(registry.host, REPOSITORY),
            tag="x",
            digest="",
            key=KEY.public,
            lock={"debian:bookworm": BASE},
            lock_file="matrix.lock",
        )

        def run() -> None:
            # As the command does: with a connection and a log-in of its own.
            asked = Registry(local.host, credentials=local.credentials)
            found = {one.name: one.verdict for one in verify(asked, subject)}
            assert {name for name, verdict in found.items() if verdict is not Verdict.OK} == {"level", "device_code"}

        began = time.process_time()
        took = best(run, ROUNDS)
        cpu = (time.process_time() - began) / ROUNDS
    size = 2 * HALF / 1e6
    print(f"verify of a {size:.0f} MB image: {took:.2f} s, {cpu:.2f} s of CPU without the registry's; below {LIMIT} s")
    return int(took >= LIMIT)


if __name__ == "__main__":
    sys.exit(main())
