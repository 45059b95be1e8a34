from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from serving_factory.commands.build import plan_row, plan_table
from serving_factory.commands.list import variants_table
from serving_factory.errors import CompileError, RegistryError
from serving_factory.output.outcomes import demo_table, pushed_list, run_commands, summary_table
from serving_factory.output.text import page, table
from serving_factory.pipeline.budget import Budget
from serving_factory.pipeline.events import Status, VariantResult

_FACTS = {"binary_size": 12_897_485, "image_size": 96_000_000, "rest": [2.5, 3.0, 4.5], "grpc": (2.5, 3.0, 4.5)}
_RESULTS = [
    VariantResult(
        variant="2.19.1-mkl-v3",
        status=Status.FAILED,
        seconds=30.0,
        error=CompileError("the Bazel build failed\nmore of it"),
    ),
    VariantResult(
        variant="2.19.1-cpu", status=Status.BUILT, seconds=71.4, image="serving-factory/sample:2.19.1-cpu", facts=_FACTS
    ),
    VariantResult(variant="2.19.1-cpu-v3", status=Status.UP_TO_DATE, image="i:v3", facts=_FACTS),
    VariantResult(variant="2.19.1-gpu", status=Status.SKIPPED, because="because of 2.19.1-mkl-v3"),
    VariantResult(variant="2.19.1-gpu-v3", status=Status.CANCELLED, because="Ctrl-C"),
]


def test_summary_lists_the_ends_apart() -> None:
    assert summary_table(_RESULTS) == (
        "result      variant              time    binary     image  image name, or reason\n"
        "----------  -------------  ----------  --------  --------  ---------------------------------\n"
        "built       2.19.1-cpu     1 min 11 s  12.3 MiB  91.6 MiB  serving-factory/sample:2.19.1-cpu\n"
        "up to date  2.19.1-cpu-v3              12.3 MiB  91.6 MiB  i:v3\n"
        "failed      2.19.1-mkl-v3        30 s                      the Bazel build failed\n"
        "skipped     2.19.1-gpu                                     because of 2.19.1-mkl-v3\n"
        "cancelled   2.19.1-gpu-v3                                  Ctrl-C\n"
        "\n"
        "5 variants: 1 built, 1 up to date, 1 failed, 1 skipped, 1 cancelled.\n"
    )


def test_a_narrow_terminal_gets_a_block_per_row_and_nothing_is_cut() -> None:
    text = summary_table(_RESULTS[1:2], width=60)
    assert text == (
        "result                 built\n"
        "variant                2.19.1-cpu\n"
        "time                   1 min 11 s\n"
        "binary                 12.3 MiB\n"
        "image                  91.6 MiB\n"
        "image name, or reason  serving-factory/sample:2.19.1-cpu\n"
        "\n"
        "1 variant: 1 built.\n"
    )


def test_without_a_width_nothing_is_cut_however_long() -> None:
    name = "registry.example.org:5000/" + "team/" * 60 + "image:tag"
    assert name in summary_table([VariantResult(variant="v", status=Status.BUILT, image=name)])


def test_demo_table() -> None:
    assert demo_table(_RESULTS[:2], models=Path("/src/samples/model_server/models")) == (
        "variant          binary     image  REST answer    gRPC answer          time"
        "  image name\n"
        "-------------  --------  --------  -------------  -------------  ----------"
        "  ---------------------------------\n"
        "2.19.1-mkl-v3                                                        failed"
        "  the Bazel build failed\n"
        "2.19.1-cpu     12.3 MiB  91.6 MiB  2.5, 3.0, 4.5  2.5, 3.0, 4.5  1 min 11 s"
        "  serving-factory/sample:2.19.1-cpu\n"
        "\n"
        "Run one of them:\n"
        "\n"
        "  docker run -p 8501:8501 --mount type=bind,source=/src/samples/model_server/models/half_plus_two,"
        "target=/models/half_plus_two -e MODEL_NAME=half_plus_two serving-factory/sample:2.19.1-cpu\n"
        "\n"
        "and ask it, from another terminal:\n"
        "\n"
        """  curl -d '{"instances": [1.0, 2.0, 5.0]}' -X POST"""
        " http://localhost:8501/v1/models/half_plus_two:predict\n"
    )


def test_demo_table_without_an_image_has_nothing_to_run() -> None:
    assert "docker run" not in demo_table(_RESULTS[:1], models=Path("/m"))


@pytest.mark.parametrize(
    ("folder", "mount"),
    [
        ("/my models", "type=bind,source=/my models/half_plus_two,target=/models/half_plus_two"),
        ("/a,b", 'type=bind,"source=/a,b/half_plus_two",target=/models/half_plus_two'),
    ],
)
def test_run_command_survives_odd_paths(folder: str, mount: str) -> None:
    command = next(line for line in run_commands("i:t", models=Path(folder)).splitlines() if "docker run" in line)
    words = shlex.split(command)
    assert words[words.index("--mount") + 1] == mount
    assert words[-1] == "i:t"


def test_list_table() -> None:
    both: dict[str, object] = {"release": "2.19.1", "flavour": "cpu", "platform": "linux/amd64", "cuda": None}
    both |= {"last_stage": None, "buildable": True}
    rows = [
        {**both, "variant": "2.19.1-cpu", "level": "x86-64", "targets": ("a", "b")},
        {**both, "variant": "2.19.1-cpu-v3", "level": "x86-64-v3", "targets": ("c",)},
    ]
    assert variants_table(rows) == (
        "variant        release  flavour  level      targets\n"
        "-------------  -------  -------  ---------  -------\n"
        "2.19.1-cpu     2.19.1   cpu      x86-64     a, b\n"
        "2.19.1-cpu-v3  2.19.1   cpu      x86-64-v3  c\n"
        "\n"
        "2 variants.\n"
    )
    assert variants_table([]) == "The matrix has no variants.\n"


def test_plan_table() -> None:
    rows = [
        plan_row(
            variant="a",
            run=("package", "smoke"),
            up_to_date=("compile",),
            because="a label changed",
            wave=1,
            jobs=1,
            memory=2 * 2**30,
        ),
        plan_row(variant="c", run=("compile",), because="new", wave=2, jobs=8, memory=16 * 2**30, after="a"),
        plan_row(variant="b", up_to_date=("compile", "package", "smoke")),
    ]
    assert plan_table(rows, Budget(cpus=8, memory=20 * 2**30)) == (
        "wave  variant  would run      up to date             jobs    memory  because\n"
        "----  -------  -------------  ---------------------  ----  --------  ---------------\n"
        "   1  a        package smoke  compile                   1   2.0 GiB  a label changed\n"
        "   2  c        compile                                  8  16.0 GiB  new; after a\n"
        "      b        nothing        compile package smoke\n"
        "\n"
        "3 variants: 2 to build, 1 up to date. Nothing was run.\n"
        "The engine's machine has 8 CPUs and 20.0 GiB of memory for builds; the variants of a wave compile at the same "
        "time.\n"
    )
    assert "No Docker engine answers" in plan_table(rows)
    assert "engine" not in plan_table(rows[2:])
    assert plan_table([]).startswith("Nothing to do")


def test_explain_page() -> None:
    sections = [("Toolchain", (("base image", "debian:12"), ("flags", "-mavx2\n-mfma"), ("CUDA", ""))), ("Empty", ())]
    assert page("2.19.1-cpu-v3", sections) == (
        "2.19.1-cpu-v3\n"
        "\n"
        "Toolchain\n"
        "  base image  debian:12\n"
        "  flags       -mavx2\n"
        "              -mfma\n"
        "  CUDA        -\n"
    )


def test_wide_characters_keep_the_columns_and_foreign_text_is_harmless() -> None:
    text = table(["a", ">b"], [("\u6f22\u5b57", "1"), ("::x::", "\x1b[2J22")], width=80)
    assert text == "a        b\n------  --\n\u6f22\u5b57     1\n: :x::  22\n"


def test_no_results() -> None:
    assert summary_table([]) == "Nothing to do: no variant is chosen.\n"


def test_what_was_pushed_is_listed_with_its_digest() -> None:
    pushed = VariantResult(
        variant="a", status=Status.BUILT, facts={"pushed": ["r.io/x:1@sha256:ab", "r.io/x:2@sha256:ab"]}
    )
    failed = VariantResult(
        variant="b", status=Status.FAILED, facts={"pushed": ["r.io/x:0@sha256:cd"]}, error=RegistryError("no")
    )
    assert pushed_list([pushed, failed]) == "\nPushed:\n  r.io/x:1@sha256:ab\n  r.io/x:2@sha256:ab\n"
    assert pushed_list([failed]) == ""
