"""The door to a running TensorFlow Serving server: REST and gRPC, with the same answers in the same types.

A client holds one connection and is for one thread at a time.
"""

from __future__ import annotations

from serving_factory.line.serving.grpc_client import GrpcClient
from serving_factory.line.serving.rest_client import RestClient
from serving_factory.line.serving.types import (
    ModelMetadata,
    ModelState,
    ServerAnswerError,
    ServerUnavailableError,
    ServingApiError,
    Signature,
    TensorSpec,
    VersionStatus,
)

__all__ = [
    "GrpcClient",
    "ModelMetadata",
    "ModelState",
    "RestClient",
    "ServerAnswerError",
    "ServerUnavailableError",
    "ServingApiError",
    "Signature",
    "TensorSpec",
    "VersionStatus",
]
