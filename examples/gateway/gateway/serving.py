"""The model server, over gRPC: predictions, the model's input, its status."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import TypeVar

import grpc
import numpy as np
from google.protobuf.message import Message
from prometheus_client import Counter

from gateway import serving_pb2 as pb
from gateway.processing import Input, RefusedError
from gateway.settings import Settings
from gateway.tensors import Array, UnknownTypeError, from_proto, numpy_type, to_proto

_PREDICTION, _MODEL = "/tensorflow.serving.PredictionService", "/tensorflow.serving.ModelService"
_FIRST_PAUSE = 0.05  # seconds before the second attempt; doubled each time
_NO_LIMIT = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
# gRPC's status -> what the client is answered: its own mistake, or which kind of trouble the server has
_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 503,
}
_Response = TypeVar("_Response", bound=Message)
_RETRIES = Counter("gateway_retries_total", "Calls to the model server that were made again")


class Serving:
    """A connection to the model server."""

    def __init__(self, settings: Settings, address: str) -> None:
        self._settings = settings
        self._channel = grpc.aio.insecure_channel(address, options=_NO_LIMIT)
        self._spec = pb.ModelSpec(name=settings.model)
        self._input: tuple[Input, int] | None = None

    async def close(self) -> None:
        """End the connection."""
        await self._channel.close()

    async def model_input(self) -> Input:
        """The model's input, asked once; RefusedError."""
        return (await self._known_input())[0]

    async def predict(self, rows: Array) -> Mapping[str, Array]:
        """Predict a batch; RefusedError with the status for the client."""
        known, dtype = await self._known_input()
        request = pb.PredictRequest(model_spec=self._spec, inputs={known.name: to_proto(rows, dtype)})
        request.model_spec.signature_name = self._settings.signature
        try:
            response = await self._call(f"{_PREDICTION}/Predict", request, pb.PredictResponse)
        except RefusedError:
            self._input = None  # another version of the model may have another input
            raise
        try:
            return {name: from_proto(tensor) for name, tensor in sorted(response.outputs.items())}
        except UnknownTypeError as error:
            raise RefusedError(502, str(error)) from None

    async def available(self) -> bool:
        """Whether a version of the model is AVAILABLE."""
        request = pb.GetModelStatusRequest(model_spec=self._spec)
        try:
            answer = await self._call(f"{_MODEL}/GetModelStatus", request, pb.GetModelStatusResponse, attempts=1)
        except RefusedError:
            return False
        return any(one.state == pb.ModelVersionStatus.AVAILABLE for one in answer.model_version_status)

    async def _known_input(self) -> tuple[Input, int]:
        if self._input is None:
            request = pb.GetModelMetadataRequest(model_spec=self._spec, metadata_field=["signature_def"])
            answer = await self._call(f"{_PREDICTION}/GetModelMetadata", request, pb.GetModelMetadataResponse)
            signatures = pb.SignatureDefMap.FromString(answer.metadata["signature_def"].value)
            self._input = _input_of(signatures, self._settings)
        return self._input

    async def _call(self, method: str, request: Message, response: type[_Response], attempts: int = 0) -> _Response:
        call = self._channel.unary_unary(
            method, request_serializer=type(request).SerializeToString, response_deserializer=response.FromString
        )
        end = asyncio.get_running_loop().time() + self._settings.deadline
        pause = _FIRST_PAUSE
        for last in (attempt == 1 for attempt in range(attempts or self._settings.attempts, 0, -1)):
            left = end - asyncio.get_running_loop().time()
            try:
                return await call(request, timeout=max(left, 0.001))
            except grpc.aio.AioRpcError as error:
                # Of all statuses, this one alone says that the request was not begun.
                if last or error.code() is not grpc.StatusCode.UNAVAILABLE or left <= pause:
                    raise RefusedError(_STATUS.get(error.code(), 502), _reason(error)) from None
            _RETRIES.inc()
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - no secret
            pause *= 2
        raise AssertionError  # the last attempt returns or raises


def _input_of(signatures: pb.SignatureDefMap, settings: Settings) -> tuple[Input, int]:
    signature = signatures.signature_def.get(settings.signature)
    if signature is None:
        known = ", ".join(sorted(signatures.signature_def)) or "none"
        raise RefusedError(502, f"the model has no signature {settings.signature}; it has {known}")
    if len(signature.inputs) != 1:
        raise RefusedError(502, f"the signature has {len(signature.inputs)} inputs, and this gateway fills one")
    ((name, info),) = signature.inputs.items()
    try:
        kind = numpy_type(info.dtype)
    except UnknownTypeError as error:
        raise RefusedError(502, str(error)) from None
    shape = tuple(dim.size for dim in info.tensor_shape.dim)
    return Input(name=name, kind=kind if info.dtype != pb.DT_STRING else np.bytes_, shape=shape), info.dtype


def _reason(error: grpc.aio.AioRpcError) -> str:
    return f"the model server: {error.code().name}: {(error.details() or '').partition(chr(10))[0][:300]}"
