"""An engine that dies under a build, and the one that comes back."""

from __future__ import annotations

import io
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving_factory.docker.buildx import BuildRequest, build
from serving_factory.docker.solve_status import Step
from serving_factory.errors import EngineLostError

from .own_engine import BASE, OwnEngine, needs_root
from .pipeline import V1, V3, Running
from .tiny import tiny_checkout

pytestmark = needs_root

DOCKERFILE = f"FROM {BASE}\nRUN --network=none echo done > /file && sleep 3\nFROM scratch\nCOPY --from=0 /file /\n"


@pytest.fixture
def engine() -> Iterator[OwnEngine]:
    with OwnEngine.run() as own:
        yield own


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_same_build_works_on_the_engine_that_comes_back(
    engine: OwnEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    engine.has_the_base()
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(DOCKERFILE)
    request = BuildRequest(dockerfile=context / "Dockerfile", context=context, output=tmp_path / "out")

    def end_it(step: Step) -> None:
        if step.kind == "started" and "sleep" in step.name:
            engine.end(number)

    with pytest.raises(EngineLostError, match="went away") as caught:
        build(request, on_step=end_it, log=io.StringIO())
    assert caught.value.why
    assert not (tmp_path / "out").exists()
    engine.start()
    build(request, on_step=lambda _: None, log=io.StringIO())
    assert (tmp_path / "out" / "file").read_text() == "done\n"


def test_a_compile_whose_engine_dies_goes_on_with_the_one_that_comes_back(engine: OwnEngine, tmp_path: Path) -> None:
    """While the run waits for it; and where it does not wait for so long, with the same command afterwards."""
    engine.has_the_toolchain()
    with tiny_checkout(tmp_path / "factory") as checkout:
        command = checkout.line("compile", "--variant", V1, "--variant", V3)
        environment = {"DOCKER_HOST": engine.host, "SERVING_FACTORY_OFFLINE": "1"}

        def begin_and_kill_the_engine(running: Running) -> None:
            running.wait_for(lambda: "[binary_build " in running.printed()[0], "Bazel's step")
            engine.end()

        with (
            checkout.edited("src/serving_factory/pipeline/retry.py", "_PATIENCE = 60.0", "_PATIENCE = 1.0"),
            checkout.start(*command, env=environment) as running,
        ):
            begin_and_kill_the_engine(running)
            outcome = running.wait()
        what = outcome.error(25, "EngineLostError", V1)["what"]
        assert what == "The Docker engine went away during the build, and was not back after 1 s."
        assert outcome.results[V3]["because"] == f"because of {V1}: there is nothing to build with"
        assert not checkout.record_file(V1, "compile").exists()
        assert checkout.partial_files() == []
        engine.start()
        with checkout.start(*command, env=environment) as running:
            begin_and_kill_the_engine(running)
            running.wait_for(lambda: '"retried"' in running.printed()[0], "a second try")
            engine.start()
            outcome = running.wait().built()
        assert [text.partition(";")[0] for text in outcome.retried] == ["The Docker engine went away during the build"]
        assert checkout.record(V1, "compile")["tried_again"] == outcome.retried
        assert (checkout.variant_folder(V1) / "logs" / "compile.try-1.log").is_file()
        assert {name: outcome.stages(name)["compile"] for name in (V1, V3)} == {V1: "finished", V3: "finished"}
