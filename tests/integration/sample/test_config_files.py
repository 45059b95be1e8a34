"""What the server takes from files in text format: version policies, labels, batching, monitoring, TLS."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from pathlib import Path

import grpc
import pytest
from docker import DockerClient

from .conftest import MODELS, StartServer
from .sample_server import BINARY, SampleServer, create
from .serving_protos import PREDICTION_SERVICE, ServingProtos
from .test_models import NEW_ANSWER, OLD_ANSWER, put_version

LABELS = "--allow_version_labels_for_unavailable_models"
VERSIONS = {"stable": 1, "canary": 3, "next": 4}


def put_versions(models: Path, name: str, *versions: str) -> None:
    """Versions of one model; the last one gives the new answer."""
    for version in versions[:-1]:
        put_version(models, name, version, MODELS / "half_plus_two/00000123")
    put_version(models, name, versions[-1], MODELS / "half_plus_two_next/00000124")


def config_of(*models: tuple[str, str]) -> str:
    """A configuration of models, each with what it has beside name, path and platform."""
    entries = (
        f'config {{ name: "{name}" base_path: "/models/{name}" model_platform: "tensorflow" {rest} }}'
        for name, rest in models
    )
    return f"model_config_list {{ {' '.join(entries)} }}"


def put_file(models: Path, name: str, text: str) -> str:
    (models / name).write_text(text)
    return f"/models/{name}"


def page(server: SampleServer, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.rest_port}{path}", timeout=30) as answer:
        return str(answer.read().decode())


def test_policies_labels_and_metrics(start_server: StartServer, protos: ServingProtos, models_folder: Path) -> None:
    for name in ("all", "latest", "one"):
        put_versions(models_folder, name, "1", "2", "3")
    labels = "".join(f"version_labels {{ key: '{label}' value: {version} }} " for label, version in VERSIONS.items())
    text = config_of(
        ("all", f"model_version_policy {{ all {{}} }} {labels}"),
        ("latest", "model_version_policy { latest { num_versions: 2 } }"),
        ("one", "model_version_policy { specific { versions: 2 versions: 9 } }"),
    )
    config = f"--model_config_file={put_file(models_folder, 'models.config', text)}"
    monitoring = put_file(models_folder, "monitoring.config", 'prometheus_config { enable: true path: "/a.b" }')
    server = start_server(models_folder, "ignored", config, LABELS, f"--monitoring_config_file={monitoring}")
    assert list(server.states("all").items()) == [("3", "AVAILABLE"), ("2", "AVAILABLE"), ("1", "AVAILABLE")]
    assert list(server.states("latest")) == ["3", "2"]
    assert list(server.states("one")) == ["2"]
    assert server.log().count("Version 9 of servable one, which was requested to be served") == 1

    ask = {"instances": [2.0]}
    by_label = {label: server.post(f"/v1/models/all/labels/{label}:predict", ask) for label in ("stable", "canary")}
    assert {label: answer.body["predictions"] for label, answer in by_label.items()} == {
        "stable": [OLD_ANSWER],
        "canary": [NEW_ANSWER],
    }
    assert server.predict("all", [2.0]) == [NEW_ANSWER], "without a label, the newest"
    assert server.predict("one", [2.0]) == [OLD_ANSWER]
    metadata = server.get("/v1/models/all/labels/stable/metadata").body
    assert metadata["model_spec"]["version"] == "1"
    status = server.get("/v1/models/all/labels/stable").body["model_version_status"]
    assert len(status) == 3, "as upstream: a label does not narrow the status"
    unknown = server.post("/v1/models/all/labels/old:predict", ask)
    assert (unknown.code, unknown.body["error"]) == (400, "Unrecognized servable version label: old")
    unloaded = server.post("/v1/models/all/labels/next:predict", ask)
    assert (unloaded.code, unloaded.body["error"]) == (404, "Servable not found for request: Specific(all, 4)")
    both = server.post("/v1/models/all/versions/1/labels/stable:predict", ask)
    assert (both.code, both.body["error"].partition(":")[0]) == (400, "Malformed request")

    request = protos.predict_request("one", [2.0])
    request.model_spec.version_label = "stable"
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        with pytest.raises(grpc.RpcError, match="Unrecognized servable version label: stable"):
            protos.call(channel, PREDICTION_SERVICE, "Predict", request)
        request.model_spec.name = "all"
        response = protos.call(channel, PREDICTION_SERVICE, "Predict", request)
        assert response.model_spec.version.value == 1
        request.model_spec.name = 'a"b\\c\nd'
        with pytest.raises(grpc.RpcError, match="INVALID_ARGUMENT"):
            protos.call(channel, PREDICTION_SERVICE, "Predict", request)

    counts = page(server, "/a.b").splitlines()
    assert counts[0] == "# TYPE :tensorflow:serving:request_count counter"
    # REST counts every request of a model, gRPC its predictions; `states` has asked once.
    assert ':tensorflow:serving:request_count{model_name="all",status="OK"} 7' in counts
    assert ':tensorflow:serving:request_count{model_name="all",status="NOT_FOUND"} 1' in counts
    assert ':tensorflow:serving:request_count{model_name="one",status="INVALID_ARGUMENT"} 1' in counts
    escaped = r':tensorflow:serving:request_count{model_name="a\"b\\c\nd",status="INVALID_ARGUMENT"} 1'
    assert escaped in counts, "as Prometheus' text format has it"
    assert server.get("/axb").code == 404, "a path is no pattern"

    (models_folder / "latest" / "3").rename(models_folder / "latest" / "4")
    server.wait_for_state("latest", "4", "AVAILABLE")
    server.wait_for_state("latest", "3", "END")
    assert server.states("latest")["2"] == "AVAILABLE"


def test_batching_holds_its_limit(start_server: StartServer, models_folder: Path) -> None:
    put_versions(models_folder, "half", "1")
    parameters = put_file(
        models_folder,
        "batching.config",
        "max_batch_size { value: 4 } batch_timeout_micros { value: 1000 } max_enqueued_batches { value: 100 } "
        "num_batch_threads { value: 2 } allowed_batch_sizes: 2 allowed_batch_sizes: 4",
    )
    server = start_server(models_folder, "half", "--enable_batching", f"--batching_parameters_file={parameters}")
    assert server.predict("half", [2.0] * 4) == [NEW_ANSWER] * 4
    for body, error in (
        ({"instances": [2.0] * 5}, "Task size 5 is larger than maximum input batch size 4"),
        ({"inputs": 2.0}, "Batching Run() input tensors must have at least one dimension"),
    ):
        answer = server.post("/v1/models/half:predict", body)
        assert (answer.code, answer.body["error"]) == (400, error)
    assert server.get("/monitoring/prometheus/metrics").code == 404, "no monitoring file was given"


def make_certificate(folder: Path, name: str) -> tuple[str, str]:
    """A key and a certificate that signs itself, in PEM."""
    key, certificate = folder / f"{name}.key", folder / f"{name}.pem"
    subject = ("-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2", "-nodes")
    kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    command = ["openssl", "req", "-x509", *kind, *subject, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, capture_output=True, check=True)
    return key.read_text(), certificate.read_text()


def test_grpc_over_tls_with_a_certificate_of_the_client(
    start_server: StartServer, protos: ServingProtos, models_folder: Path, tmp_path: Path
) -> None:
    put_versions(models_folder, "half", "1")
    key, certificate = make_certificate(tmp_path, "server")
    client_key, client_certificate = make_certificate(tmp_path, "client")
    values = {"server_key": key, "server_cert": certificate, "custom_ca": client_certificate}
    # JSON's texts are those of the text format.
    lines = [f"{name}: {json.dumps(text)}" for name, text in values.items()]
    ssl = put_file(models_folder, "ssl.config", "\n".join([*lines, "client_verify: true"]))
    server = start_server(models_folder, "half", f"--ssl_config_file={ssl}")
    assert "Using SSL credentials" in server.log()
    assert server.predict("half", [2.0]) == [NEW_ANSWER], "REST has no TLS"

    def predict(**known: bytes) -> float:
        credentials = grpc.ssl_channel_credentials(certificate.encode(), **known)
        with grpc.secure_channel(f"127.0.0.1:{server.grpc_port}", credentials) as channel:
            response = protos.call(channel, PREDICTION_SERVICE, "Predict", protos.predict_request("half", [2.0]))
            return float(response.outputs["y"].float_val[0])

    known = {"private_key": client_key.encode(), "certificate_chain": client_certificate.encode()}
    assert predict(**known) == NEW_ANSWER
    with pytest.raises(grpc.RpcError):
        predict()
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel, pytest.raises(grpc.RpcError):
        protos.call(channel, PREDICTION_SERVICE, "Predict", protos.predict_request("half", [2.0]))


MODEL_CONFIG, BATCHING = "--model_config_file=/models/", "--batching_parameters_file=/models/"
BROKEN = {
    "no_such_file": (MODEL_CONFIG, None, "NOT_FOUND: /models/no_such_file; No such file or directory"),
    "": (MODEL_CONFIG, None, "FAILED_PRECONDITION: /models/; Is a directory"),
    "misspelt": (
        MODEL_CONFIG,
        "model_config_list {\n  config { nmae: 'x' }\n}",
        'ModelServerConfig: 2:16: Message type "tensorflow.serving.ModelConfig" has no field named "nmae".',
    ),
    "labels": (
        MODEL_CONFIG,
        config_of(("x", "version_labels { key: 's' value: 1 }")),
        "FAILED_PRECONDITION: Request to assign label to version 1 of model x, which is not currently available",
    ),
    "twice": (
        MODEL_CONFIG,
        config_of(("x", ""), ("x", "")),
        "INVALID_ARGUMENT: Illegal to list model x multiple times in config list",
    ),
    "no_platform": (
        MODEL_CONFIG,
        "model_config_list { config { name: 'x' base_path: '/models/x' } }",
        "nor ModelServerConfig::model_platform, model name is x",
    ),
    "relative": (
        MODEL_CONFIG,
        "model_config_list { config { name: 'x' base_path: 'x' model_platform: 'tensorflow' } }",
        "Expected model x to have an absolute path or URI; got base_path()=x",
    ),
    "platform": (
        MODEL_CONFIG,
        "model_config_list { config { name: 'x' base_path: '/x' model_platform: 'other' } }",
        "INVALID_ARGUMENT: Model x requests unsupported platform other",
    ),
    "no_batching": (
        BATCHING,
        "max_batch_size { value: 8 }",
        "batching_parameters_file is set without setting server_options.enable_batching to true.",
    ),
    "sizes": (
        f"--enable_batching {BATCHING}",
        "max_batch_size { value: 8 } allowed_batch_sizes: 4",
        "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; expected 8",
    ),
    "no_size": (
        f"--enable_batching=1 {BATCHING}",
        "max_batch_size { value: 0 }",
        "max_batch_size must be positive; was 0",
    ),
    "flag": (f"--enable_batching=maybe {BATCHING}", "", "Couldn't interpret value maybe for flag --enable_batching"),
    "ssl": (
        "--ssl_config_file=/models/",
        "server_key: 'a' server_cert: 'b'",
        "Failed to BuildAndStart gRPC server",
    ),
    "monitoring": (
        "--monitoring_config_file=/models/",
        "prometheus_config { enable: 7 }",
        "INVALID_ARGUMENT: Invalid protobuf file: '/models/monitoring'",
    ),
}
"""File → flags that end in its name, what it holds, and what the server says of it."""


def test_a_broken_file_is_an_error(docker_client: DockerClient, sample_image: str, models_folder: Path) -> None:
    put_versions(models_folder, "half", "1")
    lines = []
    for name, (flags, text, _) in BROKEN.items():
        if text is not None:
            put_file(models_folder, name, text)
        lines.append(f"{BINARY} --rest_api_port=8501 --model_base_path=/models/half {flags}{name} 2>&1")
        lines.append("echo exit code $? ---")
    container = create(docker_client, sample_image, ["-c", "\n".join(lines)], models_folder, entrypoint="sh")
    try:
        container.start()
        container.wait(timeout=30)
        *said, rest = container.logs().decode().split(" ---\n")
    finally:
        container.remove(force=True, v=True)
    assert rest == ""
    for (name, (_, _, error)), log in zip(BROKEN.items(), said, strict=True):
        assert error in log, name
        assert log.endswith("exit code 1"), name
