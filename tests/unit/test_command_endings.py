"""What a command makes of signals and errors."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from invoke.exceptions import Exit

from serving_factory.commands.shared import errors
from serving_factory.errors import UsageError
from serving_factory.pipeline.scheduler import on_signals

ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in ENDING}
    for number in ENDING:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ENDING)
def test_each_is_told(number: signal.Signals) -> None:
    told: list[bool] = []
    with errors(), on_signals(lambda: told.append(True)):
        os.kill(os.getpid(), number)
    assert told == [True]


def test_under_nohup_a_hang_up_ends_nothing() -> None:
    told: list[bool] = []
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with errors(), on_signals(lambda: told.append(True)):
        os.kill(os.getpid(), signal.SIGHUP)
    assert told == []
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize(("service", "told"), [("true", True), ("", False)])
def test_github_shows_an_error_of_the_whole_run_on_its_page(
    service: str, *, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", service)
    with pytest.raises(Exit) as caught, errors():
        raise UsageError("no such thing", remedy="name another")
    first, *_, last = (caught.value.message or "").splitlines()
    assert first == "Error: no such thing"
    assert last.startswith("::error title=serving-factory::no such thing") is told
