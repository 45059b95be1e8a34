"""What the factory adds to a bare Bazel that builds a release of upstream's, with cold caches. It takes hours.

usage: python -m benchmarks.real_release FILE [--until ACTIONS]

FILE is the matrix file of an offline build (docs/closed-network.md). Both ways begin with the toolchain's layer, and
have no network. The factory's way is `invoke compile` of the first variant, from its start to its end, with caches of
its own, which are dropped in the end. Bare is Bazel in a container with the sources, the archives and the options that
the Dockerfile has, but for the disk cache and the file of events. Then the factory compiles the second variant, if
there is one; the actions, downloads and memory of each are told. With --until, both ways of the first variant are
ended once Bazel tells that so many of its actions are done, and the seconds to that point are compared.

Ends with exit code 1 when the factory takes more than 5 % longer.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measuring import Ratio, parser, report
from serving_factory.matrix.load import load_matrix
from serving_factory.pipeline.job import Job, Site
from serving_factory.pipeline.records import build_folder
from serving_factory.recipes.recipe import CONTEXT, recipes_for
from tests.integration.pipeline import Checkout

LIMIT = 1.05
FETCH_STEP = "dockerfiles/templates/fetch.Dockerfile.j2"
BARE = "serving-factory-test/bare"
_DONE = re.compile(r'(?:^\[|"text": ")([\d,]+) ?/ ?[\d,]+[\] ]')
_MEND = re.compile(r"^COPY (\S+) (/factory/fixes/\S+/)$", re.MULTILINE)
BARE_SCRIPT = """\
mkdir -p /cache/repository
. /factory/bazel.conf
. /factory/inputs.sh
startup=$(sed -n 's/^startup //p' /factory/bazelrc)
options="${repository_cache:---repository_cache}=/cache/repository ${distdir:---distdir}=/inputs/distdir"
options+=" --symlink_prefix=/factory/bazel- $(sed -n 's/^build //p' /factory/bazelrc)"
bazel="bazel --batch --output_user_root=/factory/bazel $startup"
$bazel build --nobuild $options $target
/factory/apply_patches.sh external /factory/bazel
$bazel build $options --color=no --verbose_failures --output_filter=DONT_MATCH_ANYTHING $BAZEL_RESOURCES $COPTS $target
"""
"""Fetches, patches and builds as bazel.sh does, with the options of the image and without what is the factory's own."""


@contextmanager
def sources_image(job: Job) -> Iterator[None]:
    """The image with toolchain and sources, as the factory's build has it."""
    words = ["docker", "buildx", "build", "--target=sources", "--load", f"--tag={BARE}"]
    words += [f"--build-context={name}={value}" for name, value in job.recipe.contexts(job.staged_inputs)]
    words += [f"--build-arg={name}={value}" for name, value in job.recipe.build_args]
    subprocess.run([*words, f"--file={job.dockerfile}", str(CONTEXT)], stderr=subprocess.DEVNULL, check=True)
    try:
        yield
    finally:
        subprocess.run(["docker", "image", "rm", "--force", BARE], stdout=subprocess.DEVNULL, check=True)


def actions_done(line: str) -> int:
    """How many actions a line of Bazel's progress, or of the factory's, says to be done; 0 where it tells of none."""
    return max((int(done.replace(",", "") or 0) for done in _DONE.findall(line)), default=0)


def timed(words: list[str], until: int | None, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> float:
    """Run a command to its end, or until so many actions are done; the seconds that it takes."""
    began = time.perf_counter()
    with subprocess.Popen(
        words, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as run:
        assert run.stdout
        for line in run.stdout:
            print(line, end="", flush=True)
            if until and actions_done(line) >= until:
                took = time.perf_counter() - began
                run.send_signal(signal.SIGINT)
                return took
    if until or run.returncode:
        sys.exit(f"it ended with exit code {run.returncode}: {' '.join(words)}")
    return time.perf_counter() - began


def bare(job: Job, until: int | None) -> float:
    """Build it as someone would by hand; the seconds that it takes."""
    dockerfile = job.dockerfile.read_text(encoding="utf-8")
    arguments = {"BAZEL_RESOURCES": job.resources.read_text(encoding="utf-8"), **dict(job.recipe.build_args)}
    recipe, words = job.recipe, ["docker", "run", f"--name={job.recipe.variant.id}-bare", "--network=none"]
    words.append("--tmpfs=/run/inputs:exec")
    for name, folder in (("distdir", recipe.inputs.distdir), ("patches", job.staged_inputs / "patches")):
        if folder and folder.is_dir():
            words += [f"--volume={folder}:/inputs/{name}:ro"]
    for script, folder in _MEND.findall(dockerfile):
        words += [f"--volume={CONTEXT / script}:{folder}{script}:ro"]
    words += [f"--env={name}={value}" for name, value in arguments.items()]
    try:
        return timed([*words, BARE, "bash", "-euo", "pipefail", "-c", BARE_SCRIPT], until)
    finally:
        subprocess.run(["docker", "rm", "--force", f"{recipe.variant.id}-bare"], stdout=subprocess.DEVNULL, check=True)


def compiled(checkout: Checkout, matrix: Path, job: Job, until: int | None = None) -> float:
    """Compile a variant by the factory; the seconds that it takes. What the record says is printed."""
    words = [sys.executable, "-m", "invoke", "compile", "--matrix", str(matrix), "--variant", job.recipe.variant.id]
    took = timed([*words, "--json"], until, checkout.folder, checkout.environment())
    if until:
        return took
    outputs = checkout.read_json(job.folder / "compile.json")["outputs"]
    print(f"{job.recipe.variant.id}: {took:.0f} s", *(f"{name} {value}" for name, value in outputs.items()), flush=True)
    return took


def main() -> int:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("file", type=Path, help="the matrix file of an offline build")
    arguments.add_argument("--until", type=int, metavar="ACTIONS", help="end both ways when so many are done")
    options = arguments.parse_args()
    file, until = options.file.absolute(), options.until
    matrix = load_matrix(file)
    recipes, missing = recipes_for(matrix.variants[:2], matrix)
    assert not missing, missing
    with tempfile.TemporaryDirectory() as scratch:
        checkout = Checkout.make(Path(scratch) / "factory")
        checkout.take_own_caches()
        # BuildKit has the fetch step of an earlier build, and bare Bazel fetches.
        checkout.edit(FETCH_STEP, " && /factory/bazel.sh fetch", f" && : {checkout.mark} && /factory/bazel.sh fetch")
        try:
            build = build_folder(file, checkout.folder, checkout.folder / "build")
            jobs = [Job(recipe=recipe, site=Site(build=build, models=checkout.folder)) for recipe in recipes]
            ours = compiled(checkout, file, jobs[0], until)
            with sources_image(jobs[0]):
                theirs = bare(jobs[0], until)
            print(f"bare Bazel: {theirs:.0f} s", flush=True)
            for job in () if until else jobs[1:]:
                compiled(checkout, file, job)
        finally:
            checkout.drop_caches()
    name = f"{recipes[0].variant.id}, cold, {f'{until} actions, ' if until else ''}against bare Bazel"
    return report([Ratio(name=name, ours=ours, theirs=theirs, limit=LIMIT)])


if __name__ == "__main__":
    sys.exit(main())
