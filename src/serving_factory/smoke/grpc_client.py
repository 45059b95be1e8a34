"""gRPC client for a TensorFlow Serving server.

Source of services and methods: github.com/tensorflow/serving, `prediction_service.proto` and
`model_service.proto` in `tensorflow_serving/apis`; the messages are in `serving_messages`.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any, Self

import grpc
from google.protobuf.message import DecodeError

from serving_factory.smoke.answers import (
    DEFAULT_SIGNATURE,
    ModelMetadata,
    ModelState,
    ServerAnswerError,
    ServerUnavailableError,
    Signature,
    TensorSpec,
    VersionStatus,
)
from serving_factory.smoke.messages import DATA_TYPES, MODEL_STATES, SIGNATURE_DEF_MAP, message_class

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType


_ERROR_CODES = {code.value[0]: code.name for code in grpc.StatusCode}
_GRPC_OPTIONS = (
    # A proxy of the environment must not be asked for a server on this machine.
    ("grpc.enable_http_proxy", 0),
    # Clients share no connection, so that each thread of a load test has its own.
    ("grpc.use_local_subchannel_pool", 1),
)
_UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


class GrpcClient:
    """gRPC client over one channel without encryption.

    Args:
        address: `host:port`.
        timeout: seconds that each call may take.
    """

    def __init__(self, address: str, *, timeout: float = 5.0) -> None:
        self._channel = grpc.insecure_channel(address, options=_GRPC_OPTIONS)
        self._address = address
        self._timeout = timeout

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel and end its threads."""
        self._channel.close()

    def predict(
        self,
        model: str,
        values: Sequence[float],
        *,
        version: int | None = None,
        signature: str = DEFAULT_SIGNATURE,
        input_name: str = "x",
        output_name: str = "y",
    ) -> list[float]:
        """Send the values as one float tensor of shape [n].

        Returns:
            The output tensor's values in row-major order.

        Raises:
            ServerUnavailableError: no answer.
            ServerAnswerError: an error status, or an answer without that output as floats.
        """
        request = _serving("PredictRequest", model_spec=_spec(model, version, signature))
        tensor = request.inputs[input_name]
        tensor.dtype = DATA_TYPES.index("DT_FLOAT")
        tensor.tensor_shape.dim.add(size=len(values))
        tensor.float_val.extend(values)
        response = self._call("PredictionService/Predict", request, "PredictResponse")
        if output_name not in response.outputs:
            raise ServerAnswerError("malformed", f"no output {output_name}, only {sorted(response.outputs)}")
        return _floats(response.outputs[output_name])

    def model_status(self, model: str) -> list[VersionStatus]:
        """Say the state of every version the server knows of; raises as `predict`."""
        response = self._call(
            "ModelService/GetModelStatus",
            _serving("GetModelStatusRequest", model_spec=_spec(model)),
            "GetModelStatusResponse",
        )
        states = {number: ModelState(name) for name, number in MODEL_STATES.items()}
        return [
            VersionStatus(
                item.version,
                states.get(item.state, ModelState.UNKNOWN),
                _ERROR_CODES.get(item.status.error_code, str(item.status.error_code)),
                item.status.error_message,
            )
            for item in response.model_version_status
        ]

    def metadata(self, model: str) -> ModelMetadata:
        """Say the newest version's signatures; raises as `predict`."""
        request = _serving("GetModelMetadataRequest", model_spec=_spec(model), metadata_field=["signature_def"])
        response = self._call("PredictionService/GetModelMetadata", request, "GetModelMetadataResponse")
        packed = response.metadata["signature_def"]
        if not packed.type_url.endswith(f"/{SIGNATURE_DEF_MAP}"):
            raise ServerAnswerError("malformed", f"metadata without signatures, type {packed.type_url!r}")
        signatures = _serving("SignatureDefMap")
        signatures.ParseFromString(packed.value)
        return ModelMetadata(
            response.model_spec.name,
            response.model_spec.version.value,
            {
                name: Signature(item.method_name, _specs(item.inputs), _specs(item.outputs))
                for name, item in signatures.signature_def.items()
            },
        )

    def _call(self, path: str, request: Any, response: str) -> Any:  # noqa: ANN401 - classes made at run time
        # Bytes in and bytes out: grpc would write a traceback to the log when it cannot parse an answer.
        method: Callable[..., bytes] = self._channel.unary_unary(f"/tensorflow.serving.{path}")
        try:
            data = method(request.SerializeToString(), timeout=self._timeout)
        except grpc.RpcError as error:
            code, details = error.code(), error.details() or ""
            if code in _UNAVAILABLE:
                raise ServerUnavailableError(f"gRPC {self._address}: {code.name}: {details}") from error
            raise ServerAnswerError(code.name, details) from error
        message = _serving(response)
        try:
            message.ParseFromString(data)
        except DecodeError as error:
            raise ServerAnswerError("malformed", f"{len(data)} bytes that are no {response}") from error
        return message


def _serving(name: str, /, **fields: object) -> Any:  # noqa: ANN401 - classes made at run time
    return message_class(f"tensorflow.serving.{name}")(**fields)


def _spec(model: str, version: int | None = None, signature: str = "") -> Any:  # noqa: ANN401 - as above
    spec = _serving("ModelSpec", name=model, signature_name=signature)
    if version is not None:
        spec.version.value = version
    return spec


def _floats(tensor: Any) -> list[float]:  # noqa: ANN401 - as above
    """Read a float tensor in each form of tensor.proto: typed values, raw bytes, one value for all."""
    dtype = _dtype_name(tensor.dtype)
    if dtype != "DT_FLOAT":
        raise ServerAnswerError("malformed", f"an output of type {dtype} where DT_FLOAT was due")
    count = math.prod(dim.size for dim in tensor.tensor_shape.dim)
    if tensor.tensor_content:
        content = bytes(tensor.tensor_content)
        values = list(struct.unpack(f"<{len(content) // 4}f", content[: len(content) // 4 * 4]))
    else:
        values = list(tensor.float_val)
        if len(values) == 1:
            values *= count
    if len(values) != count:
        raise ServerAnswerError("malformed", f"{len(values)} values in a tensor for {count}")
    return values


def _specs(tensors: Mapping[str, Any]) -> dict[str, TensorSpec]:
    return {
        name: TensorSpec(
            _dtype_name(item.dtype),
            None if item.tensor_shape.unknown_rank else tuple(dim.size for dim in item.tensor_shape.dim),
        )
        for name, item in tensors.items()
    }


def _dtype_name(number: int) -> str:
    return DATA_TYPES[number] if 0 <= number < len(DATA_TYPES) else str(number)
