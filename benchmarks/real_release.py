"""What the factory adds to a bare Bazel that builds a release of upstream's, with cold caches. It takes hours.

usage: python -m benchmarks.real_release FILE

FILE is the matrix file of an offline build (docs/closed-network.md). Both ways begin with the toolchain's layer, and
have no network. The factory's way is `invoke compile` of the first variant, from its start to its end, with caches of
its own, which are dropped in the end. Bare is Bazel in a container with the sources, the archives and the options that
the Dockerfile has, but for the disk cache and the file of events. Then the factory compiles the second variant, if
there is one; the actions, downloads and memory of each are told.

Ends with exit code 1 when the factory takes more than 5 % longer.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measuring import Ratio, parser, report, seconds
from serving_factory.line.job import Job, Site
from serving_factory.line.place import build_folder
from serving_factory.matrix.load import load_matrix
from serving_factory.recipes.recipe import recipes_for
from tests.integration.line import Checkout

LIMIT = 1.05
IMAGE = "serving-factory-test/bare"
_ARGUMENT = re.compile(r'^ARG (BAZEL_\w+|COPTS)="(.*)"$', re.MULTILINE)
_RUN = re.compile(r"^RUN ((?:.*\\\n)*.*)$", re.MULTILINE)
_FACTORYS = re.compile(
    r'--disk_cache="[^"]*"|--(?:mount|(?:experimental_)?build_event_json_file)=\S+|/factory/bazel\.sh \w+'
)


def bare_script(dockerfile: str) -> str:
    """What the Dockerfile runs to fetch, patch and build, without what is the factory's own."""
    steps = [
        step for step in _RUN.findall(dockerfile) if re.search(r"bazel\.sh (fetch|build)|patches\.sh external", step)
    ]
    assert len(steps) == 3, steps
    return "\n".join(_FACTORYS.sub("", step).replace("\\\n", " ") for step in steps)


@contextmanager
def sources_image(job: Job) -> Iterator[None]:
    """The image with toolchain and sources, as the factory's build has it."""
    words = ["docker", "buildx", "build", "--target=sources", "--load", f"--tag={IMAGE}"]
    words += [f"--build-context={name}={value}" for name, value in job.recipe.contexts(job.staged_doors)]
    subprocess.run([*words, str(job.devel_context)], stderr=subprocess.DEVNULL, check=True)
    try:
        yield
    finally:
        subprocess.run(["docker", "image", "rm", "--force", IMAGE], stdout=subprocess.DEVNULL, check=True)


def bare(job: Job) -> None:
    """Build it as someone would by hand."""
    dockerfile = (job.devel_context / "Dockerfile").read_text(encoding="utf-8")
    arguments = {**dict(_ARGUMENT.findall(dockerfile)), **dict(job.recipe.build_args)}
    recipe, words = job.recipe, ["docker", "run", "--rm", "--network=none", "--tmpfs=/run/doors:exec"]
    for name, folder in (("distdir", recipe.doors.distdir), ("patches", job.staged_doors / "patches")):
        if folder and folder.is_dir():
            words += [f"--volume={folder}:/doors/{name}:ro"]
    words += [f"--env={name}={value}" for name, value in arguments.items()]
    inside = f"mkdir -p /cache/repository\n{bare_script(dockerfile)}"
    subprocess.run([*words, IMAGE, "bash", "-euo", "pipefail", "-c", inside], check=True)


def compiled(checkout: Checkout, matrix: Path, job: Job) -> float:
    """Compile a variant by the factory; the seconds that it takes. What the record says is printed."""
    words = [sys.executable, "-m", "invoke", "compile", "--matrix", str(matrix), "--variant", job.recipe.variant.id]
    took = seconds(lambda: subprocess.run(words, cwd=checkout.folder, env=checkout.environment(), check=True))
    outputs = checkout.read_json(job.folder / "compile.json")["outputs"]
    print(f"{job.recipe.variant.id}: {took:.0f} s", *(f"{name} {value}" for name, value in outputs.items()), flush=True)
    return took


def main() -> int:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("file", type=Path, help="the matrix file of an offline build")
    file = arguments.parse_args().file.absolute()
    matrix = load_matrix(file)
    recipes, lacking = recipes_for(matrix.variants[:2], matrix)
    assert not lacking, lacking
    with tempfile.TemporaryDirectory() as scratch:
        checkout = Checkout.make(Path(scratch) / "factory")
        checkout.take_own_caches()
        try:
            build = build_folder(file, checkout.folder, checkout.folder / "build")
            jobs = [Job(recipe=recipe, site=Site(build=build, models=checkout.folder)) for recipe in recipes]
            ours = compiled(checkout, file, jobs[0])
            with sources_image(jobs[0]):
                theirs = seconds(lambda: bare(jobs[0]))
            print(f"bare Bazel: {theirs:.0f} s", flush=True)
            for job in jobs[1:]:
                compiled(checkout, file, job)
        finally:
            checkout.drop_caches()
    name = f"{recipes[0].variant.id}, cold, against bare Bazel"
    return report([Ratio(name=name, ours=ours, theirs=theirs, limit=LIMIT)])


if __name__ == "__main__":
    sys.exit(main())
