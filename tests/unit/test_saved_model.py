"""Reading a SavedModel: what is in it, and each way to be incomplete."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from serving_factory.errors import ModelError
from serving_factory.smoke.saved_model import TensorKind, read_saved_model

from .matrices import ROOT
from .saved_models import graph, signature, tensor, write_model

INDEX, SHARDS = "variables/variables.index", [f"variables/variables.data-0000{i}-of-00002" for i in range(2)]


def test_the_samples_model() -> None:
    found = read_saved_model(ROOT / "samples" / "model_server" / "models" / "half_plus_two")
    assert (found.version, found.alone, found.files) == (123, False, ("saved_model.pb",))
    assert found.ops == {"Placeholder", "Const", "Mul", "Add"}
    assert found.signatures["serving_default"].inputs == {"x": TensorKind("DT_FLOAT", (1, 1))}
    assert found.signatures["serving_default"].outputs == {"y": TensorKind("DT_FLOAT", (1, 1))}


def test_the_highest_version_is_taken_by_its_number(tmp_path: Path) -> None:
    for name in ("9", "0010", "2"):
        write_model(tmp_path / name)
    for name in ("assets", "11x", "\N{SUPERSCRIPT TWO}", "-3"):
        (tmp_path / name).mkdir()
    (tmp_path / "12").touch()
    write_model(tmp_path / str(2**63))  # no server counts so far
    found = read_saved_model(tmp_path)
    assert (found.folder, found.version, found.passed_over) == (tmp_path / "0010", 10, (2, 9))


def test_one_saved_model_is_version_1(tmp_path: Path) -> None:
    found = read_saved_model(write_model(tmp_path / "export"))
    assert (found.version, found.alone) == (1, True)


def test_all_files_of_a_version_and_the_assets_that_its_graph_names(tmp_path: Path) -> None:
    files = [INDEX, *SHARDS, "assets/words.txt", "assets.extra/tf_serving_warmup_requests"]
    write_model(tmp_path / "1", graph("VarHandleOp", restore="restore", assets=["words.txt"]), files=files)
    (tmp_path / "1" / "assets" / "empty").mkdir()
    (tmp_path / "1" / "assets" / "more.txt").symlink_to("words.txt")
    assert read_saved_model(tmp_path).files == tuple(sorted([*files, "assets/more.txt", "saved_model.pb"]))


def test_ops_are_those_of_functions_too_and_functions_are_none(tmp_path: Path) -> None:
    made = graph("PartitionedCall", "f", functions={"f": ["Conv2D", "g"], "g": ["Relu"]})
    assert read_saved_model(write_model(tmp_path, made)).ops == {"PartitionedCall", "Conv2D", "Relu"}


def test_a_size_that_is_not_known_is_1_and_a_reference_is_its_type(tmp_path: Path) -> None:
    unknown = tensor("DT_STRING")
    unknown.tensor_shape.unknown_rank = True
    reference = tensor()
    reference.dtype = 101  # type: ignore[assignment]  # DT_FLOAT_REF, which the messages do not name
    inputs = {"a": tensor("DT_INT64", -1, 3), "b": tensor("DT_BOOL"), "c": unknown, "d": reference}
    found = read_saved_model(write_model(tmp_path, graph(serving_default=signature(inputs)))).signatures
    assert found["serving_default"].inputs == {
        "a": TensorKind("DT_INT64", (1, 3)),
        "b": TensorKind("DT_BOOL", ()),
        "c": TensorKind("DT_STRING", (1,)),
        "d": TensorKind("DT_FLOAT", ()),
    }


def test_signatures_that_cannot_be_asked_to_predict_are_left_out(tmp_path: Path) -> None:
    made = graph(serving_default=signature(), train=signature(method="tensorflow/supervised/training"))
    assert set(read_saved_model(write_model(tmp_path, made)).signatures) == {"serving_default"}


def no_version(folder: Path) -> None:
    (folder / "notes").mkdir()


def twice(folder: Path) -> None:
    write_model(folder / "1")
    write_model(folder / "01")


def text_graph(folder: Path) -> None:
    (folder / "1").mkdir()
    (folder / "1" / "saved_model.pbtxt").touch()


def bytes_of(data: bytes) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        write_model(folder / "1")
        (folder / "1" / "saved_model.pb").write_bytes(data)

    return write


def link(target: str) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        write_model(folder / "1")
        (folder / "1" / "assets").mkdir()
        (folder / "1" / "assets" / "words").symlink_to(target)

    return write


@pytest.mark.parametrize(
    ("make", "said"),
    [
        pytest.param(Path.rmdir, "is no folder", id="none"),
        pytest.param(no_version, "holds neither a saved_model.pb nor a version", id="no version"),
        pytest.param(twice, "01 and .*1 are the same version", id="twice"),
        pytest.param(text_graph, "saved_model.pb is missing; there is saved_model.pbtxt", id="a text"),
        pytest.param(bytes_of(b"version https://git-lfs.github.com/spec/v1\n"), "does not parse", id="a pointer"),
        pytest.param(bytes_of(b""), "has no graph with the tag `serve`", id="empty"),
        pytest.param(link("/etc/passwd"), "is a link to /etc/passwd", id="a link out"),
        pytest.param(link("../../../words"), r"is a link to \.\./", id="a link to nothing"),
        pytest.param(link("."), "is a link to", id="a link to a folder"),
        pytest.param(
            lambda folder: os.mkfifo(write_model(folder / "1") / "pipe"), "neither a file nor a folder", id="a pipe"
        ),
        pytest.param(
            lambda folder: write_model(folder / "1", graph(tags=["train"]), graph(tags=["serve", "gpu"])),
            r"tags \{train\} and \{gpu, serve\}",
            id="other tags",
        ),
        pytest.param(
            lambda folder: write_model(folder / "1", graph(train=signature(method="x"))),
            "has no signature that a server could be asked for",
            id="no signature",
        ),
        pytest.param(
            lambda folder: write_model(folder / "1", graph("VariableV2", restore="r")),
            "its graph has variables, and variables/variables.index is missing",
            id="no index",
        ),
        pytest.param(
            lambda folder: write_model(folder / "1", graph(functions={"f": ["VarHandleOp"]}, restore="r")),
            "variables.index is missing",
            id="no index for a variable of a function",
        ),
        pytest.param(
            lambda folder: write_model(folder / "1", files=[INDEX]), r"variables\.data-00000-of-00001", id="no values"
        ),
        pytest.param(
            lambda folder: write_model(folder / "1", files=[INDEX, SHARDS[0]]),
            f"missing: {SHARDS[1]}",
            id="a part of the values",
        ),
        pytest.param(
            lambda folder: write_model(folder / "1", graph(assets=["words.txt"])),
            "it needs assets/words.txt",
            id="no asset",
        ),
    ],
)
def test_what_no_server_could_load_is_one_message(tmp_path: Path, make: Callable[[Path], object], said: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    make(folder)
    with pytest.raises(ModelError) as caught:
        read_saved_model(folder)
    assert re.search(said, str(caught.value))
    assert caught.value.remedy


def test_a_variable_that_nothing_restores_needs_no_values(tmp_path: Path) -> None:
    assert read_saved_model(write_model(tmp_path, graph("VarHandleOp"))).ops == {"VarHandleOp"}
