"""What goes wrong: one clear message, an exit code of its own, and the same command goes on once the cause is gone."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .demo_story import Demo
from .pipeline import BUILD_STAGES, MODEL, V1, V3, Checkout

NOTHING_TO_DO = dict.fromkeys(BUILD_STAGES, "up_to_date")
ENTRYPOINT = "dockerfiles/context/tf_serving_entrypoint.sh"
KERNELS = f"{MODEL}/tensorflow/core/kernels"


def failed(stage: str) -> dict[str, str]:
    """What becomes of the stages when one fails, those before it aside."""
    later = BUILD_STAGES[BUILD_STAGES.index(stage) + 1 :]
    return {stage: "failed"} | dict.fromkeys(later, "skipped")


def ends_and_goes_on(checkout: Checkout) -> None:
    """Nothing is left of the failed run, and the same command works again."""
    assert checkout.containers() == []
    assert checkout.partial_files() == []
    checkout.build_one().built()


def test_a_broken_source_file(checkout: Checkout) -> None:
    """And the message that people see, not only the one for machines."""
    source = f"{KERNELS}/nn_ops.cc"
    line = (checkout.folder / source).read_text(encoding="utf-8").count("\n") + 1
    good = (checkout.folder / source).read_text(encoding="utf-8")
    (checkout.folder / source).write_text(f"{good}int broken = no_such_name;\n", encoding="utf-8")
    outcome = checkout.run("build", "--matrix", "samples/matrix.yaml", "--variant", V1)
    assert outcome.code == 20, outcome
    assert "Traceback" not in outcome.out + outcome.err
    assert f"tensorflow/core/kernels/nn_ops.cc:{line}:14: error: " in outcome.err
    assert "no_such_name" in outcome.err
    assert outcome.err.count("What to do: ") == 1
    assert f"{V1} compile failed" in outcome.err
    assert f"{V1} package skipped" in outcome.err
    (checkout.folder / source).write_text(good, encoding="utf-8")
    ends_and_goes_on(checkout)


def test_a_missing_library(checkout: Checkout) -> None:
    collect = "dockerfiles/context/collect.sh"
    line = '        take_library "$soname" "$path"\n'
    with checkout.edited(collect, line, f"        case $soname in libre2.*) continue ;; esac\n{line}"):
        outcome = checkout.build_one()
        error = outcome.error(23, "LibraryMissingError")
        assert outcome.stages(V1).items() >= failed("inspect").items()
        assert "libre2.so.9" in error["what"] + error["why"]
    ends_and_goes_on(checkout)


def test_a_server_that_answers_wrongly(checkout: Checkout) -> None:
    with checkout.edited(f"{KERNELS}/cwise_ops.cc", "std::plus<float>()", "std::minus<float>()"):
        outcome = checkout.build_one()
        error = outcome.error(32, "WrongAnswerError")
        assert outcome.stages(V1).items() >= failed("smoke").items()
        assert "expected [2.5, 3.0, 4.5]" in error["why"]
        report = (checkout.variant_folder(V1) / "smoke-report.json").read_text(encoding="utf-8")
        assert '"ok": false' in report
    ends_and_goes_on(checkout)


def test_a_server_that_never_becomes_ready(checkout: Checkout) -> None:
    limit = "src/serving_factory/smoke/plan.py"
    checkout.edit(limit, "ready_timeout: float = 60.0", "ready_timeout: float = 3.0")
    with checkout.edited(ENTRYPOINT, 'exec "$server"', 'echo lost in thought\nsleep 600\nexec "$server"'):
        outcome = checkout.build_one()
        error = outcome.error(31, "ServerNotReadyError")
        assert outcome.stages(V1) == NOTHING_TO_DO | {"package": "finished"} | failed("smoke")
        assert "lost in thought" in error["why"], "the container's log is in the message"
    ends_and_goes_on(checkout)


def test_a_cpu_that_lacks_what_the_image_needs(demo: Demo, tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name\t: An Old CPU\nflags\t\t: fpu sse sse2 sse4_2 avx\n", encoding="utf-8")
    mount = f"type=bind,source={cpuinfo},target=/proc/cpuinfo,readonly"
    image = f"{demo.checkout.repository}:{V3}"
    done = subprocess.run(
        ["docker", "run", "--rm", "--mount", mount, image], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 78
    assert "made for CPUs of level x86-64-v3" in done.stderr
    assert "(An Old CPU) lacks:" in done.stderr
    assert " avx2" in done.stderr
    assert f"Use {demo.checkout.repository}:{V1} instead." in done.stderr


def test_the_smoke_test_on_a_cpu_that_is_too_small(whole_checkout: Checkout) -> None:
    """And one variant's failure is no other's."""
    both = ("--variant", V1, "--variant", V3)
    check = "!(has_word(has, flag, length) && cpu_has(flag, length))"
    with whole_checkout.edited("dockerfiles/context/launcher.c", check, f"({check} || length > 0)"):
        outcome = whole_checkout.build(*both)
        error = outcome.error(34, "CpuLevelError", V3)
        assert f"Use {whole_checkout.repository}:{V1} instead." in error["what"]
        assert outcome.results[V1]["status"] == "built"
    whole_checkout.build(*both).built()
