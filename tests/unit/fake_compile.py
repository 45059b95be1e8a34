"""A pipeline without Docker: `docker buildx build` gives a small artifact, and an engine that only remembers names."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TextIO, cast

from serving_factory.docker.buildx import BuildRequest, BuildResult, _replace
from serving_factory.docker.process import Cancel
from serving_factory.docker.solve_status import Step
from serving_factory.pipeline.job import Job, Site
from serving_factory.pipeline.stages.compile import BINARY, DEBUG
from serving_factory.recipes.recipe import recipe_for

from .elf_files import Elf, Symbol
from .matrices import document, load
from .stage_records import FACTS

if TYPE_CHECKING:
    from serving_factory.docker.engine import Engine

RECORDED = Path(__file__).parent / "recorded"
CODE = bytes.fromhex("c5f458c2c5fdfec0c4e27db8c0c39090c3")  # vaddps, vpaddd, vfmadd231ps, ret, padding, ret
SYMBOLS = [
    Symbol(name="_ZN10tensorflow7serving3runEv", offset=0, size=14),
    Symbol(name="_ZN4dnnl4pathEv", offset=16, size=1),
]
BUILD = "[binary_build 1/3] RUN /factory/bazel.sh build bazel --batch build"
IMAGE = "sha256:" + "1" * 64


@dataclass
class FakeEngine:
    """Knows images by name."""

    names: dict[str, str] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)

    def read_files(self, _image: str, *_paths: str, owner: str) -> dict[str, bytes]:
        assert owner
        return dict(self.files)

    def image_names(self, _label: str) -> dict[str, str]:
        return dict(self.names)

    def image_id(self, *names: str) -> str | None:
        return next((self.names[name] for name in names if name in self.names), None)

    def image_size(self, _name: str) -> int:
        return 9

    def remove_if_only(self, image: str, names: Collection[str]) -> bool:
        found = {name for name, of in self.names.items() if of == image}
        if not found <= {*names}:
            return False
        for name in found:
            del self.names[name]
        self.removed.append(image)
        return True

    def remove_unnamed(self, image: str) -> None:
        self.removed.append(image)

    def remove_strays(self, _owner: str) -> int:
        return 0


@dataclass
class FakeDocker:
    """What is built by buildx, and what for."""

    engine: FakeEngine = field(default_factory=FakeEngine)
    requests: list[BuildRequest] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=lambda: dict(FACTS))

    def build(
        self, request: BuildRequest, *, on_step: Callable[[Step], None], log: TextIO, cancel: Cancel | None = None
    ) -> BuildResult:
        assert cancel is not None
        self.requests.append(request)
        log.write("it was built\n")
        if request.output is None:
            self.engine.names |= dict.fromkeys(request.tags, IMAGE)
            return BuildResult(digests=(IMAGE,), steps=1, cached=0)
        for kind in ("started", "done"):
            on_step(Step(name=BUILD, kind=kind))
        request.output.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=request.output.parent) as scratch:
            self._write_artifact(Path(scratch, "files"))
            _replace(request.output, Path(scratch, "files"))
        return BuildResult(digests=(), steps=3, cached=1)

    def _write_artifact(self, folder: Path) -> None:
        library = folder / "rootfs" / "usr" / "lib" / "libm.so.6"
        library.parent.mkdir(parents=True)
        (folder / "facts" / "measures").mkdir(parents=True)
        Elf().write(library)
        Elf(text=CODE, needed=("libm.so.6", "libc.so.6"), build_id=b"12345678").write(folder / BINARY)
        Elf(text=CODE, symbols=SYMBOLS, build_id=b"12345678", only_debug=True).write(folder / DEBUG)
        (folder / BINARY).chmod(0o755)
        for name, text in self.facts.items():
            (folder / "facts" / name).write_text(f"{text}\n", encoding="utf-8")
        shutil.copy(RECORDED / "bazel-4.2.3-cold.jsonl", folder / "facts" / "bazel-events.json")
        (folder / "facts" / "measures" / "build").write_text("bytes_fetched 2\npeak_memory_bytes 7\n", encoding="utf-8")

    def site(self, folder: Path) -> Site:
        return Site(build=folder, models=folder, registries=("h:5000",), connect=lambda: cast("Engine", self.engine))

    def job(self, folder: Path, level: str = "x86-64-v3", *, base: str | None = None, **sections: object) -> Job:
        """A variant that is compiled from nothing; its image has another base, if that is given."""
        image = {"repository": "team/serving", "aliases": ["{id}"], **({"base": base} if base else {})}
        targets = {"t": {"flavour": "cpu", "levels": [level]}}
        matrix = load(folder, document(image=image, targets=targets, **sections))
        return Job(recipe=recipe_for(matrix.variants[0], matrix), site=self.site(folder / "build"))
