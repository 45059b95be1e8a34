"""tasks.py: what a user types, without an engine to talk to."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from invoke.parser.context import ParserContext

from serving_factory.catalogue.releases import releases
from serving_factory.commands import cli
from serving_factory.commands.shared import Checkout
from serving_factory.docker.caches import CacheMount
from serving_factory.errors import (
    CancelledError,
    CompileError,
    EngineUnavailableError,
    FactoryError,
    RecipeError,
    TimeLimitError,
    UnknownNameError,
    UpstreamDiffersError,
    UsageError,
)
from serving_factory.pipeline import stages
from serving_factory.pipeline.budget import Budget
from serving_factory.pipeline.build_lock import hold_lock
from serving_factory.pipeline.events import Outcome, Status, VariantResult

from .matrices import ROOT, SAMPLE, SHIPPED, SMALL, checkout, write
from .upstream_trees import tree_2_19_1, write_tree

NOWHERE = "tcp://127.0.0.1:1"
VARIANTS = ["2.19.1-cpu-v1", "2.19.1-cpu-v3", "2.19.1-mkl-v3"]
RELEASE = ["--release", "2.19.1", "--target", "cpu-standard", "--target", "cpu-optimized", "--target", "mkl-optimized"]
STAGES = [*stages.STAGES[: stages.STAGES.index(stages.FIRST_WITH_REGISTRY)]]
TASKS = (
    "combine",
    *("bake-file", "bench", "build", "cache", "catalogue", "clean", "compile", "demo", "deploy", "doctor", "embed"),
    *("explain", "generate", "history", "inputs", "inspect", "list", "lock", "package", "preflight", "publish", "push"),
    *("refresh", "report", "smoke", "test", "which"),
    *("keys", "verify"),
    "changes",
    "compare",
)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The tasks."""
    spec = importlib.util.spec_from_file_location("tasks", ROOT / "tasks.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "tasks", module)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


Factory = Callable[..., Ended]


@pytest.fixture
def factory(
    module: ModuleType,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Factory:
    """Runs tasks in this process, with a checkout and a build folder of its own and no engine."""
    monkeypatch.setenv("DOCKER_HOST", NOWHERE)
    here = Checkout(checkout(tmp_path_factory.mktemp("checkout")), tmp_path / "build")
    monkeypatch.setattr(Checkout, "here", lambda: here)
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["factory", *arguments])
        return Ended(cli.run(module.ns, arguments), *capsys.readouterr())

    return run


def documents(text: str) -> list[Any]:
    """The JSON documents that stand one after the other in a text."""
    decoder, found, place = json.JSONDecoder(), [], 0
    while place < len(text):
        document, end = decoder.raw_decode(text, place)
        found.append(document)
        place = end + 1
    return found


def entry(document: dict[str, Any], section: str, name: str) -> dict[str, Any]:
    """The one entry of that name that `explain --json` prints."""
    (found,) = [one for one in document["entries"] if (one["section"], one["name"]) == (section, name)]
    return dict(found)


def test_what_only_looks_needs_no_engine(tmp_path: Path) -> None:
    """As a user starts it: one process, three tasks, and nothing on the machine is asked or made."""
    invoke = Path(sys.executable).with_name("invoke")
    sample = ["--matrix", SAMPLE, "--json"]
    command = [invoke, "--search-root", ROOT, "list", *sample, *RELEASE, "explain", VARIANTS[1], *sample]
    done = subprocess.run(
        [*map(str, command), "build", "--dry-run", "--json", "--matrix", str(write(tmp_path, SMALL))],
        cwd=tmp_path,
        env={**os.environ, "DOCKER_HOST": NOWHERE, "HOME": str(tmp_path), "PATH": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    listed, explained, planned = documents(done.stdout)
    assert [row["variant"] for row in listed["variants"]] == VARIANTS
    assert explained["variant"] == VARIANTS[1]
    assert len(entry(explained, "compile", "key")["value"]) == 64
    assert [row["run"] + row["up_to_date"] for row in planned["variants"]] == [STAGES]


@pytest.mark.parametrize("never", ["", "1"])
def test_the_package_is_compiled_once_unless_the_user_wants_no_compiled_files(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, never: str
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", never)
    monkeypatch.setattr(sys, "dont_write_bytecode", not never)
    request.getfixturevalue("module")
    assert sys.dont_write_bytecode is bool(never)


def test_the_tasks_are_those_that_are_listed(factory: Factory, module: ModuleType) -> None:
    ended = factory()
    assert ended.code == 0
    names = [line.split()[0] for line in ended.out.splitlines() if line.startswith("  ")]
    assert sorted(names) == sorted([*TASKS, "setup"]), "setup is a word of ./factory, not of Invoke"
    assert set(module.ns.task_names) == {*TASKS, "tasks"}
    assert all(len(line) <= 120 for line in ended.out.splitlines())


@pytest.mark.parametrize("name", TASKS)
def test_the_help_of_every_task_teaches_by_example(factory: Factory, module: ModuleType, name: str) -> None:
    ended = factory(name, "--help")
    assert ended.code == 0
    assert f"    ./factory {name}" in ended.out.partition("Examples:")[2]
    options = re.findall(r"^  (-.*?)(?:   *(\S.*))?$", ended.out.partition("Options:")[2], re.MULTILINE)
    assert len(options) == len(module.ns[name].get_arguments())
    assert [option for option, explained in options if not explained] == []


def test_the_catalogue_says_what_upstream_used(factory: Factory) -> None:
    ended = factory("catalogue", "--json")
    assert (ended.code, ended.err) == (0, "")
    found = json.loads(ended.out)["releases"]
    assert len(found) == len(releases())
    latest = next(one for one in found if one["release"] == "2.19.1")
    assert {"release", "commit", "tensorflow_commit", "bazel", "bazel_minimum", "reported_version"} <= set(latest)
    assert set(latest["flavours"]) == {"cpu", "mkl", "gpu"}
    assert {"base", "default_options", "fixed_flags", "compiler"} <= set(latest["flavours"]["cpu"])
    assert latest["flavours"]["cpu"]["fixed_flags"] == ["--config=kokoro"]
    assert {"cuda", "cudnn", "nccl", "tensorrt", "capabilities", "config"} <= set(latest["flavours"]["gpu"])
    message = {"rest", "model_status", "version_flag", "grpc_health", "monitoring", "integers_for_floats"}
    assert message <= set(latest["server"])
    assert found[0]["flavours"]["mkl"] is None
    assert found[0]["reported_version"] is None
    assert f"{len(releases())} releases" in factory("catalogue").out


@pytest.mark.parametrize("words", [("2.17.1", "--json"), ("--json", "2.17.1"), ("--release", "2.17.1", "--json")])
def test_the_catalogue_says_of_one_release(factory: Factory, words: tuple[str, ...]) -> None:
    found = json.loads(factory("catalogue", *words).out)
    assert [each["release"] for each in found["releases"]] == ["2.17.1"]
    assert factory("catalogue", "2.17.1").out.startswith("2.17.1\n")


def test_an_unknown_release_of_the_catalogue_is_reported_with_the_nearest(factory: Factory) -> None:
    ended = factory("catalogue", "2.15.0")
    assert ended.code == UnknownNameError.exit_code
    assert "did you mean '2.15.1'" in ended.err
    assert "no stable tag" in ended.err


def test_the_catalogue_is_compared_with_a_checkout(factory: Factory, tmp_path: Path) -> None:
    checkout = write_tree(tmp_path / "serving", tree_2_19_1())
    ended = factory("catalogue", "--check-upstream", str(checkout))
    assert (ended.code, ended.err) == (0, "")
    assert "agrees with the catalogue's entry of 2.19.1; not compared, as the checkout does not have them:" in ended.out
    ended = factory("catalogue", "2.18.1", "--check-upstream", str(checkout))
    assert ended.code == UpstreamDiffersError.exit_code
    assert "version.h:3: reported version: the catalogue has 2.18.1-rc0, upstream 2.19.1-rc0" in ended.err
    ended = factory("catalogue", "2.18.1", "--json", "--check-upstream", str(checkout))
    assert ended.code == UpstreamDiffersError.exit_code
    found = json.loads(ended.out)["differences"]
    assert {"file", "line", "what", "catalogue", "upstream"} == set(found[0])


def test_what_is_no_checkout_is_reported(factory: Factory, tmp_path: Path) -> None:
    for words in (
        ("2.19.1", "--check-upstream", str(tmp_path)),
        ("--check-upstream", str(tmp_path)),
        ("--check-upstream", str(tmp_path / "nowhere")),
    ):
        assert factory("catalogue", *words).code == UsageError.exit_code


@pytest.mark.parametrize("name", [*(name for name in stages.STAGES if name in TASKS), "build", "list"])
def test_what_reads_the_matrix_takes_another_file_and_a_choice(module: ModuleType, name: str) -> None:
    options = {argument.name for argument in module.ns[name].get_arguments()}
    assert {"matrix", "target", "release", "variant", "json"} <= options


# --- wrong names and files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["explain", "2.19.1-cpu-v33"], 4, "no variant is named '2.19.1-cpu-v33'; did you mean '2.19.1-cpu-v3'?"),
        (["list", "--target", "cpu-optimised"], 4, "did you mean 'cpu-optimized'?"),
        (["list", "--variant", "a,b"], 4, "give the option once for each: --variant a --variant b"),
        (["preflight", "--variant", "nope"], 4, "no variant is named 'nope'"),
        (["build", "--dry-run", "--release", "2.19.0"], 4, "release 2.19.0 is not in this matrix"),
        (["compile", "--variant", "cpu"], 4, "no variant is named 'cpu'"),
        (["list", "--target", "cpu-standard", "--variant", VARIANTS[1]], 4, "matches all of"),
        (["list", "--matrix", "nowhere.yaml"], 3, "nowhere.yaml: there is no such file"),
    ],
)
def test_a_wrong_name_is_reported_calmly(factory: Factory, arguments: list[str], code: int, message: str) -> None:
    ended = factory(*arguments)
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.startswith("Error: ")
    assert message in ended.err
    assert "What to do: " in ended.err
    assert "Traceback" not in ended.err


def test_a_wrong_matrix_file_is_reported_with_its_places(factory: Factory, tmp_path: Path) -> None:
    file = write(tmp_path, SMALL.replace("cpu", "cpuu"))
    ended = factory("build", "--matrix", str(file))
    assert ended.code == 3
    assert f"{file}:6:14: targets.standard.flavour: 'cpuu'" in ended.err


def test_the_readme_shows_the_tasks_as_they_are(factory: Factory) -> None:
    message = factory("tasks").out.partition("\n\n")[2]
    assert f"```console\n$ ./factory\n{message}```" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "what", "remedy"),
    [
        ("biuld", "there is no task 'biuld'; did you mean 'build'?", "./factory"),
        ("setpu", "did you mean 'setup'?", "./factory"),
        ("--lsit", "factory has no option '--lsit'; did you mean '--list'?", "./factory"),
        ("list --nope", "list has no option '--nope'", "./factory list --help"),
        ("build --relase 2.19.1", "build has no option '--relase'; did you mean '--release'?", "build --help"),
        ("build -dry-run", "build has no option '-dry-run'; did you mean '--dry-run'?", "build --help"),
        ("build --dry-runn --json", "did you mean '--dry-run'?", "build --help"),
        ("explain --jsn 2.19.1-cpu-v1", "explain has no option '--jsn'; did you mean '--json'?", "explain --help"),
        ("list 2.19.1-cpu-v1", "list takes no word '2.19.1-cpu-v1'", "list --help"),
        ("history -- -1", "no words may follow `--`", "leave `--` out"),
        ("history -1", "history has no option '-1'", "history --help"),
        ("push --matrix a --matrix b", "`--matrix` may be given once only", "push --help"),
        ("push --matrix=a --matrix=b", "`--matrix` may be given once only", "push --help"),
        ("build --jobs", "`--jobs` needs a value", "build --help"),
        ("list --variant a --variant", "`--variant` needs a value", "list --help"),
        ("push --registry=", "--registry must have a value, got ''", "leave --registry out"),
        ("list --release=", "--release must have a value, got ''", "leave --release out"),
        ("list --ids=3", "`--ids` takes no value, got '3'", "--ids alone"),
        ("lock --update list", "'list' may be the value of `--update` or a task", "--update=list"),
        ("list --release >=x", "'>=x': this is not a version specifier", "Write it like"),
        ("cache prune --max-size 20GB", "`--max-size` must be a size, got '20GB'", "--max-size 16GiB"),
        ("explain 2.19.1-cpu-v1 --variant x", "explain takes one VARIANT, got 'x' as well", "or with `--variant`"),
        ("explain --variant x 2.19.1-cpu-v1", "got '2.19.1-cpu-v1' as well", "or with `--variant`"),
        ("explain a b", "explain takes one VARIANT, got 'b' as well", "give it once"),
        ("history 1 2 3", "history takes one RUN and one OTHER, got '3' as well", "`--run` and `--other`"),
        ("inputs archive x", "`inputs archive` takes GIT_DIR REF..., got x", "inputs --help"),
        ("inputs override a b", "`inputs override` takes NAME, got a b", "inputs --help"),
        ("help", "there is no task 'help'", "`./factory --list` lists the tasks"),
        ("build help", "build takes no word 'help'", "`./factory build --help`"),
        ("bake-file --output /nope/x.json", "`--output` must be in a folder that exists", "mkdir -p /nope"),
        ("bake-file --output /", "`--output` must be a file, got the folder '/'", "name a file"),
    ],
)
def test_a_slip_on_the_command_line_is_named_with_its_remedy(
    factory: Factory, words: str, what: str, remedy: str
) -> None:
    ended = factory(*words.split())
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("Error: ")
    assert what in ended.err.splitlines()[0]
    assert remedy in ended.err.partition("What to do: ")[2]


@pytest.mark.parametrize(("words", "code"), [("list", 1), ("explain nothing", 4)])
def test_lost_output_is_reported_once_and_hides_no_other_error(
    factory: Factory, monkeypatch: pytest.MonkeyPatch, words: str, code: int
) -> None:
    for module in ("boundary", "cli"):
        monkeypatch.setattr(f"serving_factory.commands.{module}.lost_output", lambda: FactoryError("output was lost"))
    ended = factory(*words.split())
    assert ended.code == code
    assert ended.err.count("output was lost") == 1


def test_short_options_are_only_those_named_on_purpose(module: ModuleType) -> None:
    flags = {flag for context in module.ns.to_contexts() for flag in context.flags if not flag.startswith("--")}
    assert flags == {"-k"}, "pytest's"


@pytest.mark.parametrize("name", TASKS)
def test_invoke_alone_can_print_the_help_of_every_task(module: ModuleType, name: str) -> None:
    command = next(one for one in vars(module).values() if isinstance(one, cli.Command) and one.name == name)
    assert ParserContext(name, args=command.get_arguments()).help_tuples() is not None


def test_help_says_what_may_be_repeated_and_what_is_an_integer(factory: Factory) -> None:
    text = " ".join(factory("build", "--help").out.split())
    assert "2.19.1-cpu-v3; may be repeated" in text
    assert "--jobs INTEGER" in text
    assert "may be repeated" not in text.partition("Options:")[2].partition("--parallel")[2]


def test_memory_of_more_than_the_engines_machine_has_is_refused(
    factory: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = SimpleNamespace(capacity=lambda: (2, 8 * 2**30))
    monkeypatch.setattr("serving_factory.pipeline.job.Site.engine", engine)
    ended = factory("build", "--dry-run", "--memory", "9999999GiB", *RELEASE)
    assert ended.code == 2
    assert "`--memory` must be at most" in ended.err
    assert "9,999,999.0 GiB" in ended.err


def test_what_explain_needs(factory: Factory) -> None:
    assert "`explain` needs a variant's id, or --dropped" in factory("explain").err


# --- looking ----------------------------------------------------------------------------------------------------------


def test_list_and_choices(factory: Factory) -> None:
    ended = factory("list", "--json", "--target", "cpu-optimized", "--target", "mkl-optimized", "--release", "2.19.1")
    rows = json.loads(ended.out)["variants"]
    assert [(row["variant"], row["last_stage"]) for row in rows] == [(VARIANTS[1], None), (VARIANTS[2], None)]
    assert VARIANTS[0] in factory("list").out


GPU_AND_CPU = """\
image: {repository: r}
releases: ["2.18.1", "2.19.1", "2.20.0"]
targets:
  standard: {flavour: cpu, levels: [x86-64]}
  gpu-optimized: {flavour: gpu, levels: [x86-64-v3]}
"""


def test_list_by_any_axis_in_every_form(factory: Factory, tmp_path: Path) -> None:
    axes = ["--flavour", "gpu", "--level", "v3", "--cuda", ">=12", "--platform", "linux/amd64", "--release", ">=2.19"]
    axes += ["--matrix", str(write(tmp_path, GPU_AND_CPU))]
    ids = ["2.19.1-gpu-cuda12.2-v3", "2.20.0-gpu-cuda12.5-v3"]
    assert factory("list", "--ids", *axes).out.splitlines() == ids
    rows = json.loads(factory("list", "--json", *axes).out)["variants"]
    assert [row["variant"] for row in rows] == ids
    assert [(row["cuda"], row["buildable"]) for row in rows] == [("12.2", True), ("12.5", True)]
    assert rows[0]["capabilities"][-1] == "compute_90"
    matrix = json.loads(factory("list", "--github", *axes).out)
    assert [job["variant"] for job in matrix["include"]] == ids
    assert "cannot be built" not in factory("list", *axes).out
    assert factory("list", "--ids", "--json").code == 2


@pytest.mark.parametrize(
    ("chosen", "reason"),
    [
        ("bazel: {version: '0.15.0'}", "let `./factory lock` find it out"),
        ("bazel: {version: '0.5.4', package: bazel-bootstrap}", "upstream built 1.9.1 with Bazel 0.15.0"),
        ("toolchain: {base: 'debian:bullseye', python: '3.5'}", "it has 2.7, 3.9"),
    ],
)
def test_what_cannot_be_built_is_listed_so_and_explained(
    factory: Factory, tmp_path: Path, chosen: str, reason: str
) -> None:
    text = SMALL.replace("2.19.1", "1.9.1") + chosen
    file = str(write(tmp_path, text))
    (row,) = json.loads(factory("list", "--json", "--matrix", file).out)["variants"]
    assert not row["buildable"]
    message = json.loads(factory("explain", "1.9.1-cpu-v1", "--json", "--matrix", file).out)
    assert reason in " ".join(one["value"] for one in message["entries"] if one["section"] == "unbuildable")
    assert entry(message, "unbuildable", "what_to_do")["value"]
    assert entry(message, "toolchain", "bazel")["value"]


def test_list_says_that_there_is_more_to_know(factory: Factory, tmp_path: Path) -> None:
    assert "explain --dropped" not in factory("list").out
    file = str(write(tmp_path, DROPPING))
    assert "2 more dropped; `./factory explain --dropped` says why." in factory("list", "--matrix", file).out


DROPPING = """\
image: {repository: r, aliases: ["{id}"]}
releases: ["2.19.1", "2.18.1"]
targets:
  standard: {flavour: cpu, levels: [x86-64, avx]}
exclude:
  - {reason: unused, levels: [avx]}
"""


def test_explain_what_is_dropped(factory: Factory, tmp_path: Path) -> None:
    assert (
        factory("explain", "--dropped").out == "No variant is dropped: every variant that a target selects is built.\n"
    )
    file = str(write(tmp_path, DROPPING))
    assert "unused  exclude[0], matrix.yaml:6" in factory("explain", "--dropped", "--matrix", file).out
    rows = json.loads(factory("explain", "--dropped", "--json", "--matrix", file).out)["dropped"]
    assert rows[0] == {
        "variant": "2.18.1-cpu-avx",
        "target": "standard",
        "reasons": [{"reason": "unused", "origin": "exclude[0], matrix.yaml:6"}],
    }
    assert [row["variant"] for row in rows] == ["2.18.1-cpu-avx", "2.19.1-cpu-avx"]


def test_explain_what_is_dropped_of_one_variant(factory: Factory, tmp_path: Path) -> None:
    file = str(write(tmp_path, DROPPING))
    (row,) = json.loads(factory("explain", "2.19.1-cpu-avx", "--dropped", "--json", "--matrix", file).out)["dropped"]
    assert row["variant"] == "2.19.1-cpu-avx"
    ended = factory("explain", "foo", "--dropped", "--matrix", file)
    assert ended.code != 0
    assert "no variant foo is dropped" in ended.err


def old_release(tmp_path: Path) -> str:
    target = "targets: {t: {flavour: gpu, levels: [x86-64]}}"
    text = f'image: {{repository: r, aliases: ["{{id}}"]}}\nreleases: ["2.3.4"]\n{target}\n'
    return str(write(tmp_path, text))


def test_explain_a_variant_that_cannot_be_built_shows_its_recipe(factory: Factory, tmp_path: Path) -> None:
    ended = factory("explain", "2.3.4-gpu-cuda10.1-v1", "--matrix", old_release(tmp_path))
    assert ended.code == 0
    assert " 10.1  (catalogue, release 2.3.4)" in ended.out
    assert "3.0.0" in ended.out


def test_explain_as_json_keeps_origins_apart(factory: Factory) -> None:
    found = json.loads(factory("explain", VARIANTS[1], "--json").out)
    level = entry(found, "variant", "level")
    assert level["value"] == "x86-64-v3"
    assert level["origin"].startswith("targets.cpu-optimized.levels, matrix.yaml:")
    assert entry(found, "variant", "matrix_file")["origin"] == "default"
    assert entry(found, "variant", "id")["origin"] is None
    sample = json.loads(factory("explain", VARIANTS[1], "--json", "--matrix", "samples/matrix.yaml").out)
    assert entry(sample, "variant", "matrix_file")["origin"] == "command line, --matrix"


def test_what_cannot_be_built_fails_alone(factory: Factory, tmp_path: Path) -> None:
    file = old_release(tmp_path)
    assert "cannot be built" in factory("list", "--matrix", file).out
    (row,) = json.loads(factory("build", "--dry-run", "--json", "--matrix", file).out)["variants"]
    assert (row["run"], "the checksum of Bazel 3.0.0 is not known" in row["unbuildable"]) == ([], True)
    assert "1 cannot be built. Nothing was run." in factory("build", "--dry-run", "--matrix", file).out
    ended = factory("build", "--matrix", file, "--json")
    assert ended.code == 7
    assert "./factory lock" in ended.out


def test_generate_covers_every_release(factory: Factory) -> None:
    ended = factory("generate", "--check")
    files = 2 * sum(len(release.flavours) for release in releases().values()) + len(("the schema", "the table"))
    assert (ended.code, ended.out) == (0, f"{files} files are up to date\n")


def test_explain_for_people(factory: Factory) -> None:
    out = factory("explain", VARIANTS[1]).out
    assert "-mfma" in out
    assert "serving-factory/tensorflow-serving:2.19.1-cpu-v3" in out


def test_a_dry_run_does_nothing(factory: Factory, tmp_path: Path) -> None:
    ended = factory("build", "--dry-run", "--json", *RELEASE, "--registry", "registry.example.com")
    rows = json.loads(ended.out)["variants"]
    assert [row["run"] for row in rows] == [[*STAGES, "push"]] * 3
    assert {row["because"] for row in rows} == {"compile has not run"}
    assert not (tmp_path / "build").exists()


def test_generate_writes_what_is_missing_and_takes_away_what_nothing_makes(factory: Factory, tmp_path: Path) -> None:
    file = write(tmp_path, SMALL)
    checked = factory("generate", "--check", "--matrix", str(file))
    assert checked.code == 5
    assert "dockerfiles/2.19.1/cpu.devel.Dockerfile: missing" in checked.err
    assert not (tmp_path / "dockerfiles").exists()
    stray = tmp_path / "dockerfiles" / "2.18.0" / "cpu.devel.Dockerfile"
    stray.parent.mkdir(parents=True)
    stray.touch()
    assert factory("generate", "--matrix", str(file)).out.count("wrote ") == 2
    assert not stray.exists()
    assert factory("generate", "--check", "--matrix", str(file)).out == "2 files are up to date\n"


@pytest.mark.parametrize(
    "words", ["list --json", "explain 2.19.1-cpu-v1", "build --dry-run", "report", "history", "generate"]
)
def test_a_matrix_file_may_have_any_bytes_in_its_name(factory: Factory, tmp_path: Path, words: str) -> None:
    file = write(tmp_path, SMALL).rename(tmp_path / "caf\udce9.yaml")
    ended = factory(*words.split(), "--matrix", str(file))
    assert (ended.code, ended.err) == (0, "")


# --- working ----------------------------------------------------------------------------------------------------------


def test_without_an_engine_a_build_ends_with_its_error(factory: Factory) -> None:
    ended = factory("build", "--variant", VARIANTS[0])
    assert ended.code == 11
    assert "Traceback" not in ended.out + ended.err


def test_clean_asks_no_engine_for_folders(factory: Factory, tmp_path: Path) -> None:
    ours = tmp_path / "build" / VARIANTS[0]
    (ours / "recipe").mkdir(parents=True)
    other = tmp_path / "build" / "README.md"
    other.touch()
    assert factory("clean").out == f"removed {ours}\n"
    assert other.exists()
    assert not ours.exists()


def test_a_cache_that_a_build_uses_is_not_said_to_be_dropped(factory: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    gone, used = (CacheMount(record=name, id=f"caches-{name}", size="1MB") for name in ("a", "b"))
    monkeypatch.setattr("serving_factory.pipeline.runner.drop_cache_mounts", lambda _: ([gone], [used]))
    assert factory("clean", "--caches").out == (
        "dropped cache caches-a, 1MB\nkept cache caches-b, 1MB: a build uses it\n"
    )


def test_a_second_factory_is_refused(factory: Factory, tmp_path: Path) -> None:
    with hold_lock(tmp_path / "build"):
        ended = factory("build", "--variant", VARIANTS[0])
    assert ended.code == 10
    assert f"process {os.getpid()} has held the lock since" in ended.err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (FactoryError("a broke", why="b", remedy="fix it"), 1, "Error: a broke\n  b\n\nWhat to do: fix it\n"),
        (KeyboardInterrupt(), 130, "Cancelled.\n"),
        (
            PermissionError(13, "Permission denied", "x"),
            1,
            "Error: x cannot be used\n  Permission denied\n\nWhat to do: give this user access to x",
        ),
        (OSError(28, "No space left on device", "x"), 12, "Error: This machine's disk is full.\n"),
    ],
)
def test_errors_become_a_message_and_a_code(
    factory: Factory, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr("serving_factory.matrix.load.load_matrix", broken)
    ended = factory("list")
    assert ended.code == code
    assert message in ended.err


@pytest.mark.parametrize(
    ("option", "value", "remedy"),
    [
        ("--parallel", "0", "--parallel 4"),
        ("--jobs", "many", "--jobs 4"),
        ("--memory", "16G", "--memory 16GiB"),
        ("--max-minutes", "0", "--max-minutes 90"),
        ("--max-minutes", "nan", "--max-minutes 90"),
        ("--variant-minutes", "inf", "--variant-minutes 90"),
        ("--jobs", "1e3", "--jobs 4"),
        ("--jobs", "\uff14", "--jobs 4"),
        ("--memory", "0GiB", "--memory 16GiB"),
        ("--variant-minutes", "1h", "--variant-minutes 90"),
    ],
)
@pytest.mark.parametrize("task", [("build",), ("build", "--dry-run"), ("compile",)])
def test_a_number_that_is_none_is_refused(
    factory: Factory, option: str, value: str, remedy: str, task: tuple[str, ...]
) -> None:
    ended = factory(*task, option, value, *RELEASE)
    assert ended.code == 2
    assert f"`{option}` must be" in ended.err
    assert f"got '{value}'" in ended.err
    assert remedy in ended.err


@pytest.mark.parametrize("value", ["nvidia", "535", "535.54.03.01", "v535.54.03", "535.54.03\n", "12.2", "-1.2"])
def test_a_driver_that_is_none_is_refused(factory: Factory, value: str) -> None:
    ended = factory("doctor", f"--driver={value}", *RELEASE)
    assert ended.code == 2
    assert f"`--driver` must be the version of an NVIDIA driver, got {value!r}" in ended.err
    assert "--driver 535.54.03" in ended.err


@pytest.mark.parametrize(
    ("ended_by", "error", "code"),
    [
        (None, None, 0),
        (None, CompileError("no"), 20),
        (TimeLimitError("time is up"), None, 14),
        (TimeLimitError("time is up"), CompileError("no"), 20),
        (CancelledError("enough"), CompileError("no"), 130),
    ],
)
def test_a_failure_is_not_hidden_behind_a_time_limit(
    factory: Factory,
    monkeypatch: pytest.MonkeyPatch,
    ended_by: FactoryError | None,
    error: FactoryError | None,
    code: int,
) -> None:
    first = VariantResult(variant=VARIANTS[0], status=Status.FAILED if error else Status.BUILT, error=error)
    over = VariantResult(variant=VARIANTS[1], status=Status.CANCELLED, because="--max-minutes 9 was over")
    outcome = Outcome(results=(first, over), ended_by=ended_by)
    monkeypatch.setattr("serving_factory.commands.build.PipelineRun.run", lambda _self: outcome)
    monkeypatch.setattr("serving_factory.commands.build._after", lambda *_: "")
    ended = factory("build", "--matrix", str(SHIPPED[1]))
    assert ended.code == code
    assert ("Error: time is up" in ended.err) == isinstance(ended_by, TimeLimitError)
    assert "1 failed, 1 cancelled" in ended.out or not error
    assert "--max-minutes 9 was over" in ended.out


def test_a_dry_run_shows_who_works_when(factory: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = Budget(cpus=8, memory=64 * 2**30)
    monkeypatch.setattr("serving_factory.commands.build.budget_of", lambda *_, **__: budget)
    rows = json.loads(factory("build", "--dry-run", "--json", "--matrix", str(SHIPPED[1])).out)["variants"]
    assert [(row["variant"], row["wave"], row["jobs"], row["after"]) for row in rows] == [
        (VARIANTS[0], 1, 8, None),
        (VARIANTS[1], 2, 4, VARIANTS[0]),
        ("2.19.1-gpu-cuda12.2-v1", 2, 4, VARIANTS[0]),
        ("2.19.1-gpu-cuda12.2-sm80-90-v3", 3, 4, VARIANTS[1]),
        (VARIANTS[2], 3, 4, VARIANTS[1]),
    ]
    ended = factory("build", "--dry-run", "--parallel", "1", "--memory", "6GiB", "--matrix", str(SHIPPED[1]))
    assert "6.0 GiB" in ended.out
    assert "8 CPUs and 64.0 GiB of memory" in ended.out


# --- pins -------------------------------------------------------------------------------------------------------------

PIN = "sha256:" + "ab" * 32


def test_a_build_says_once_what_nothing_pins(factory: Factory, tmp_path: Path) -> None:
    matrix = write(tmp_path, SMALL + "  other: {flavour: mkl, levels: [x86-64]}\n")
    loose = factory("build", "--matrix", str(matrix))
    assert loose.err.count("Not pinned: ubuntu:20.04. `./factory lock` pins") == 1
    (tmp_path / "matrix.lock").write_text(f"bases: {{'ubuntu:20.04': {PIN}}}")
    pinned = factory("build", "--matrix", str(matrix), "--locked")
    assert "Not pinned" not in pinned.err
    assert loose.code == pinned.code == 11, "there is no engine"


def test_nvidias_licence_is_named_before_cuda_is_downloaded(factory: Factory, tmp_path: Path) -> None:
    matrix = write(tmp_path, SMALL + "  other: {flavour: gpu, levels: [x86-64]}\n")
    ended = factory("build", "--matrix", str(matrix))
    assert ended.err.count("CUDA 12.2 is NVIDIA's: who builds a gpu variant accepts its licence") == 1
    assert "CUDA" not in factory("build", "--matrix", str(matrix), "--target", "standard").err
    assert "CUDA" not in factory("package", "--matrix", str(matrix)).err


def test_a_locked_build_refuses_before_it_looks_for_an_engine(factory: Factory, tmp_path: Path) -> None:
    matrix = write(tmp_path, SMALL)
    ended = factory("build", "--matrix", str(matrix), "--locked")
    assert ended.code == 71
    assert ended.err.startswith(f"Error: {tmp_path / 'matrix.lock'} does not hold")
    assert ended.out == ""
    assert not (tmp_path / "build").exists()


def test_the_sample_has_nothing_to_lock(factory: Factory) -> None:
    sample = str(ROOT / "samples" / "matrix.yaml")
    ended = factory("lock", "--matrix", sample)
    assert (ended.code, ended.err) == (0, "")
    assert "There is nothing to lock" in ended.out
    assert json.loads(factory("lock", "--json", "--matrix", sample).out)["pins"] == []
    assert not (ROOT / "samples" / "matrix.lock").exists()


def test_what_is_locked_is_kept_without_asking_a_registry(factory: Factory, tmp_path: Path) -> None:
    matrix, lock = write(tmp_path, SMALL), tmp_path / "matrix.lock"
    text = f"# by hand\nbases: {{'ubuntu:20.04': {PIN}}}\n"
    lock.write_text(text)
    ended = factory("lock", "--matrix", str(matrix))
    assert (ended.code, ended.err) == (0, "")
    assert "1 pin: 1 kept." in ended.out
    assert lock.read_text() == text


def test_what_is_to_be_updated_must_be_needed(factory: Factory, tmp_path: Path) -> None:
    ended = factory("lock", "--matrix", str(write(tmp_path, SMALL)), "--update", "ubuntu:20.4")
    assert ended.code == UnknownNameError.exit_code
    assert "Did you mean 'ubuntu:20.04'?" in ended.err


@pytest.mark.parametrize("option", ["--update", "--dry-run"])
def test_a_check_changes_nothing(factory: Factory, tmp_path: Path, option: str) -> None:
    ended = factory("lock", "--matrix", str(write(tmp_path, SMALL)), "--check", option)
    assert ended.code == UsageError.exit_code


def test_a_check_of_what_is_not_locked_asks_no_registry(factory: Factory, tmp_path: Path) -> None:
    ended = factory("lock", "--matrix", str(write(tmp_path, SMALL)), "--check", "--json")
    assert ended.code == 71
    (pin,) = json.loads(ended.out)["pins"]
    assert (pin["name"], pin["change"]) == ("ubuntu:20.04", "not locked")


def test_a_broken_lock_file_is_reported_by_each_task_that_reads_the_matrix(factory: Factory, tmp_path: Path) -> None:
    (tmp_path / "matrix.lock").write_text("bases:\n  ubuntu:20.04: latest\n")
    for task in ("list", "lock", "generate"):
        ended = factory(task, "--matrix", str(write(tmp_path, SMALL)))
        assert ended.code == 70
        assert f"{tmp_path / 'matrix.lock'}:2:17: bases.ubuntu:20.04: 'latest'" in ended.err


# --- inputs -----------------------------------------------------------------------------------------------------------


def test_inputs_takes_any_number_of_words(factory: Factory, tmp_path: Path) -> None:
    folder = tmp_path / "re2"
    folder.mkdir()
    author = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    for arguments in (["init", "--quiet"], [*author, "commit", "--quiet", "--allow-empty", "-m", "a"], ["tag", "v1"]):
        subprocess.run(["git", "-C", folder, *arguments], check=True)
    ended = factory("inputs", "archive", str(folder), "v1", "--output", str(tmp_path / "out"), "HEAD", "--json")
    assert (ended.code, ended.err) == (0, "")
    assert [one["ref"] for one in json.loads(ended.out)["archives"]] == ["v1", "HEAD"]
    ended = factory("inputs", "archive", str(folder), "v1", "--zip", "--output", str(tmp_path / "out"))
    assert "not pinned" in ended.out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["HEAD.tar.gz", "v1.tar.gz", "v1.zip"]
    ended = factory("inputs")
    assert ended.code == UsageError.exit_code
    assert "Error: `inputs` needs a command\n" in ended.err


def test_preflight_says_what_is_missing(factory: Factory) -> None:
    assert "`preflight` needs a variant's id" in factory("preflight").err
    assert factory("preflight", VARIANTS[0], "2.19.1-cpu-v33").code == UnknownNameError.exit_code
    ended = factory("preflight", VARIANTS[0], "--matrix", "samples/matrix.yaml")
    assert ended.code == EngineUnavailableError.exit_code
    assert "engine does not answer" in ended.err


def test_preflight_refuses_what_cannot_be_built(factory: Factory, tmp_path: Path) -> None:
    ended = factory("preflight", "2.3.4-cpu-v1", "--matrix", str(write(tmp_path, SMALL.replace("2.19.1", "2.3.4"))))
    assert ended.code == RecipeError.exit_code
    assert "let `./factory lock` find it out" in ended.err


def test_the_tests_without_an_engine_and_those_with_one_run_at_once(
    module: ModuleType, factory: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes, started = {"tests/unit": 0, "tests/integration": 0}, list[list[str]]()

    def run(*commands: tuple[str, ...]) -> list[int]:
        started.append([next((word for word in command if word in codes), command[0]) for command in commands])
        return [codes.get(word, 0) for word in started[-1]]

    monkeypatch.setattr(module, "_run", run)
    assert factory("test").code == 0
    assert started[-1] == ["tests/unit", "tests/integration"]
    assert factory("test", "--unit").code == 0
    assert started[-1] == ["tests/unit"]
    codes["tests/integration"] = 5  # nothing matches
    assert factory("test", "-k", "registry").code == 0
    codes["tests/unit"] = 5
    for arguments in (("test", "-k", "no_such"), ("test", "--unit", "-k", "no_such")):
        assert factory(*arguments).err.startswith("Error: no test matches -k no_such\n")
    codes["tests/unit"] = 0
    failed = factory("test")
    assert failed.code == 1
    assert failed.err.startswith("Error: failed: pytest -n 2 tests/integration\n")
    codes |= {"ruff": 1, "mypy": 2}
    assert factory("test").err.startswith("Error: failed: ruff check ., ruff format --check ., mypy\n")
    assert started[-1][:3] == ["ruff", "ruff", "mypy"]


def test_what_programs_print_at_once_is_shown_one_after_the_other(tmp_path: Path) -> None:
    wait = f"while [ ! -e {tmp_path / 'second'} ]; do sleep 0.05; done"  # they do run at once
    first, second = f"{wait}; echo one >&2; exit 3", f"echo two; touch {tmp_path / 'second'}"
    script = f"import tasks; print(tasks._run(('sh', '-c', {first!r}), ('sh', '-c', {second!r})))"
    command = [sys.executable, "-c", script]
    out = subprocess.check_output(command, cwd=ROOT, stderr=subprocess.STDOUT, text=True)
    assert out.splitlines() == [f"+ sh -c {first}", "one", f"+ sh -c {second}", "two", "[3, 0]"]


def run_and_interrupt(folder: Path, *, signals: int, cleaning: int) -> set[str]:
    """Interrupt only what runs two programs at once, which clean up for some seconds; the files that they leave."""
    program = f"trap 'touch {folder}/$$.pid; sleep {cleaning}; touch {folder}/$0; exit' INT; touch {folder}/$0.ready; "
    commands = [("sh", "-c", f"{program}while :; do sleep 0.05; done", name) for name in ("first", "second")]
    script = f"""
import pathlib, signal, tasks
signal.signal(signal.SIGINT, signal.default_int_handler)
wait = tasks.subprocess.Popen.wait
tasks.subprocess.Popen.wait = lambda process: (pathlib.Path({str(folder / "all.ready")!r}).touch(), wait(process))[1]
tasks._run(*{commands!r})
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        for pattern, count in (("*.ready", 3), ("*.pid", 2))[:signals]:
            while len(list(folder.glob(pattern))) < count:
                assert process.poll() is None
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
    return {path.name for path in folder.iterdir()}


def test_ctrl_c_lets_programs_that_run_at_once_clean_up(tmp_path: Path) -> None:
    assert {"first", "second"} <= run_and_interrupt(tmp_path, signals=1, cleaning=1)


def test_a_second_ctrl_c_ends_them_at_once(tmp_path: Path) -> None:
    assert not {"first", "second"} & run_and_interrupt(tmp_path, signals=2, cleaning=60)
    assert not [file for file in tmp_path.glob("*.pid") if Path("/proc", file.stem).exists()]


def test_where_one_cannot_be_started_the_others_end(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Kept(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
            super().__init__(*arguments, **options)
            started.append(self)

    monkeypatch.setattr(module.subprocess, "Popen", Kept)
    with pytest.raises(FileNotFoundError):
        module._run(("sleep", "60"), ("no-such-program",))
    assert [one.poll() for one in started] == [-signal.SIGINT]
