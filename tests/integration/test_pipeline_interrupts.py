"""The line, ended in the middle: by Ctrl-C, by SIGTERM, by SIGKILL, and by its own lock."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from .demo_story import Demo
from .pipeline import BUILD_STAGES, MATRIX, MKL_V3, V1, V3, Checkout, Running, processes_with

CANCELLED = 130
LOCKED = 10
NOTHING_TO_DO = dict.fromkeys(BUILD_STAGES, "up_to_date")
TEMPLATE = "dockerfiles/templates/runtime.Dockerfile.j2"
SERVICES = {"prediction_service", "model_service"}  # two files have each of these names: messages and stubs
ENTRYPOINT = "dockerfiles/context/tf_serving_entrypoint.sh"
FINISHED = dict.fromkeys(BUILD_STAGES, "finished")


@contextmanager
def smoke_running(checkout: Checkout) -> Iterator[Running]:
    """Start the smoke stage, and wait until its container runs."""
    checkout.record_file(V1, "smoke").unlink(missing_ok=True)
    with checkout.start(*checkout.line("smoke", "--variant", V1)) as running:
        running.wait_for(lambda: bool(checkout.containers()), "a container")
        yield running


def test_ctrl_c_in_a_compile_leaves_nothing_running_and_nothing_half_written(demo: Demo) -> None:
    left = demo.by_ctrl_c
    assert left.outcome.code == CANCELLED
    assert "Traceback" not in left.outcome.out + left.outcome.err
    assert left.outcome.stages(V1) == FINISHED
    assert left.outcome.stages(V3) == dict.fromkeys(BUILD_STAGES, "cancelled")
    assert left.outcome.results[MKL_V3]["status"] == "cancelled"
    assert left.processes == []
    assert left.partial == []
    assert left.records == set()


def test_kill_9_in_a_compile_leaves_nothing_running(demo: Demo) -> None:
    assert demo.by_kill.outcome.code == -signal.SIGKILL
    assert demo.by_kill.processes == []
    assert demo.by_kill.records == set()


def test_the_same_command_goes_on_where_it_was_ended(demo: Demo) -> None:
    assert demo.outcome.stages(V1) == NOTHING_TO_DO
    assert demo.outcome.stages(V3) == demo.outcome.stages(MKL_V3) == FINISHED
    assert demo.by_ctrl_c.first == demo.by_kill.first == demo.first, "the first variant is as it was"

    compiled = set(demo.by_kill.compiled)
    assert len(compiled) >= 2
    compiled -= SERVICES
    assert compiled.isdisjoint(demo.recompiled), "what was compiled comes from Bazel's disk cache"
    runners = demo.checkout.record(V3, "compile")["outputs"]["runners"]
    assert sum(count for name, count in runners.items() if "cache hit" in name) >= len(compiled), runners


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_smoke_test_takes_its_container_along(checkout: Checkout, number: signal.Signals) -> None:
    with smoke_running(checkout) as running:
        running.send(number)
        outcome = running.wait(30)
    assert outcome.code == CANCELLED
    assert "Traceback" not in outcome.out + outcome.err
    assert outcome.stages(V1) == {"smoke": "cancelled"}
    assert checkout.containers() == []
    assert checkout.unnamed_images() == []
    assert processes_with(str(checkout.folder)) == []
    assert checkout.partial_files() == []
    assert not checkout.record_file(V1, "smoke").exists()
    assert checkout.build_one().built().stages(V1) == NOTHING_TO_DO | {"smoke": "finished"}


def test_a_signal_in_the_package_stage_leaves_no_image_without_a_name(checkout: Checkout) -> None:
    with checkout.edited(ENTRYPOINT, "set -eu\n", f"set -eu\n# {checkout.mark}\n"):
        checkout.build_one().built()
        assert checkout.unnamed_images() == []
    files = "COPY --from={{ 'libraries' if collects else 'artifact' }} rootfs/ /\n"
    with (
        checkout.edited(TEMPLATE, files, f"{files}RUN head -c 500M /dev/zero > /large\n"),
        checkout.start(*checkout.line("package", "--variant", V1)) as running,
    ):
        running.wait_for(lambda: "exporting" in running.printed()[0], "the new image, under the names of the other one")
        running.send(signal.SIGINT)
        running.wait(30)
    assert checkout.unnamed_images() == []
    assert checkout.build_one().built().results[V1]["status"] in {"built", "up_to_date"}
    assert checkout.unnamed_images() == []


def test_a_container_that_a_killed_factory_left_is_removed_by_the_next(checkout: Checkout) -> None:
    with smoke_running(checkout) as running:
        running.send(signal.SIGKILL)
        running.wait(30)
    left = set(checkout.containers())
    assert left
    assert checkout.build_one().built().stages(V1) == NOTHING_TO_DO | {"smoke": "finished"}
    assert left.isdisjoint(checkout.containers(of_all=True))


def test_the_second_factory_in_a_checkout_says_who_holds_the_lock(checkout: Checkout) -> None:
    with smoke_running(checkout) as running:
        os.kill(running.process.pid, signal.SIGSTOP)  # so that it is there for as long as the second one looks
        message = checkout.build_one().told(LOCKED)
        os.kill(running.process.pid, signal.SIGCONT)
        running.wait(60).built()
    assert f"process {running.process.pid} has held the lock since 20" in message
    assert f"smoke --matrix {MATRIX}" in message
    assert checkout.build_one().built().stages(V1) == NOTHING_TO_DO
