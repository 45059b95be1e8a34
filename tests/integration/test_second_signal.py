"""A build that will not end when it is asked to: the first Ctrl-C gives it 10 s, a second one none."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from .pipeline import V1, Checkout, processes_with, wait_until

GRACE, AT_ONCE = 10.0, 5.0
"""Seconds: what a build gets to end by itself; and within what all is over when nothing is waited for."""


@pytest.fixture
def deaf(tiny: Checkout, tmp_path: Path) -> dict[str, str]:
    """The environment in which a build hears neither SIGINT nor SIGTERM."""
    stand_in = tmp_path / "docker"
    stand_in.write_text(
        f"#!/bin/sh\n"
        f'[ "$1 $2" = "buildx build" ] || exec {shutil.which("docker")} "$@"\n'
        f"trap '' INT TERM\n"
        f"touch {tmp_path}/begun\n"
        f"while :; do sleep 1; : {tiny.mark}; done\n"
    )
    stand_in.chmod(0o755)
    return {"PATH": f"{tmp_path}:{os.environ['PATH']}"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("signals", [1, 2])
def test_the_second_signal_waits_for_nothing(
    tiny: Checkout, tmp_path: Path, deaf: dict[str, str], number: signal.Signals, signals: int
) -> None:
    with tiny.start(*tiny.line("build", "--variant", V1), env=deaf) as running:
        running.wait_for((tmp_path / "begun").exists, "the build")
        began = time.monotonic()
        running.send(number)
        if signals == 2:
            time.sleep(1.0)
            running.send(number)
        outcome = running.wait(30)
        took = time.monotonic() - began
    assert outcome.code == 130
    assert outcome.results[V1]["status"] == "cancelled"
    assert "Traceback" not in outcome.out + outcome.err
    assert took < AT_ONCE if signals == 2 else GRACE <= took < GRACE + AT_ONCE
    assert wait_until(lambda: not processes_with(str(tmp_path)), 5)
    assert tiny.partial_files() == []
