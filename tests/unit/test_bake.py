"""The bake file: what each target builds, how targets hang together, what images honestly say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving_factory.commands.bake import STAGE_GROUPS, Bake, bake, bake_file
from serving_factory.commands.shared import Asked, Checkout, write_file
from serving_factory.errors import RecipeError, UsageError
from serving_factory.matrix.load import load_matrix
from serving_factory.recipes.recipe import CONTEXT, Recipe, recipes_for

from .matrices import ROOT, SMALL, document, load, write

FOLDER = Path("/build/bake")
V1, V3, MKL = "2_19_1-cpu-v1", "2_19_1-cpu-v3", "2_19_1-mkl-v3"
GPU_V1, GPU_V3 = "2_19_1-gpu-cuda12_2-v1", "2_19_1-gpu-cuda12_2-sm80-90-v3"
ALL = [V1, V3, GPU_V1, GPU_V3, MKL]
SHARED = ["2_19_1-cpu", "2_19_1-gpu-cuda12_2", "2_19_1-gpu-cuda12_2-sm80-90", "2_19_1-mkl"]


@pytest.fixture(scope="module")
def recipes() -> tuple[Recipe, ...]:
    matrix = load_matrix(ROOT / "samples" / "matrix.yaml")
    return recipes_for(matrix.variants, matrix)[0]


@pytest.fixture(scope="module")
def made(recipes: tuple[Recipe, ...]) -> Bake:
    return bake(recipes, folder=FOLDER, secrets={})


def targets(made: Bake) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = made.document["target"]
    return found


def test_a_variant_has_two_targets_and_shares_three(made: Bake) -> None:
    shared = [f"{name}-{stage}" for name in SHARED for stage in ("base_build", "fetch", "launcher")]
    own = [name + end for name in ALL for end in ("", "-artifact")]
    assert sorted(targets(made)) == sorted([*shared, *own])
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", name) for name in targets(made))


def test_targets_hang_together(made: Bake) -> None:
    base = {"debian:bookworm": "docker-image://serving-factory/base:bookworm"}
    source = {"source": str(ROOT / "samples" / "model_server")}
    stages = {"base_build": "target:2_19_1-cpu-base_build", "fetch": "target:2_19_1-cpu-fetch"}
    own = {"artifact": f"target:{V3}-artifact", "launcher": "target:2_19_1-cpu-launcher"}
    assert targets(made)[V3]["contexts"].items() >= {**own, **base}.items()
    assert targets(made)[f"{V3}-artifact"]["contexts"] == {**source, **base, **stages}
    assert targets(made)["2_19_1-cpu-fetch"]["contexts"] == {**source, **base, "base_build": stages["base_build"]}
    assert targets(made)["2_19_1-cpu-base_build"]["contexts"] == {**source, **base}


def test_groups_are_the_matrix_targets_and_the_stages(made: Bake) -> None:
    groups = {name: group["targets"] for name, group in made.document["group"].items()}
    assert groups == {
        "default": ALL,
        "base_build": [f"{name}-base_build" for name in SHARED],
        "fetch": [f"{name}-fetch" for name in SHARED],
        "launcher": [f"{name}-launcher" for name in SHARED],
        "artifact": [f"{name}-artifact" for name in ALL],
        "image": ALL,
        "cpu-standard": [V1],
        "cpu-optimized": [V3],
        "mkl-optimized": [MKL],
        "gpu-standard": [GPU_V1],
        "gpu-optimized": [GPU_V3],
    }
    assert set(STAGE_GROUPS) < set(groups)


def test_the_level_is_an_argument_of_what_is_compiled_alone(made: Bake, recipes: tuple[Recipe, ...]) -> None:
    assert targets(made)[f"{V3}-artifact"]["args"] == dict(recipes[1].build_args)
    assert "--copt=-mavx2" in targets(made)[f"{V3}-artifact"]["args"]["COPTS"]
    assert set(targets(made)["2_19_1-cpu-fetch"]["args"]) == {"BAZEL_STARTUP_OPTIONS"}


def test_the_files_are_those_of_the_recipes(made: Bake, recipes: tuple[Recipe, ...]) -> None:
    assert {target["context"] for target in targets(made).values()} == {str(CONTEXT)}
    assert {Path(target["dockerfile"]) for target in targets(made).values()} < set(made.files)
    assert made.files[FOLDER / "2.19.1-cpu" / "devel.Dockerfile"] == recipes[0].devel
    own = FOLDER / "2.19.1-cpu-v3"
    assert made.files[own / "runtime.Dockerfile"] == recipes[1].runtime
    assert targets(made)[V3]["contexts"]["facts"] == str(own / "facts")
    assert 'LEVEL="x86-64-v3"' in made.files[own / "facts" / "image.env"]


def test_an_image_says_nothing_of_a_binary_that_no_one_has_read(made: Bake) -> None:
    image = targets(made)[V3]
    assert image["tags"] == ["serving-factory/sample:baked-2.19.1-cpu-v3"]
    assert image["labels"]["org.serving-factory.level"] == "x86-64-v3"
    assert not {name for name in image["labels"] if "binary" in name or "compiler" in name}
    assert json.loads(made.files[FOLDER / "2.19.1-cpu-v3" / "facts" / "image.json"])["binary"] is None


def test_an_image_of_upstreams_sources_names_their_commit(tmp_path: Path) -> None:
    matrix = load(tmp_path)
    (recipe,) = recipes_for(matrix.variants, matrix)[0]
    labels = targets(bake([recipe], folder=FOLDER, secrets={}))["2_19_1-cpu-v1"]["labels"]
    assert labels["org.opencontainers.image.revision"] == recipe.release.commit


def test_other_sources_of_one_name_are_kept_apart(recipes: tuple[Recipe, ...]) -> None:
    """Whatever makes the Dockerfiles of two levels differ, none of them builds from the other's."""
    other = replace(recipes[1], devel=recipes[1].devel + "# for this level alone\n")
    made = bake([recipes[0], other], folder=FOLDER, secrets={})
    assert targets(made)[f"{V3}-artifact"]["dockerfile"] == str(FOLDER / "2.19.1-cpu-v3" / "devel.Dockerfile")
    assert targets(made)[f"{V3}-artifact"]["contexts"]["fetch"] == f"target:{V3}-fetch"
    assert made.files[FOLDER / "2.19.1-cpu" / "devel.Dockerfile"] == recipes[0].devel


def test_what_bake_would_take_for_a_template_is_quoted(tmp_path: Path) -> None:
    image = {"repository": "team/serving", "labels": {"my.label": "${HOME} %{if}"}}
    matrix = load(tmp_path, document(image=image))
    made = bake(recipes_for(matrix.variants, matrix)[0], folder=FOLDER, secrets={})
    assert targets(made)["2_19_1-cpu-v1"]["labels"]["my.label"] == "$${HOME} %%{if}"


def test_inputs_are_those_of_the_line(tmp_path: Path) -> None:
    (tmp_path / "archives").mkdir()
    (tmp_path / "grpc").mkdir()
    bazel = {"distdir": "archives", "overrides": {"grpc": "grpc"}, "options": ["--define=a=b"]}
    matrix = load(tmp_path, document(bazel=bazel, network={"offline": True}))
    recipes = recipes_for(matrix.variants, matrix)[0]
    made = bake(recipes, folder=FOLDER, secrets={"2.19.1-cpu-v1": {"network", "ca"}})
    shared = FOLDER / "2.19.1-cpu"
    for name in ("2_19_1-cpu-base_build", "2_19_1-cpu-fetch", f"{V1}-artifact"):
        target = targets(made)[name]
        assert target["contexts"].items() >= dict(recipes[0].contexts(shared / "inputs")).items()
        assert target["contexts"]["overrides"] == str(shared / "inputs" / "overrides")
        assert target["args"]["BAZEL_OPTIONS"] == "--define=a=b"
        assert target["secret"] == [f"id=ca,src={shared}/secrets/ca", f"id=network,src={shared}/secrets/network"]
        assert target["network"] == "none"
    assert targets(made)[V1]["network"] == "none"
    assert made.inputs == {shared: recipes[0]}


# --- the command ------------------------------------------------------------------------------------------------------


def asked(tmp_path: Path, file: Path) -> Asked:
    return Asked(checkout=Checkout(ROOT, tmp_path / "build"), matrix=str(file))


def test_the_file_and_its_contexts_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "out.json"
    bake_file(asked(tmp_path, ROOT / "samples" / "matrix.yaml"), output=str(file))
    written = json.loads(file.read_text(encoding="utf-8"))
    for target in written["target"].values():
        places = [target["dockerfile"], *(place for place in target["contexts"].values() if place.startswith("/"))]
        assert all(Path(place).exists() for place in places)
    assert "5 variants" in capsys.readouterr().err


def test_a_link_stays_one_and_a_pipe_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("old", encoding="utf-8")
    (tmp_path / "link").symlink_to("real.json")
    write_file(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real.json").read_text(encoding="utf-8") == "new"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_file(tmp_path / "pipe", "text")
    assert os.read(reader, 9) == b"text"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("where", ["> out", ">> out", "| cat > out"])
def test_standard_output_by_another_name_is_written_to_and_stays(tmp_path: Path, where: str) -> None:
    """As /dev/stdout, a link to /proc/self/fd/1, which root could replace."""
    (tmp_path / "out").write_text("before\n", encoding="utf-8")
    (tmp_path / "stdout").symlink_to("/proc/self/fd/1")
    code = "from pathlib import Path; from serving_factory.commands.shared import write, write_file; "
    code += "write('head\\n'); write_file(Path('stdout'), 'text\\n'); write('tail\\n')"
    subprocess.run(["sh", "-c", f'"$0" -c "$1" {where}', sys.executable, code], cwd=tmp_path, check=True)
    before = "before\n" if where.startswith(">>") else ""
    assert (tmp_path / "out").read_text(encoding="utf-8") == f"{before}head\ntext\ntail\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "stdout"]
    assert (tmp_path / "stdout").is_symlink()


def test_inputs_and_secrets_are_put_where_the_file_says(tmp_path: Path) -> None:
    (tmp_path / "grpc").mkdir()
    (tmp_path / "grpc" / "WORKSPACE").touch()
    proxies = {"https": "http://user:password@proxy.example.com:3128"}
    sections = {"bazel": {"overrides": {"grpc": "grpc"}}, "network": {"proxies": proxies}}
    file = write(tmp_path, document(**sections))
    bake_file(asked(tmp_path, file), output=str(tmp_path / "out.json"))
    text = (tmp_path / "out.json").read_text(encoding="utf-8")
    assert "password" not in text
    target = json.loads(text)["target"]["2_19_1-cpu-fetch"]
    assert (Path(target["contexts"]["overrides"]) / "grpc" / "WORKSPACE").is_file()
    (secret,) = target["secret"]
    place = Path(secret.removeprefix("id=network,src="))
    assert "password" in place.read_text(encoding="utf-8")
    assert (place.stat().st_mode & 0o777, place.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_variants_without_a_recipe_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = SMALL.replace('["2.19.1"]', '["2.19.1", "2.3.4"]')
    bake_file(asked(tmp_path, write(tmp_path, text)), output=str(tmp_path / "a.json"))
    reported = capsys.readouterr().err
    assert "a.json: 1 variant\n" in reported
    assert "left out 2.3.4-cpu-v1: the checksum of Bazel " in reported
    assert "See `./factory explain 2.3.4-cpu-v1`" in reported
    with pytest.raises(RecipeError, match="none of the chosen variants"):
        bake_file(asked(tmp_path, write(tmp_path, SMALL.replace("2.19.1", "2.3.4"))), output=str(tmp_path / "b.json"))
    assert not (tmp_path / "b.json").exists()


@pytest.mark.parametrize("name", ["caf\udce9", "caf\udcc3\udca9"])
def test_a_path_of_other_bytes_is_refused_and_one_that_the_locale_does_not_know_is_not(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name / "tree").mkdir(parents=True)
    (tmp_path / name / "tree" / "WORKSPACE").touch()
    file = write(tmp_path / name, document(source="tree"))
    if name.endswith("\udce9"):
        with pytest.raises(UsageError, match="a bake file is UTF-8") as caught:
            bake_file(asked(tmp_path, file), output=str(tmp_path / "a.json"))
        assert "caf\\xe9" in caught.value.why
    else:
        bake_file(asked(tmp_path, file), output=str(tmp_path / "a.json"))
        assert "café/tree" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_a_target_of_a_groups_name_is_reported(tmp_path: Path) -> None:
    file = write(tmp_path, SMALL.replace("standard:", "image:"))
    with pytest.raises(UsageError, match="image is named like a group"):
        bake_file(asked(tmp_path, file), output=str(tmp_path / "a.json"))
