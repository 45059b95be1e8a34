"""Which failed builds are tried again, and how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from serving_factory.engine.buildx import BuildResult
from serving_factory.engine.caches import drop_cache_mounts
from serving_factory.engine.retry import retrying
from serving_factory.errors import CacheCorruptError, EngineError, FactoryError, FetchError, OutOfMemoryError
from serving_factory.line.bazel_caches import empty_cache
from serving_factory.line.failure_errors import count_jobs
from serving_factory.line.job import Job
from serving_factory.recipes.render import CACHES

__all__ = ["with_second_chances"]

_FETCHES = 4
_FIRST_DELAY = 3.0  # seconds; Bazel, git and apt have tried for a while themselves


def with_second_chances(
    job: Job, attempt: Callable[[Job], BuildResult], *, has_built: Callable[[], bool]
) -> BuildResult:
    """Build, and try again what can end otherwise.

    A download that failed is tried four times, with waits that double; once where there is no network to wait for. A
    Bazel that ran out of memory is tried once more with half its jobs, on what the first try left in its disk cache;
    what comes after it has no jobs to halve. A damaged cache is dropped, or emptied where another build holds it, and
    the build tried once more. Nothing else is: a wrong checksum, least of all. `job.tell_retry` is told what failed
    before each try, and how it is done.

    Args:
        job: the variant.
        attempt: builds once.
        has_built: whether Bazel's part of the build was done.
    """
    try:
        return _with_patience(job, attempt)
    except OutOfMemoryError as error:
        if job.share.jobs == 1 or has_built():
            raise
        fewer = job.share.halved()
        job.tell_retry(f"{_said(error, job)}; once more with {count_jobs(fewer.jobs)}, on the warm cache")
        try:
            return _with_patience(replace(job, share=fewer), attempt)
        except OutOfMemoryError as again:
            raise OutOfMemoryError(
                f"{again.what}; before that, with {job.share.jobs}", why=again.why, remedy=again.remedy
            ) from error
    except CacheCorruptError as error:
        _drop(error, job)
        return _with_patience(job, attempt)


def _drop(damaged: CacheCorruptError, job: Job) -> None:
    """Take a damaged cache away: the whole mount, or what is in it where another build holds the mount.

    Raises:
        CacheCorruptError: neither can be done, and a build with it would end in the same way.
    """
    if not drop_cache_mounts(f"{CACHES}-{damaged.cache}").used:
        job.tell_retry(f"{_said(damaged, job)}; once more without it")
        return
    job.tell_retry(f"{_said(damaged, job)}, and another build uses it; once more, with its entries removed")
    try:
        empty_cache(job.recipe.base_image, damaged.cache)
    except EngineError as error:
        raise CacheCorruptError(
            f"{damaged.what}; another build uses it, so that it cannot be dropped, and it cannot be emptied",
            why=f"{damaged.why}\n{error.why}",
            remedy="run the same command again once that build has ended",
            cache=damaged.cache,
        ) from error


def _said(error: FactoryError, job: Job) -> str:
    """What happened, without the variant's name, which stands beside it already."""
    return error.what.removeprefix(f"{job.recipe.variant.id}: ")


def _with_patience(job: Job, attempt: Callable[[Job], BuildResult]) -> BuildResult:
    def on_retry(number: int, delay: float, error: FetchError) -> None:
        job.tell_retry(f"{_said(error, job)}; try {number + 1} of {_FETCHES} in {delay:.0f} s")

    return retrying(
        lambda: attempt(job),
        transient=() if job.recipe.doors.offline else (FetchError,),
        on_retry=on_retry,
        attempts=_FETCHES,
        first_delay=_FIRST_DELAY,
        sleep=job.cancel.wait,
    )
