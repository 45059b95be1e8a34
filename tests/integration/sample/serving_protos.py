"""The messages of the sample's own .proto files.

They live in a descriptor pool of their own: they come from nowhere but the sample's sources, and do not meet the
messages of the package's client, which this keeps honest.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_tools import protoc

Proto = Any
"""A message of a class that exists at run time only."""

TIMEOUT_SECONDS = 10.0
PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
MODEL_SERVICE = "tensorflow.serving.ModelService"


@dataclass(frozen=True)
class ServingProtos:
    """Messages and calls by their names."""

    pool: descriptor_pool.DescriptorPool

    @classmethod
    def compile(cls, workspace: Path, folder: Path) -> ServingProtos:
        """Compile all .proto files below the workspace; the folder takes the result."""
        output = folder / "descriptors.bin"
        sources = [str(path.relative_to(workspace)) for path in workspace.glob("tensorflow*/**/*.proto")]
        well_known = Path(protoc.__file__).parent / "_proto"
        arguments = [f"-I{workspace}", f"-I{well_known}", "--include_imports", f"--descriptor_set_out={output}"]
        assert protoc.main(["protoc", *arguments, *sources]) == 0
        pool = descriptor_pool.DescriptorPool()
        for file in descriptor_pb2.FileDescriptorSet.FromString(output.read_bytes()).file:
            pool.Add(file)
        return cls(pool)

    def message(self, name: str, **fields: object) -> Proto:
        """A new message: "PredictRequest" stands for "tensorflow.serving.PredictRequest"."""
        descriptor = self.pool.FindMessageTypeByName(name if "." in name else f"tensorflow.serving.{name}")
        return message_factory.GetMessageClass(descriptor)(**fields)

    def call(self, channel: grpc.Channel, service: str, method: str, request: Proto) -> Proto:
        """Call a method of a service with the request; the answer is its response, or grpc.RpcError."""
        descriptor = self.pool.FindServiceByName(service).FindMethodByName(method)
        response = message_factory.GetMessageClass(descriptor.output_type)
        call: grpc.UnaryUnaryMultiCallable[Proto, Proto] = channel.unary_unary(
            f"/{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )
        return call(request, timeout=TIMEOUT_SECONDS)

    def predict_request(self, model: str, values: list[float], version: int | None = None) -> Proto:
        """A request with the values as the one input x, of shape [n]."""
        request = self.message("PredictRequest")
        request.model_spec.name = model
        if version is not None:
            request.model_spec.version.value = version
        tensor = request.inputs["x"]
        tensor.dtype = 1
        tensor.tensor_shape.dim.add().size = len(values)
        tensor.float_val.extend(values)
        return request
