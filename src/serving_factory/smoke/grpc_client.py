"""gRPC client for a TensorFlow Serving server.

Source of services and methods: github.com/tensorflow/serving, `prediction_service.proto` and
`model_service.proto` in `tensorflow_serving/apis`; the messages are in messages.proto.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

import grpc
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import DecodeError, Message

from serving_factory.smoke import messages_pb2 as pb
from serving_factory.smoke.answers import (
    ANSWER_WITHIN,
    ModelMetadata,
    ServerAnswerError,
    ServerUnavailableError,
    Signature,
    VersionStatus,
)

# Upstream's full name of the message that comes packed as `Any` under metadata["signature_def"]
SIGNATURE_DEF_MAP = "tensorflow.serving.SignatureDefMap"
_STATUS_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
_GRPC_OPTIONS = (
    # The server has no limit (server.cc, SetMaxMessageSize); grpc's own, 4 MiB, is less than a picture.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A proxy of the environment must not be asked for a server on this machine.
    ("grpc.enable_http_proxy", 0),
    # Clients share no connection, so that each thread of a load test has its own.
    ("grpc.use_local_subchannel_pool", 1),
    # Answers may be as large as the server makes them; the client's own limit is 4 MiB.
    ("grpc.max_receive_message_length", -1),
)
_UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_M = TypeVar("_M", bound=Message)


class GrpcClient(AbstractContextManager["GrpcClient"]):
    """gRPC client over one channel without encryption."""

    def __init__(self, address: str, *, timeout: float = ANSWER_WITHIN) -> None:
        self._channel = grpc.insecure_channel(address, options=_GRPC_OPTIONS)
        self._address = address
        self._timeout = timeout

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel and end its threads."""
        self._channel.close()

    def predict(self, model: str, values: Sequence[float]) -> list[float]:
        """Send the values as the float tensor x of shape [n]; return those of y in row-major order."""
        return self._predict(model, values, [len(values)])

    def predict_rows(self, model: str, rows: Sequence[Sequence[float]]) -> list[float]:
        """Send rows of one length as the float tensor x of shape [rows, length]; return y as `predict` does."""
        return self._predict(model, [value for row in rows for value in row], [len(rows), len(rows[0])])

    def _predict(self, model: str, values: Sequence[float], sizes: Sequence[int]) -> list[float]:
        tensor = pb.TensorProto(dtype=pb.DT_FLOAT, tensor_shape=shape_of(sizes), float_val=values)
        outputs = self.predict_tensors(model, "serving_default", {"x": tensor})
        if "y" not in outputs:
            raise ServerAnswerError(f"malformed: no output y, only {sorted(outputs)}")
        return _floats(outputs["y"])

    def predict_tensors(
        self, model: str, signature: str, inputs: Mapping[str, pb.TensorProto]
    ) -> Mapping[str, pb.TensorProto]:
        """Send tensors to a signature; return its outputs by name."""
        spec = pb.ModelSpec(name=model, signature_name=signature)
        request = pb.PredictRequest(model_spec=spec, inputs=inputs)
        return self._call("PredictionService/Predict", request, pb.PredictResponse).outputs

    def model_status(self, model: str) -> list[VersionStatus]:
        """Return the state of every version; raises as `predict`."""
        request = pb.GetModelStatusRequest(model_spec=pb.ModelSpec(name=model))
        response = self._call("ModelService/GetModelStatus", request, pb.GetModelStatusResponse)
        return [_status(item) for item in response.model_version_status]

    def metadata(self, model: str) -> ModelMetadata:
        """Return the newest version's signatures; raises as `predict`."""
        request = pb.GetModelMetadataRequest(model_spec=pb.ModelSpec(name=model), metadata_field=["signature_def"])
        response = self._call("PredictionService/GetModelMetadata", request, pb.GetModelMetadataResponse)
        packed = response.metadata["signature_def"]
        if not packed.type_url.endswith(f"/{SIGNATURE_DEF_MAP}"):
            raise ServerAnswerError(f"malformed: metadata without signatures, type {packed.type_url!r}")
        signatures = _parse(pb.SignatureDefMap, packed.value).signature_def
        return ModelMetadata(
            response.model_spec.version.value,
            {
                name: Signature(_types(item.inputs), _types(item.outputs), _shapes(item.inputs))
                for name, item in signatures.items()
            },
        )

    def send(self, request: bytes) -> bytes:
        """Send a PredictRequest, and return the PredictResponse, both as they are; raises as `predict`."""
        return self._exchange("PredictionService/Predict", request)

    def _call(self, path: str, request: Message, response: type[_M]) -> _M:
        return _parse(response, self._exchange(path, request.SerializeToString()))

    def _exchange(self, path: str, request: bytes) -> bytes:
        # Bytes in and bytes out: grpc would write a traceback to the log when it cannot parse an answer.
        method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(f"/tensorflow.serving.{path}")
        try:
            return method(request, timeout=self._timeout)
        except grpc.RpcError as error:
            code, details = error.code(), error.details() or ""
            if code in _UNAVAILABLE:
                raise ServerUnavailableError(f"gRPC {self._address}: {code.name}: {details}") from error
            raise ServerAnswerError(f"{code.name}: {details}") from error


def shape_of(sizes: Sequence[int]) -> pb.TensorShapeProto:
    """Make a shape of its sizes."""
    return pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=size) for size in sizes])


def _parse(kind: type[_M], data: bytes) -> _M:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise ServerAnswerError(f"malformed: {len(data)} bytes that are no {kind.__name__}") from error


def _status(item: pb.ModelVersionStatus) -> VersionStatus:
    code = item.status.error_code
    error = f"{_STATUS_NAMES.get(code, code)}: {item.status.error_message}" if code else ""
    return VersionStatus(item.version, enum_name(pb.ModelVersionStatus.State, item.state), error)


def _floats(tensor: pb.TensorProto) -> list[float]:
    """Read a float tensor in each form of tensor.proto: typed values, raw bytes, one value for all."""
    if tensor.dtype != pb.DT_FLOAT:
        raise ServerAnswerError(f"malformed: an output of type {enum_name(pb.DataType, tensor.dtype)}, not DT_FLOAT")
    count = math.prod(dim.size for dim in tensor.tensor_shape.dim)
    if content := tensor.tensor_content:
        values = list(struct.unpack(f"<{len(content) // 4}f", content[: len(content) // 4 * 4]))
    else:
        values = list(tensor.float_val)
        if len(values) == 1:
            values *= count
    if len(values) != count:
        raise ServerAnswerError(f"malformed: {len(values)} values in a tensor for {count}")
    return values


def _types(tensors: Mapping[str, pb.TensorInfo]) -> dict[str, str]:
    return {name: enum_name(pb.DataType, tensor.dtype) for name, tensor in tensors.items()}


def _shapes(tensors: Mapping[str, pb.TensorInfo]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(dim.size for dim in tensor.tensor_shape.dim) for name, tensor in tensors.items()}


def enum_name(enum: EnumTypeWrapper, number: int) -> str:
    """Name an enum's number; newer servers may send one that is not known here."""
    return enum.Name(number) if number in enum.values() else str(number)
