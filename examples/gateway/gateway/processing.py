"""What is done with a request before the model, and with its answer behind it: the file to change for your own model.

Both functions run in a worker thread. They raise `RefusedError` for what the client has to do otherwise.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from gateway.settings import Settings
from gateway.tensors import Array

_IMAGES = {"image/png": "PNG", "image/jpeg": "JPEG"}


class RefusedError(Exception):
    """A request that cannot be served as it is, with its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Input:
    """The model's input."""

    name: str
    kind: type  # of numpy; `np.bytes_` where the model decodes images itself
    shape: Sequence[int]  # the batch first; -1 where any size will do; empty where unknown


def preprocess(body: bytes, content_type: str, expected: Input, settings: Settings) -> Array:
    """Make the model's input of a request's body; the first dimension is the batch."""
    if content_type == "application/json":
        return _from_json(body, expected)
    if content_type in _IMAGES:
        return _from_image(body, _IMAGES[content_type], expected, settings)
    known = ", ".join(["application/json", *_IMAGES])
    raise RefusedError(415, f"Content-Type is {content_type or 'missing'}; it must be one of {known}")


def postprocess(outputs: Mapping[str, Array]) -> object:
    """Make the answer's JSON of the model's outputs: as TensorFlow Serving's REST has it."""
    rows = {name: array.tolist() for name, array in outputs.items()}
    if len(rows) == 1:
        return {"predictions": next(iter(rows.values()))}
    return {"predictions": [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)]}


def _from_json(body: bytes, expected: Input) -> Array:
    try:
        instances = json.loads(body)["instances"]
        array: Array = np.asarray(instances, dtype=expected.kind)
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        text = f'the body must be {{"instances": [...]}} with rows of {expected.kind.__name__}, all of one shape'
        raise RefusedError(400, text) from None
    if array.ndim == 0 or array.size == 0:
        raise RefusedError(400, "`instances` must be a list with at least one row")
    return array


def _from_image(body: bytes, file_format: str, expected: Input, settings: Settings) -> Array:
    try:
        with Image.open(io.BytesIO(body), formats=[file_format]) as image:
            pixels = image.width * image.height  # of the header: nothing is decoded yet
            if pixels > settings.max_pixels:
                raise RefusedError(413, f"the image has {pixels} pixels; {settings.max_pixels} are allowed")
            if expected.kind is np.bytes_:
                return np.array([body], object)
            height, width, channels = _size(expected, settings)
            fitted = image.convert("L" if channels == 1 else "RGB").resize((width, height))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise RefusedError(400, f"the body is no {file_format} image that can be decoded") from None
    array: Array = np.asarray(fitted, np.float32).reshape(1, height, width, channels)
    if np.issubdtype(expected.kind, np.floating):
        array = array / 255
    if len(expected.shape) == 2:  # noqa: PLR2004 - a model of flat rows
        array = array.reshape(1, -1)
    return array.astype(expected.kind)


def _size(expected: Input, settings: Settings) -> tuple[int, int, int]:
    if settings.image:
        return settings.image
    if len(expected.shape) == 4 and min(expected.shape[1:]) > 0 and expected.shape[3] in {1, 3}:  # noqa: PLR2004
        return expected.shape[1], expected.shape[2], expected.shape[3]
    raise RefusedError(415, "the model's input has no image's shape; set IMAGE=HEIGHTxWIDTHxCHANNELS, or send JSON")
