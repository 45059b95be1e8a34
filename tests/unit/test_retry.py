"""pipeline/retry.py."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from serving_factory.errors import (
    CancelledError,
    DownloadFaultError,
    RegistryDeniedError,
    RegistryFaultError,
    RegistryLimitError,
)
from serving_factory.pipeline import retry
from serving_factory.pipeline.retry import DEADLINE, LONGEST_WAIT, asking_again


class Flaky:
    """Fails with the errors given, then succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def fault() -> RegistryFaultError:
    return RegistryFaultError("it coughed")


def forbidden(*_: object) -> None:
    pytest.fail("nothing is to be retried")


@pytest.fixture
def even(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let chance make no wait shorter or longer."""
    monkeypatch.setattr(retry, "_RANDOM", SimpleNamespace(uniform=lambda least, most: (least + most) / 2))


def waits(*errors: Exception) -> list[float]:
    """How long is waited between the questions, until one is answered."""
    slept: list[float] = []
    assert asking_again(Flaky(*errors), lambda _text: None, sleep=slept.append) == "done"
    return slept


def test_success_needs_no_retry() -> None:
    assert asking_again(Flaky(), forbidden, sleep=forbidden) == "done"


@pytest.mark.usefixtures("even")
def test_transient_faults_are_retried_with_growing_delays() -> None:
    reported: list[str] = []
    slept: list[float] = []
    action = Flaky(fault(), fault(), fault())
    assert asking_again(action, reported.append, sleep=slept.append) == "done"
    assert action.calls == 4
    assert slept == [0.5, 1.0, 2.0]
    assert reported == [f"attempt {n} failed (it coughed); again in {wait:.1f} s" for n, wait in enumerate(slept, 1)]


def test_attempts_are_bounded_and_the_last_error_is_raised() -> None:
    errors = [fault() for _ in range(5)]
    action = Flaky(*errors)
    with pytest.raises(RegistryFaultError) as caught:
        asking_again(action, lambda _text: None, sleep=lambda _: None)
    assert caught.value is errors[3]
    assert action.calls == 4


def test_other_errors_are_never_retried() -> None:
    action = Flaky(RegistryDeniedError("no"))
    with pytest.raises(RegistryDeniedError):
        asking_again(action, forbidden, sleep=forbidden)
    assert action.calls == 1


def test_cancelled_while_waiting() -> None:
    def sleep(_seconds: float) -> None:
        raise CancelledError("Ctrl-C")

    action = Flaky(fault())
    with pytest.raises(CancelledError):
        asking_again(action, lambda _text: None, sleep=sleep)
    assert action.calls == 1


def test_waits_vary() -> None:
    slept = [wait for _ in range(8) for wait in waits(fault())]
    assert len(set(slept)) > 1
    assert all(0.25 <= delay <= 0.75 for delay in slept)


@pytest.mark.usefixtures("even")
@pytest.mark.parametrize(("asked", "waited"), [(7.0, 7.0), (0.1, 0.5), (None, 5.0)])
def test_a_rate_limit_that_says_how_long_is_waited_for(asked: float | None, waited: float) -> None:
    assert waits(RegistryLimitError("enough", retry_after=asked)) == [waited]


def test_a_rate_limit_of_hours_is_not() -> None:
    action = Flaky(RegistryLimitError("enough", retry_after=LONGEST_WAIT + 1))
    with pytest.raises(RegistryLimitError, match="enough"):
        asking_again(action, forbidden, sleep=forbidden)
    assert action.calls == 1


@pytest.mark.parametrize("kind", [RegistryLimitError, DownloadFaultError])
def test_a_server_is_not_asked_for_ever(
    kind: type[RegistryLimitError | DownloadFaultError], monkeypatch: pytest.MonkeyPatch
) -> None:
    error, clock = kind("enough", retry_after=30), [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])

    def slow() -> None:
        clock[0] += DEADLINE / 2
        raise error

    reported: list[str] = []
    with pytest.raises(kind):
        asking_again(slow, reported.append, sleep=lambda _: None)
    assert reported == ["attempt 1 failed (enough); again in 30.0 s"]
