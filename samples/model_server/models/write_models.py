#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write the sample's SavedModels, or check that the committed ones are what this script writes.

    write_models.py [--check] [FOLDER]

No TensorFlow and no protobuf package: the few messages of a SavedModel are written in protobuf's wire format here,
fields in ascending order and map entries sorted by key, so that the same script gives the same bytes everywhere.
Attributes that hold an op's default are left out, so that servers of any age load the files.
"""

from __future__ import annotations

import argparse
import itertools
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

DT_FLOAT, DT_INT32, DT_UINT8, DT_STRING = 1, 3, 4, 7
UNKNOWN_SIZE = -1
SCHEMA_VERSION = 1
GRAPH_PRODUCER = 23
"""Upstream's own half_plus_two has it: old enough for every server that reads a SavedModel."""

DENSE_SIZES = (256, 512, 512, 10)
DENSE_SEED = 20190613
PICTURE_CHANNELS = (3, 16, 32)
PICTURE_SEED = 20180412
PICTURE_CLASSES = 10

Shape = Sequence[int]


# -- protobuf's wire format --


MORE = 0x80
"""The bit that says that another group of seven bits follows."""


def varint(value: int) -> bytes:
    """An integer in groups of seven bits; a negative one as 64 bits of two's complement."""
    value &= (1 << 64) - 1
    groups = bytearray()
    while value >= MORE:
        groups.append(value % MORE | MORE)
        value //= MORE
    groups.append(value)
    return bytes(groups)


def number(tag: int, value: int) -> bytes:
    """A field of an integer type; zero is the default and takes no bytes."""
    return varint(tag << 3) + varint(value) if value else b""


def block(tag: int, content: bytes | str) -> bytes:
    """A field that holds bytes, text or a message."""
    raw = content.encode() if isinstance(content, str) else content
    return varint(tag << 3 | 2) + varint(len(raw)) + raw


def mapping(tag: int, entries: Mapping[str, bytes]) -> bytes:
    """A map from text to messages, sorted by key."""
    return b"".join(block(tag, block(1, key) + block(2, entries[key])) for key in sorted(entries))


# -- TensorFlow's messages --


def shape_proto(shape: Shape) -> bytes:
    """TensorShapeProto: each dimension is a message of its own."""
    return b"".join(block(2, number(1, size)) for size in shape)


def tensor_proto(shape: Shape, values: Sequence[float], dtype: int = DT_FLOAT) -> bytes:
    """TensorProto of floats or of int32, the values as tensor_content."""
    content = struct.pack(f"<{len(values)}{'f' if dtype == DT_FLOAT else 'i'}", *values)
    return number(1, dtype) + block(2, shape_proto(shape)) + block(4, content)


def type_attr(dtype: int = DT_FLOAT) -> bytes:
    """AttrValue holding a type."""
    return number(6, dtype)


def node(name: str, op: str, inputs: Sequence[str] = (), **attrs: bytes) -> bytes:
    """NodeDef."""
    return block(1, name) + block(2, op) + b"".join(block(3, each) for each in inputs) + mapping(5, attrs)


def placeholder(name: str, dtype: int = DT_FLOAT) -> bytes:
    """A node that a request feeds. Its shape is left open, so that a flat list of numbers is as good as a column."""
    return node(name, "Placeholder", dtype=type_attr(dtype))


def constant(name: str, shape: Shape, values: Sequence[float], dtype: int = DT_FLOAT) -> bytes:
    """A node that holds its value."""
    return node(name, "Const", dtype=type_attr(dtype), value=block(8, tensor_proto(shape, values, dtype)))


def operation(name: str, op: str, *inputs: str, **attrs: bytes) -> bytes:
    """A node that computes, on floats."""
    return node(name, op, inputs, T=type_attr(), **attrs)


def convolution(name: str, *inputs: str) -> bytes:
    """A Conv2D node that halves height and width."""
    strides = block(1, b"".join(number(3, stride) for stride in (1, 2, 2, 1)))
    return operation(name, "Conv2D", *inputs, padding=block(2, "SAME"), strides=strides)


def tensor_info(tensor: str, shape: Shape, dtype: int) -> bytes:
    """TensorInfo."""
    return block(1, tensor) + number(2, dtype) + block(3, shape_proto(shape))


@dataclass(frozen=True)
class Model:
    """A graph from x to y, and where it goes."""

    path: str
    nodes: Sequence[bytes]
    input_shape: Shape
    output_shape: Shape
    input_type: int = DT_FLOAT

    def saved_model(self) -> bytes:
        """The content of saved_model.pb."""
        graph = b"".join(block(1, each) for each in self.nodes) + block(4, number(1, GRAPH_PRODUCER))
        signature = (
            mapping(1, {"x": tensor_info("x:0", self.input_shape, self.input_type)})
            + mapping(2, {"y": tensor_info("y:0", self.output_shape, DT_FLOAT)})
            + block(3, "tensorflow/serving/predict")
        )
        info = block(4, "serve") + number(7, 1)  # the tag; default attributes are stripped
        meta_graph = block(1, info) + block(2, graph) + mapping(5, {"serving_default": signature})
        return number(1, SCHEMA_VERSION) + block(2, meta_graph)


# -- the models --


def half_plus(path: str, offset: float) -> Model:
    """Y = 0.5 x + offset, as upstream's half_plus_two: the signature says [-1, 1], the graph takes any shape."""
    nodes = [
        placeholder("x"),
        constant("a", (), [0.5]),
        constant("b", (), [offset]),
        operation("mul", "Mul", "a", "x"),
        operation("y", "Add", "mul", "b"),
    ]
    return Model(path, nodes, (UNKNOWN_SIZE, 1), (UNKNOWN_SIZE, 1))


def pseudo_random(seed: int) -> Iterator[float]:
    """Numbers in [-1, 1), each a multiple of 2**-15 and so exact in a float: the minimal standard generator."""
    state = seed
    while True:
        state = state * 48271 % 2147483647
        yield (state >> 15) / (1 << 15) - 1.0


def dense_scale(rows: int) -> float:
    """A power of two near 1/sqrt(rows): values keep their size from layer to layer, and weights stay exact."""
    return 2.0 ** -((rows.bit_length() - 1) // 2)


def dense(path: str, sizes: Sequence[int]) -> Model:
    """A perceptron: each layer is MatMul, BiasAdd and, but for the last, Relu."""
    numbers = pseudo_random(seed=DENSE_SEED)
    nodes = [placeholder("x")]
    previous = "x"
    last = len(sizes) - 1
    for layer, (rows, columns) in enumerate(itertools.pairwise(sizes), start=1):
        scale = dense_scale(rows)
        weights = [next(numbers) * scale for _ in range(rows * columns)]
        biases = [next(numbers) * scale for _ in range(columns)]
        product, total = f"layer{layer}/matmul", "y" if layer == last else f"layer{layer}/bias_add"
        nodes += [
            constant(f"layer{layer}/weights", (rows, columns), weights),
            constant(f"layer{layer}/biases", (columns,), biases),
            operation(product, "MatMul", previous, f"layer{layer}/weights"),
            operation(total, "BiasAdd", product, f"layer{layer}/biases"),
        ]
        previous = total
        if layer != last:
            previous = f"layer{layer}/relu"
            nodes.append(operation(previous, "Relu", total))
    return Model(path, nodes, (UNKNOWN_SIZE, sizes[0]), (UNKNOWN_SIZE, sizes[-1]))


def picture(path: str, *, encoded: bool = False) -> Model:
    """A convolutional network for pictures of any size, with RGB from 0 to 255; encoded: for one PNG or JPEG.

    TensorFlow's kernel of DecodePng decodes JPEG as well (tensorflow/core/kernels/decode_image_op.cc).
    """
    numbers = pseudo_random(seed=PICTURE_SEED)
    nodes = [placeholder("x", DT_STRING if encoded else DT_FLOAT)]
    previous = "x"
    if encoded:
        nodes += [
            constant("scalar", (0,), (), DT_INT32),
            constant("first", (), [0], DT_INT32),
            node("file", "Reshape", ("x", "scalar"), T=type_attr(DT_STRING)),
            node("decoded", "DecodePng", ("file",), channels=number(3, PICTURE_CHANNELS[0])),
            node("pixels", "Cast", ("decoded",), SrcT=type_attr(DT_UINT8), DstT=type_attr()),
            operation("batch", "ExpandDims", "pixels", "first"),
        ]
        previous = "batch"
    for layer, (taken, given) in enumerate(itertools.pairwise(PICTURE_CHANNELS), start=1):
        scale = dense_scale(9 * taken)
        shape = (3, 3, taken, given)
        nodes += [
            constant(f"layer{layer}/filter", shape, [next(numbers) * scale for _ in range(9 * taken * given)]),
            constant(f"layer{layer}/biases", (given,), [next(numbers) for _ in range(given)]),
            convolution(f"layer{layer}/conv", previous, f"layer{layer}/filter"),
            operation(f"layer{layer}/bias_add", "BiasAdd", f"layer{layer}/conv", f"layer{layer}/biases"),
            operation(f"layer{layer}/relu", "Relu", f"layer{layer}/bias_add"),
        ]
        previous = f"layer{layer}/relu"
    last = PICTURE_CHANNELS[-1]
    scale = dense_scale(last)
    nodes += [
        constant("height_and_width", (2,), [1, 2], DT_INT32),
        constant("weights", (last, PICTURE_CLASSES), [next(numbers) * scale for _ in range(last * PICTURE_CLASSES)]),
        operation("mean", "Mean", previous, "height_and_width"),
        operation("y", "MatMul", "mean", "weights"),
    ]
    taken_shape = [UNKNOWN_SIZE] if encoded else [UNKNOWN_SIZE, UNKNOWN_SIZE, UNKNOWN_SIZE, PICTURE_CHANNELS[0]]
    return Model(path, nodes, taken_shape, (UNKNOWN_SIZE, PICTURE_CLASSES), DT_STRING if encoded else DT_FLOAT)


MODELS: Sequence[Callable[[], Model]] = (
    lambda: half_plus("half_plus_two/00000123", 2.0),
    # Beside the first and not in it: who mounts half_plus_two gets 2.5, 3.0, 4.5.
    lambda: half_plus("half_plus_two_next/00000124", 3.0),
    lambda: dense("dense/1", DENSE_SIZES),
    lambda: picture("picture/1"),
    lambda: picture("picture_encoded/1", encoded=True),
)


def differences(folder: Path) -> list[str]:
    """The files that are missing or not what this script writes."""
    found = []
    for make in MODELS:
        model = make()
        file = folder / model.path / "saved_model.pb"
        if not file.is_file() or file.read_bytes() != model.saved_model():
            found.append(f"{file}: missing, or not what write_models.py writes")
    return found


def write(folder: Path) -> None:
    """Write all models."""
    for make in MODELS:
        model = make()
        target = folder / model.path
        target.mkdir(parents=True, exist_ok=True)
        (target / "saved_model.pb").write_bytes(model.saved_model())
        print(f"{target}/saved_model.pb")


def main() -> int:
    """Run the command line; 1 when --check finds a difference."""
    parser = argparse.ArgumentParser(description="Write the sample's SavedModels.")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    if not arguments.check:
        write(arguments.folder)
        return 0
    problems = differences(arguments.folder)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
