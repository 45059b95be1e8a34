"""What a build will take: time, memory, downloads. Pure: from what earlier runs took, or from the release's size.

After the run: what it took, in the same shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from packaging.version import Version

from serving_factory.pipeline.events import Status, VariantResult

_COMPILE = "compile"
_GPU = "gpu"
_LATEST = 3  # runs that count: older ones were made before later changes
# Seconds allowed for a stage that no run has finished; small next to a compile
_OTHER_STAGES: Mapping[str, float] = {
    "extract": 20.0,
    "libraries": 10.0,
    "inspect": 1.0,
    "package": 20.0,
    "smoke": 30.0,
    "push": 60.0,
}


class Basis(StrEnum):
    """What an estimate is based on, the best first."""

    VARIANT = "its own earlier runs"
    FLAVOUR = "its release and flavour"
    TOOLCHAIN = "its toolchain"
    ESTIMATE = "an estimate from the release's size"
    NOTHING = "nothing: no earlier run is like it"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRun:
    """A stage of a variant that worked in an earlier run."""

    variant: str
    release: str
    flavour: str
    toolchain: str
    stage: str
    status: str  # `finished`, `failed` or `cancelled`
    seconds: float
    key: str = ""  # the key of its record; empty where it left none
    # the numbers of its record, such as `{"actions": 53}`; those of a table in it as `runners.worker`
    facts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A variant that is to be built."""

    variant: str
    release: str
    flavour: str
    toolchain: str
    upstream: bool  # whether the sources are upstream's, so that the release says how much there is to compile
    offline: bool = False  # whether it has no network
    run: tuple[str, ...]  # names of the stages that will run
    jobs: int  # compilers that run at once; only estimates from the release's size depend on it


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What one variant will take; None is unknown."""

    variant: str
    seconds: float | None
    memory: int | None  # peak memory of the compile in bytes
    download: int | None
    basis: Basis
    compiles: bool = True  # whether it compiles; else there is no memory and no download to estimate
    after_compile: float = 0.0  # how many of the seconds come after its compile: the next one does not wait for them


@dataclass(frozen=True, slots=True)
class RunEstimate:
    """What a run will take, or took: each variant that has work, and all together."""

    variants: tuple[Estimate, ...] = ()
    # variant's id → its wave; those of one wave compile at once, wave after wave; None where each works alone
    waves: Mapping[str, int] | None = None
    seconds: float | None = None  # wall time; None where nothing is known of any variant
    memory: int | None = None  # peak memory in bytes; None where it is unknown of one of the variants, as `download`
    download: int | None = None

    @property
    def estimated(self) -> bool:
        """Whether a part of it is estimated from the release's size, not from earlier runs."""
        return any(one.basis is Basis.ESTIMATE for one in self.variants)

    @property
    def unknown(self) -> int:
        """How many variants nothing is known of; they are not in the seconds."""
        return sum(one.seconds is None for one in self.variants)

    @property
    def by_variant(self) -> Mapping[str, float]:
        """Variant's id → its seconds, where they are known."""
        return {one.variant: one.seconds for one in self.variants if one.seconds is not None}

    def members(self) -> dict[str, object]:
        """The estimate as the members of its JSON object."""
        return {
            **{name: getattr(self, name) for name in ("seconds", "memory", "download", "estimated", "unknown")},
            "variants": self.variants,
        }


NOTHING_TO_DO = RunEstimate()  # the estimate of a run in which all is up to date


@dataclass(frozen=True, slots=True)
class Size:
    """How much a release is to compile: an estimate."""

    since: Version  # the first release of this size
    core_seconds: float  # of compiling everything once
    memory: float  # bytes for Bazel and the linker
    memory_per_job: float  # bytes for each compiler that runs
    disk: float  # bytes that one variant takes while it is built
    download: float  # bytes of the archives that Bazel fetches for the first variant, without those of CUDA


_SIZES: Sequence[Size] = (
    # 1.9.1, measured: 2,681 and 2,869 s on two cores, peak 4.8 to 5.1 GB with two jobs, 133 MB of archives.
    Size(Version("0"), 5_700, 2.1e9, 1.5e9, 1.7e9, 0.15e9),
    # 1.15.0, likewise: 51 min and 3,013 s, peak 5.6 GB, 199 MB of archives. The disk is in proportion to the actions.
    Size(Version("1.15"), 12_100, 2.6e9, 1.5e9, 3e9, 0.2e9),
    # Not measured here; for downloads there is no published measurement. TensorFlow 2 on a hosted runner of 2
    # cores: more than 6 h (tensorflow/tensorflow#57630); 10 GB were not enough for 6 jobs
    # (tensorflow/tensorflow#42066); a Bazel cache of about 9 GB (googleapis/google-cloud-cpp#5819).
    Size(Version("2.0"), 6 * 3600 * 2, 2.6e9, 2.0e9, 9e9, 1e9),
)


def size_of(release: str) -> Size:
    """Estimate how much a release is to compile."""
    return max((one for one in _SIZES if one.since <= Version(release)), key=lambda one: one.since)


def estimate_variants(work: Iterable[Work], past: Sequence[StageRun]) -> tuple[Estimate, ...]:
    """Estimate each variant that has stages to run; `past` holds what finished in earlier runs, oldest first."""
    fetched = {_archives(row) for row in past if row.stage == _COMPILE}
    found = []
    for one in work:
        if one.run:
            found.append(_estimate(one, past, fetches=_archives(one) not in fetched))
        if _COMPILE in one.run:
            fetched.add(_archives(one))
    return tuple(found)


def add_up(variants: Sequence[Estimate], waves: Mapping[str, int] | None = None) -> RunEstimate:
    """Estimate a run of these variants."""
    known = [one for one in variants if one.seconds is not None]
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
    return RunEstimate(
        tuple(variants),
        waves,
        seconds=ended if known else None,
        memory=None if None in memory else max((size for size in memory if size is not None), default=None),
        download=_sum(one.download for members in compiling for one in members) if memory else None,
    )


def actual(estimate: RunEstimate, results: Iterable[VariantResult], seconds: float) -> RunEstimate | None:
    """What a run of `seconds` took, added up as its estimate was; None where not all of the estimated work was done."""
    built = {result.variant: result for result in results if result.status is Status.BUILT}
    if not estimate.variants or {one.variant for one in estimate.variants} - set(built):
        return None
    # `seconds` also for variants of which nothing was known: they are part of the time that was measured.
    taken = [
        replace(one, seconds=seconds, memory=built[one.variant].memory, download=built[one.variant].download)
        for one in estimate.variants
    ]
    return replace(add_up(taken, estimate.waves), seconds=seconds)


def _sum(values: Iterable[int | None]) -> int | None:
    found = list(values)
    return None if None in found else sum(value for value in found if value is not None)


def _estimate(work: Work, past: Sequence[StageRun], *, fetches: bool) -> Estimate:
    """Estimate one variant; `fetches`: no other variant fills the repository cache with its archives before it."""
    found = {stage: _like(work, stage, past) for stage in work.run}
    rest = sum(
        _median([row.seconds for row in rows]) if rows else _OTHER_STAGES.get(stage, 0.0)
        for stage, (_, rows) in found.items()
        if stage != _COMPILE
    )
    basis, rows = found.get(_COMPILE) or next(iter(found.values()))
    unknown = Estimate(variant=work.variant, seconds=None, memory=None, download=None, basis=Basis.NOTHING)
    if _COMPILE not in work.run:
        return replace(unknown, seconds=rest, basis=basis, compiles=False)
    if rows:
        memory = [row.facts["peak_memory_bytes"] for row in rows if "peak_memory_bytes" in row.facts]
        download = [row.facts["bytes_fetched"] for row in rows if "bytes_fetched" in row.facts]
        return Estimate(
            variant=work.variant,
            seconds=rest + _median([row.seconds for row in rows]),
            memory=int(max(memory)) if memory else None,
            download=int(_median(download)) if download else None,
            basis=basis,
            after_compile=rest,
        )
    if not work.upstream:
        return unknown
    size = size_of(work.release)
    # Of CUDA's archives, which some releases fetch too, nothing is known.
    download_size = None if work.flavour == _GPU else int(size.download)
    return Estimate(
        variant=work.variant,
        seconds=rest + size.core_seconds / work.jobs,
        memory=int(size.memory + size.memory_per_job * work.jobs),
        download=download_size if fetches and not work.offline else 0,
        basis=Basis.ESTIMATE,
        after_compile=rest,
    )


def _archives(one: Work | StageRun) -> tuple[str, bool]:
    """What decides which archives are fetched, by and large: the release, and whether it is for GPUs."""
    return one.release, one.flavour == _GPU


def _like(work: Work, stage: str, past: Sequence[StageRun]) -> tuple[Basis, Sequence[StageRun]]:
    likenesses: Mapping[Basis, Callable[[StageRun], bool]] = {
        Basis.VARIANT: lambda row: row.variant == work.variant,
        Basis.FLAVOUR: lambda row: (row.release, row.flavour) == (work.release, work.flavour),
        Basis.TOOLCHAIN: lambda row: row.toolchain == work.toolchain,
    }
    rows = [row for row in past if row.stage == stage]
    for basis, alike in likenesses.items():
        if found := [row for row in rows if alike(row)]:
            return basis, found[-_LATEST:]
    return Basis.NOTHING, ()


def _median(values: Sequence[float]) -> float:
    """The median; of two, the larger."""
    # Importing the module `statistics` takes longer than all that is done here.
    return sorted(values)[len(values) // 2]
