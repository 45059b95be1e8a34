"""Makes what a model is asked, of given sizes, by its own signature: pictures, encoded ones, or rows of numbers."""

from __future__ import annotations

import base64
import io
import itertools
import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from serving_factory.errors import FactoryError, UsageError
from serving_factory.smoke import messages_pb2 as pb
from serving_factory.smoke.answers import Signature

SIGNATURE = "serving_default"
PICTURE_SIZES, ROWS = (128, 256, 512), (1, 32)
_CODES = {"DT_FLOAT": "f", "DT_DOUBLE": "d", "DT_INT32": "i", "DT_INT64": "q", "DT_UINT8": "B"}
_FLOATS = ("DT_FLOAT", "DT_DOUBLE")
_STRING = "DT_STRING"
_FORMATS = ("PNG", "JPEG")
_MOST_NUMBERS = 2**26  # 4096 by 4096 pixels of RGB are fewer; as JSON they have 300 MB


@dataclass(frozen=True, slots=True)
class Input:
    """One request in both protocols: a PredictRequest, and a body of JSON."""

    name: str  # such as `256² PNG`, `256²` or `32 rows`
    grpc: bytes
    rest: bytes


def inputs_for(model: str, signature: Signature, sizes: Sequence[int]) -> list[Input]:
    """Make an input of each size (or of the usual ones); raises UsageError where a signature takes something else.

    A size is the length of every open dimension but the first, as of a picture's height and width; the number of rows
    where only the first is open; and the height and width of an encoded picture where the model takes one string.
    """
    if [*signature.inputs.values()] == [_STRING]:
        (name,) = signature.inputs
        return [_encoded(model, name, size, form) for size in sizes or PICTURE_SIZES for form in _FORMATS]
    if foreign := {name: kind for name, kind in signature.inputs.items() if kind not in _CODES}:
        raise UsageError(
            f"the model's inputs cannot be made: {', '.join(f'{name} is {kind}' for name, kind in foreign.items())}",
            why=f"known are {', '.join(_CODES)}, and one encoded picture as {_STRING}",
            remedy="name another --model, or leave it out for a picture model",
        )
    pictures = any(-1 in shape[1:] for shape in signature.shapes.values())
    return [
        _numbers(model, signature, size, pictures=pictures) for size in sizes or (PICTURE_SIZES if pictures else ROWS)
    ]


def _numbers(model: str, signature: Signature, size: int, *, pictures: bool) -> Input:
    tensors, rows, lengths = {}, {}, set[int]()
    for name, kind in signature.inputs.items():
        first, *others = signature.shapes[name] or (-1,)
        open_first = 1 if pictures else size
        shape = [open_first if first < 0 else first, *(size if one < 0 else one for one in others)]
        if math.prod(shape) > _MOST_NUMBERS:
            raise UsageError(
                f"`--sizes {size}`: the input {name} would be {shape}, more than {_MOST_NUMBERS:,} numbers",
                remedy="give smaller --sizes",
            )
        last = [number for number, _ in zip(_pattern(kind), range(shape[-1]), strict=False)]
        content = struct.pack(f"<{len(last)}{_CODES[kind]}", *last) * math.prod(shape[:-1])
        tensors[name] = pb.TensorProto(dtype=kind, tensor_shape=_shape(shape), tensor_content=content)
        rows[name] = json.dumps(last[0]) if len(shape) == 1 else _repeated(json.dumps(last), shape[1:-1])
        lengths.add(shape[0])
    if len(lengths) > 1:
        raise UsageError(
            "the model's inputs have not the same number of rows",
            why=", ".join(f"{name} is {list(shape)}" for name, shape in signature.shapes.items()),
            remedy="name another --model, or leave it out for a picture model",
        )
    return _input(f"{size}²" if pictures else f"{size} row{'s' * (size > 1)}", model, tensors, rows, lengths.pop())


def _pattern(kind: str) -> Iterator[float]:
    """Some numbers over and over; zeros where they may be indices."""
    return itertools.cycle([((7 * n) % 13 - 6) / 8 for n in range(13)] if kind in _FLOATS else [0])


def _repeated(text: str, shape: Sequence[int]) -> str:
    for length in reversed(shape):
        text = f"[{','.join([text] * length)}]"
    return text


def _encoded(model: str, name: str, size: int, form: str) -> Input:
    data = picture(size, form)
    tensor = pb.TensorProto(dtype=pb.DT_STRING, tensor_shape=_shape([1]), string_val=[data])
    row = json.dumps({"b64": base64.b64encode(data).decode()})
    return _input(f"{size}² {form}", model, {name: tensor}, {name: row}, 1)


def picture(size: int, form: str) -> bytes:
    """A picture as PNG or JPEG: a gradient with the noise of a photograph, without which a PNG would be tiny."""
    try:
        from PIL import Image
    except ImportError:
        raise FactoryError(
            "PNG and JPEG pictures need Pillow, which is not installed",
            remedy="./factory setup, or in this checkout: pip install '.[report]'",
        ) from None
    gradient, noise = Image.radial_gradient("L").resize((size, size)), Image.effect_noise((size, size), 40)
    channels = [Image.blend(turned, noise, 0.1) for turned in (gradient, gradient.rotate(90), gradient.rotate(180))]
    file = io.BytesIO()
    Image.merge("RGB", channels).save(file, form)
    return file.getvalue()


def _shape(sizes: Sequence[int]) -> pb.TensorShapeProto:
    return pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=size) for size in sizes])


def _input(
    label: str, model: str, tensors: Mapping[str, pb.TensorProto], rows: Mapping[str, str], length: int
) -> Input:
    spec = pb.ModelSpec(name=model, signature_name=SIGNATURE)
    request = pb.PredictRequest(model_spec=spec, inputs=tensors)
    # Rows, and the only input's without its name: the first releases with REST, such as 1.9.1, take nothing else.
    named = ",".join(f"{json.dumps(name)}:{row}" for name, row in rows.items())
    row = f"{{{named}}}" if len(rows) > 1 else next(iter(rows.values()))
    return Input(label, request.SerializeToString(), f'{{"instances":{_repeated(row, [length])}}}'.encode())
