"""How small an image is on a slim base, next to one on the usual base: what a registry stores and a machine downloads.

usage: python -m benchmarks.slim_image [IMAGE...]

Works in a scratch copy of this checkout. A server is built that is linked to the libraries that upstream's servers for
the CPU are linked to, and its image has the packages that upstream's Dockerfile installs (ca-certificates): once on the
sample's base, once on the slim one. Only the server's own code is small. Layers are compressed as Docker does it for a
push.

With IMAGE, measures images that are there already.

Ends with exit code 1 when the slim image, without the server, has 15 MB or more.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from benchmarks.measuring import parser
from tests.integration.pipeline import MATRIX, V1
from tests.integration.tiny import BUILD, MAIN, tiny_checkout

LIMIT = 15.0  # MB: 10^6 bytes
GZIP = b"\x1f\x8b"
SERVER = "tensorflow_model_server /usr/lib"  # in the instruction of its layer
# readelf -d of 1.15 to 2.19, in glibc 2.34 and later without the libraries that became part of libc.so
LIBRARIES = ("libc.so.6", "libgcc_s.so.1", "libm.so.6", "libstdc++.so.6")
PROGRAM = """\
#include <cmath>
#include <iostream>
int main(int count, char**) {
  try {
    std::cout << "TensorFlow ModelServer: 2.19.1-rc0\\nTensorFlow Library: 2.19.1";
    std::cout << std::string(std::fmod(count, 1), ' ') << std::endl;
  } catch (std::exception const&) { return 1; }
}
"""


def layers(image: str) -> list[tuple[str, float, float]]:
    """The instruction of each layer that has something, its size and its compressed size, in MB."""
    with tempfile.TemporaryFile() as file:
        subprocess.run(["docker", "save", image], stdout=file, check=True)
        file.seek(0)
        with tarfile.open(fileobj=file) as archive:

            def read(name: str) -> bytes:
                member = archive.extractfile(name)
                assert member, name
                return member.read()

            (manifest,) = json.loads(read("manifest.json"))
            history = json.loads(read(manifest["Config"]))["history"]
            made_by = [step.get("created_by", "the base") for step in history if not step.get("empty_layer")]
            rows = []
            for step, name in zip(made_by, manifest["Layers"], strict=True):
                content = read(name)
                content = gzip.decompress(content) if content.startswith(GZIP) else content
                rows.append((step, len(content) / 1e6, len(gzip.compress(content, 6)) / 1e6))
            return rows


def measured(title: str, image: str) -> float:
    """Print the layers of an image, and give the compressed size of all but the server's, in MB."""
    print(f"{title}\n{'size':>10} {'compressed':>12}")
    rows = layers(image)
    for step, size, compressed in rows:
        print(f"{size:7.2f} MB {compressed:9.2f} MB  {' '.join(step.split())[:80]}")
    total = sum(compressed for step, _, compressed in rows if SERVER not in step)
    print(f"{'':10} {total:9.2f} MB  without the server\n")
    return total


def built() -> dict[str, float]:
    """Build the two images and measure them."""
    sizes = {}
    with (
        tempfile.TemporaryDirectory(prefix="factory-slim-") as folder,
        tiny_checkout(Path(folder) / "factory") as checkout,
    ):
        (checkout.folder / MAIN).write_text(f"// {checkout.mark}\n{PROGRAM}")
        (checkout.folder / BUILD).write_text(
            'cc_binary(name = "tensorflow_model_server", srcs = ["main.cc"], linkopts = ["-lm", "-lgcc_s"])\n'
        )
        for title in ("usual", "slim"):
            if title == "slim":
                checkout.edit(MATRIX, "  labels:", "  base: slim\n  labels:")
            for task in ("compile", "inspect", "package"):
                checkout.run(*checkout.line(task, "--variant", V1)).built()
            needed = {
                name.partition(" => ")[0]
                for name in checkout.record(V1, "compile")["outputs"]["facts"]["ldd"].split("\n")
            }
            assert needed >= set(LIBRARIES), needed
            sizes[title] = measured(f"{title} base", checkout.record(V1, "package")["outputs"]["image"])
    return sizes


def main() -> int:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("images", metavar="IMAGE", nargs="*", help="measure these instead")
    images = arguments.parse_args().images
    for image in images:
        measured(image, image)
    if images:
        return 0
    sizes = built()
    print(f"without the server: usual {sizes['usual']:.1f} MB, slim {sizes['slim']:.1f} MB; the limit is {LIMIT:g} MB")
    return int(sizes["slim"] >= LIMIT)


if __name__ == "__main__":
    sys.exit(main())
