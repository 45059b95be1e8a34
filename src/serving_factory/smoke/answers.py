"""What a TensorFlow Serving server answers, in types that both protocols share."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


DEFAULT_SIGNATURE = "serving_default"


class ServingApiError(Exception):
    """A request to the server did not give an answer that can be used."""


class ServerUnavailableError(ServingApiError):
    """No answer: connection refused, cut, or nothing within the time limit."""


class ServerAnswerError(ServingApiError):
    """The server answered with an error, or with something that is no answer to the request.

    Args:
        code: `HTTP 404`, a gRPC status such as `NOT_FOUND`, or `malformed`.
        text: the server's own words.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


class ModelState(StrEnum):
    """State of one version of a model (tensorflow.serving.ModelVersionStatus.State)."""

    UNKNOWN = "UNKNOWN"
    START = "START"
    LOADING = "LOADING"
    AVAILABLE = "AVAILABLE"
    UNLOADING = "UNLOADING"
    END = "END"


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """One version of a model, as the server reports it; `error_code` is a status name such as `NOT_FOUND`."""

    version: int
    state: ModelState
    error_code: str = "OK"
    error_message: str = ""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Type and shape of an input or output; -1 is an open dimension, shape None an unknown rank."""

    dtype: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Signature:
    """One way to call a model: its method name, inputs and outputs by name."""

    method: str
    inputs: Mapping[str, TensorSpec] = field(default_factory=dict)
    outputs: Mapping[str, TensorSpec] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What the server tells about the newest version of a model."""

    name: str
    version: int
    signatures: Mapping[str, Signature]
