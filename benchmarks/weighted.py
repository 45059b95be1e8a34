"""A scratch checkout whose sample is heavy, with caches of its own: what the benchmarks of builds share.

The ids of the cache mounts are changed in the copy of the templates, so no build of anybody else's is made faster or
slower, and what the benchmark leaves in the engine can be dropped in the end. The toolchain's layer (apt packages) is
there before anything is measured, for each way alike.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from serving_factory.matrix.load import load_matrix
from serving_factory.recipes.recipe import CONTEXT, recipes_for
from tests.integration.pipeline import MATRIX, MODEL, Checkout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from serving_factory.recipes.recipe import Recipe

MOST = 112
"""Heavy files that the sample has at most: tools/weight/BUILD."""
LEVELS = ("x86-64", "x86-64-v3")
KERNEL = f"{MODEL}/tensorflow/core/kernels/nn_ops.cc"
HEADER = f"{MODEL}/tensorflow/core/framework/tensor.h"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A scratch checkout.

    Args:
        checkout: the checkout.
        recipes: of its variants: two flavours by two levels.
        toolchain: the image with the toolchain.
    """

    checkout: Checkout
    recipes: tuple[Recipe, ...]
    toolchain: str

    @property
    def source(self) -> Path:
        """The sample's source tree."""
        return self.checkout.folder / MODEL

    def compile(self, *variants: str) -> None:
        """Compile through the factory: these variants, or all."""
        choice = [word for variant in variants for word in ("--variant", variant)]
        command = [sys.executable, "-m", "invoke", *self.checkout.line("compile", *choice)]
        subprocess.run(
            command, cwd=self.checkout.folder, env=self.checkout.environment(), stdout=subprocess.DEVNULL, check=True
        )
        for name in variants or [recipe.variant.id for recipe in self.recipes]:
            assert self.checkout.record(name, "compile")["outputs"]["bazel_ran"], name

    def change(self, file: str) -> None:
        """Change a C++ file of the sources, in a way that no build has seen."""
        mark = uuid.uuid4().hex
        with (self.checkout.folder / file).open("a", encoding="utf-8") as stream:
            stream.write(f'\n[[gnu::used]] static const char k{mark}[] = "{mark}";\n')


def bazel_words(recipe: Recipe) -> list[str]:
    """The words of `bazel build` for a variant, as someone would type them."""
    configs = [f"--config={name}" for name in recipe.toolchain.configs]
    copts = [f"--copt={option}" for option in recipe.variant.all_copts]
    return [*configs, *copts, "//tensorflow_serving/model_servers:tensorflow_model_server"]


@contextmanager
def weighted(weight: int) -> Iterator[Bench]:
    """Make the scratch checkout; it and all that it left in the engine are gone in the end."""
    with tempfile.TemporaryDirectory(prefix="factory-weighted-") as name:
        checkout = Checkout.make(Path(name) / "factory")
        toolchain = f"{checkout.repository}-toolchain:1"
        try:
            _prepare(checkout, weight)
            matrix = load_matrix(checkout.folder / MATRIX)
            recipes, _ = recipes_for(matrix.variants, matrix)
            bench = Bench(checkout=checkout, recipes=recipes, toolchain=toolchain)
            _build_toolchain(bench, Path(name) / "toolchain")
            yield bench
        finally:
            subprocess.run(["docker", "rmi", "--force", toolchain], stdout=subprocess.DEVNULL, check=False)
            checkout.drop_caches()
            checkout.clear()


def _prepare(checkout: Checkout, weight: int) -> None:
    checkout.take_own_caches()
    with (checkout.folder / MODEL / ".bazelrc").open("a", encoding="utf-8") as file:
        file.write(f"\nbuild --define=weight={weight}\n")
    file_ = checkout.folder / MATRIX
    document: dict[str, Any] = yaml.safe_load(file_.read_text(encoding="utf-8"))
    document["targets"] = {
        flavour: {"flavour": flavour, "levels": list(LEVELS), "flags": "level"} for flavour in ("cpu", "mkl")
    }
    del document["bazel"]["startup_options"]  # the ways that it is compared with run Bazel without them
    document["image"]["aliases"] = ["{id}"]
    file_.write_text(yaml.safe_dump(document), encoding="utf-8")


def _build_toolchain(bench: Bench, folder: Path) -> None:
    """Build the toolchain's stage alone, from the very Dockerfile that the factory uses."""
    recipe = bench.recipes[0]
    folder.mkdir()
    (folder / "Dockerfile").write_text(recipe.devel, encoding="utf-8")
    base = [word for name, value in recipe.base.contexts for word in ("--build-context", f"{name}={value}")]
    subprocess.run(
        [
            "docker",
            "buildx",
            "build",
            "--quiet",
            "--target=base_build",
            f"--tag={bench.toolchain}",
            "--load",
            *base,
            f"--file={folder / 'Dockerfile'}",
            CONTEXT,
        ],
        stdout=subprocess.DEVNULL,
        check=True,
    )
