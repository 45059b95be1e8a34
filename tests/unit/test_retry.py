"""pipeline/retry.py."""

from __future__ import annotations

import pytest

from serving_factory.errors import (
    CancelledError,
    DownloadFaultError,
    RegistryDeniedError,
    RegistryFaultError,
    RegistryLimitError,
)
from serving_factory.pipeline.retry import DEADLINE, LONGEST_WAIT, asking_again, retrying


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


def test_success_needs_no_retry() -> None:
    assert retrying(Flaky(), transient=(RegistryFaultError,), on_retry=forbidden, sleep=forbidden) == "done"


def test_transient_faults_are_retried_with_growing_delays() -> None:
    errors = [fault(), fault(), fault()]
    reported: list[tuple[int, float, Exception]] = []
    slept: list[float] = []
    action = Flaky(*errors)
    result = retrying(
        action,
        transient=(RegistryFaultError,),
        on_retry=lambda *args: reported.append(args),
        sleep=slept.append,
        jitter=lambda: 0.5,
    )
    assert result == "done"
    assert action.calls == 4
    assert slept == [0.5, 1.0, 2.0]
    assert reported == [(1, 0.5, errors[0]), (2, 1.0, errors[1]), (3, 2.0, errors[2])]


@pytest.mark.parametrize(("jitter", "delay"), [(0.0, 0.1), (1.0, 0.3)])
def test_jitter_halves_or_adds_half(jitter: float, delay: float) -> None:
    slept: list[float] = []
    retrying(
        Flaky(fault()),
        transient=(RegistryFaultError,),
        on_retry=lambda *_: None,
        first_delay=0.2,
        sleep=slept.append,
        jitter=lambda: jitter,
    )
    assert slept == [pytest.approx(delay)]


def test_attempts_are_bounded_and_the_last_error_is_raised() -> None:
    errors = [fault(), fault(), fault()]
    action = Flaky(*errors)
    with pytest.raises(RegistryFaultError) as caught:
        retrying(action, transient=(RegistryFaultError,), on_retry=lambda *_: None, attempts=2, sleep=lambda _: None)
    assert caught.value is errors[1]
    assert action.calls == 2


def test_other_errors_are_never_retried() -> None:
    action = Flaky(RegistryDeniedError("no"))
    with pytest.raises(RegistryDeniedError):
        retrying(action, transient=(RegistryFaultError,), on_retry=forbidden, sleep=forbidden)
    assert action.calls == 1


def test_cancelled_while_waiting() -> None:
    def sleep(_seconds: float) -> None:
        raise CancelledError("Ctrl-C")

    action = Flaky(fault())
    with pytest.raises(CancelledError):
        retrying(action, transient=(RegistryFaultError,), on_retry=lambda *_: None, sleep=sleep)
    assert action.calls == 1


def test_default_jitter_varies() -> None:
    slept: list[float] = []
    for _ in range(8):
        retrying(Flaky(fault()), transient=(RegistryFaultError,), on_retry=lambda *_: None, sleep=slept.append)
    assert len(set(slept)) > 1
    assert all(0.25 <= delay <= 0.75 for delay in slept)


@pytest.mark.parametrize(("asked", "waited"), [(7.0, 7.0), (0.1, 0.5), (None, 5.0)])
def test_a_rate_limit_that_says_how_long_is_waited_for(asked: float | None, waited: float) -> None:
    slept: list[float] = []
    retrying(
        Flaky(RegistryLimitError("enough", retry_after=asked)),
        transient=(RegistryFaultError,),
        on_retry=lambda *_: None,
        sleep=slept.append,
        jitter=lambda: 0.5,
    )
    assert slept == [waited]


def test_a_rate_limit_of_hours_is_not() -> None:
    action = Flaky(RegistryLimitError("enough", retry_after=LONGEST_WAIT + 1))
    with pytest.raises(RegistryLimitError, match="enough"):
        retrying(action, transient=(RegistryFaultError,), on_retry=forbidden, sleep=forbidden)
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
