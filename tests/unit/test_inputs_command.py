"""`inputs fill`, `override` and `packages` as commands, with preflights that give prepared reports."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving_factory.commands import inputs as commands
from serving_factory.commands.plan import jobs_of
from serving_factory.commands.shared import Asked, Checkout, InputsOptions
from serving_factory.docker import git as source_package
from serving_factory.errors import CompileError, FactoryError, FetchError, MissingInputsError, UsageError
from serving_factory.matrix.load import load_matrix
from serving_factory.pipeline.job import Job
from serving_factory.pipeline.offline.packages import _merge_index, _required_packages
from serving_factory.pipeline.preflight import Found, Missing, MissingProgram, Report, preflight_folder
from serving_factory.recipes.recipe import recipe_for

from .matrices import ROOT, document, load, tree, write
from .test_offline_inputs import git, repository

VARIANT = "2.19.1-cpu-v1"
NOTHING = Report(missing=(), found=(), unseen=(), stopped=False, failed=False)
URL = "https://github.com/google/re2/archive/v1.0.tar.gz"
Captured = pytest.CaptureFixture[str]


def missing(*names: str, url: str = URL) -> Report:
    missing = tuple(
        Missing(name=name, rule="http_archive", file="v1.0.tar.gz", urls=(url,), sha256=None, problem="not there")
        for name in names
    )
    return replace(NOTHING, missing=missing, failed=True)


@pytest.fixture(scope="module")
def re2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository, of which each test gets a copy."""
    folder = tmp_path_factory.mktemp("git") / "re2"
    repository(folder, a="a")
    return folder


@pytest.fixture
def asked(tmp_path: Path, re2: Path) -> Asked:
    tree(tmp_path / "source")
    for name in ("archives", "overrides", "packages"):
        (tmp_path / name).mkdir()
    shutil.copytree(re2, tmp_path / "mirrors" / "re2")
    bazel = {"distdir": "archives", "overrides": "overrides"}
    network = {"apt": {"mirror": "packages"}}
    file = write(tmp_path, document(source="source", bazel=bazel, network=network))
    return Asked(checkout=Checkout(ROOT, tmp_path / "build"), matrix=str(file))


@pytest.fixture
def bazel_says(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Let preflights give these reports, one after the other; the list gets the variants that were asked about."""

    def says(*reports: Report | FactoryError) -> list[str]:
        rest, variants = list(reports), []

        def run(job: Job, progress: Callable[[str], None]) -> Report:  # noqa: ARG001
            variants.append(job.recipe.variant.id)
            report = rest.pop(0)
            if isinstance(report, FactoryError):
                raise report
            return report

        monkeypatch.setattr(commands, "run_preflight", run)
        return variants

    return says


def fill(asked: Asked, *variants: str, overrides: bool = False, json: bool = True) -> None:
    mirrors = Path(asked.matrix).parent / "mirrors"
    options = InputsOptions(asked=asked, mirrors=str(mirrors), overrides=overrides, json=json)
    commands.inputs(["fill", *(variants or (VARIANT,))], options)


def test_it_is_asked_again_until_nothing_is_missing(
    asked: Asked, bazel_says: Callable[..., list[str]], capsys: Captured
) -> None:
    rounds = bazel_says(missing("re2"), NOTHING)
    fill(asked)
    (message,) = json.loads(capsys.readouterr().out)["variants"]
    assert len(rounds) == message["rounds"] == 2
    assert [(one["name"], one["result"]) for one in message["made"]] == [("re2", "made")]
    assert (Path(asked.matrix).parent / "archives" / "v1.0.tar.gz").is_file()


def test_what_was_made_in_vain_is_left(asked: Asked, bazel_says: Callable[..., list[str]], capsys: Captured) -> None:
    rounds = bazel_says(missing("re2"), missing("re2"))
    with pytest.raises(MissingInputsError, match="1 input left"):
        fill(asked)
    (message,) = json.loads(capsys.readouterr().out)["variants"]
    assert len(rounds) == 2, "and not for ever"
    assert message["made"] == []
    assert "Bazel still says: not there" in message["left"][0]["why"]


def test_what_only_the_cache_has_and_nothing_makes_is_left(
    asked: Asked, bazel_says: Callable[..., list[str]], capsys: Captured
) -> None:
    declare(asked, f'http_archive(name = "re2", sha256 = "{"0" * 64}", urls = ["{URL}"])')
    cached = replace(NOTHING, found=(Found(name="re2", origin="cache"), Found(name="zlib", origin="distdir")))
    bazel_says(cached)
    with pytest.raises(MissingInputsError, match="1 input left"):
        fill(asked, json=False)
    assert "only this engine's cache of downloads has it; its archive out of " in capsys.readouterr().out, (
        "and it is another one"
    )


def test_what_is_made_of_that_is_there_for_another_engine(
    asked: Asked, bazel_says: Callable[..., list[str]], capsys: Captured
) -> None:
    declare(asked, f'http_archive(name = "re2", urls = ["{URL}"])')
    rounds = bazel_says(replace(NOTHING, found=(Found(name="re2", origin="cache"),)), NOTHING)
    fill(asked, json=False)
    assert len(rounds) == 2
    assert (Path(asked.matrix).parent / "archives" / "v1.0.tar.gz").is_file()
    assert "Nothing is missing." in capsys.readouterr().out


def test_the_next_step_can_be_typed(asked: Asked, bazel_says: Callable[..., list[str]], capsys: Captured) -> None:
    bazel_says(replace(missing("re2"), missing=(replace(missing("re2").missing[0], sha256="0" * 64),)))
    with pytest.raises(MissingInputsError):
        fill(asked, json=False)
    out = capsys.readouterr().out
    assert f"./factory inputs override re2 --from '{Path(asked.matrix).parent}/mirrors/re2/.git#" in out
    assert f"--variant {VARIANT} --matrix {asked.matrix}" in out


def test_programs_are_left_too(asked: Asked, bazel_says: Callable[..., list[str]], capsys: Captured) -> None:
    bazel_says(replace(NOTHING, programs=(MissingProgram(name="aclocal", rules=("g",), package="automake"),)))
    with pytest.raises(MissingInputsError, match="1 input left"):
        fill(asked, json=False)
    assert "toolchain: {packages: [automake]}" in capsys.readouterr().out


def test_what_was_done_is_printed_before_another_error(
    asked: Asked, bazel_says: Callable[..., list[str]], capsys: Captured
) -> None:
    file = Path(asked.matrix)
    levels = {"flavour": "cpu", "levels": ["x86-64", "x86-64-v3"]}
    image = {"repository": "team/serving", "aliases": ["{id}"]}
    write(file.parent, {**yaml.safe_load(file.read_text()), "targets": {"standard": levels}, "image": image})
    bazel_says(missing("re2"), NOTHING, FetchError("the base image is not there"))
    with pytest.raises(FetchError):
        fill(asked, VARIANT, "2.19.1-cpu-v3")
    (message,) = json.loads(capsys.readouterr().out)["variants"]
    assert message["variant"] == VARIANT


def test_an_analysis_that_fails_is_no_success(asked: Asked, bazel_says: Callable[..., list[str]]) -> None:
    bazel_says(replace(NOTHING, failed=True, errors=("ERROR: /source/BUILD:1: no such attribute",)))
    with pytest.raises(CompileError) as caught:
        fill(asked)
    assert caught.value.remedy


# --- override ---------------------------------------------------------------------------------------------------------


def declare(asked: Asked, text: str) -> None:
    (job,) = jobs_of(asked, [VARIANT])
    folder = preflight_folder(job)
    folder.mkdir(parents=True)
    (folder / "query.build").write_text(text)


def override(asked: Asked, name: str, source: str, output: str = "") -> None:
    options = InputsOptions(asked=asked, source=source, variant=VARIANT, output=output)
    commands.inputs(["override", name], options)


def test_output_is_the_folder_to_put_it_in(asked: Asked, tmp_path: Path, capsys: Captured) -> None:
    declare(asked, f'http_archive(name = "re2", urls = ["{URL}"])')
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kept").touch()
    override(asked, "re2", str(tmp_path / "mirrors" / "re2"), output=str(tmp_path / "mine"))
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"kept", "re2"}
    assert "v1.0" in capsys.readouterr().out, "the commit that was taken, and why"


def test_without_a_ref_the_head_is_taken_and_printed(asked: Asked, tmp_path: Path, capsys: Captured) -> None:
    declare(asked, 'http_archive(name = "fft2d", urls = ["http://www.example.com/fft.tgz"])')
    override(asked, "fft2d", str(tmp_path / "mirrors" / "re2"))
    commit = git(tmp_path / "mirrors" / "re2", "rev-parse", "HEAD")
    assert f"followed commit {commit}: HEAD" in capsys.readouterr().out
    assert (tmp_path / "overrides" / "fft2d" / "a").is_file()


def test_a_ref_is_of_the_git_repository_in_the_folder(asked: Asked, tmp_path: Path) -> None:
    declare(asked, 'http_archive(name = "re2")')
    (tmp_path / "held").mkdir()
    (tmp_path / "mirrors" / "re2" / ".git").rename(tmp_path / "held" / "repo")
    (tmp_path / "held" / "more").touch()
    override(asked, "re2", f"{tmp_path}/held#v1.0")
    assert {path.name for path in (tmp_path / "overrides" / "re2").iterdir()} == {"a", "WORKSPACE"}


def test_a_ref_of_a_folder_without_git_is_refused(asked: Asked, tmp_path: Path) -> None:
    declare(asked, 'http_archive(name = "re2")')
    (tmp_path / "sources").mkdir()
    with pytest.raises(UsageError, match="no git repository is there"):
        override(asked, "re2", f"{tmp_path}/sources#v1.0")


def test_what_is_not_there_is_reported(asked: Asked, tmp_path: Path) -> None:
    declare(asked, 'http_archive(name = "re2")')
    for source in ("absent", f"{tmp_path}/mirrors/re2#v9"):
        with pytest.raises(UsageError):
            override(asked, "re2", source)
    assert not list((tmp_path / "overrides").iterdir())


# --- packages ---------------------------------------------------------------------------------------------------------

SCRIPT = ROOT / "dockerfiles" / "context" / "packages.sh"


def run_script(folder: Path, apt: str) -> subprocess.CompletedProcess[str]:
    """Run download_packages as the Dockerfile does: in a list of commands."""
    command = f"apt_get() {{ {apt}; }}; source {SCRIPT} && download_packages {folder} one two && true"
    argv = ["bash", "-euo", "pipefail", "-c", command]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("failing", ["update", "install"])
def test_packages_that_do_not_come_are_a_failure(tmp_path: Path, failing: str) -> None:
    assert run_script(tmp_path / "out", f"[[ $1 != {failing} ]]").returncode != 0
    assert not (tmp_path / "out" / "Packages").exists()


def test_a_base_that_has_all_of_them_downloads_nothing(tmp_path: Path) -> None:
    done = run_script(tmp_path / "out", "true")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out" / "Packages").read_text() == ""


@pytest.mark.parametrize("packed", [False, True])
def test_the_index_keeps_what_somebody_added(tmp_path: Path, *, packed: bool) -> None:
    for name in ("a.deb", "vendor.deb"):
        (tmp_path / name).touch()
    old = "Package: a\nVersion: 1\nFilename: ./a.deb\n\nPackage: vendor\nFilename: vendor.deb\n\n"
    old += "Package: gone\nFilename: gone.deb\n"
    if packed:
        (tmp_path / "Packages.gz").write_bytes(gzip.compress(old.encode()))
    else:
        (tmp_path / "Packages").write_text(old)
    (tmp_path / "new").write_text("Package: a\nVersion: 2\nFilename: ./a.deb\n\n")
    _merge_index(tmp_path, tmp_path / "new")
    index = (tmp_path / "Packages").read_text()
    assert index == "Package: a\nVersion: 2\nFilename: ./a.deb\n\nPackage: vendor\nFilename: vendor.deb\n\n"
    assert not (tmp_path / "Packages.gz").exists(), "apt would read it first"


def test_lists_of_packages_become_lists_of_sources() -> None:
    one_line = "# x\ndeb [trusted=yes] http://m/debian bookworm main\ndeb-src http://m/debian bookworm main\n"
    assert source_package._for_sources(one_line) == "# x\ndeb-src [trusted=yes] http://m/debian bookworm main\n"
    assert source_package._for_sources("Types: deb\nURIs: http://m\n") == "Types: deb-src\nURIs: http://m\n"


@pytest.mark.parametrize(("base", "count"), [("slim", 1), ("slim of debian:trixie-slim", 0), ("ubuntu:22.04", 0)])
def test_the_packages_of_a_slim_base_are_downloaded(tmp_path: Path, base: str, count: int) -> None:
    matrix = load(tmp_path, document(image={"repository": "r", "base": base}))
    assert list(_required_packages(recipe_for(matrix.variants[0], matrix))).count("tzdata") == count


CUDA = {"gpu": {"flavour": "gpu", "levels": ["x86-64"]}}


@pytest.mark.parametrize(
    ("sections", "there", "elsewhere"),
    [
        ({}, {"curl", "python3-pip", "build-essential"}, set()),
        ({"releases": ["1.15.0"]}, {"unzip", "python-pip"}, set()),
        ({"releases": ["1.9.1"], "toolchain": {"base": "debian:bullseye"}}, {"ca-certificates", "python3-pip"}, set()),
        ({"targets": CUDA}, {"gnupg", "python3-pip"}, {"clang-17"}),
        ({"targets": CUDA, "releases": ["1.15.0"]}, {"gnupg"}, {"cuda-cudart-dev-10-0", "libnvinfer-dev"}),
    ],
)
def test_what_the_dockerfiles_install_from_the_distribution_is_downloaded(
    tmp_path: Path, sections: dict[str, Any], there: set[str], elsewhere: set[str]
) -> None:
    matrix = load(tmp_path, document(**sections))
    recipe = recipe_for(matrix.variants[0], matrix)
    found = set(_required_packages(recipe))
    assert there <= found
    assert not elsewhere & {name.partition("=")[0] for name in found}
    assert elsewhere <= set(re.findall(r"[a-z0-9.-]+", recipe.devel))
    assert set(recipe.toolchain.packages) <= found


def test_what_fetches_cuda_as_wheels_is_downloaded() -> None:
    matrix = load_matrix(ROOT / "samples" / "matrix.yaml")
    recipe = recipe_for(next(one for one in matrix.variants if one.cuda), matrix)
    assert {"clang-19", "python3-pip", "unzip"} <= set(_required_packages(recipe))


def test_what_the_lock_file_upgrades_is_downloaded(tmp_path: Path) -> None:
    matrix = load(tmp_path, document())
    recipe = replace(recipe_for(matrix.variants[0], matrix), upgrades=("libssl3=3.0.1",))
    assert "libssl3" in set(_required_packages(recipe))
