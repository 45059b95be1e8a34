"""`embed`: what is checked, built, asked, named, recorded and pushed; and each way to go wrong."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from serving_factory.commands.shared import Asked
from serving_factory.docker.buildx import BuildFailed, BuildRequest, BuildResult
from serving_factory.docker.engine import ContainerSpec, Engine
from serving_factory.docker.host import GpuAccess
from serving_factory.docker.push import PushResult
from serving_factory.pipeline import embedding
from serving_factory.pipeline.build_lock import hold_lock
from serving_factory.pipeline.digests import file_digest
from serving_factory.pipeline.embedding import embedded_models
from serving_factory.pipeline.records import write_record
from serving_factory.pipeline.stages import STAGES
from serving_factory.proofs.described import Model
from serving_factory.smoke.embedded import differs

from .elf_files import Elf
from .fake_serving import Behaviour, FakeServing
from .matrices import ROOT, write
from .saved_models import graph, signature, tensor, write_model
from .stage_records import record, write_records
from .test_push_stage import MANIFEST, FakeRegistry
from .test_tasks import Factory, factory, module  # noqa: F401 - fixtures

V1, OLD, NO_REST, GPU, NATIVE = (
    *("2.19.1-cpu-v1", "1.9.1-cpu-v1", "1.7.1-cpu-v1"),
    *("2.19.1-gpu-cuda12.2-v1", "2.19.1-cpu-native"),
)
MATRIX = {
    "image": {"repository": "r"},
    "releases": ["2.19.1", "1.9.1", "1.7.1"],
    "per_release": [{"releases": "<2", "bazel": {"version": "0.17.2", "binary": "bazel"}}],
    "targets": {
        "cpu": {"flavour": "cpu", "levels": ["x86-64"]},
        "native": {"flavour": "cpu", "levels": ["native"], "releases": ["2.19.1"]},
        "gpu": {"flavour": "gpu", "levels": ["x86-64"], "releases": ["2.19.1"]},
    },
}
BASE, MADE = "sha256:image", "sha256:" + "e" * 64
MODEL = ROOT / "samples" / "model_server" / "models" / "half_plus_two"
CREATED = 1_700_000_000


@dataclass
class FakeContainer:
    server: FakeServing
    log: str = "a line of the server's log"
    code: int | None = None

    def port(self, container_port: int) -> int:
        return {8500: self.server.grpc_port, 8501: self.server.rest_port}[container_port]

    def logs(self, tail: int = 30) -> str:
        return "\n".join(self.log.splitlines()[-tail:])

    def status(self) -> str:
        return "running" if self.code is None else "exited"

    def exit_code(self) -> int | None:
        return self.code

    def started_at(self) -> str:
        return "2026-01-31T12:00:00Z"

    def health(self) -> str:
        return "healthy"

    def stop(self, timeout: int) -> float:
        assert timeout
        self.code = 143
        return 0.1


@dataclass
class FakeEngine:
    """An engine that builds what `FakeBuild` says."""

    images: dict[str, str] = field(default_factory=lambda: {"r:full": BASE})
    behaviour: Behaviour = field(default_factory=Behaviour)
    model: str = "half_plus_two"
    access: GpuAccess | None = None
    specs: list[ContainerSpec] = field(default_factory=list)
    running: int = 0
    known: FakeRegistry = field(default_factory=lambda: FakeRegistry(configs={MANIFEST: MADE}))
    pushed: list[str] = field(default_factory=list)
    exits: int | None = None

    def gpu(self) -> GpuAccess | None:
        return self.access

    def image_id(self, *references: str) -> str | None:
        return next((self.images[one] for one in references if one in self.images), None)

    def image_size(self, _reference: str) -> int:
        return 9

    def image_created(self, reference: str) -> int:
        assert reference in self.images.values()
        return CREATED

    def tag(self, image: str, repository: str, tag: str) -> None:
        self.images[f"{repository}:{tag}"] = image

    def remove_image(self, reference: str) -> None:
        self.images.pop(reference, None)

    def remove_strays(self, _owner: str) -> int:
        return 0

    def registry(self, _host: str, **_: object) -> FakeRegistry:
        return self.known

    def push(self, repository: str, tag: str, **_: object) -> PushResult:
        assert self.images[f"{repository}:{tag}"] == MADE
        self.pushed.append(f"{repository}:{tag}")
        self.known.held[tag] = MANIFEST
        return PushResult(digest=MANIFEST, pushed_layers=1)

    @contextmanager
    def container(self, spec: ContainerSpec) -> Iterator[FakeContainer]:
        self.specs.append(spec)
        self.running += 1
        try:
            with FakeServing(behaviour=self.behaviour, model=self.model) as server:
                yield FakeContainer(server, code=self.exits)
        finally:
            self.running -= 1


@dataclass
class Build:
    """What was built: the request, and its archive: path -> mode, time and owner."""

    request: BuildRequest
    archive: dict[str, tuple[int, int, int]]


@dataclass
class Embed:
    """Runs `embed` in an empty folder, on a variant that is packaged."""

    factory: Factory
    matrix: str
    engine: FakeEngine
    builds: list[Build] = field(default_factory=list)
    fails: BaseException | None = None

    def __call__(self, *words: str, variant: str = V1) -> Any:  # noqa: ANN401 - Ended, of test_tasks
        return self.factory("embed", *words, "--variant", variant, "--matrix", self.matrix)

    def folder(self, variant: str = V1) -> Path:
        return Asked(matrix=self.matrix).folder / variant

    def build(
        self, request: BuildRequest, log: Path, *, progress: Callable[[str], None], cancel: object
    ) -> BuildResult:
        assert log.name == "embed.log"
        assert cancel
        progress("ADD model.tar /")
        with tarfile.open(request.context / "model.tar") as archive:
            held = {one.name: (one.mode, int(one.mtime), one.uid) for one in archive}
        assert [path.name for path in request.context.iterdir()] == ["model.tar"]
        self.builds.append(Build(request, held))
        self.engine.model = request.dockerfile.read_text().partition("MODEL_NAME=")[2].split()[0]
        self.engine.images[request.tags[0]] = MADE  # also where it is ended now
        if self.fails:
            raise self.fails
        return BuildResult(digests=(MADE,), steps=2, cached=0)


@pytest.fixture
def embed(tmp_path: Path, factory: Factory, monkeypatch: pytest.MonkeyPatch) -> Embed:  # noqa: F811 - the fixture
    made = Embed(factory, str(write(tmp_path, MATRIX)), FakeEngine())
    (tmp_path / "bazel").touch()
    for id_ in (V1, OLD, NO_REST, GPU, NATIVE):
        write_records(made.folder(id_), *STAGES[:-1])
    monkeypatch.setattr(Engine, "connect", lambda *_: made.engine)
    monkeypatch.setattr(embedding, "logged_build", made.build)
    monkeypatch.setattr("serving_factory.smoke.checks._POLL", 0.01)
    monkeypatch.setattr("serving_factory.smoke.checks.LEAST_UPTIME", 0.0)
    monkeypatch.setattr("serving_factory.smoke.embedded._PATIENCE", 2.0)
    monkeypatch.setattr("serving_factory.doctor.probes.gpu_driver", lambda *_: None)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return made


DOC = (ROOT / "docs" / "json.md").read_text(encoding="utf-8").partition("\n## embed\n")[2].partition("\n## ")[0]


def found(ended: Any) -> dict[str, Any]:  # noqa: ANN401
    assert ended.code == 0, ended
    document: dict[str, Any] = json.loads(ended.out)
    assert [name for name in document if f"`{name}`" not in DOC] == ["schema_version"]
    return document


# --- what is made -----------------------------------------------------------------------------------------------------


def test_the_image_has_the_model_with_modes_and_times_of_its_own(embed: Embed, tmp_path: Path) -> None:
    files = ["assets/words.txt", "variables/variables.index", "variables/variables.data-00000-of-00001"]
    write_model(tmp_path / "half_plus_two" / "0123", graph("VarHandleOp", restore="r"), files=files)
    for path in (tmp_path / "half_plus_two").rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    document = found(embed(str(tmp_path / "half_plus_two"), "--json"))
    (build,) = embed.builds
    place = "models/half_plus_two/123"
    assert {name for name, (mode, _, _) in build.archive.items() if mode == 0o644} == {
        f"{place}/{name}" for name in (*files, "saved_model.pb")
    }
    assert set(build.archive.values()) == {(0o755, CREATED, 0), (0o644, CREATED, 0)}
    folders = ("models", "models/half_plus_two", place, f"{place}/assets", f"{place}/variables")
    assert list(build.archive)[:5] == list(folders), "what is in a folder comes after it"
    request = build.request
    assert (request.network, request.build_args) == ("none", (("SOURCE_DATE_EPOCH", str(CREATED)),))
    assert "FROM r:full\nADD model.tar /\nENV MODEL_NAME=half_plus_two" in request.dockerfile.read_text()
    labels = dict(request.labels)
    assert labels["org.serving-factory.model.sha256"] == document["sha256"]
    assert labels["org.opencontainers.image.title"].startswith("half_plus_two 123 on TensorFlow Serving 2.19.1, cpu")
    assert not request.context.exists()
    assert document["name"].startswith(f"r:{V1}-half_plus_two-{document['sha256'][:12]}-bbbbbbbbbbbb-")
    assert embed.engine.images == {"r:full": BASE, document["name"]: MADE}, "and no other name is left"


def test_it_is_run_without_rights_and_without_settings_and_asked_for_zeros(embed: Embed) -> None:
    ended = embed(str(MODEL))
    assert ended.code == 0, ended
    (spec,) = embed.engine.specs
    assert (spec.image, spec.read_only, spec.cap_drop, spec.user) == (MADE, True, ("ALL",), "12345")
    assert (spec.environment, spec.mounts, spec.entrypoint, spec.command) == ((), (), None, ())
    assert "REST: zeros -> y\ngRPC: zeros -> y [1]\nversion: version 123 AVAILABLE" in ended.err
    assert "ops were not checked: " in ended.err
    assert "docker run --rm --read-only -p 8500:8500 -p 8501:8501 r:2.19.1-cpu-v1-half_plus_two-" in ended.out


def test_the_same_again_is_no_work_and_says_so_in_one_line(embed: Embed) -> None:
    name = found(embed(str(MODEL), "--json"))["name"]
    again = embed(str(MODEL))
    assert (again.code, again.err) == (0, "")
    assert again.out == f"Nothing to do: {name} holds version 123 of half_plus_two already.\n"
    assert found(embed(str(MODEL), "--json"))["work"] is False
    assert len(embed.builds) == len(embed.engine.specs) == 1
    del embed.engine.images[name]
    assert found(embed(str(MODEL), "--json"))["work"] is True, "the image was gone"


def test_another_model_image_or_name_is_another_tag(embed: Embed, tmp_path: Path) -> None:
    names = [found(embed(str(MODEL), "--json"))["name"], found(embed(str(MODEL), "--name", "a", "--json"))["name"]]
    write_model(tmp_path / "half_plus_two" / "123", graph("Placeholder", "Const"))
    names.append(found(embed(str(tmp_path / "half_plus_two"), "--json"))["name"])
    write_record(embed.folder(), record("package", variant=V1, image="sha256:other"))
    embed.engine.images["r:full"] = "sha256:other"
    names.append(found(embed(str(MODEL), "--json"))["name"])
    assert len(set(names)) == 4
    assert [one.model for one in embedded_models(embed.folder())] == ["a", "half_plus_two"]


def test_modes_times_and_links_change_no_tag(embed: Embed, tmp_path: Path) -> None:
    first = write_model(tmp_path / "m" / "123", files=["assets/a", "assets/b"])
    (first / "assets" / "b").write_text("assets/a")
    name = found(embed(str(tmp_path / "m"), "--name", "half_plus_two", "--json"))["name"]
    (first / "assets" / "b").unlink()
    (first / "assets" / "b").symlink_to("a")
    (first / "assets" / "a").chmod(0o755)
    os.utime(first / "assets" / "a", (1, 1))
    assert found(embed(str(tmp_path / "m"), "--name", "half_plus_two", "--json"))["name"] == name
    assert len(embed.builds) == 1


def test_more_names_are_given_and_recorded(embed: Embed) -> None:
    embed(str(MODEL))
    document = found(embed(str(MODEL), "--tag", "team/a:1", "--tag", "localhost:5000/b", "--json"))
    assert document["names"] == [document["name"], "team/a:1", "localhost:5000/b"]
    assert {embed.engine.images[name] for name in ("team/a:1", "localhost:5000/b:latest")} == {MADE}
    assert document["work"] is True
    assert len(embed.builds) == 1
    assert found(embed(str(MODEL), "--tag", "team/a:1", "--json"))["work"] is False


def test_it_waits_for_whatever_else_runs_containers_of_this_checkout(embed: Embed) -> None:
    with hold_lock(Asked().checkout.build):
        assert embed(str(MODEL), "--dry-run").code == 0
        assert embed(str(MODEL)).code == 10
    assert embed(str(MODEL)).code == 0


def test_a_dry_run_checks_the_model_and_starts_nothing(embed: Embed) -> None:
    ended = embed(str(MODEL), "--dry-run", "--registry", "r.example")
    assert ended.code == 0, ended
    for line in (
        "half_plus_two, version 123; 1 file, 319 B",
        "serving_default: x DT_FLOAT [1, 1] -> y DT_FLOAT [1, 1]",
    ):
        assert line in ended.out
    assert "Would build, try, tag, push. Nothing was started.\n" in ended.out
    assert (embed.builds, embed.engine.specs, embedded_models(embed.folder())) == ([], [], [])
    embed(str(MODEL))
    assert "Nothing to do: the image is there." in embed(str(MODEL), "--dry-run").out
    assert found(embed(str(MODEL), "--dry-run", "--tag", "a:1", "--json"))["would"] == ["tag"]
    assert embed("nowhere", "--dry-run").code == 29


def test_what_was_passed_over_and_what_version_1_is_are_said(embed: Embed, tmp_path: Path) -> None:
    for version in ("1", "2", "3"):
        write_model(tmp_path / "m" / version)
    assert "m, version 3; not 1, 2, which are lower; 1 file" in embed(str(tmp_path / "m"), "--dry-run").out
    page = embed(str(tmp_path / "m" / "2"), "--name", "m", "--dry-run").out
    assert "m, version 1, for the folder is a SavedModel itself; 1 file" in page


# --- what it is asked -------------------------------------------------------------------------------------------------


def asked(embed: Embed, tmp_path: Path, **body: object) -> Any:  # noqa: ANN401
    (tmp_path / "request.json").write_text(json.dumps(body))
    return embed(str(MODEL), "--request", str(tmp_path / "request.json"))


def test_a_request_of_the_users_is_asked_over_rest_and_its_answer_compared(embed: Embed, tmp_path: Path) -> None:
    ended = asked(embed, tmp_path, instances=[1.0, 2.0], expected=[2.5, 3.0000001])
    assert ended.code == 0, ended
    assert "gRPC: not asked to predict: the request is one of REST" in ended.err
    assert "request.json -> [2.5, 3.0], as expected" in ended.err
    assert "Nothing to do" in asked(embed, tmp_path, instances=[1.0, 2.0], expected=[2.5, 3.0000001]).out
    assert asked(embed, tmp_path, instances=[1.0, 2.0]).code == 0
    assert len(embed.builds) == 2, "another request is asked"
    (made,) = embedded_models(embed.folder())
    assert embed.engine.images[made.name] == MADE


def test_zeros_go_where_a_form_of_them_is_known(embed: Embed, tmp_path: Path) -> None:
    halves = graph(serving_default=signature({"x": tensor("DT_HALF", -1)}))
    page = embed(str(write_model(tmp_path / "half", halves)), "--dry-run").out
    assert "REST       not asked to predict: JSON has no form of x (DT_HALF)\n" in page
    assert "gRPC " not in page
    resource = graph(serving_default=signature({"x": tensor("DT_RESOURCE")}))
    ended = embed(str(write_model(tmp_path / "resource", resource)), "--dry-run")
    assert ended.code == 29
    assert "there is no zero of x (DT_RESOURCE)" in ended.err
    assert "--request FILE" in ended.err


def test_zeros_that_no_memory_holds_are_not_sent(embed: Embed, tmp_path: Path) -> None:
    huge = graph(serving_default=signature({"x": tensor("DT_FLOAT", -1, 10**12)}))
    ended = embed(str(write_model(tmp_path / "huge", huge)), "--dry-run")
    assert ended.code == 29
    assert "REST: the inputs have 1,000,000,000,000 values" in ended.err
    assert "--request FILE" in ended.err


def test_texts_are_empty_and_the_default_signature_goes_first(embed: Embed, tmp_path: Path) -> None:
    other = signature({"x": tensor("DT_STRING", -1)}, method="tensorflow/serving/classify")
    made = graph(a=other, serving_default=signature())
    assert "serving_default: x DT_FLOAT" in embed(str(write_model(tmp_path / "m", made)), "--dry-run").out
    page = embed(str(write_model(tmp_path / "n", graph(b=other, a=other))), "--dry-run").out
    assert "  signature  a: x DT_STRING [1] -> y DT_FLOAT [1]\n" in page


def test_an_old_release_is_asked_what_it_can(embed: Embed, tmp_path: Path) -> None:
    assert "REST: zeros -> y" in embed(str(MODEL), variant=OLD).err
    scalar = graph(serving_default=signature({"x": tensor()}))
    page = embed(str(write_model(tmp_path / "scalar", scalar)), "--dry-run", variant=OLD).out
    assert "REST       not asked to predict: the release takes rows alone, and the signature has none\n" in page
    nothing = embed(str(write_model(tmp_path / "nothing", graph(a=signature({})))), "--dry-run").out
    assert "REST       not asked to predict: the signature takes nothing\n" in nothing
    ended = embed(str(MODEL), variant=NO_REST)
    assert ended.code == 0, ended
    assert "REST: not asked to predict: the release has none" in ended.err
    assert "gRPC: zeros -> y" in ended.err
    (tmp_path / "request.json").write_text('{"instances": [1.0]}')
    ended = embed(str(MODEL), "--request", str(tmp_path / "request.json"), variant=NO_REST)
    assert ended.code == 2
    assert "`--request` is for REST" in ended.err


def test_a_gpu_image_is_tried_on_a_gpu_that_the_engine_can_give(embed: Embed) -> None:
    ended = embed(str(MODEL), variant=GPU)
    assert ended.code == 0, ended
    assert "not tried on a GPU" in ended.err
    assert " --gpus all " in ended.out
    embed.engine.access = GpuAccess.CDI
    assert embed(str(MODEL), "--name", "half", variant=GPU).code == 0
    assert [(one.gpu, dict(one.environment)) for one in embed.engine.specs] == [
        (None, {"NVIDIA_VISIBLE_DEVICES": "void"}),
        (GpuAccess.CDI, {}),
    ]


@pytest.mark.parametrize(
    ("got", "expected", "said"),
    [
        ([[1.0], [2]], [[1], [2.0]], ""),
        ([1.0001], [1.0], "outputs[0] is 1.0001, expected 1.0 within 1e-05"),
        ({"a": ["x"], "b": float("nan")}, {"a": ["x"], "b": float("nan")}, ""),
        ({"a": ["x"]}, {"a": ["y"]}, 'outputs.a[0] is "x", expected "y"'),
        ([1.0, 2.0], [1.0], "outputs is [1.0, 2.0], expected [1.0]"),
        (True, 1, ""),
        ([True], [0], "outputs[0] is true, expected 0"),
        ({"a": 1}, {"b": 1}, 'outputs is {"a": 1}, expected {"b": 1}'),
        (list(range(99)), None, "..."),
    ],
)
def test_answers_are_compared_number_by_number(got: object, expected: object, said: str) -> None:
    difference = differs(got, expected, 1e-5, "outputs")
    assert said in difference
    assert bool(said) == bool(difference)


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        pytest.param({"refuses": "DecodeJpeg: no image"}, 30, "did not answer zeros for its signature", id="refused"),
        pytest.param({"load_error": "Op type not registered"}, 31, "could not load half_plus_two", id="not loaded"),
        pytest.param({"output": "z"}, 32, "is not what its signature says", id="another output"),
        pytest.param({"takes_new_version": True, "added": {123: 2.0}}, 0, "", id="all well"),
    ],
)
def test_an_image_that_fails_gets_no_name(embed: Embed, change: dict[str, Any], code: int, text: str) -> None:
    embed.engine.behaviour = Behaviour(**change)
    ended = embed(str(MODEL))
    assert ended.code == code
    assert text in ended.err
    if code:
        assert "a line of the server's log" in ended.err
        assert embed.engine.images == {"r:full": BASE}
        assert embedded_models(embed.folder()) == []
    assert embed.engine.running == 0


def test_a_container_that_ends_is_reported(embed: Embed) -> None:
    embed.engine.exits = 78
    assert embed(str(MODEL)).code == 34
    embed.engine.exits = 1
    assert embed(str(MODEL)).code == 31
    assert embed.engine.images == {"r:full": BASE}


@pytest.mark.parametrize(
    ("fault", "code", "text"),
    [
        (BuildFailed(step="[2/2] ADD model.tar /", tail=("no",), exit_code=1, text=""), 24, "failed to build"),
        (KeyboardInterrupt(), 130, "Cancelled"),
    ],
)
def test_what_ends_a_build_leaves_no_half_image(embed: Embed, fault: BaseException, code: int, text: str) -> None:
    embed.fails = fault
    ended = embed(str(MODEL))
    assert ended.code == code
    assert text in ended.err
    assert embed.engine.images == {"r:full": BASE}
    assert [path.name for path in (embed.folder() / "embedded" / "half_plus_two").iterdir()] == ["Dockerfile"]


def test_ctrl_c_leaves_no_container(embed: Embed, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_server: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("serving_factory.smoke.embedded.check_healthy", interrupt)
    assert embed(str(MODEL)).code == 130
    assert (embed.engine.running, embed.engine.images) == (0, {"r:full": BASE})


def test_an_op_that_the_binary_does_not_name_ends_it_before_anything_is_built(embed: Embed, tmp_path: Path) -> None:
    binary = Elf(data={".rodata": b"\0Placeholder\0Const\0Mul\0BiasAdd\0"}).write(tmp_path / "server")
    write_record(embed.folder(), record("package", variant=V1, binary_sha256=file_digest(binary)))
    (embed.folder() / "tensorflow_model_server").hardlink_to(binary)
    assert "the server's binary names all 4 ops" in embed(str(MODEL), "--dry-run").out
    model = write_model(tmp_path / "m" / "1", graph("PyFunc", "Mul", "SentencepieceOp"))
    ended = embed(str(model.parent))
    assert (ended.code, ended.out, embed.builds) == (29, "", [])
    assert "needs ops that this server does not have: PyFunc, SentencepieceOp." in ended.err


def test_a_model_that_changes_while_it_is_copied(embed: Embed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model(tmp_path / "m" / "1", files=["assets/a"])
    check = embedding.check_ops
    monkeypatch.setattr(
        "serving_factory.commands.embed.check_ops", lambda one: (folder / "assets/a").write_text("b") and check(one)
    )
    ended = embed(str(folder.parent))
    assert ended.code == 29
    assert "was changed while it was copied" in ended.err
    assert embed.engine.images == {"r:full": BASE}


REQUEST = '{"instances": [1.0]}'


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ((), 2, "`embed` needs a MODEL_DIR"),
        (("nowhere",), 29, "nowhere is no folder"),
        ((str(MODEL), "--tag", "Team/Model"), 2, "'Team/Model' is not the name of an image repository"),
        ((str(MODEL), "--tag", "a:b:c"), 2, "`--tag` must name an image, got 'a:b:c'"),
        ((str(MODEL), "--tag", "a:-b"), 2, "`--tag` must name an image, got 'a:-b'"),
        ((str(MODEL), "--tag", f"a@{MADE}"), 2, "`--tag` must name an image"),
        ((str(MODEL), "--name", "a b"), 2, "`--name` cannot be a model's name, got 'a b'"),
        ((str(MODEL), "--name", "n" * 90), 2, "is too long for a tag"),
        ((str(MODEL / "00000123"),), 2, "it is a version's number"),
        ((str(MODEL), "--request", "missing.json"), 1, "missing.json cannot be used"),
        ((str(MODEL), "--request", "request.json"), 2, ""),
        ((str(MODEL), "--registry", "http://r.example"), 2, "--registry is not the name of a registry"),
    ],
)
def test_what_is_typed_wrong_is_one_message(embed: Embed, words: tuple[str, ...], code: int, text: str) -> None:
    Path("request.json").write_text("[]")
    ended = embed(*words)
    assert (ended.code, ended.out) == (code, "")
    assert text in ended.err
    assert ended.err.count("Error: ") == 1
    assert "What to do: " in ended.err
    assert (embed.builds, embed.engine.specs) == ([], [])


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("{", "is not JSON"),
        (f"{'[' * 100_000}", "is not JSON"),
        ('{"instances": [1.0], "expect": [2.5]}', "unknown member `expect`"),
        ("[1]", "must be an object with `instances` or `inputs`"),
        ('{"instances": [], "inputs": []}', "must be an object with `instances` or `inputs`"),
        ('{"instances": [1.0], "tolerance": "1"}', "`tolerance` must be a number from 0 on, got '1'"),
        ('{"instances": [1.0], "signature_name": 3}', "`signature_name` must be a text"),
        ('{"instances": [1.0], "signature_name": "b"}', "has no signature b"),
    ],
)
def test_a_request_that_is_none_is_one_message(embed: Embed, body: str, text: str) -> None:
    Path("request.json").write_text(body)
    ended = embed(str(MODEL), "--request", "request.json")
    assert ended.code == 2
    assert text in ended.err
    assert embed.builds == []


def test_a_request_that_fails_or_is_answered_otherwise(embed: Embed, tmp_path: Path) -> None:
    ended = asked(embed, tmp_path, instances=[1.0], expected=[2.6])
    assert ended.code == 32
    assert "predictions[0] is 2.5, expected 2.6 within 1e-05" in ended.err
    assert asked(embed, tmp_path, instances=[1.0], expected=[2.6], tolerance=0.1).code == 0
    embed.engine.behaviour = Behaviour(refuses="no such thing")
    ended = asked(embed, tmp_path, instances=[1.0])
    assert ended.code == 30
    assert "did not answer the request of" in ended.err
    assert "no such thing" in ended.err


def test_variants_that_have_no_image(embed: Embed) -> None:
    assert embed(str(MODEL), variant="2.19.1-cpu-v9").code == 4
    embed.folder().joinpath("package.json").unlink()
    ended = embed(str(MODEL))
    assert (ended.code, "the stage package has not run" in ended.err) == (6, True)
    embed.engine.images.clear()
    ended = embed(str(MODEL), variant=OLD)
    assert (ended.code, "the engine does not have r:full as it was packaged" in ended.err) == (6, True)
    assert embed.factory("embed", str(MODEL), "--matrix", embed.matrix).code == 2


# --- pushing ----------------------------------------------------------------------------------------------------------


def test_it_is_pushed_by_its_own_tag_and_its_names_and_the_digests_are_recorded(embed: Embed) -> None:
    words = (str(MODEL), "--tag", "team/a:1", "--tag", "s.example/b:2", "--registry", "r.example", "--json")
    document = found(embed(*words))
    tag = document["name"].removeprefix("r:")
    own = [f"{name}:{tag}" for name in ("r.example/r", "r.example/team/a", "s.example/b")]
    assert embed.engine.pushed == own[:1], "the fake is one registry for all hosts"
    assert embed.engine.known.moved == ["1", "2"]
    names = (own[0], own[1], "r.example/team/a:1", own[2], "s.example/b:2")
    assert document["pushed"] == [f"{name}@{MANIFEST}" for name in names]
    assert set(embed.engine.images) == {"r:full", document["name"], "team/a:1", "s.example/b:2"}
    again = found(embed(*words))
    assert (again["work"], len(embed.engine.known.moved)) == (False, 2)
    (made,) = embedded_models(embed.folder())
    assert [one.digests for one in made.places] == [dict.fromkeys((tag, *more), MANIFEST) for more in ("", "1", "2")]
    embed.engine.known.held.pop("1")
    assert found(embed(*words))["work"] is True, "the registry had lost it"
    assert embed.engine.known.moved[2:] == ["1"]


@dataclass
class FakeSigner:
    """Signs at once, and remembers what the registry had then, and which model was named."""

    engine: FakeEngine
    identity: str = "key 1"
    opened: int = 0
    proven: set[tuple[str, str]] = field(default_factory=set)
    seen: list[tuple[list[str], Model]] = field(default_factory=list)

    def prove(self, _job: object, _registry: object, name: str, digest: str, _me: object, **about: Any) -> None:  # noqa: ANN401
        assert about["image"] == MADE
        self.seen.append((sorted(self.engine.known.held), about["model"]))
        self.proven.add((name, digest))

    def has_proofs(self, _registry: object, name: str, digest: str, **_: object) -> bool:
        return (name, digest) in self.proven

    is_signed = has_proofs


def test_it_is_signed_before_any_other_name_has_it(embed: Embed, monkeypatch: pytest.MonkeyPatch) -> None:
    signer = FakeSigner(embed.engine)

    def signer_of(_matrix: object) -> FakeSigner:
        signer.opened += 1
        return signer

    monkeypatch.setattr("serving_factory.commands.plan.signer_of", signer_of)
    monkeypatch.setattr("serving_factory.pipeline.proofs.prove", signer.prove)
    monkeypatch.setattr("serving_factory.proofs.signatures.has_proofs", signer.has_proofs)
    words = (str(MODEL), "--tag", "r:1", "--tag", "team/a:2", "--json")
    made = found(embed(*words))
    found(embed(*words, "--registry", "r.example", "--dry-run"))
    assert signer.opened == 0, "nothing is sent"
    pushed = found(embed(*words, "--registry", "r.example"))
    tag = made["name"].removeprefix("r:")
    assert embed.engine.pushed == [f"r.example/r:{tag}"]
    assert embed.engine.known.moved == ["1", "2"]
    (first, model), (second, _) = signer.seen
    assert (first, second) == ([tag], sorted(["1", tag]))
    assert (model.name, model.version, model.sha256) == ("half_plus_two", 123, pushed["sha256"])
    assert found(embed(*words, "--registry", "r.example"))["work"] is False
    signer.proven.clear()
    assert found(embed(*words, "--registry", "r.example"))["work"] is True, "its proofs were removed"
    assert len(signer.seen) == 4


def test_its_own_tag_never_moves(embed: Embed) -> None:
    tag = found(embed(str(MODEL), "--json"))["name"].removeprefix("r:")
    embed.engine.known.held[tag] = "sha256:" + "9" * 64
    assert embed(str(MODEL), "--registry", "r.example").code == 47


def test_an_image_for_this_machines_cpu_alone_is_not_pushed(embed: Embed) -> None:
    ended = embed(str(MODEL), "--registry", "r.example", variant=NATIVE)
    assert (ended.code, embed.builds) == (2, [])
    assert "is not published" in ended.err


def test_clean_removes_embedded_images_too(embed: Embed) -> None:
    (embed.folder() / "recipe").mkdir()
    name = found(embed(str(MODEL), "--tag", "team/a:1", "--json"))["name"]
    ended = embed.factory("clean", "--images", "--matrix", embed.matrix)
    assert ended.code == 0, ended
    for one in (name, "team/a:1"):
        assert f"removed image {one}\n" in ended.out
    assert embed.engine.images == {}
