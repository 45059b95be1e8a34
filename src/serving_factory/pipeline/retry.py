"""What is tried again, and how often: typed faults only, each with a limit and a preparation of its own."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from serving_factory.docker.caches import drop_cache_mounts
from serving_factory.errors import (
    CacheCorruptError,
    DockerCommandError,
    DownloadFaultError,
    EngineError,
    EngineLostError,
    EngineUnavailableError,
    FactoryError,
    FetchError,
    OutOfMemoryError,
    RegistryFaultError,
    RegistryLimitError,
)
from serving_factory.pipeline.budget import count_jobs
from serving_factory.pipeline.caches import empty_cache
from serving_factory.pipeline.job import Job
from serving_factory.recipes.recipe import CACHES

Result = TypeVar("Result")
LONGEST_WAIT = 60.0  # seconds. An error that asks for a longer wait is raised at once.
DEADLINE = 90.0  # seconds after which a server that keeps failing is asked no more
_ASKED = 4
_FIRST_WAIT, _FIRST_WAIT_OF_LIMIT = 0.5, 5.0  # seconds
_RANDOM = random.SystemRandom()  # no state of ours, and no two factories in step


def asking_again(
    question: Callable[[], Result], report: Callable[[str], object], *, sleep: Callable[[float], object] = time.sleep
) -> Result:
    """Ask a server; again, and with a sentence to `report`, while it fails in a way that may be over soon."""
    # Waits double, each half to one and a half times as long; a server's Retry-After takes the place of a shorter one.
    began = time.monotonic()
    for attempt in range(1, _ASKED):
        try:
            return question()
        except (RegistryFaultError, DownloadFaultError) as error:
            # A rate limit that says nothing of when it ends is not over in a second.
            unknown = isinstance(error, RegistryLimitError) and error.retry_after is None
            wait = (_FIRST_WAIT_OF_LIMIT if unknown else _FIRST_WAIT) * 2 ** (attempt - 1) * _RANDOM.uniform(0.5, 1.5)
            wait = max(wait, error.retry_after or 0.0)
            if wait > LONGEST_WAIT or time.monotonic() - began + wait > DEADLINE:
                raise
            report(f"attempt {attempt} failed ({error.what.rstrip('.')}); again in {wait:.1f} s")
        sleep(wait)
    return question()


_FETCHES = 4
_FIRST_DELAY = 3.0  # seconds; Bazel, git and apt have tried for a while themselves
# Seconds in which a restarted engine is back; dockerd itself takes a few, its containers and an upgrade more
_PATIENCE = 60.0
_LOOK = 1.0
_ANSWER = 5.0  # seconds in which one that is back answers


class Recovery:
    """The attempts of one stage of one variant."""

    # `job` is what the next attempt works with; its `report_retry` is called before each with what failed.

    def __init__(self, job: Job) -> None:
        self.job = job
        self._jobs = job.share.jobs
        self._failed: Counter[str] = Counter()

    def prepare(self, error: FactoryError) -> None:
        """Make another attempt possible, or raise the error."""
        # A download is tried four times, unless there is no network. A Bazel out of memory runs once more with half its
        # jobs, on its warm disk cache. A damaged cache is dropped, or emptied where another build holds it. An engine
        # that is back within a minute gets the stage once more. Nothing else is tried again: a wrong checksum least.
        match error:
            case DockerCommandError():
                raise error
            case EngineUnavailableError() if self.job.site.knows_engine:
                self._await_engine(error)
            case FetchError() if not self.job.recipe.inputs.offline:
                self._await_network(error)
            case OutOfMemoryError():
                self._halve_jobs(error)
            case CacheCorruptError() if self._count("cache") == 1:
                self._drop_cache(error)
            case _:
                raise error

    def _count(self, fault: str) -> int:
        self._failed[fault] += 1
        return self._failed[fault]

    def _await_network(self, error: FetchError) -> None:
        if (failed := self._count("fetch")) == _FETCHES:
            raise error
        delay = _FIRST_DELAY * 2 ** (failed - 1) * _RANDOM.uniform(0.5, 1.5)
        self._report(error, f"; try {failed + 1} of {_FETCHES} in {delay:.0f} s")
        self.job.cancel.wait(delay)

    def _halve_jobs(self, error: OutOfMemoryError) -> None:
        if self._count("memory") > 1:
            what = f"{error.what}; before that, with {count_jobs(self._jobs)}"
            raise OutOfMemoryError(what, why=error.why, remedy=error.remedy)
        if error.jobs <= 1:
            raise error
        self.job = replace(self.job, share=self.job.share.halved())
        self._report(error, f"; once more with {count_jobs(self.job.share.jobs)}, on the warm cache")

    def _drop_cache(self, damaged: CacheCorruptError) -> None:
        if not drop_cache_mounts(f"{CACHES}-{damaged.cache}")[1]:
            self._report(damaged, "; once more without it")
            return
        self._report(damaged, ", and another build uses it; once more, with its entries removed")
        try:
            empty_cache(self.job.recipe.base.image, damaged.cache)
        except EngineError as error:
            raise CacheCorruptError(
                f"{damaged.what}; another build uses it, so that it cannot be dropped, and it cannot be emptied",
                why=f"{damaged.why}\n{error.why}",
                remedy="run the same command again once that build has ended",
                cache=damaged.cache,
            ) from error

    def _await_engine(self, lost: EngineUnavailableError) -> None:
        what = lost.what.rstrip(".")
        if self._count("engine") > 1:
            raise EngineLostError(f"{what}, for the second time.", why=lost.why, remedy=lost.remedy) from lost
        self.job.site.lost_engine = True
        self.job.report_retry(f"{what}; once more when it is back, which is waited for up to {_PATIENCE:.0f} s")
        from serving_factory.docker import client  # not imported by runs that lose no engine

        patience_ends = time.monotonic() + _PATIENCE
        while True:
            self.job.cancel.wait(_LOOK)
            try:
                client.run_docker("version", timeout=_ANSWER)
            except EngineUnavailableError as error:
                if time.monotonic() > patience_ends:
                    what = f"{what}, and was not back after {_PATIENCE:.0f} s."
                    raise EngineLostError(what, why=error.why, remedy=lost.remedy, gone=True) from lost
            else:
                return

    def _report(self, error: FactoryError, how: str) -> None:
        """Report what failed, without the variant's name, which stands beside it already."""
        what = error.what.removeprefix(f"{self.job.recipe.variant.id}: ")
        self.job.report_retry(f"{what}{how}")
