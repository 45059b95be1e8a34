"""Between numpy's arrays and TensorFlow's tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gateway import serving_pb2 as pb

Array = npt.NDArray[Any]

# dtype -> numpy's type, and the field that holds its values where tensor_content is empty
_KINDS: dict[int, tuple[type, str]] = {
    pb.DT_FLOAT: (np.float32, "float_val"),
    pb.DT_DOUBLE: (np.float64, "double_val"),
    pb.DT_INT32: (np.int32, "int_val"),
    pb.DT_INT16: (np.int16, "int_val"),
    pb.DT_INT8: (np.int8, "int_val"),
    pb.DT_UINT8: (np.uint8, "int_val"),
    pb.DT_INT64: (np.int64, "int64_val"),
    pb.DT_BOOL: (np.bool_, "bool_val"),
    pb.DT_STRING: (np.bytes_, "string_val"),
}


class UnknownTypeError(Exception):
    """The model has a tensor of a type that this gateway cannot handle."""


def numpy_type(dtype: int) -> type:
    """The numpy type of a tensor's; UnknownTypeError."""
    if dtype not in _KINDS:
        raise UnknownTypeError(f"the model has a tensor of type {pb.DataType.Name(dtype)}")
    return _KINDS[dtype][0]


def to_proto(array: Array, dtype: int) -> pb.TensorProto:
    """Write an array, its first dimension the batch."""
    tensor = pb.TensorProto(dtype=dtype)  # type: ignore[arg-type]
    tensor.tensor_shape.dim.extend(pb.TensorShapeProto.Dim(size=size) for size in array.shape)
    if dtype == pb.DT_STRING:
        tensor.string_val.extend(bytes(value) for value in array.ravel())
    else:
        tensor.tensor_content = np.ascontiguousarray(array, numpy_type(dtype)).tobytes()
    return tensor


def from_proto(tensor: pb.TensorProto) -> Array:
    """Read a tensor."""
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    kind = numpy_type(tensor.dtype)
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, kind).reshape(shape)
    values: Array = np.array(list(getattr(tensor, _KINDS[tensor.dtype][1])), object if kind is np.bytes_ else kind)
    # One value may stand for all.
    return np.broadcast_to(values, shape) if values.size == 1 else values.reshape(shape)
