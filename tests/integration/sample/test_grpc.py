"""The gRPC API: upstream's services, messages and codes."""

from __future__ import annotations

import struct

import grpc
import pytest

from .sample_server import SampleServer
from .serving_protos import MODEL_SERVICE, PREDICTION_SERVICE, ServingProtos

AVAILABLE = 30


def test_predict(channel: grpc.Channel, protos: ServingProtos) -> None:
    response = protos.call(
        channel, PREDICTION_SERVICE, "Predict", protos.predict_request("half_plus_two", [1.0, 2.0, 5.0])
    )
    assert list(response.outputs["y"].float_val) == [2.5, 3.0, 4.5]
    assert [dim.size for dim in response.outputs["y"].tensor_shape.dim] == [3]
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("half_plus_two", 123, "serving_default")


def test_predict_with_tensor_content(channel: grpc.Channel, protos: ServingProtos) -> None:
    request = protos.predict_request("half_plus_two", [0.0, 0.0])
    request.inputs["x"].ClearField("float_val")
    request.inputs["x"].tensor_content = struct.pack("<2f", 1.0, -4.0)
    response = protos.call(channel, PREDICTION_SERVICE, "Predict", request)
    assert list(response.outputs["y"].float_val) == [2.5, 0.0]


def test_one_value_stands_for_all(channel: grpc.Channel, protos: ServingProtos) -> None:
    request = protos.predict_request("half_plus_two", [2.0])
    request.inputs["x"].tensor_shape.dim[0].size = 3
    response = protos.call(channel, PREDICTION_SERVICE, "Predict", request)
    assert list(response.outputs["y"].float_val) == [3.0, 3.0, 3.0]


def test_output_filter(channel: grpc.Channel, protos: ServingProtos) -> None:
    request = protos.predict_request("half_plus_two", [2.0])
    request.output_filter.append("y")
    assert list(protos.call(channel, PREDICTION_SERVICE, "Predict", request).outputs) == ["y"]


def test_metadata(channel: grpc.Channel, protos: ServingProtos) -> None:
    request = protos.message("GetModelMetadataRequest", metadata_field=["signature_def"])
    request.model_spec.name = "half_plus_two"
    response = protos.call(channel, PREDICTION_SERVICE, "GetModelMetadata", request)
    packed = response.metadata["signature_def"]
    assert packed.type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    signatures = protos.message("SignatureDefMap")
    signatures.ParseFromString(packed.value)
    signature = signatures.signature_def["serving_default"]
    assert signature.method_name == "tensorflow/serving/predict"
    assert (signature.inputs["x"].name, signature.outputs["y"].name) == ("x:0", "y:0")


def test_status(channel: grpc.Channel, protos: ServingProtos) -> None:
    request = protos.message("GetModelStatusRequest")
    request.model_spec.name = "half_plus_two"
    (status,) = protos.call(channel, MODEL_SERVICE, "GetModelStatus", request).model_version_status
    assert (status.version, status.state, status.status.error_code) == (123, AVAILABLE, 0)


def test_status_of_an_unknown_model(channel: grpc.Channel, protos: ServingProtos) -> None:
    request = protos.message("GetModelStatusRequest")
    request.model_spec.name = "nope"
    with pytest.raises(grpc.RpcError) as problem:
        protos.call(channel, MODEL_SERVICE, "GetModelStatus", request)
    assert problem.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"model": "nope"}, grpc.StatusCode.NOT_FOUND, "Servable not found for request: Latest(nope)"),
        ({"version": 9}, grpc.StatusCode.NOT_FOUND, "Servable not found for request: Specific(half_plus_two, 9)"),
        ({"signature": "q"}, grpc.StatusCode.FAILED_PRECONDITION, 'Serving signature key "q" not found.'),
        ({"input": "z"}, grpc.StatusCode.INVALID_ARGUMENT, "input size does not match signature: 2!=1 len({x,z})"),
        ({"output": "z"}, grpc.StatusCode.INVALID_ARGUMENT, "output tensor alias not found in signature: z"),
        ({"dtype": 2}, grpc.StatusCode.INVALID_ARGUMENT, "Expects a tensor of DT_FLOAT but DT_DOUBLE is provided"),
        ({"size": -1}, grpc.StatusCode.INVALID_ARGUMENT, "Shape [-1] is negative"),
        ({"size": 2**62}, grpc.StatusCode.INVALID_ARGUMENT, "Shape [4611686018427387904] is negative or above"),
        ({"size": 0}, grpc.StatusCode.INVALID_ARGUMENT, "A tensor's values do not fit into its shape [0]"),
    ],
)
def test_errors_of_predict(
    channel: grpc.Channel, protos: ServingProtos, change: dict[str, object], code: grpc.StatusCode, message: str
) -> None:
    request = protos.predict_request(str(change.get("model", "half_plus_two")), [1.0])
    tensor = request.inputs["x"]
    match change:
        case {"version": int(version)}:
            request.model_spec.version.value = version
        case {"signature": str(signature)}:
            request.model_spec.signature_name = signature
        case {"input": str(alias)}:
            request.inputs[alias].CopyFrom(tensor)
        case {"output": str(alias)}:
            request.output_filter.append(alias)
        case {"dtype": int(dtype)}:
            tensor.dtype = dtype
        case {"size": int(size)}:
            tensor.tensor_shape.dim[0].size = size
    with pytest.raises(grpc.RpcError) as problem:
        protos.call(channel, PREDICTION_SERVICE, "Predict", request)
    assert problem.value.code() is code
    assert (problem.value.details() or "").startswith(message)


def test_both_inputs_serve_the_same_model(
    sample_server: SampleServer, channel: grpc.Channel, protos: ServingProtos
) -> None:
    values = [-3.5, 0.0, 1e-3, 123456.0]
    response = protos.call(channel, PREDICTION_SERVICE, "Predict", protos.predict_request("half_plus_two", values))
    from_rest = sample_server.predict("half_plus_two", values)
    assert struct.pack("<4f", *from_rest) == struct.pack("<4f", *response.outputs["y"].float_val)
