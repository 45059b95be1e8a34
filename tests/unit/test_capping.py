"""commands/build.py: after which runs Bazel's caches are brought within bounds, and from which image."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from serving_factory.commands import build as working
from serving_factory.commands import cache as caching
from serving_factory.errors import CompileError, EngineUnavailableError, FetchError
from serving_factory.pipeline.events import Status, VariantResult
from serving_factory.pipeline.stages import stage, stages_for

JOBS = [
    SimpleNamespace(
        recipe=SimpleNamespace(variant=SimpleNamespace(id=name), base=SimpleNamespace(image=f"base-{name}"))
    )
    for name in ("a", "b")
]


def result(variant: str, status: Status, seconds: float = 1.0, error: Exception | None = None) -> VariantResult:
    return VariantResult(variant=variant, status=status, seconds=seconds, error=error)  # type: ignore[arg-type]


@pytest.fixture
def capped(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    bases: list[str] = []

    def cap(base: str, most: str) -> str:
        bases.append(base)
        return f"kept within {most}\n"

    monkeypatch.setattr(caching, "cap_caches", cap)
    monkeypatch.setattr(caching, "remote_notes", lambda _jobs, _results: "")
    return bases


FAILED = result("a", Status.FAILED, error=CompileError("no"))
NO_BASE = result("a", Status.FAILED, error=FetchError("there is no such image"))
NO_ENGINE = result("a", Status.FAILED, error=EngineUnavailableError("no answer"))
BUILT = result("b", Status.BUILT)


@pytest.mark.parametrize(
    ("results", "bases"),
    [
        ([BUILT], ["base-b"]),
        ([FAILED], ["base-a"]),
        ([result("a", Status.CANCELLED)], ["base-a"]),
        ([NO_BASE, BUILT], ["base-b"]),
        ([NO_ENGINE], []),
        ([result("a", Status.CANCELLED, seconds=0.0)], []),
        ([result("a", Status.UP_TO_DATE), result("b", Status.SKIPPED, seconds=0.0)], []),
    ],
)
def test_a_run_that_may_have_filled_the_caches_is_followed_by_a_look_at_them(
    capped: list[str], results: list[VariantResult], bases: list[str]
) -> None:
    reported = working._after(JOBS, stages_for(registry=False), results, "9GiB")  # type: ignore[arg-type]  # what of a job is looked at
    assert capped == bases
    assert reported == ("kept within 9GiB\n" if bases else "")


def test_without_a_compile_a_failure_has_filled_nothing(capped: list[str]) -> None:
    assert working._after(JOBS, (stage("smoke"),), [FAILED], "9GiB") == ""  # type: ignore[arg-type]  # as above
    assert working._after(JOBS, stages_for(registry=False), [BUILT], None) == ""  # type: ignore[arg-type]  # as above
    assert capped == []
