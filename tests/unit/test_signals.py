"""Which signals end a run."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from serving_factory.commands.shared import errors
from serving_factory.line.signals import told_of_signals

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
    with errors(), told_of_signals(lambda: told.append(True)):
        os.kill(os.getpid(), number)
    assert told == [True]


def test_under_nohup_a_hang_up_ends_nothing() -> None:
    told: list[bool] = []
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with errors(), told_of_signals(lambda: told.append(True)):
        os.kill(os.getpid(), signal.SIGHUP)
    assert told == []
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
