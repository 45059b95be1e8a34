"""The committed Dockerfiles are what the data gives, and keep this project's rules and hadolint's."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.version import Version

from serving_factory.catalogue.fixes import fixes_for
from serving_factory.catalogue.releases import releases
from serving_factory.commands.generate import drift, generated_files, generated_folder
from serving_factory.matrix.load import load_matrix
from serving_factory.recipes.dockerfile import stages as stages_of
from serving_factory.recipes.recipe import CONTEXT, recipe_for

from .matrices import ROOT, SAMPLE, SHIPPED, SMALL, document, load

COMMITTED = sorted(path for file in SHIPPED for path in file.parent.glob("dockerfiles/[0-9]*/*.Dockerfile"))


def as_hadolint_sees_it(path: Path) -> str:
    """A Dockerfile without the comments that hadolint takes no notice of."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("#") or "hadolint" in line)


def on_another_base() -> str:
    """The Dockerfile of a runtime image that does not stand on what its binary was compiled on."""
    with tempfile.TemporaryDirectory() as folder:
        matrix = load(Path(folder), document(image={"repository": "r", "base": "debian:trixie-slim"}))
        return recipe_for(matrix.variants[0], matrix).runtime


# Most releases of a series differ only in comments.
DISTINCT = sorted({as_hadolint_sees_it(path): path for path in reversed(COMMITTED)}.values())
DEVEL = [path for path in DISTINCT if ".devel." in path.name]
RUNTIME = [path for path in DISTINCT if ".runtime." in path.name]
Instruction = tuple[str, str]

# What an instruction must not hold.
FORBIDDEN = (
    ("RUN", re.compile(r"\|\s*(?:sudo\s+)?(?:/\S*/)?(?:ba|da|z|k)?sh\b"), "pipes into a shell"),
    ("RUN", re.compile(r"(?:^|\s)[^\s\"']+>=[^\s]"), "redirects where a version is meant"),
    (
        "RUN",
        re.compile(r"\b(?:curl|wget)\s+(?:-|[\"']?\w+://|[\"']?\$)|\bpip3? (?:install|download)\b|\bgit clone\b"),
        "downloads without a checksum",
    ),
    ("RUN", re.compile(r"\bapt-key\b"), "trusts a key for every repository"),
    ("RUN", re.compile(r"apt[-_]get install(?! -y --no-install-recommends)"), "installs what is only recommended"),
    ("ADD", re.compile(r"/(?:latest|master|main|head)(?:/|$)", re.IGNORECASE), "rolls"),
    ("RUN", re.compile(r"https?://\S*/(?:latest|master|main|head)/", re.IGNORECASE), "rolls"),
    ("FROM", re.compile(r":latest\b|nvidia/cuda"), "rolls, or will be deleted"),
    ("ENTRYPOINT", re.compile(r"^(?!\[)"), "is not in exec form"),
    ("CMD", re.compile(r"^(?!\[)"), "is not in exec form"),
)
LINTED = [*DISTINCT, *CONTEXT.glob("*.Dockerfile"), *(ROOT / "examples").rglob("Dockerfile")]
SECRETIVE = re.compile(
    r"(?:^|\s|_)(?:PASS(?:WORD|WD)?|TOKEN|SECRET|CREDENTIALS?|API_?KEY|AUTH|PROXY)(?:_\w*)?(?:=|\s|$)", re.IGNORECASE
)


def instructions(text: str) -> Iterator[Instruction]:
    """Each instruction of a Dockerfile as its word and the rest, on one line, without comments."""
    code = "\n".join(line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    for line in re.sub(r"\\\n\s*", "", code).splitlines():
        word, _, rest = line.partition(" ")
        yield word.upper(), rest.strip()


def checked(added: str, text: str) -> bool:
    """A file is added by its checksum, or it is a key whose fingerprint is compared before it is used."""
    name = re.escape(added.split(maxsplit=1)[0].rpartition("/")[2])
    return bool(
        re.match(r"--checksum=sha256:[0-9a-f]{64} ", added)
        or (" " in added and re.search(rf"apt_key\.sh \S+/{name} [0-9A-F]{{40}} ", text))
    )


def has_shell_options(found: list[Instruction]) -> bool:
    """Each stage that runs something says first that an error ends it, also in a pipe."""
    shell = ""
    for word, rest in found:
        if word in {"FROM", "SHELL"}:
            shell = rest if word == "SHELL" else ""
        if word == "RUN" and shell != '["/bin/bash", "-euo", "pipefail", "-c"]':
            return False
    return True


def installs_of_no_time(found: list[Instruction]) -> bool:
    """Some stage installs packages and does not know of which time: a mirror of snapshots has nothing there."""
    stage = ""
    arguments: dict[str, set[str]] = {stage: set()}
    for word, rest in found:
        if word == "FROM":
            base, _, stage = rest.partition(" AS ")
            arguments[stage] = set(arguments.get(base, ()))
        if word == "ARG":
            arguments[stage].add(rest.partition("=")[0])
        if word == "RUN" and re.search(r"\bapt_(?:install|get)\b", rest) and "APT_SNAPSHOT" not in arguments[stage]:
            return True
    return False


def declares_its_arguments(found: list[Instruction]) -> bool:
    """Each stage declares what it uses: one that bake takes from another target brings no arguments along."""
    names = {rest.partition("=")[0] for word, rest in found if word == "ARG"}
    declared: set[str] = set()
    for word, rest in found:
        if word == "FROM":
            declared = set()
        elif word == "ARG":
            declared.add(rest.partition("=")[0])
        elif names & set(re.findall(r"\$\{?([A-Z_]+)", rest)) - declared:
            return False
    return True


def broken_rules(text: str) -> set[str]:
    """The rules that hold for every Dockerfile here, as far as this one breaks them."""
    found = list(instructions(text))
    broken = {rule for word, rest in found for name, held, rule in FORBIDDEN if word == name and held.search(rest)}
    if any(not checked(rest, text) for word, rest in found if word == "ADD"):
        broken.add("adds without a checksum or a fingerprint")
    if not has_shell_options(found):
        broken.add("runs without the shell's options")
    if installs_of_no_time(found):
        broken.add("installs packages without APT_SNAPSHOT")
    if not declares_its_arguments(found):
        broken.add("uses an argument of another stage")
    if any(word in {"ARG", "ENV"} and SECRETIVE.search(rest) for word, rest in found):
        broken.add("looks like a secret")
    if re.match(r"\s*#\s*(?:syntax|escape)\s*=", text, re.IGNORECASE):
        broken.add("names a frontend: the engine's own must do")
    return broken


@pytest.mark.parametrize("file", SHIPPED, ids=lambda path: path.parent.name)
def test_nothing_has_drifted(file: Path) -> None:
    files = generated_files(load_matrix(file), every_release=file.parent == ROOT)
    assert drift(generated_folder(file), files) == {}, "run ./factory generate"


def test_there_is_something_to_look_at() -> None:
    flavours = sum(len(release.flavours) for release in releases().values())
    samples = {variant.flavour for variant in load_matrix(SAMPLE).variants}
    assert len(COMMITTED) == 2 * (flavours + len(samples))
    assert len(DISTINCT) < len(COMMITTED) / 3


@pytest.mark.parametrize("path", DISTINCT, ids=lambda path: str(path.relative_to(ROOT)))
def test_rules_of_every_dockerfile(path: Path) -> None:
    assert broken_rules(path.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    "line",
    [
        "RUN curl -fsSL https://example.com/install | sh",
        "RUN true \\\n && curl https://example.com/install \\\n | sudo bash -",
        "RUN wget https://example.com/a.tar.gz",
        "RUN pip install tensorflow",
        "RUN true",
        'FROM ubuntu:20.04 AS a\nARG X=""\nFROM a\nSHELL ["/bin/bash", "-euo", "pipefail", "-c"]\nRUN echo ${X}',
        'SHELL ["/bin/bash", "-euo", "pipefail", "-c"]\nRUN install future>=0.17.1',
        "ADD https://example.com/3bf863cc.pub /",
        "ADD --checksum=sha256:" + 64 * "0" + " https://example.com/master/x /x",
        "FROM nvidia/cuda:12.2.0-base-ubuntu20.04",
        "RUN apt-key add key.asc",
        "RUN apt-get install -y gcc",
        "ADD https://example.com/bazel /bazel",
        "ADD --checksum=sha256:123 https://example.com/bazel /bazel",
        'ENTRYPOINT "/usr/bin/server"',
        "FROM ubuntu:latest",
        "FROM ubuntu:latest AS base",
        "ARG GITHUB_TOKEN",
        "ARG https_proxy=http://proxy:3128",
        "ENV A=1 REGISTRY_PASSWORD=x",
        "# syntax=docker/dockerfile:1",
        'ARG APT_SNAPSHOT=""\nFROM a AS b\nSHELL ["/bin/bash", "-euo", "pipefail", "-c"]\nRUN apt_install gcc',
    ],
)
def test_the_rules_can_be_broken(line: str) -> None:
    assert broken_rules(line)


@pytest.mark.parametrize("path", RUNTIME, ids=lambda path: str(path.relative_to(ROOT)))
def test_rules_of_runtime_images(path: Path) -> None:
    """Slim: only files are copied. Safe: a number for the user. Upstream's contract: ports and names."""
    found = list(instructions(path.read_text(encoding="utf-8")))
    words = [word for word, _ in found]
    assert "RUN" not in words, "a runtime image is copied together, nothing is installed"
    assert [rest for word, rest in found if word == "USER"] == ["65532:65532"]
    assert [word for word in words if word in {"USER", "COPY", "WORKDIR"}][-1] == "USER", "nothing is added after it"
    rest_api = releases()[path.parent.name].server.rest
    assert [rest for word, rest in found if word == "EXPOSE"] == ["8500 8501" if rest_api else "8500"]
    models, *more = [rest for word, rest in found if word == "ENV"]
    assert models == "MODEL_NAME=model MODEL_BASE_PATH=/models"
    gpu = ["NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "NVIDIA_REQUIRE_CUDA", "PATH", "LD_LIBRARY_PATH"]
    assert re.findall(r"(\w+)=", re.sub('".*?"', "", " ".join(more))) == (gpu if "gpu" in path.name else [])
    (check,) = [rest for word, rest in found if word == "HEALTHCHECK"]
    assert json.loads(check.partition("CMD ")[2]) == ["/usr/bin/tf_serving_health"]
    (entrypoint,) = [json.loads(rest) for word, rest in found if word == "ENTRYPOINT"]
    assert entrypoint == ["/usr/bin/tf_serving_init", "/usr/bin/tf_serving_entrypoint.sh"]


@pytest.mark.parametrize("path", DEVEL, ids=lambda path: str(path.relative_to(ROOT)))
def test_rules_of_devel_images(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    found = list(instructions(text))
    stages = [rest.partition(" AS ")[2] for word, rest in found if word == "FROM"]
    own = ["base_build", "init", "sources", "fetch", "preflight_run", "preflight", "externals_run", "externals"]
    own += ["binary_build", "artifact", "launcher_build", "launcher", "export", "devel"]
    assert stages[-len(own) :] == own
    assert "--host_copt" not in text, "a level is for the target configuration only"
    level = [stage.name for stage in stages_of(text).values() if any("COPTS" in line for line in stage.instructions)]
    assert level == ["binary_build"], "another level must download nothing"
    (options,) = (line for line in stages_of(text)["sources"].instructions if "> /factory/bazelrc" in line)
    assert text.count("--config=") == options.count("--config="), "options stand in one place"
    has_disk_cache = releases()[path.parent.name].version >= Version("1.9.1")
    assert ("id=serving-factory-bazel-disk," in text) == ("disk_cache=" in options) == has_disk_cache


# --- a Dockerfile stands alone ----------------------------------------------------------------------------------------

PAIRS = {"--build-arg", "--build-context"}
OPTIONS = {*PAIRS, "--file", "--target", "--output", "--tag", "--network"}


def header_command(path: Path) -> list[str]:
    (line,) = re.findall(r"^#   (docker buildx build .*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return shlex.split(line)


def header_options(path: Path) -> dict[str, list[str]]:
    """The options of the command in a header; what it names is there. Fails where a word is not known."""
    words = header_command(path)[3:]
    assert words.pop() == "dockerfiles/context"
    found: dict[str, list[str]] = {}
    while words:
        name = words.pop(0)
        assert name in {*OPTIONS, "--load"}, name
        found.setdefault(name, []).extend([] if name == "--load" else [words.pop(0)])
    return found


@pytest.mark.parametrize("path", DISTINCT, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_command_in_the_header_fits_the_dockerfile(path: Path) -> None:
    text, options = path.read_text(encoding="utf-8"), header_options(path)
    found = stages_of(text)
    assert options["--file"] == [str(path.relative_to(ROOT))]
    assert set(options.get("--target", ())) <= set(found)
    arguments = {line.split()[1].partition("=")[0] for stage in found.values() for line in stage.instructions[1:]}
    assert {pair.partition("=")[0] for pair in options.get("--build-arg", ())} <= arguments
    bases = {stage.base for stage in found.values()}
    contexts = dict(pair.split("=", 1) for pair in options["--build-context"])
    assert set(contexts) <= {*found, *bases}
    assert {"source", "artifact"} & set(contexts)
    if "source" in contexts:
        assert (
            re.fullmatch(r"https://github\.com/\S+\.git#[0-9a-f]{40}", contexts["source"])
            or (ROOT / contexts["source"]).is_dir()
        )


def stray_sources(text: str) -> set[str]:
    """What a Dockerfile copies from or mounts that is no stage of it: BuildKit would look for an image of that name."""
    found = stages_of(text)
    return {name for stage in found.values() for name in stage.sources - {stage.base}} - set(found)


@pytest.mark.parametrize("path", [*DISTINCT, *CONTEXT.glob("*.Dockerfile")], ids=lambda path: path.name)
def test_every_file_and_every_source_is_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert stray_sources(text) == set()
    files = {file for stage in stages_of(text).values() for file in stage.files}
    assert [file for file in files if not (CONTEXT / file).is_file()] == []


def test_a_source_that_would_be_an_image_is_seen() -> None:
    assert stray_sources("FROM scratch AS a\nCOPY --from=source / /\n") == {"source"}
    assert stray_sources("FROM scratch AS a\nRUN --mount=type=bind,from=b,target=/b x\n") == {"b"}


def hollow_sources(text: str) -> set[str]:
    """Stages with nothing in them that something is copied from.

    BuildKit gives such a COPY the same cache key as one from a named context of that name, and so its files.
    """
    found = stages_of(text)
    copied = {name for stage in found.values() for line in stage.instructions for name in copies_from(line)}
    return {name for name in copied if name in found and found[name].instructions == (f"FROM scratch AS {name}",)}


def copies_from(instruction: str) -> list[str]:
    return re.findall(r"^COPY .*?--from=(\S+)", instruction)


@pytest.mark.parametrize("path", DISTINCT, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_copied_from_a_hollow_stage(path: Path) -> None:
    assert hollow_sources(path.read_text(encoding="utf-8")) == set()


def test_a_hollow_stage_is_seen() -> None:
    copy = "FROM a AS b\nCOPY --link --from=source / /\n"
    assert hollow_sources(f"FROM scratch AS source\n{copy}") == {"source"}
    assert hollow_sources(f"FROM scratch AS source\nWORKDIR /.none\n{copy}") == set()


def test_every_file_of_the_context_is_copied() -> None:
    copied = {
        file
        for path in [*COMMITTED, *CONTEXT.glob("*.Dockerfile")]
        for stage in stages_of(path.read_text(encoding="utf-8")).values()
        for file in stage.files
    }
    mounted = {"cache.sh"}
    of_another_base = {file for stage in stages_of(on_another_base()).values() for file in stage.files}
    of_no_upstream_base = {fix.script for fix in fixes_for(Version("2.1.4"), Version("2.31"))}
    there = {path.name for path in CONTEXT.iterdir() if path.suffix != ".Dockerfile"}
    assert there == copied | mounted | of_no_upstream_base | of_another_base


# --- hadolint ---------------------------------------------------------------------------------------------------------


def hadolint(*files: Path) -> tuple[int, str]:
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert program is not None
    command = [program, "--config", str(ROOT / ".hadolint.yaml"), *map(str, files)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.returncode, done.stdout


def with_comments(text: str) -> Iterator[str]:
    """Each instruction as it stands there, with the comments before it: one may be hadolint's."""
    lines: list[str] = []
    for line in text.splitlines():
        lines.append(line)
        if line.strip() and not line.startswith("#") and not line.endswith("\\"):
            yield "\n".join(lines)
            lines = []


def test_hadolint_has_nothing_to_say(tmp_path: Path) -> None:
    """A RUN that is in several Dockerfiles is looked at in the first: they take nearly all of hadolint's time."""
    seen: set[str] = set()
    files = []
    for number, path in enumerate(LINTED):
        kept = [each for each in with_comments(as_hadolint_sees_it(path)) if each not in seen]
        seen.update(each for each in kept if re.search("^RUN ", each, re.MULTILINE))
        files.append(tmp_path / f"{number}-{path.parent.name}-{path.name}")
        files[-1].write_text("\n".join(kept) + "\n", encoding="utf-8")
    assert hadolint(*files) == (0, "")
    files[0].write_text(files[0].read_text(encoding="utf-8") + "RUN cd /tmp\n", encoding="utf-8")
    assert hadolint(files[0])[0] == 1


# --- drift ------------------------------------------------------------------------------------------------------------


def test_drift_reports_each_difference(tmp_path: Path) -> None:
    files = generated_files(load(tmp_path))
    assert list(files) == ["2.19.1/cpu.devel.Dockerfile", "2.19.1/cpu.runtime.Dockerfile"]
    devel, runtime = files
    assert drift(tmp_path, files) == {devel: "missing", runtime: "missing"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "context").mkdir()
    (tmp_path / "context" / "x.Dockerfile").touch()
    assert drift(tmp_path, files) == {}
    (tmp_path / devel).write_text(files[devel] + "\n", encoding="utf-8")
    (tmp_path / "2.18.0").mkdir()
    (tmp_path / "2.18.0" / "cpu.devel.Dockerfile").touch()
    assert drift(tmp_path, files) == {"2.18.0/cpu.devel.Dockerfile": "nothing makes it", devel: "differs"}


@pytest.mark.parametrize("change", [lambda data: data.replace(b"\n", b"\r\n"), lambda data: data + b"\xff"])
def test_drift_sees_every_byte(tmp_path: Path, change: object) -> None:
    assert callable(change)
    files = generated_files(load(tmp_path, SMALL))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(change(text.encode()))
    assert set(drift(tmp_path, files).values()) == {"differs"}
