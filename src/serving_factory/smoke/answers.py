"""What a TensorFlow Serving server answers, in types that both protocols share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ANSWER_WITHIN = 5.0  # seconds, for models that answer in milliseconds


class ServingApiError(Exception):
    """A request to the server gave no usable answer."""


class ServerUnavailableError(ServingApiError):
    """No answer: connection refused or cut, or nothing within the time limit."""


class ServerAnswerError(ServingApiError):
    """The server answered with an error, or with something that does not answer the request."""


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """One version of a model: its state by upstream's name, and its error, empty where there is none."""

    version: int
    state: str
    error: str = ""

    @property
    def available(self) -> bool:
        """Whether it serves."""
        return self.state == "AVAILABLE" and not self.error

    def __str__(self) -> str:
        return f"version {self.version} {self.state}" + (f" ({self.error})" if self.error else "")


@dataclass(frozen=True, slots=True)
class Signature:
    """Name -> data type, such as `DT_FLOAT`, of the tensors that a signature takes and gives."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    # name -> shape of each input, -1 where a dimension is open; empty where the server was asked over REST
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What the server says of the newest version of a model."""

    version: int
    signatures: Mapping[str, Signature]
