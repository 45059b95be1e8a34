"""`which`: the image for a machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving_factory.catalogue.cuda import Cuda, cuda_in_image, cudas
from serving_factory.catalogue.facts import Flavour
from serving_factory.catalogue.levels import Level, level_facts
from serving_factory.commands.images import Image, recorded_image
from serving_factory.commands.shared import Asked
from serving_factory.commands.which import Choice, Host, choose, read_host, run_command
from serving_factory.doctor import probes
from serving_factory.errors import (
    CpuLevelError,
    FactoryError,
    GpuDriverError,
    GpuMissingError,
    NotBuiltError,
    UsageError,
)
from serving_factory.matrix.variant import Variant, variant_of
from serving_factory.pipeline.records import write_record
from serving_factory.pipeline.stages import STAGES, reached
from serving_factory.recipes.recipe import key_of, short

from .matrices import write
from .stage_records import record, write_records
from .test_tasks import Factory, factory, module  # noqa: F401 - fixtures

OLD, V1, V3, V4 = "2.18.1-cpu-v3", "2.19.1-cpu-v1", "2.19.1-cpu-v3", "2.19.1-cpu-v4"
GPU1, GPU3 = "2.19.1-gpu-cuda12.2-v1", "2.19.1-gpu-cuda12.2-v3"
ASKED = Asked(matrix="other.yaml")
ALL = (OLD, V1, V3, V4, GPU1, GPU3)


def host(level: Level = Level.V3, driver: str | None = None) -> Host:
    flags = frozenset(level_facts(level).cpuinfo)
    return Host(flags=flags, flags_from="cpuinfo", driver=driver, driver_from="--driver")


def variants(*ids: str, compat: bool = False) -> dict[Variant, Cuda | None]:
    found = [one for id_ in ids if (one := variant_of(id_))]
    return {one: cuda_in_image(one.cuda, compat=compat) if one.cuda else None for one in found}


def chosen(machine: Host, *ids: str, built: tuple[str, ...] | None = None) -> Choice:
    return choose(
        ASKED, variants(*ids), machine, {id_: Image(id_, published=True) for id_ in (ids if built is None else built)}
    )


@pytest.mark.parametrize(
    ("level", "driver", "expected"),
    [
        (Level.V1, None, V1),
        (Level.AVX, None, V1),
        (Level.V3, None, V3),
        (Level.V4, None, V4),
        (Level.V3, "525.60.13", GPU3),
        (Level.V1, "560.35.03", GPU1),
        (Level.V3, "470.82.01", V3),
    ],
)
def test_the_newest_release_for_the_gpu_if_it_can_at_the_highest_level(
    level: Level, driver: str | None, expected: str
) -> None:
    assert chosen(host(level, driver), *ALL).variant.id == expected


def test_what_does_not_run_there_is_listed_with_the_reason() -> None:
    left_out = chosen(host(driver="470.82.01"), *ALL).left_out
    assert left_out == {
        V4: "the CPU lacks avx512bw avx512cd avx512dq avx512f avx512vl",
        GPU1: "CUDA 12.2 needs driver 525.60.13 or later, not 470.82.01",
        GPU3: "CUDA 12.2 needs driver 525.60.13 or later, not 470.82.01",
    }


def test_an_image_that_is_built_goes_before_one_that_is_not() -> None:
    choice = chosen(host(), OLD, V1, V3, built=(OLD, V1))
    assert (choice.variant.id, choice.better and choice.better.id) == (V1, V3)
    assert chosen(host(), V1, V3).better is None
    with pytest.raises(NotBuiltError, match=f"{V3} would run") as caught:
        chosen(host(), V1, V3, built=())
    assert caught.value.remedy == f"./factory build --matrix other.yaml --variant {V3}"


def test_it_never_guesses_between_two() -> None:
    other = Variant(release="2.19.1", flavour=Flavour.GPU, level=Level.V3, cuda="12.5")
    images = {id_: Image(id_, published=True) for id_ in (GPU3, other.id)}
    with pytest.raises(UsageError, match=f"alike: {GPU3}, {other.id}"):
        choose(ASKED, variants(GPU3) | {other: cudas()["12.5"]}, host(driver="560.35.03"), images)


@pytest.mark.parametrize(
    ("machine", "ids", "error", "text"),
    [
        (host(Level.V2), (V3, V4), CpuLevelError, "none of the chosen variants runs on a CPU of level x86-64-v2"),
        (host(Level.V4), ("2.19.1-cpu-native",), CpuLevelError, "the CPU of the machine that built it"),
        (host(), (GPU1, GPU3), GpuMissingError, "need an NVIDIA driver"),
        (host(driver="470.82.01"), (GPU1,), GpuDriverError, "driver 470.82.01 serves none"),
        (host(Level.V1, "470.82.01"), (GPU3,), CpuLevelError, "the CPU lacks"),
    ],
)
def test_each_reason_why_nothing_runs_is_an_error_of_its_own(
    machine: Host, ids: tuple[str, ...], error: type[FactoryError], text: str
) -> None:
    with pytest.raises(error) as caught:
        chosen(machine, *ids)
    assert text in str(caught.value)
    assert "read: cpuinfo" in caught.value.why
    assert caught.value.remedy


# --- what is read -----------------------------------------------------------------------------------------------------


def cpuinfo(folder: Path, level: Level = Level.V3) -> str:
    file = folder / "cpuinfo"
    file.write_text(f"processor\t: 0\nflags\t\t: fpu {' '.join(level_facts(level).cpuinfo)}\n")
    return str(file)


def test_another_machines_cpu_never_comes_with_this_machines_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "gpu_driver", lambda _file: "535.54.03")
    file = cpuinfo(tmp_path)
    found = read_host(file, "")
    assert (found.driver, found.flags_from) == (None, file)
    assert "--driver" in found.driver_from
    assert read_host(file, "525.60.13").driver == "525.60.13"
    monkeypatch.setattr(probes, "cpu_flags", lambda _file: frozenset())
    assert read_host("", "").driver == "535.54.03"
    monkeypatch.setattr(probes, "gpu_driver", lambda _file: None)
    assert read_host("", "").driver_from.endswith("is not there")


@pytest.mark.parametrize("data", [None, b"", b"processor : 0\nFeatures : fp asimd\n", b"\x7fELF\xd0"])
def test_a_file_without_flags_is_refused(tmp_path: Path, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / "cpuinfo").write_bytes(data)
    with pytest.raises(FactoryError, match="there is no file .*cpuinfo" if data is None else "cpuinfo lists no flags"):
        read_host(str(tmp_path / "cpuinfo"), "")


def test_the_image_is_the_one_that_was_pushed_by_its_digest(tmp_path: Path) -> None:
    folder = tmp_path / V3
    assert recorded_image(folder) is None
    write_records(folder, *STAGES[:-2])
    assert recorded_image(folder) is None, "no image that has not passed its smoke test"
    write_records(folder, *STAGES[:-1])
    assert recorded_image(folder) == Image("r:full", published=False)
    write_records(folder, *STAGES)
    assert recorded_image(folder) == Image("h:5000/r@sha256:pushed", published=True)


@pytest.mark.parametrize(("image", "published"), [("sha256:image", True), ("sha256:earlier", False)])
def test_an_earlier_images_push_does_not_count(tmp_path: Path, image: str, *, published: bool) -> None:
    write_records(tmp_path, *STAGES[:-1])
    pushed = record("push")
    object.__setattr__(pushed, "inputs", {"image": short(key_of(part=image))})
    write_record(tmp_path, pushed)
    found = recorded_image(tmp_path)
    assert found
    assert found.published is published


def test_an_image_that_was_packaged_after_the_last_smoke_test_has_not_passed_it(tmp_path: Path) -> None:
    write_records(tmp_path, *STAGES)
    write_record(tmp_path, replace(record("smoke"), inputs={"image": short(key_of(part="sha256:earlier"))}))
    assert recorded_image(tmp_path) is None
    assert list(reached(tmp_path)) == list(STAGES[:-2])


def test_a_gpu_image_is_run_with_the_gpus() -> None:
    image = Image("r@sha256:0", published=True)
    assert " --gpus all " in run_command(image, gpu=True)
    assert "--gpus" not in run_command(image, gpu=False)
    assert run_command(image, gpu=False).endswith(" -p 8501:8501 -v /path/to/model:/models/model:ro r@sha256:0")


MATRIX: Mapping[str, Any] = {
    "image": {"repository": "team/serving", "aliases": ["{id}"]},
    "releases": ["2.19.1"],
    "targets": {
        "cpu": {"flavour": "cpu", "levels": ["x86-64", "x86-64-v3"]},
        "mkl": {"flavour": "mkl", "levels": ["x86-64-v3"]},
    },
}


def test_as_typed(tmp_path: Path, factory: Factory) -> None:  # noqa: F811 - the fixture
    matrix = str(write(tmp_path, MATRIX))
    words = ("which", "--matrix", matrix, "--cpuinfo", cpuinfo(tmp_path))
    ended = factory(*words)
    assert (ended.code, ended.out) == (6, "")
    folder = Asked(matrix=matrix).folder
    for id_ in (V1, V3, "2.19.1-mkl-v3"):
        write_records(folder / id_, *STAGES)
    found = json.loads(factory(*words, "--json").out)
    assert (found["variant"], found["image"], found["driver"]["version"]) == (V3, "h:5000/r@sha256:pushed", None)
    assert json.loads(factory(*words, "--flavour", "mkl", "--json").out)["variant"] == "2.19.1-mkl-v3"
    text = factory(*words, "--driver", "535.54.03").out
    assert "driver   535.54.03 (--driver)" in text
    assert text.endswith(f"{found['command']}\n")
    assert factory(*words, "--driver", "abc").code == 2
    assert factory(*words, "--release", "2.18.1").code == 4
