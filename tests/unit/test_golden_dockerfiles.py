"""The committed Dockerfiles are what the data gives, and keep the house's rules. hadolint has rules of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving_factory.matrix.load import load_matrix
from serving_factory.recipes.generate import drift, generated_files, generated_folder

from .matrices import ROOT, SHIPPED, SMALL, load

COMMITTED = sorted(path for file in SHIPPED for path in file.parent.glob("dockerfiles/[0-9]*/*.Dockerfile"))
DEVEL = [path for path in COMMITTED if ".devel." in path.name]
RUNTIME = [path for path in COMMITTED if ".runtime." in path.name]
Instruction = tuple[str, str]

# What an instruction must not hold.
FORBIDDEN = (
    ("RUN", re.compile(r"\|\s*(?:sudo\s+)?(?:/\S*/)?(?:ba|da|z|k)?sh\b"), "pipes into a shell"),
    (
        "RUN",
        re.compile(r"\b(?:curl|wget)\b|\bpip3? (?:install|download)\b|\bgit clone\b"),
        "downloads without a checksum",
    ),
    ("RUN", re.compile(r"\bapt-key\b"), "trusts a key for every repository"),
    ("RUN", re.compile(r"apt-get install(?!.*--no-install-recommends)"), "installs what is only recommended"),
    ("ADD", re.compile(r"^(?!--checksum=sha256:[0-9a-f]{64} )"), "adds without a checksum"),
    ("FROM", re.compile(r":latest\b"), "rolls"),
    ("ENTRYPOINT", re.compile(r"^(?!\[)"), "is not in exec form"),
    ("CMD", re.compile(r"^(?!\[)"), "is not in exec form"),
)
SECRETIVE = re.compile(
    r"(?:^|\s|_)(?:PASS(?:WORD|WD)?|TOKEN|SECRET|CREDENTIALS?|API_?KEY|AUTH|PROXY)(?:_\w*)?(?:=|\s|$)", re.IGNORECASE
)


def instructions(text: str) -> Iterator[Instruction]:
    """Each instruction of a Dockerfile as its word and the rest, on one line, without comments."""
    code = "\n".join(line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    for line in re.sub(r"\\\n\s*", "", code).splitlines():
        word, _, rest = line.partition(" ")
        yield word.upper(), rest.strip()


def broken_rules(text: str) -> set[str]:
    """The rules that hold for every Dockerfile here, as far as this one breaks them."""
    found = list(instructions(text))
    broken = {rule for word, rest in found for name, held, rule in FORBIDDEN if word == name and held.search(rest)}
    if any(word in {"ARG", "ENV"} and SECRETIVE.search(rest) for word, rest in found):
        broken.add("looks like a secret")
    if re.match(r"\s*#\s*(?:syntax|escape)\s*=", text, re.IGNORECASE):
        broken.add("names a frontend: the engine's own must do")
    return broken


@pytest.mark.parametrize("file", SHIPPED, ids=lambda path: path.parent.name)
def test_nothing_has_drifted(file: Path) -> None:
    assert drift(generated_folder(file), generated_files(load_matrix(file))) == {}, "run ./factory generate"


def test_there_is_something_to_look_at() -> None:
    assert len(DEVEL) == len(RUNTIME) == 4
    assert len(COMMITTED) == 8


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: str(path.relative_to(ROOT)))
def test_rules_of_every_dockerfile(path: Path) -> None:
    assert broken_rules(path.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    "line",
    [
        "RUN curl -fsSL https://example.com/install | sh",
        "RUN true \\\n && curl https://example.com/install \\\n | sudo bash -",
        "RUN wget https://example.com/a.tar.gz",
        "RUN pip install tensorflow",
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
    assert [rest for word, rest in found if word == "EXPOSE"] == ["8500 8501"]
    assert [rest for word, rest in found if word == "ENV"] == ["MODEL_NAME=model MODEL_BASE_PATH=/models"]
    (check,) = [rest for word, rest in found if word == "HEALTHCHECK"]
    assert json.loads(check.partition("CMD ")[2]) == ["/usr/bin/tf_serving_health.sh"]
    (entrypoint,) = [json.loads(rest) for word, rest in found if word == "ENTRYPOINT"]
    assert entrypoint == ["/usr/bin/tf_serving_init", "/usr/bin/tf_serving_entrypoint.sh"]


@pytest.mark.parametrize("path", DEVEL, ids=lambda path: str(path.relative_to(ROOT)))
def test_rules_of_devel_images(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    found = list(instructions(text))
    stages = [rest.partition(" AS ")[2] for word, rest in found if word == "FROM"]
    own = ["base_build", "init", "sources", "fetch", "preflight_run", "preflight", "binary_build", "artifact"]
    assert stages[-8:] == own
    flags = "".join(rest for word, rest in found if word == "RUN" and "${COPTS}" in rest)
    assert flags.count("${COPTS}") == 1
    assert "--host_copt" not in text, "a level is for the target configuration only"
    fetched = text.partition("AS fetch")[2].partition("AS binary_build")[0]
    assert "COPTS" not in fetched, "another level must download nothing"
    assert re.search(r"--mount=type=cache,id=serving-factory-bazel-disk,", flags)


# --- drift ------------------------------------------------------------------------------------------------------------


def test_drift_tells_each_difference(tmp_path: Path) -> None:
    files = generated_files(load(tmp_path))
    assert list(files) == ["2.19.1/cpu.devel.Dockerfile", "2.19.1/cpu.runtime.Dockerfile"]
    devel, runtime = files
    assert drift(tmp_path, files) == {devel: "missing", runtime: "missing"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "x.Dockerfile").touch()
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
