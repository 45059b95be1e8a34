"""The gateway's settings, read from the environment once, at its start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Mode(Enum):
    """Where the model server is."""

    TFSERVING = "tfserving"  # at SERVING, another container
    SINGLE = "single"  # a child process of the gateway, in an image that has the server


class SettingsError(Exception):
    """What is wrong with the environment, a line for each variable."""


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError("must be seconds greater than 0")
    return value


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise ValueError("must be a whole number greater than 0")
    return int(text)


def _mode(text: str) -> Mode:
    try:
        return Mode(text)
    except ValueError:
        raise ValueError(f"must be one of {', '.join(one.value for one in Mode)}") from None


def _image(text: str) -> tuple[int, int, int]:
    parts = text.split("x")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) for part in parts) or parts[2] not in {"1", "3"}:  # noqa: PLR2004
        raise ValueError("must be HEIGHTxWIDTHxCHANNELS with 1 or 3 channels, such as 224x224x3")
    return int(parts[0]), int(parts[1]), int(parts[2])


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:  # noqa: PLR2004
        raise ValueError("must be a port from 1 to 65535")
    return int(text)


@dataclass(frozen=True)
class Settings:
    """What the variables say; README.md has their table."""

    mode: Mode = Mode.TFSERVING
    serving: str = "localhost:8500"  # HOST:PORT of the server's gRPC
    model: str = "model"
    model_base_path: str = "/models"  # of MODE=single
    signature: str = "serving_default"
    image: tuple[int, int, int] | None = None  # height, width, channels; None for the model's own
    port: int = 8080
    deadline: float = 2.0  # seconds of a call to the server, further attempts included
    attempts: int = 3
    max_requests: int = 256  # at once
    max_body: int = 10 * 2**20  # bytes
    max_pixels: int = 25_000_000
    batch_rows: int = 1  # of a call to the server; 1: each request has a call of its own
    batch_delay: float = 0.002  # seconds to wait for further rows
    drain: float = 10.0  # seconds that requests have to end, once the gateway is to end


_VARIABLES: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "MODE": ("mode", _mode),
    "SERVING": ("serving", str),
    "MODEL_NAME": ("model", str),
    "MODEL_BASE_PATH": ("model_base_path", str),
    "SIGNATURE": ("signature", str),
    "IMAGE": ("image", _image),
    "GATEWAY_PORT": ("port", _port),
    "DEADLINE_SECONDS": ("deadline", _seconds),
    "ATTEMPTS": ("attempts", _count),
    "MAX_REQUESTS": ("max_requests", _count),
    "MAX_BODY_BYTES": ("max_body", _count),
    "MAX_PIXELS": ("max_pixels", _count),
    "BATCH_ROWS": ("batch_rows", _count),
    "BATCH_DELAY_SECONDS": ("batch_delay", _seconds),
    "DRAIN_SECONDS": ("drain", _seconds),
}


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Read all variables, an empty one as its default; SettingsError names every one that is wrong."""
    values: dict[str, Any] = {}
    wrong = []
    for variable, (name, read) in _VARIABLES.items():
        if text := environment.get(variable):
            try:
                values[name] = read(text)
            except ValueError as error:
                wrong.append(f"{variable} {error}, and is {text!r}")
    if wrong:
        raise SettingsError("\n".join(wrong))
    return Settings(**values)
