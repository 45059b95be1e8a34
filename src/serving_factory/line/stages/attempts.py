"""Which failed builds are tried again, and how."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

from serving_factory.engine.buildx import BuildResult
from serving_factory.engine.caches import drop_cache_mounts
from serving_factory.engine.retry import retrying
from serving_factory.errors import CacheCorruptError, EngineError, FactoryError, FetchError, OutOfMemoryError
from serving_factory.line.bazel_caches import empty_cache
from serving_factory.line.events import StageName
from serving_factory.line.failure_errors import count_jobs
from serving_factory.line.job import Job, Tell
from serving_factory.recipes.render import CACHES

__all__ = ["with_second_chances"]

_FETCHES = 4
_FIRST_DELAY = 3.0  # seconds; Bazel, git and apt have tried for a while themselves


def with_second_chances(
    job: Job, tell: Tell, attempt: Callable[[Job], BuildResult], *, has_built: Callable[[], bool]
) -> BuildResult:
    """Build, and try again what can end otherwise.

    A download that failed is tried four times, with waits that double; once where there is no network to wait for. A
    Bazel that ran out of memory is tried once more with half its jobs, on what the first try left in its disk cache;
    what comes after it has no jobs to halve. A damaged cache is dropped, or emptied where another build holds it, and
    the build tried once more. Nothing else is: a wrong checksum, least of all. The log of each try before the last is
    kept beside its own.

    Args:
        job: the variant.
        tell: told of each try after the first: what failed before it, and how it is done.
        attempt: builds once.
        has_built: whether Bazel's part of the build was done.
    """
    tries = count(1)

    def logged(job: Job) -> BuildResult:
        _put_aside(job.log(StageName.COMPILE), before_try=next(tries))
        return attempt(job)

    try:
        return _with_patience(job, tell, logged)
    except OutOfMemoryError as error:
        if job.share.jobs == 1 or has_built():
            raise
        fewer = job.share.halved()
        tell(f"{_said(error, job)}; once more with {count_jobs(fewer.jobs)}, on the warm cache")
        try:
            return _with_patience(replace(job, share=fewer), tell, logged)
        except OutOfMemoryError as again:
            raise OutOfMemoryError(
                f"{again.what}; before that, with {job.share.jobs}", why=again.why, remedy=again.remedy
            ) from error
    except CacheCorruptError as error:
        _drop(error, job, tell)
        return _with_patience(job, tell, logged)


def _put_aside(log: Path, *, before_try: int) -> None:
    """Keep the log of the try before, as `compile.try-1.log`; those of an earlier run go."""
    if before_try > 1:
        with suppress(FileNotFoundError):
            log.rename(log.with_suffix(f".try-{before_try - 1}.log"))
        return
    for old in log.parent.glob(f"{log.stem}.try-*.log"):
        old.unlink()


def _drop(damaged: CacheCorruptError, job: Job, tell: Tell) -> None:
    """Take a damaged cache away: the whole mount, or what is in it where another build holds the mount.

    Raises:
        CacheCorruptError: neither can be done, and a build with it would end in the same way.
    """
    if not drop_cache_mounts(f"{CACHES}-{damaged.cache}").used:
        tell(f"{_said(damaged, job)}; once more without it")
        return
    tell(f"{_said(damaged, job)}, and another build uses it; once more, with its entries removed")
    try:
        empty_cache(job.recipe.base_image, damaged.cache)
    except EngineError as error:
        raise CacheCorruptError(
            f"{damaged.what}; another build uses it, so that it cannot be dropped, and it cannot be emptied",
            why=f"{damaged.why}\n{error.why}",
            remedy="run the same command again once that build has ended",
            cache=damaged.cache,
        ) from error


def _said(error: Exception, job: Job) -> str:
    """What happened, without the variant's name, which stands beside it already."""
    what = error.what if isinstance(error, FactoryError) else str(error)
    return what.removeprefix(f"{job.recipe.variant.id}: ")


def _with_patience(job: Job, tell: Tell, attempt: Callable[[Job], BuildResult]) -> BuildResult:
    def on_retry(number: int, delay: float, error: Exception) -> None:
        tell(f"{_said(error, job)}; try {number + 1} of {_FETCHES} in {delay:.0f} s")

    return retrying(
        lambda: attempt(job),
        transient=() if job.recipe.doors.offline else (FetchError,),
        on_retry=on_retry,
        attempts=_FETCHES,
        first_delay=_FIRST_DELAY,
        sleep=job.cancel.wait,
    )
