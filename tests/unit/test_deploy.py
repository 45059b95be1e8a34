"""`deploy`: files for Kubernetes and compose, from the record of a push."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from serving_factory.catalogue.levels import LEVELS, Level, level_facts, node_labels
from serving_factory.catalogue.releases import releases
from serving_factory.commands.shared import Asked
from serving_factory.deploy.files import Service, compose_files, is_own, manifests
from serving_factory.matrix.variant import Variant, variant_of
from serving_factory.pipeline.embedding import Embedded, embedded_folder
from serving_factory.pipeline.records import Record, write_record
from serving_factory.pipeline.stages import STAGES
from serving_factory.pipeline.stages.push import Place

from .matrices import write
from .stage_records import write_records
from .test_tasks import Factory, factory, module  # noqa: F401 - fixtures
from .test_which import MATRIX, V1, V3

IMAGE = f"registry.example.com:5000/team/serving@sha256:{'0123456789abcdef' * 4}"
GPU = "2.19.1-gpu-cuda12.2-v3"
IDS = (V1, "2.19.1-cpu-v2", "1.15.0-cpu-avx", V3, "2.19.1-mkl-v4", GPU, "1.7.1-cpu-v1")
KINDS = {"Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy"}


def service(id_: str, **changes: Any) -> Service:  # noqa: ANN401 - any field
    variant = variant_of(id_)
    assert variant
    server = releases()[variant.release].server
    made = {"image": IMAGE, "user": 65532, "health": "/usr/bin/health", "rest": server.rest}
    return Service(**{"variant": variant, "flags": frozenset(server.flags), **made, **changes})


def read(text: str) -> dict[str, Any]:
    (document,) = yaml.safe_load_all(text)
    assert isinstance(document, dict)
    return document


def documents(id_: str) -> dict[str, dict[str, Any]]:
    """The documents by path."""
    return {path: read(text) for path, text in manifests(service(id_)).items()}


def validate(document: dict[str, Any]) -> None:
    """Compare with Kubernetes' own schemas; a misspelt field is an error."""
    kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def pod_of(runtime: dict[str, Any]) -> dict[str, Any]:
    """A ServingRuntime as the pod that KServe makes of it."""
    spec = {
        name: value
        for name, value in runtime["spec"].items()
        if name not in {"supportedModelFormats", "protocolVersions"}
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec}


@pytest.mark.parametrize("id_", IDS)
def test_every_file_is_what_kubernetes_takes(id_: str) -> None:
    found = documents(id_)
    kinds = set()
    for document in found.values():
        kinds.add(document["kind"])
        if document["kind"] == "ServingRuntime":
            validate(pod_of(document))
        elif document["kind"] != "Kustomization":  # kubectl's own: tests/integration renders it
            validate(document)
    assert kinds - {"ServingRuntime"} == KINDS | {"Kustomization"}
    for path, document in found.items():
        if document["kind"] == "Kustomization":
            places = [(Path(path).parent / one).as_posix() for one in document["resources"] if one.endswith(".yaml")]
            assert set(places) <= set(found)


def test_every_kind_has_a_fault_that_is_found() -> None:
    faults: dict[str, Callable[[Any], object]] = {
        "Deployment": lambda spec: spec["template"]["spec"]["containers"][0].update(readynessProbe={}),
        "Service": lambda spec: spec["ports"][0].update(targetport=1),
        "HorizontalPodAutoscaler": lambda spec: spec.update(minReplica=1),
        "PodDisruptionBudget": lambda spec: spec.update(maxUnavailible=1),
        "NetworkPolicy": lambda spec: spec["ingress"][0].update(form=[]),
        "ServingRuntime": lambda spec: spec["containers"][0].update(arguments=[]),
    }
    found = {document["kind"]: document for path, document in documents(V3).items() if "overlays" not in path}
    for kind, spoil in faults.items():
        spoil(found[kind]["spec"])
        with pytest.raises(kubernetes_validate.ValidationError):
            validate(pod_of(found[kind]) if kind == "ServingRuntime" else found[kind])


def containers(id_: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each container with its pod."""
    found = documents(id_)
    deployed = found["base/deployment.yaml"]["spec"]["template"]["spec"]
    yield deployed["containers"][0], deployed
    if runtime := found.get("kserve/serving-runtime.yaml"):
        yield runtime["spec"]["containers"][0], runtime["spec"]


@pytest.mark.parametrize("id_", IDS)
def test_the_image_by_digest_without_privileges_and_on_a_read_only_disk(id_: str) -> None:
    for container, pod in containers(id_):
        assert container["image"] == IMAGE
        own = {**pod.get("securityContext", {}), **container["securityContext"]}
        assert own["runAsNonRoot"] is True
        assert own["runAsUser"] == 65532
        assert own["readOnlyRootFilesystem"] is True
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert own["seccompProfile"] == {"type": "RuntimeDefault"}
        assert "command" not in container


def test_an_image_whose_user_is_root_runs_as_another_one() -> None:
    text = manifests(service(V3, user=0))["base/deployment.yaml"]
    assert read(text)["spec"]["template"]["spec"]["securityContext"]["runAsUser"] == 65532


def test_probes_ask_for_the_models_status_and_the_end_fits_the_grace() -> None:
    (container, pod), _ = containers(V3)
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[name]["exec"]["command"] == ["/usr/bin/health"]
        assert container[name]["timeoutSeconds"] > 3, "the health check ends by itself within 3 seconds"
    waits = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    forgotten = container["readinessProbe"]["periodSeconds"] * container["readinessProbe"]["failureThreshold"]
    assert forgotten <= waits < pod["terminationGracePeriodSeconds"] - 5


def terms(pod: dict[str, Any]) -> list[list[str]]:
    node = pod.get("affinity", {}).get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", {})
    return [
        [one["key"].removeprefix("feature.node.kubernetes.io/cpu-cpuid.") for one in term["matchExpressions"]]
        for term in node.get("nodeSelectorTerms", [])
    ]


@pytest.mark.parametrize(
    ("id_", "expected"),
    [
        (V1, []),
        ("2.19.1-cpu-v2", []),
        ("2.19.1-cpu-avx", [["AVX"]]),
        (V3, [["X86_64_V3"], ["AVX2", "FMA3"]]),
        (GPU, [["X86_64_V3"], ["AVX2", "FMA3"]]),
        ("2.19.1-mkl-v4", [["X86_64_V4"], ["AVX512F", "AVX512BW", "AVX512CD", "AVX512DQ", "AVX512VL"]]),
    ],
)
def test_nodes_are_chosen_by_their_cpu(id_: str, expected: list[list[str]]) -> None:
    assert [terms(pod) for _, pod in containers(id_)] == [expected, expected]


def test_each_level_that_is_published_has_its_labels_of_features_that_it_adds() -> None:
    assert tuple(node_labels()) == LEVELS
    for level, found in node_labels().items():
        names = {feature.lower().replace("fma3", "fma") for term in found for feature in term}
        assert names - {level.replace("-", "_")} <= level_facts(Level(level)).features


def test_a_gpu_image_gets_a_gpu_and_no_other_does() -> None:
    for id_ in IDS:
        for container, pod in containers(id_):
            gpus = container["resources"]["limits"].get("nvidia.com/gpu")
            assert (gpus, bool(pod.get("tolerations"))) == ((1, True) if id_ == GPU else (None, False))
    assert [path for path in manifests(service(GPU)) if path.startswith("overlays/")] == [
        "overlays/gpu/kustomization.yaml",
        "overlays/gpu/deployment.yaml",
    ]


@pytest.mark.parametrize("id_", [V3, "1.15.0-cpu-v1", "1.9.1-cpu-v1"])
def test_a_size_sets_cpus_memory_and_as_many_threads_by_flags_that_the_server_knows(id_: str) -> None:
    for cpus in (1, 8):
        patch = documents(id_)[f"overlays/{cpus}-cpu/deployment.yaml"]
        (container,) = patch["spec"]["template"]["spec"]["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert container["resources"]["limits"]["cpu"] == str(cpus)
        flags = dict(one.removeprefix("--").split("=") for one in container["args"])
        assert set(flags.values()) == {str(cpus)}
        assert set(flags) <= set(service(id_).flags)


def test_a_server_without_rest_has_no_rest_port_and_no_runtime() -> None:
    found = documents("1.7.1-cpu-v1")
    assert "kserve/serving-runtime.yaml" not in found
    assert [one["port"] for one in found["base/service.yaml"]["spec"]["ports"]] == [8500]
    assert "8501" not in manifests(service("1.7.1-cpu-v1"))["base/deployment.yaml"]


def test_names_are_labels_however_long_the_id() -> None:
    long = Variant(
        release="2.19.1",
        flavour=service(GPU).variant.flavour,
        level=Level.V3,
        cuda="12.2",
        capabilities=tuple(f"sm_{number}" for number in (60, 61, 70, 75, 80, 86, 87, 89, 90)),
    )
    other = Variant(
        release="2.19.1",
        flavour=long.flavour,
        level=Level.V3,
        cuda="12.2",
        capabilities=(*long.capabilities[:-1], "compute_90"),
    )
    names = [service(GPU, variant=one).name for one in (long, other)]
    assert len({*names}) == 2
    assert all(len(name) == 50 for name in names)
    assert service(GPU).name == "serving-2-19-1-gpu-cuda12-2-v3"


def test_models_with_other_names_have_services_with_other_names() -> None:
    """A name in Kubernetes has neither capitals nor `_` nor `.`, and a model's has."""
    long = "x" * 30
    models = ("my-model", "my_model", "My-Model", "my.model", "my-model-", "my--model", f"{long}_a", f"{long}-a", long)
    names = [service(V3, model=model).name for model in models]
    assert len({*names}) == len(models)
    assert names[0] == "serving-2-19-1-cpu-v3-my-model"
    for name in names:
        assert re.fullmatch("[a-z]([a-z0-9-]*[a-z0-9])?", name)
        assert len(name) <= 50


# --- compose ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id_", [V3, GPU])
def test_compose_puts_a_healthy_server_behind_the_gateway(id_: str) -> None:
    files = {name: read(text) for name, text in compose_files(service(id_), gateway='"../gate$$way"').items()}
    both, (single,) = files["compose.yaml"]["services"], files["compose.single.yaml"]["services"].values()
    assert both["serving"]["image"] == single["build"]["args"]["BASE"] == IMAGE
    assert both["gateway"]["depends_on"] == {"serving": {"condition": "service_healthy"}}
    assert both["gateway"]["environment"]["SERVING"] == "serving:8500"
    assert single["environment"]["MODE"] == "single"
    assert both["gateway"]["build"] == single["build"]["context"] == "../gate$$way"
    assert "ports" not in both["serving"], "it is reached by way of the gateway"
    for one in (*both.values(), single):
        assert (one["read_only"], one["cap_drop"], one["security_opt"]) == (True, ["ALL"], ["no-new-privileges:true"])
    assert ["deploy" in one for one in (both["serving"], single, both["gateway"])] == [id_ == GPU, id_ == GPU, False]


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def pushed(tmp_path: Path, factory: Factory, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:  # noqa: F811
    """Runs `deploy` on a matrix of which all variants but one were pushed, in an empty folder."""
    matrix = str(write(tmp_path, MATRIX))
    for id_, stages in ((V1, STAGES), (V3, STAGES), ("2.19.1-mkl-v3", STAGES[:-1])):
        write_records(Asked(matrix=matrix).folder / id_, *stages)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return lambda *words: factory("deploy", *words, "--matrix", matrix)


def test_it_writes_all_files_and_again_only_what_it_wrote(pushed: Callable[..., Any]) -> None:
    ended = pushed("kubernetes", V1, V3, "--json")
    assert (ended.code, ended.err) == (0, "")
    found = json.loads(ended.out)
    assert {one["variant"] for one in found["files"]} == {V1, V3}
    for one in found["files"]:
        assert Path(one["path"]).read_text() == one["text"]
        assert one["change"] == "new"
        assert is_own(one["text"])
    deployment = Path("deploy", V3, "kubernetes", "base", "deployment.yaml")
    assert "image: h:5000/r@sha256:pushed" in deployment.read_text()
    assert {one["change"] for one in json.loads(pushed("kubernetes", V1, V3, "--json").out)["files"]} == {"same"}


@pytest.mark.parametrize("text", ["mine\n", "", None])
def test_what_someone_else_wrote_or_changed_stays(pushed: Callable[..., Any], text: str | None) -> None:
    assert pushed("compose", V3).code == 0
    file, other = (Path("deploy", V3, "compose", name) for name in ("compose.yaml", "compose.single.yaml"))
    mine = file.read_text() + "# mine\n" if text is None else text
    file.write_text(mine)
    other.unlink()
    ended = pushed("compose", V3)
    assert ended.code == 1
    assert str(file) in ended.err
    assert file.read_text() == mine
    assert not other.exists(), "all or nothing"
    file.unlink()
    file.mkdir()
    assert pushed("compose", V3, "--dry-run").code == 1
    assert pushed("compose", V3, "--output", "elsewhere").code == 0


def test_a_file_of_an_earlier_image_is_replaced(pushed: Callable[..., Any]) -> None:
    assert pushed("compose", V3).code == 0
    from serving_factory.deploy import files

    file = Path("deploy", V3, "compose", "compose.yaml")
    rest = file.read_text().partition("\n")[2].replace("sha256:pushed", "sha256:earlier")
    file.write_text(f"{files._FIRST_LINE} {files._checksum(rest)}\n{rest}")
    assert f"replaced  {file}" in pushed("compose", V3).out
    assert "sha256:pushed" in file.read_text()


def test_a_dry_run_prints_the_files_and_writes_none(pushed: Callable[..., Any]) -> None:
    ended = pushed("compose", V3, "--dry-run")
    assert ended.code == 0
    assert f"--- deploy/{V3}/compose/compose.yaml\n# Written by" in ended.out
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ((), 2, "`deploy` needs a command"),
        (("helm", V3), 2, "`deploy helm` is no command"),
        (("kubernetes",), 2, "takes VARIANT"),
        (("kubernetes", "2.19.1-cpu-v4"), 4, "2.19.1-cpu-v4"),
        (("compose", V3, "2.19.1-mkl-v3"), 6, "not pushed, or packaged again since: 2.19.1-mkl-v3"),
    ],
)
def test_what_cannot_be_deployed_is_one_message(
    pushed: Callable[..., Any], words: tuple[str, ...], code: int, text: str
) -> None:
    ended = pushed(*words)
    assert (ended.code, ended.out) == (code, "")
    assert text in ended.err
    assert "What to do: " in ended.err
    assert list(Path().iterdir()) == []


# --- a model in the image ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id_", [V3, GPU])
def test_a_model_in_the_image_needs_no_volume_and_no_name(id_: str) -> None:
    found = {path: read(text) for path, text in manifests(service(id_, model="My_Model.1")).items()}
    assert not [path for path in found if path.startswith("kserve/")]
    deployment = found["base/deployment.yaml"]
    validate(deployment)
    assert deployment["metadata"]["name"].startswith(f"serving-{id_.replace('.', '-')}-my-model-1"[:43])
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert [one["name"] for one in (*container["volumeMounts"], *pod["volumes"])] == ["tmp", "tmp"]
    assert [one["name"] for one in container.get("env", [])] == (["CUDA_CACHE_PATH"] if id_ == GPU else [])
    files = compose_files(service(id_, model="true"), gateway='"../gateway"').items()
    both, (single,) = (list(read(text)["services"].values()) for _, text in files)
    serving, gateway = both
    assert "volumes" not in serving
    assert "environment" not in serving
    assert "volumes" not in single
    assert gateway["environment"]["MODEL_NAME"] == single["environment"]["MODEL_NAME"] == "true"


def embedded(folder: Path, model: str, **changes: Any) -> None:  # noqa: ANN401 - any field
    tag = f"{folder.name}-{model}-0123"
    place = Place(registry="h:5000", repository="r", digests={tag: "sha256:own"}, not_moved={}, pushed_layers=1)
    made = Embedded(
        **{
            "model": model,
            "version": 1,
            "model_sha256": "0123",
            "base": "sha256:image",
            "image": "sha256:made",
            "size": 9,
            "repository": "r",
            "tag": tag,
            "names": (),
            "checks": {},
            "places": (place,),
            **changes,
        }
    )
    started = "2026-01-31T23:39:55+00:00"
    write_record(
        embedded_folder(folder) / model,
        Record(variant=folder.name, stage="embed", key="k", started=started, seconds=1.0, outputs=made),
    )


def test_the_command_to_build_what_is_not_pushed_is_of_the_same_matrix(
    pushed: Callable[..., Any], tmp_path: Path
) -> None:
    (remedy,) = (one for one in pushed("compose", "2.19.1-mkl-v3").err.splitlines() if "What to do" in one)
    command = f"./factory build --matrix {tmp_path}/matrix.yaml --variant 2.19.1-mkl-v3 --registry HOST"
    assert remedy == f"What to do: {command}"


def test_an_embedded_model_is_served_by_the_digest_of_its_own_image(pushed: Callable[..., Any], tmp_path: Path) -> None:
    folder = Asked(matrix=str(tmp_path / "matrix.yaml")).folder / V3
    words = ("kubernetes", V3, "--model", "embedded")
    ended = pushed(*words)
    assert ended.code == 6
    assert f"no model is embedded in the image of {V3} and pushed" in ended.err
    assert f": ./factory embed MODEL_DIR --matrix {tmp_path}/matrix.yaml --variant {V3} --registry HOST\n" in ended.err
    embedded(folder, "other", places=())
    embedded(folder, "old", base="sha256:earlier")
    assert pushed(*words).code == 6, "not pushed, and made from an earlier image"
    embedded(folder, "ranker")
    (folder / "push.json").unlink()  # the variant's own image need not be pushed
    assert pushed(*words).code == 0
    deployment = Path("deploy", f"{V3}-ranker", "kubernetes", "base", "deployment.yaml").read_text()
    assert "image: h:5000/r@sha256:own\n" in deployment
    embedded(folder, "a")
    ended = pushed(*words)
    assert (ended.code, "several models are embedded" in ended.err) == (2, True)
    assert pushed("compose", V3, "--model", "embedded:a").code == 0
    assert pushed("compose", V3, "--model", "embedded:b").code == 6
    assert pushed("compose", V3, "--model", "pvc").code == 2
