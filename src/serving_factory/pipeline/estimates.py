"""What a build will take: time, memory, downloads. Pure: from what earlier runs took, or from the release's size.

After the run, what it took, in the same shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from packaging.version import Version

from serving_factory.pipeline.events import Status, VariantResult

_COMPILE = "compile"
_GPU = "gpu"
_LATEST = 3
"""How many of the latest runs count: what was changed meanwhile makes older ones tell less."""

_OTHERS: Mapping[str, float] = {"extract": 20.0, "inspect": 1.0, "package": 20.0, "smoke": 30.0, "push": 60.0}
"""Seconds allowed for a stage that no run has been through; next to a compile they hardly count."""


class Basis(StrEnum):
    """What a estimate goes by, the best first."""

    VARIANT = "its own earlier runs"
    FLAVOUR = "its release and flavour"
    TOOLCHAIN = "its toolchain"
    ESTIMATE = "an estimate from the release's size"
    NOTHING = "nothing: no earlier run is like it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """A stage that finished in an earlier run, oldest first.

    Args:
        variant: the variant's id.
        release: its release.
        flavour: its flavour.
        toolchain: what compiled it.
        stage: the stage's name.
        seconds: what it took.
        memory: peak memory in bytes; None where it was not measured.
        download: bytes downloaded; None where it was not measured.
    """

    variant: str
    release: str
    flavour: str
    toolchain: str
    stage: str
    seconds: float
    memory: int | None = None
    download: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A variant that is to be built.

    Args:
        variant: its id.
        release: its release.
        flavour: its flavour.
        toolchain: what compiles it.
        upstream: whether the sources are upstream's, so that the release tells how much there is to compile.
        offline: whether it has no network.
        run: names of the stages that will run.
        jobs: compilers that run at once; only estimates depend on it.
    """

    variant: str
    release: str
    flavour: str
    toolchain: str
    upstream: bool
    offline: bool = False
    run: tuple[str, ...]
    jobs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What one variant will take.

    Args:
        variant: its id.
        seconds: wall time; None where nothing is known.
        memory: peak memory of the compile in bytes; None where unknown.
        download: bytes; None where unknown.
        basis: what it goes by.
        compiles: whether it compiles; else there is no memory and no download to estimate.
        after_compile: how many of the seconds come after its compile, which the next compile does not wait for.
    """

    variant: str
    seconds: float | None
    memory: int | None
    download: int | None
    basis: Basis
    compiles: bool = True
    after_compile: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """What a whole run will take, or took; what is None is not known, of one of the variants at least.

    Args:
        seconds: wall time.
        memory: peak memory in bytes.
        download: bytes.
        estimated: whether a part of it is an estimate, not earlier runs.
        unknown: how many variants nothing is known of; they are not in the other figures.
    """

    seconds: float | None
    memory: int | None
    download: int | None
    estimated: bool
    unknown: int


@dataclass(frozen=True, slots=True)
class Outlook:
    """A run's estimate.

    Args:
        estimates: of each variant that has anything to do.
        total: of all.
        waves: variant's id → its wave, as `total` takes them.
    """

    estimates: tuple[Estimate, ...]
    total: Total
    waves: Mapping[str, int] | None = None

    @property
    def seconds(self) -> Mapping[str, float]:
        """Variant's id → seconds expected, where they are."""
        return {one.variant: one.seconds for one in self.estimates if one.seconds is not None}


NOTHING_TO_DO = Outlook((), Total(seconds=None, memory=None, download=None, estimated=False, unknown=0))
"""The outlook of a run in which all is up to date."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much a release is to compile: an estimate.

    Args:
        since: the first release that is of this size.
        core_seconds: of compiling everything once.
        memory: bytes for Bazel and the linker.
        memory_per_job: bytes for each compiler that runs.
        disk: bytes that one variant takes while it is built.
        download: bytes of the archives that Bazel fetches for the first variant; those of CUDA are not in it.
    """

    since: Version
    core_seconds: float
    memory: float
    memory_per_job: float
    disk: float
    download: float


_SIZES: Sequence[Size] = (
    # 1.9.1, measured with this factory: 2,681 and 2,869 s on two cores, peak 4.8 to 5.1 GB with two jobs, 133 MB of
    # archives.
    Size(Version("0"), 5_700, 2.1e9, 1.5e9, 1.7e9, 0.15e9),
    # 1.15.0, likewise, in two runs: 51 min and 3,013 s on two cores, peak 5.6 GB, 199 MB of archives. The disk is in
    # proportion to the actions.
    Size(Version("1.15"), 12_100, 2.6e9, 1.5e9, 3e9, 0.2e9),
    # Not measured here, and of downloads nobody has published a measurement. TensorFlow 2 on a hosted runner of 2
    # cores: more than 6 h (tensorflow/tensorflow#57630); 10 GB were not enough for 6 jobs
    # (tensorflow/tensorflow#42066); a Bazel cache of about 9 GB (googleapis/google-cloud-cpp#5819).
    Size(Version("2.0"), 6 * 3600 * 2, 2.6e9, 2.0e9, 9e9, 1e9),
)


def size_of(release: str) -> Size:
    """Estimate how much a release is to compile."""
    return max((one for one in _SIZES if one.since <= Version(release)), key=lambda one: one.since)


def estimate(required: Iterable[Wanted], past: Sequence[Past]) -> tuple[Estimate, ...]:
    """Estimate what each variant takes that has anything to do.

    Args:
        required: the variants.
        past: what finished in earlier runs, oldest first.
    """
    fetched = {_archives(row) for row in past if row.stage == _COMPILE}
    found = []
    for one in required:
        if one.run:
            found.append(_one(one, past, fetches=_archives(one) not in fetched))
        if _COMPILE in one.run:
            fetched.add(_archives(one))
    return tuple(found)


def total(estimates: Sequence[Estimate], waves: Mapping[str, int] | None = None) -> Total:
    """Add up.

    Args:
        estimates: of the variants.
        waves: variant's id → its wave; those of one wave compile at once, one wave after the other. None where each
            works alone.
    """
    known = [one for one in estimates if one.seconds is not None]
    known.sort(key=lambda one: waves.get(one.variant, 0) if waves else 0)
    by_wave: dict[object, list[Estimate]] = {}
    for one in known:
        by_wave.setdefault(waves.get(one.variant) if waves else one.variant, []).append(one)
    begun = ended = 0.0
    for members in by_wave.values():
        ended = max(ended, begun + max(one.seconds or 0.0 for one in members))
        begun += max((one.seconds or 0.0) - (one.after_compile if waves else 0.0) for one in members)
    compiling = [[one for one in members if one.compiles] for members in by_wave.values()]
    memory = [_sum(one.memory for one in members) for members in compiling if members]
    return Total(
        seconds=ended if known else None,
        memory=None if None in memory else max((size for size in memory if size is not None), default=None),
        download=_sum(one.download for members in compiling for one in members) if memory else None,
        estimated=any(one.basis is Basis.ESTIMATE for one in known),
        unknown=len(estimates) - len(known),
    )


def actual(outlook: Outlook, results: Iterable[VariantResult], seconds: float) -> Total | None:
    """What a run took, added up as its estimate was: compiles of one wave count as having their peaks at one time.

    Args:
        outlook: what was expected.
        results: what became of the variants.
        seconds: wall time of the run.

    Returns:
        None where nothing was to be done, and where not all of it was: half a run proves no estimate wrong.
    """
    built = {result.variant: result for result in results if result.status is Status.BUILT}
    expected = outlook.estimates
    if not expected or {one.variant for one in expected} - set(built):
        return None
    # Even a variant that nobody knew anything of took its part of the time that was measured.
    taken = [
        replace(one, seconds=seconds, memory=built[one.variant].memory, download=built[one.variant].download)
        for one in expected
    ]
    return replace(total(taken, outlook.waves), seconds=seconds)


def _sum(values: Iterable[int | None]) -> int | None:
    """The sum; None where one of them is not known."""
    found = list(values)
    return None if None in found else sum(value for value in found if value is not None)


def _one(required: Wanted, past: Sequence[Past], *, fetches: bool) -> Estimate:
    """Estimate one variant; `fetches`: no other of its release has filled the repository cache before it."""
    found = {stage: _like(required, stage, past) for stage in required.run}
    rest = sum(
        _middle([row.seconds for row in rows]) if rows else _OTHERS.get(stage, 0.0)
        for stage, (_, rows) in found.items()
        if stage != _COMPILE
    )
    basis, rows = found.get(_COMPILE) or next(iter(found.values()))
    if _COMPILE not in required.run:
        return Estimate(variant=required.variant, seconds=rest, memory=None, download=None, basis=basis, compiles=False)
    if rows:
        memory = [row.memory for row in rows if row.memory is not None]
        download = [row.download for row in rows if row.download is not None]
        return Estimate(
            variant=required.variant,
            seconds=rest + _middle([row.seconds for row in rows]),
            memory=max(memory, default=None),
            download=int(_middle(download)) if download else None,
            basis=basis,
            after_compile=rest,
        )
    if not required.upstream:
        return Estimate(variant=required.variant, seconds=None, memory=None, download=None, basis=Basis.NOTHING)
    size = size_of(required.release)
    return Estimate(
        variant=required.variant,
        seconds=rest + size.core_seconds / required.jobs,
        memory=int(size.memory + size.memory_per_job * required.jobs),
        download=_download(required, size) if fetches and not required.offline else 0,
        basis=Basis.ESTIMATE,
        after_compile=rest,
    )


def _archives(one: Wanted | Past) -> tuple[str, bool]:
    """What decides which archives are fetched, by and large: the release, and whether it is for GPUs."""
    return one.release, one.flavour == _GPU


def _download(required: Wanted, size: Size) -> int | None:
    """Bytes that the first variant of a release fetches; of CUDA's, which some releases fetch too, nothing is known."""
    return None if required.flavour == _GPU else int(size.download)


def _like(required: Wanted, stage: str, past: Sequence[Past]) -> tuple[Basis, Sequence[Past]]:
    """The latest runs of a stage that are the most like it."""
    likenesses: Mapping[Basis, Callable[[Past], bool]] = {
        Basis.VARIANT: lambda row: row.variant == required.variant,
        Basis.FLAVOUR: lambda row: (row.release, row.flavour) == (required.release, required.flavour),
        Basis.TOOLCHAIN: lambda row: row.toolchain == required.toolchain,
    }
    rows = [row for row in past if row.stage == stage]
    for basis, alike in likenesses.items():
        if found := [row for row in rows if alike(row)]:
            return basis, found[-_LATEST:]
    return Basis.NOTHING, ()


def _middle(values: Sequence[float]) -> float:
    """The median; of two, the larger."""
    # Importing the standard library's median takes longer than all that is done here.
    return sorted(values)[len(values) // 2]
