"""What commands share: the options that several of them take, how values are read, and printing."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from serving_factory.errors import UsageError

if TYPE_CHECKING:
    from serving_factory.matrix.matrix import Matrix
    from serving_factory.matrix.model import Resources
    from serving_factory.matrix.variant import Variant
    from serving_factory.pipeline.budget import Limits
    from serving_factory.pipeline.scheduler import Policy

_UNITS = {"MiB": 2**20, "GiB": 2**30}


@dataclass(frozen=True, slots=True)
class Option:
    """How the command line shows and reads a parameter; its type says whether it is a flag or repeatable."""

    help: str
    value: str = "TEXT"  # what stands for its value in the help
    parse: Callable[[str, str], object] = lambda _, text: text  # takes the option's name and its text
    positional: bool = False  # words without the option before them are it
    optional: bool = False  # it may stand without a value
    name: str = ""  # on the command line, where the parameter has another name


def bytes_of(text: str) -> int:
    """Read a size as options and the matrix file have it, such as `16GiB`."""
    return int(text[:-3]) * _UNITS[text[-3:]]


def _reader(
    pattern: str, read: Callable[[str], object], rule: str, remedy: str, *, zero: bool = False
) -> Callable[[str, str], object]:
    """An option's parser: takes the option's name and its text; the value must not be zero, unless `zero`."""

    def parse(name: str, text: str) -> object:
        if re.fullmatch(pattern, text) and ((value := read(text)) or (zero and value == 0)):
            return value
        raise UsageError(f"`{name}` must be {rule}, got {text!r}", remedy=remedy.format(name))

    return parse


_SIZE = ("[0-9]{1,7}(MiB|GiB)", bytes_of, "a size", "write a number and MiB or GiB: {} 16GiB")
_size, _any_size = _reader(*_SIZE), _reader(*_SIZE, zero=True)
_positive = _reader("[1-9][0-9]{0,3}", int, "a positive integer", "write a number from 1 to 9999: {} 4")
_minutes = _reader(r"[0-9]{1,6}(\.[0-9]+)?", float, "a positive number of minutes", "write {0} 90, or {0} 0.5 for 30 s")


def new_file(name: str, text: str) -> str:
    """Read the name of a file to write, as an option's parser."""
    if Path(text).is_dir():
        raise UsageError(f"`{name}` must be a file, got the folder {text!r}", remedy="name a file in it")
    if not (folder := Path(text).absolute().parent).is_dir():
        raise UsageError(
            f"`{name}` must be in a folder that exists, got {text!r}", remedy=f"mkdir -p {shlex.quote(str(folder))}"
        )
    return text


def write_file(path: Path, text: str) -> None:
    """Write a file that the user named: a link stays a link, a pipe, a device and standard output what they are."""
    from serving_factory.pipeline.records import write_atomically

    if path.exists() and os.path.samestat(path.stat(), os.fstat(1)):
        write(text)  # /dev/stdout, or what that is redirected to: another writer would overwrite what is there
    elif path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
    else:
        write_atomically(path.resolve(), text)


_LIST = "numbers with commas between them"
_numbers = _reader(
    r"[1-9][0-9]{0,4}(\.[0-9]{1,3})?(,[1-9][0-9]{0,4}(\.[0-9]{1,3})?)*",
    lambda text: tuple(float(one) for one in text.split(",")),
    _LIST,
    "write {} 1,8",
)
_sizes = _reader(
    "[1-9][0-9]{0,3}(,[1-9][0-9]{0,3})*",
    lambda text: tuple(int(one) for one in text.split(",")),
    f"whole {_LIST}, from 1 to 9999",
    "write {} 128,256",
)
_seconds = _reader(r"[0-9]{1,4}(\.[0-9]+)?", float, "a positive number of seconds", "write {0} 2, or {0} 0.5")
_ratio = _reader(r"[0-9](\.[0-9]{1,3})?", float, "a positive number below 10", "write {} 0.9")
_use = _reader("auto|require|never", str, "auto, require or never", "write {} require, or leave it out for auto")
_source = _reader(
    "volume|embedded(:[A-Za-z0-9][A-Za-z0-9_.-]*)?",
    str,
    "volume, embedded or embedded:NAME",
    "write {} embedded for a model that `./factory embed` has put into the image",
)
_driver = _reader(
    r"[0-9]{3,4}(\.[0-9]{1,3}){1,2}",
    str,
    "the version of an NVIDIA driver",
    "write it as nvidia-smi prints it: {} 535.54.03",
)
Driver = Annotated[str, Option("an NVIDIA driver's version, as nvidia-smi prints it", "VERSION", _driver)]
Json = Annotated[bool, Option("print JSON for machines: an object per line, or one document")]
Registry = Annotated[tuple[str, ...], Option("push to this registry", "HOST[:PORT]")]
VariantId = Annotated[str, Option("a variant's id, such as 2.19.1-cpu-v3", "VARIANT", positional=True)]
VariantIds = Annotated[
    tuple[str, ...], Option("ids of variants, such as 1.9.1-cpu-v1", "VARIANT", positional=True, name="variant")
]


@dataclass(frozen=True, slots=True)
class Checkout:
    """Where things are: the checkout, and its build folder."""

    root: Path
    build: Path

    @classmethod
    def here(cls) -> Checkout:
        """The checkout that this package is in."""
        root = Path(__file__).resolve().parents[3]
        return cls(root, root / "build")

    @property
    def sample(self) -> Path:
        """The sample's matrix file."""
        return self.root / "samples" / "matrix.yaml"

    @property
    def programs(self) -> Path:
        """Where `./factory setup` puts programs that the machine does not have."""
        return self.build / ".setup"

    @property
    def models(self) -> Path:
        """The models that images are tried with."""
        return self.root / "samples" / "model_server" / "models"


_Names = tuple[str, ...]
_RELEASE = 'an upstream release, such as 2.19.1, or a range such as ">=2.18"'


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The matrix file and the chosen variants. Names of one kind add up, kinds narrow each other down."""

    checkout: Checkout = field(default_factory=lambda: Checkout.here())  # noqa: PLW0108 - tests replace it
    matrix: Annotated[str, Option("the matrix file (default: matrix.yaml of this checkout)", "FILE")] = ""
    target: Annotated[_Names, Option("a target of the matrix, such as cpu-optimized", "NAME")] = ()
    release: Annotated[_Names, Option(_RELEASE, "RELEASE")] = ()
    variant: Annotated[_Names, Option("a variant's id, such as 2.19.1-cpu-v3", "VARIANT")] = ()
    flavour: Annotated[_Names, Option("cpu, mkl or gpu", "FLAVOUR")] = ()
    level: Annotated[_Names, Option("a CPU level, such as x86-64-v3 or v3", "LEVEL")] = ()
    platform: Annotated[_Names, Option("a platform, such as linux/amd64", "PLATFORM")] = ()
    cuda: Annotated[_Names, Option('a CUDA version, such as 12.2, or a range such as ">=12"', "CUDA")] = ()

    @property
    def file(self) -> Path:
        """The matrix file."""
        return Path(self.matrix) if self.matrix else self.checkout.root / "matrix.yaml"

    @property
    def folder(self) -> Path:
        """Where the matrix file's builds keep their records."""
        from serving_factory.pipeline.records import build_folder

        return build_folder(self.file, self.checkout.root, self.checkout.build)

    def load(self) -> Matrix:
        """Read the matrix file, and what the environment gives in its place."""
        # A task's help does without the catalogue and all that reads a matrix.
        from serving_factory.matrix.environment import given
        from serving_factory.matrix.load import load_matrix

        return load_matrix(self.file, given(os.environ, Path.cwd()))

    def choose(self, matrix: Matrix) -> tuple[Variant, ...]:
        """Choose the variants."""
        from serving_factory.matrix.select import select

        kinds = ("target", "release", "variant", "flavour", "level", "platform")
        return select(matrix, cuda=self.cuda, **{f"{kind}s": getattr(self, kind) for kind in kinds})


# A tuple beside a group names those of its options that a task takes.
Whole = Annotated[Asked, ("matrix",)]
Chosen = Annotated[Asked, ("matrix", "target", "release", "variant")]
Serving = Annotated[Asked, ("matrix", "target", "release", "flavour")]

_PARALLEL = "build at most so many variants at once (default: as many as the engine's machine can)"
_JOBS = "run so many compilers at once in each compile (default: its share of the CPUs)"
_MEMORY = "memory of each compile, such as 16GiB (default: 2GiB a job)"
_MINUTES = "end the run after so many minutes; the same command continues it"
_VARIANT_MINUTES = "end each variant that takes longer; it counts as failed"
_GPU = "try gpu images on a GPU: auto (where the engine can give one), require or never"
_EMULATE = "try images on emulated CPUs of their level and of the one below: auto (where qemu is), require or never"
_MAX_SIZE = "prune: how much may stay, such as 20GiB (default: resources.cache of the matrix)"
_OUTPUT = "archive, override: the folder to write to (default: this one; what the matrix file names)"
_PINNED = "archive: the expected archive: a preflight's report, REF=SHA256 or FILE_NAME=SHA256"
_REPOSITORY = "archive: the repository's name at the code host (default: as in the report or the mirror)"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How variants are taken through stages; None where the matrix file or the engine's machine decides."""

    asked: Chosen
    registry: Registry = ()
    devel: Annotated[bool, Option("push the devel images, in which people work, and not those that serve")] = False
    dry_run: Annotated[bool, Option("print what would be done, and do nothing")] = False
    locked: Annotated[bool, Option("fail before any work if `lock` has not pinned a base image or a Bazel")] = False
    parallel: Annotated[int | None, Option(_PARALLEL, "INTEGER", _positive)] = None
    jobs: Annotated[int | None, Option(_JOBS, "INTEGER", _positive)] = None
    memory: Annotated[int | None, Option(_MEMORY, "SIZE", _size)] = None
    fail_fast: Annotated[bool, Option("start no other variant once one has failed; finish the running ones")] = False
    max_minutes: Annotated[float | None, Option(_MINUTES, "MINUTES", _minutes)] = None
    variant_minutes: Annotated[float | None, Option(_VARIANT_MINUTES, "MINUTES", _minutes)] = None
    gpu: Annotated[str, Option(_GPU, "WHEN", _use)] = "auto"
    emulate: Annotated[str, Option(_EMULATE, "WHEN", _use)] = "auto"
    json: Json = False

    def limits(self, resources: Resources) -> Limits:
        """The user's limits; those that are not given are the matrix file's."""
        from serving_factory.pipeline.budget import Limits

        memory = self.memory or (bytes_of(resources.memory) if resources.memory else None)
        return Limits(parallel=self.parallel, jobs=self.jobs or resources.jobs, memory=memory)

    def policy(self) -> Policy:
        """When the run, or a variant of it, ends early."""
        from serving_factory.pipeline.scheduler import Policy

        whole, each = (value and value * 60 for value in (self.max_minutes, self.variant_minutes))
        return Policy(fail_fast=self.fail_fast, seconds=whole, variant_seconds=each)


StageOptions = Annotated[RunOptions, ("asked", "json")]
SmokeOptions = Annotated[RunOptions, ("asked", "gpu", "emulate", "json")]
PushOptions = Annotated[RunOptions, ("asked", "registry", "devel", "dry_run", "json")]
CombineOptions = Annotated[RunOptions, ("asked", "registry", "dry_run", "json")]


@dataclass(frozen=True, kw_only=True)
class PublishOptions:
    """The options of `publish`."""

    asked: Chosen
    registry: Registry = ()
    partial: Annotated[bool, Option("publish an index although images of it are missing")] = False
    dry_run: Annotated[bool, Option("ask the registry, print what would be published, and send nothing")] = False
    json: Json = False


_LIMITS = ("parallel", "jobs", "memory", "fail_fast", "max_minutes", "variant_minutes")
CompileOptions = Annotated[RunOptions, ("asked", *_LIMITS, "json")]


@dataclass(frozen=True, kw_only=True)
class CacheOptions:
    """The words and options of `cache`."""

    asked: Whole
    verb: Annotated[str, Option("show, prune, export or import", "VERB", positional=True)] = ""
    file: Annotated[str, Option("export, import: the tarball", "FILE", positional=True)] = ""
    max_size: Annotated[int | None, Option(_MAX_SIZE, "SIZE", _any_size)] = None
    toolchain: Annotated[str, Option("prune: this toolchain's folder only; all of it without --max-size", "KEY")] = ""
    json: Json = False


@dataclass(frozen=True, kw_only=True)
class InputsOptions:
    """The options of `inputs`; each but --matrix and --json belongs to the verb that its help begins with."""

    asked: Whole
    output: Annotated[str, Option(_OUTPUT, "FOLDER")] = ""
    pinned: Annotated[_Names, Option(_PINNED, "PIN")] = ()
    repository: Annotated[str, Option(_REPOSITORY, "NAME")] = ""
    as_zip: Annotated[bool, Option("archive: make zip files instead of tar.gz", name="zip")] = False
    mirrors: Annotated[str, Option("fill: a folder of git repositories (clones or mirrors)", "FOLDER")] = ""
    archives: Annotated[str, Option("fill: a folder of archives; those with the right sha256 are used", "FOLDER")] = ""
    overrides: Annotated[bool, Option("fill: make a folder for what a mirror cannot give byte for byte")] = False
    source: Annotated[str, Option("override: its sources: archive, folder or GIT_DIR#REF", "SOURCE", name="from")] = ""
    debian_source: Annotated[str, Option("override: a source package of this distribution", "NAME[=VERSION]")] = ""
    variant: Annotated[str, Option("override: the variant whose sources declare the repository", "VARIANT")] = ""
    json: Json = False


_TAG = "another name for the image, such as team/model:1; with --registry it is pushed too"
_SOURCE = "where the model is: volume (default) or embedded, in an image that `embed` pushed; of several embedded:NAME"
_REQUEST = "ask this instead of zeros: the body of a REST predict request, and `expected` beside it"


@dataclass(frozen=True, kw_only=True)
class EmbedOptions:
    """The word and the options of `embed`."""

    asked: Whole
    model: Annotated[
        str, Option("a model's folder, with version folders, or one SavedModel", "MODEL_DIR", positional=True)
    ] = ""
    variant: Annotated[str, Option("the variant whose image gets the model", "VARIANT")] = ""
    name: Annotated[str, Option("the model's name (default: the folder's)", "NAME")] = ""
    tag: Annotated[_Names, Option(_TAG, "REF")] = ()
    request: Annotated[str, Option(_REQUEST, "FILE")] = ""
    registry: Registry = ()
    dry_run: Annotated[bool, Option("check the model, print what would be done, and do nothing")] = False
    json: Json = False


@dataclass(frozen=True, kw_only=True)
class DeployOptions:
    """The options of `deploy`."""

    asked: Whole
    output: Annotated[str, Option("the folder to write to (default: deploy)", "FOLDER")] = ""
    model: Annotated[str, Option(_SOURCE, "SOURCE", _source)] = "volume"
    dry_run: Annotated[bool, Option("print the files, and write nothing")] = False
    json: Json = False


_CPUS = "limit each image to so many CPUs; several limits are servers of their own (default: 1)"
_SIZES = "heights and widths of pictures, or numbers of rows (default: 128,256,512, or 1,32)"
_RATES = "requests a second to send beside the most (default: half and four fifths of the slowest one's most)"
_ROUNDS = "measure so often; below 6 no difference is certain (default: 7)"
_EACH = "send each load for so long, in each round (default: 1)"
_PLAN = "print what would be measured and how long it takes, and start nothing"
_GATE = "fail where a level certainly answers less than this part of what the level below answers, such as 0.9"
_MODEL = "a model's folder, with a numbered one in it (default: a picture model)"


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """The options of `compare`; None where the plan's own value holds."""

    asked: Whole
    cpus: Annotated[tuple[float, ...] | None, Option(_CPUS, "NUMBERS", _numbers)] = None
    gpus: Annotated[bool, Option("start images for GPUs with all GPUs as well")] = False
    model: Annotated[str, Option(_MODEL, "FOLDER")] = ""
    sizes: Annotated[tuple[int, ...] | None, Option(_SIZES, "NUMBERS", _sizes)] = None
    rates: Annotated[tuple[float, ...] | None, Option(_RATES, "NUMBERS", _numbers)] = None
    rounds: Annotated[int | None, Option(_ROUNDS, "INTEGER", _positive)] = None
    seconds: Annotated[float | None, Option(_EACH, "SECONDS", _seconds)] = None
    output: Annotated[str, Option("the page; JSON goes beside it (default: compare.html)", "FILE", new_file)] = (
        "compare.html"
    )
    dry_run: Annotated[bool, Option(_PLAN)] = False
    json: Json = False


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """The options of `bench`."""

    asked: Annotated[Asked, ("matrix", "target", "release", "flavour")]
    gate: Annotated[float | None, Option(_GATE, "NUMBER", _ratio)] = None
    rounds: Annotated[int, Option(_ROUNDS, "INTEGER", _positive)] = 7
    seconds: Annotated[float, Option(_EACH, "SECONDS", _seconds)] = 1.0
    dry_run: Annotated[bool, Option(_PLAN)] = False
    json: Json = False


def write(text: str) -> None:
    """Print, as it is."""
    sys.stdout.write(text)
    sys.stdout.flush()


def show(document: Mapping[str, object], text: str, *, json: bool) -> None:
    """Print a result: the document for machines, or the text."""
    if json:
        from serving_factory.pipeline.events import document_text

        text = document_text(document)
    write(text)


def progress(*lines: str) -> None:
    """Print lines on stderr: what is being done, and notes."""
    sys.stderr.write("".join(f"{line}\n" for line in lines))
    sys.stderr.flush()


def width() -> int | None:
    """Columns of the terminal; None where standard output is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
