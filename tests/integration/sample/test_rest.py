"""The REST API: upstream's shapes, error bodies and codes."""

from __future__ import annotations

import pytest

from .sample_server import SampleServer

PREDICT = "/v1/models/half_plus_two:predict"


@pytest.mark.parametrize(
    ("request_body", "response_body"),
    [
        ({"instances": [1.0, 2.0, 5.0]}, {"predictions": [2.5, 3.0, 4.5]}),
        ({"instances": [1, 2, 5]}, {"predictions": [2.5, 3.0, 4.5]}),
        ({"instances": [[1.0], [2.0], [5.0]]}, {"predictions": [[2.5], [3.0], [4.5]]}),
        ({"instances": [{"x": 1.0}, {"x": 2.0}]}, {"predictions": [2.5, 3.0]}),
        ({"inputs": [1.0, 2.0, 5.0]}, {"outputs": [2.5, 3.0, 4.5]}),
        ({"inputs": {"x": [[1.0], [2.0]]}}, {"outputs": [[2.5], [3.0]]}),
        ({"inputs": 0.1}, {"outputs": 2.05}),
        ({"signature_name": "serving_default", "instances": [1.0]}, {"predictions": [2.5]}),
    ],
)
def test_predict(sample_server: SampleServer, request_body: object, response_body: object) -> None:
    answer = sample_server.post(PREDICT, request_body)
    assert (answer.code, answer.body) == (200, response_body)


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", "application/json"])
def test_a_long_body_of_any_type(sample_server: SampleServer, content_type: str) -> None:
    """The first is what `curl -d` sends."""
    answer = sample_server.post(PREDICT, {"instances": [2.0] * 5000}, content_type)
    assert (answer.code, answer.body) == (200, {"predictions": [3.0] * 5000})


@pytest.mark.parametrize("content_type", ["multipart/form-data; boundary=x", "multipart/form-data"])
def test_a_form_of_parts_is_malformed(sample_server: SampleServer, content_type: str) -> None:
    body = '--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--x--\r\n'
    assert sample_server.post(PREDICT, body, content_type).code == 400


def test_predict_of_one_version(sample_server: SampleServer) -> None:
    answer = sample_server.post("/v1/models/half_plus_two/versions/123:predict", {"instances": [2.0]})
    assert (answer.code, answer.body) == (200, {"predictions": [3.0]})


@pytest.mark.parametrize("path", ["/v1/models/half_plus_two", "/v1/models/half_plus_two/versions/123"])
def test_status(sample_server: SampleServer, path: str) -> None:
    answer = sample_server.get(path)
    status = {"version": "123", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert (answer.code, answer.body) == (200, {"model_version_status": [status]})


def test_metadata(sample_server: SampleServer) -> None:
    answer = sample_server.get("/v1/models/half_plus_two/metadata")
    shape = {"dim": [{"size": "-1", "name": ""}, {"size": "1", "name": ""}], "unknown_rank": False}
    assert answer.code == 200
    assert answer.body["model_spec"] == {"name": "half_plus_two", "signature_name": "", "version": "123"}
    assert answer.body["metadata"]["signature_def"]["signature_def"]["serving_default"] == {
        "inputs": {"x": {"dtype": "DT_FLOAT", "tensor_shape": shape, "name": "x:0"}},
        "outputs": {"y": {"dtype": "DT_FLOAT", "tensor_shape": shape, "name": "y:0"}},
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }


@pytest.mark.parametrize(
    ("path", "body", "code", "message"),
    [
        ("/v1/models/nope:predict", {"instances": [1.0]}, 404, "Servable not found for request: Latest(nope)"),
        (
            "/v1/models/half_plus_two/versions/9:predict",
            {"instances": [1.0]},
            404,
            "Servable not found for request: Specific(half_plus_two, 9)",
        ),
        (PREDICT, '{"instances": [1.0', 400, "JSON Parse error: "),
        (PREDICT, "", 400, "JSON Parse error: The document is empty"),
        (PREDICT, "[1.0]", 400, "JSON Value: [1.0] Is not object"),
        (PREDICT, {}, 400, "Missing 'inputs' or 'instances' key"),
        (PREDICT, {"inputs": [1.0], "instances": [1.0]}, 400, "JSON Value: "),
        (PREDICT, {"instances": []}, 400, "JSON Value: [] No values in 'instances' array"),
        (PREDICT, {"instances": ["a"]}, 400, 'JSON Value: "a" is not of expected type: float'),
        (PREDICT, {"instances": [1e39]}, 400, "Cannot convert JSON Value: 1e+39 to float"),
        (PREDICT, {"instances": [16777216]}, 400, "Cannot convert JSON Value: 16777216 to float"),
        (PREDICT, {"instances": [[1.0], [1.0, 2.0]]}, 400, "Encountered list at unexpected size: 2"),
        (PREDICT, {"instances": [[1.0], 2.0]}, 400, "JSON Value: 2.0 found at incorrect level: 2"),
        (PREDICT, {"instances": [{"x": 1.0}, {"z": 1.0}]}, 400, "Failed to process element: 1"),
        (PREDICT, {"inputs": {"z": 1.0}}, 400, "Missing named input: x in 'inputs' object."),
        (PREDICT, "[" * 200_000, 400, "JSON Parse error: nested too deep: over 254"),
        (PREDICT, "[" * 200_000 + "]" * 200_000, 400, "JSON Parse error: nested too deep: over 254"),
        (PREDICT, '{"a":' * 200_000 + "1" + "}" * 200_000, 400, "JSON Parse error: nested too deep: over 254"),
        (PREDICT, '{"inputs":' + "[" * 1000 + "]" * 1000 + "}", 400, "JSON Parse error: nested too deep: over 254"),
        (
            PREDICT,
            {"signature_name": "other", "instances": [1.0]},
            400,
            'Serving signature name: "other" not found in signature def',
        ),
        ("/v1/models/half_plus_two:guess", {"instances": [1.0]}, 400, "Malformed request: POST "),
        ("/v1/models/half_plus_two", {}, 400, "Malformed request: POST "),
    ],
)
def test_errors_of_predict(sample_server: SampleServer, path: str, body: object, code: int, message: str) -> None:
    answer = sample_server.post(path, body)
    assert answer.code == code
    assert list(answer.body) == ["error"]
    assert answer.body["error"].startswith(message)


@pytest.mark.parametrize(
    ("path", "code", "message"),
    [
        ("/v1/models/nope", 404, "Could not find any versions of model nope"),
        ("/v1/models/half_plus_two/versions/9", 404, "Could not find version 9 of model half_plus_two"),
        ("/v1/models/nope/metadata", 404, "Servable not found for request: Latest(nope)"),
        ("/v1/models", 400, "Missing model name in request."),
        ("/v1/models/half_plus_two/versions/new", 400, "Malformed request: GET /v1/models/half_plus_two/versions/new"),
        (PREDICT, 400, f"Malformed request: GET {PREDICT}"),
    ],
)
def test_errors_of_get(sample_server: SampleServer, path: str, code: int, message: str) -> None:
    answer = sample_server.get(path)
    assert (answer.code, answer.body) == (code, {"error": message})


def test_a_path_outside_the_api_is_not_found(sample_server: SampleServer) -> None:
    assert sample_server.get("/").code == 404


def test_another_method_is_malformed(sample_server: SampleServer) -> None:
    answer = sample_server.put("/v1/models/half_plus_two")
    assert (answer.code, answer.body) == (400, {"error": "Malformed request: PUT /v1/models/half_plus_two"})
