"""How long a run over a nightly's variants takes when all is up to date, and how often it asks the engine.

usage: python -m benchmarks.no_op_nightly [--variants N]

One variant of the sample is built, in a scratch copy of this checkout. The others get its artifact, its image under
their own names, and records under their own keys: for the line they are as good as built. Then the same command runs
again and again; between it and the engine stands a counter.

Ends with exit code 1 when the best run takes a second or more, or when the engine is asked more often for many variants
than for one.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
import threading
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from benchmarks.measuring import parser, seconds
from serving_factory.docker.engine import Engine
from serving_factory.matrix.load import load_matrix
from serving_factory.pipeline.job import Job, Site
from serving_factory.pipeline.records import write_record
from serving_factory.pipeline.stages import stages_for
from serving_factory.pipeline.stages.package import image_tags
from serving_factory.recipes.recipe import recipes_for
from tests.integration.pipeline import BAZEL_SCRIPT, MATRIX, ROOT, V1, Checkout, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LIMIT = 1.0
ROUNDS = 7
SOCKET = "/var/run/docker.sock"
LEVELS = ["x86-64", "x86-64-v2", "avx", "x86-64-v3", "x86-64-v4"]


def widen(checkout: Checkout) -> None:
    """Let the sample's matrix ask for many releases, by every level."""
    file = checkout.folder / MATRIX
    document: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    document["releases"] = [">=2.12"]
    document["targets"] = {
        flavour: {"flavour": flavour, "levels": LEVELS, "flags": "level"} for flavour in ("cpu", "mkl")
    }
    document["image"]["aliases"] = ["{id}"]
    file.write_text(yaml.safe_dump(document), encoding="utf-8")


def jobs_of(checkout: Checkout, count: int) -> list[Job]:
    """As many variants as asked for, the one that is built first."""
    matrix = load_matrix(checkout.folder / MATRIX)
    recipes, _ = recipes_for(matrix.variants, matrix)
    ordered = sorted(recipes, key=lambda recipe: recipe.variant.id != V1)[:count]
    models = checkout.folder / "samples" / "model_server" / "models"
    site = Site(build=checkout.folder / "build" / "samples", models=models)
    return [Job(recipe=recipe, site=site) for recipe in ordered]


def pretend(built: Job, other: Job, engine: Engine) -> None:
    """Give another variant what the built one has: its files, its image by other names, and records of its own."""
    shutil.copytree(built.folder, other.folder, symlinks=True, copy_function=os.link)
    for stage in stages_for(registry=False):
        record = built.record(stage)
        outputs = record.outputs
        if stage.name == "package":
            full, aliases = image_tags(other)
            outputs = replace(outputs, tags=full, aliases=aliases)
            for name in outputs.names:
                engine.tag(outputs.image, *name.split(":"))
        variant, key = other.recipe.variant.id, stage.key(other)
        write_record(other.folder, replace(record, variant=variant, key=key, outputs=outputs))


@contextmanager
def counted(folder: Path) -> Iterator[list[str]]:
    """A socket that passes everything on to the engine, and the requests that it has seen."""
    seen: list[str] = []
    path = folder / "docker.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        threading.Thread(target=_serve, args=(server, seen), daemon=True).start()
        yield seen


def _serve(server: socket.socket, seen: list[str]) -> None:
    while True:
        try:
            client, _ = server.accept()
        except OSError:
            return
        engine = socket.socket(socket.AF_UNIX)
        engine.connect(SOCKET)
        for source, sink, lines in ((client, engine, seen), (engine, client, None)):
            threading.Thread(target=_pass_on, args=(source, sink, lines), daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket, seen: list[str] | None) -> None:
    with suppress(OSError), sink:  # the other direction has ended
        while data := source.recv(65536):
            if seen is not None:
                seen += [line for line in data.decode("latin-1").split("\r\n") if line.endswith(" HTTP/1.1")]
            sink.sendall(data)


def no_op(checkout: Checkout, variants: Sequence[str], env: dict[str, str]) -> float:
    """Seconds of a run in which all of these are up to date."""
    choice = [word for variant in variants for word in ("--variant", variant)]
    outcomes: list[Outcome] = []
    took = seconds(lambda: outcomes.append(checkout.build(*choice, env=env).built()))
    counts = outcomes[0].events[-1]["counts"]
    assert counts["up_to_date"] == len(variants), counts
    return took


def main() -> int:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--variants", type=int, default=60, help="how many (default: 60)")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="factory-nightly-") as name:
        folder = Path(name)
        checkout = Checkout.make(folder / "factory")
        # The keys below are made by this checkout: what decides the binary must be the same in both.
        shutil.copy2(ROOT / BAZEL_SCRIPT, checkout.folder / BAZEL_SCRIPT)
        try:
            widen(checkout)
            checkout.build("--variant", V1).built()
            jobs = jobs_of(checkout, options.variants)
            engine = Engine.connect()
            for job in jobs[1:]:
                pretend(jobs[0], job, engine)
            variants = [job.recipe.variant.id for job in jobs]
            with counted(folder) as seen:
                env = {"DOCKER_HOST": f"unix://{folder}/docker.sock"}
                no_op(checkout, variants, env)  # remembers the digests of folders
                took = min(no_op(checkout, variants, env) for _ in range(ROUNDS))
                seen.clear()
                no_op(checkout, variants, env)
                many = len(seen)
                seen.clear()
                no_op(checkout, variants[:1], env)
                one = len(seen)
        finally:
            checkout.clear()
    print(f"no-op of {len(variants)} variants: {took:.2f} s, best of {ROUNDS} (limit {LIMIT:g} s)")
    print(f"requests to the engine: {many}; for one variant: {one}")
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    return 0 if took < LIMIT and many <= one else 1


if __name__ == "__main__":
    sys.exit(main())
