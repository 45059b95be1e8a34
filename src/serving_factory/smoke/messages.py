"""TensorFlow Serving's gRPC messages, as far as this project speaks them.

The package `tensorflow-serving-api` would bring TensorFlow itself (600 MB) to send three numbers, so the
few messages needed are described here, with upstream's packages, names and field numbers. Fields that are
left out are skipped when they arrive: protobuf does so with what it does not know.

Sources, each named at its file below: github.com/tensorflow/serving `tensorflow_serving/apis/*.proto` and
github.com/tensorflow/tensorflow `tensorflow/core/**/*.proto`. All fields were compared with the descriptors
in tensorflow-serving-api 2.21.0 and tensorboard 2.21.0 (which ships TensorFlow's own): name, number, type and
label agree.

The descriptors live in a pool of their own: a program that has TensorFlow loaded is not disturbed.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from google.protobuf import any_pb2, wrappers_pb2
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


DATA_TYPES = (
    "DT_INVALID", "DT_FLOAT", "DT_DOUBLE", "DT_INT32", "DT_UINT8", "DT_INT16", "DT_INT8", "DT_STRING",
    "DT_COMPLEX64", "DT_INT64", "DT_BOOL", "DT_QINT8", "DT_QUINT8", "DT_QINT32", "DT_BFLOAT16", "DT_QINT16",
    "DT_QUINT16", "DT_UINT16", "DT_COMPLEX128", "DT_HALF", "DT_RESOURCE", "DT_VARIANT", "DT_UINT32",
    "DT_UINT64",
)  # fmt: skip
"""Names of tensorflow.DataType by number. Source: tensorflow/core/framework/types.proto."""

MODEL_STATES = {"UNKNOWN": 0, "START": 10, "LOADING": 20, "AVAILABLE": 30, "UNLOADING": 40, "END": 50}
"""Numbers of tensorflow.serving.ModelVersionStatus.State (tensorflow_serving/apis/get_model_status.proto)."""

SIGNATURE_DEF_MAP = "tensorflow.serving.SignatureDefMap"
"""Full name of the message that comes packed as `Any` under metadata["signature_def"]."""

_CODES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
    "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip

_BYTES = FieldDescriptorProto.TYPE_BYTES
_BOOL = FieldDescriptorProto.TYPE_BOOL
_ENUM = FieldDescriptorProto.TYPE_ENUM
_FLOAT = FieldDescriptorProto.TYPE_FLOAT
_INT32 = FieldDescriptorProto.TYPE_INT32
_INT64 = FieldDescriptorProto.TYPE_INT64
_MESSAGE = FieldDescriptorProto.TYPE_MESSAGE
_STRING = FieldDescriptorProto.TYPE_STRING

_ANY = ".google.protobuf.Any"
_INT64_VALUE = ".google.protobuf.Int64Value"
_MODEL_SPEC = ".tensorflow.serving.ModelSpec"
_SHAPE = ".tensorflow.TensorShapeProto"
_TENSOR = ".tensorflow.TensorProto"


def message_class(name: str) -> Callable[..., Any]:
    """Give the class of one message.

    Args:
        name: its full name, such as `tensorflow.serving.PredictRequest`.

    Returns:
        The class; called with the fields as keywords it makes a message.

    Raises:
        KeyError: no such message is described here.
    """
    return GetMessageClass(_pool().FindMessageTypeByName(name))


@cache
def _pool() -> DescriptorPool:
    pool = DescriptorPool()
    for serialized in (any_pb2.DESCRIPTOR.serialized_pb, wrappers_pb2.DESCRIPTOR.serialized_pb):
        pool.AddSerializedFile(serialized)
    for file in (*_tensorflow_files(), *_serving_files()):
        pool.AddSerializedFile(file.SerializeToString())
    return pool


def _field(
    name: str, number: int, kind: FieldDescriptorProto.Type.ValueType | str, *, repeated: bool = False
) -> FieldDescriptorProto:
    """Describe a field; `kind` is a scalar type, or the full name (with leading dot) of a message."""
    field = FieldDescriptorProto(
        name=name,
        number=number,
        label=FieldDescriptorProto.LABEL_REPEATED if repeated else FieldDescriptorProto.LABEL_OPTIONAL,
    )
    if isinstance(kind, str):
        field.type = _MESSAGE
        field.type_name = kind
    else:
        field.type = kind
    return field


def _enum_field(name: str, number: int, enum: str) -> FieldDescriptorProto:
    field = _field(name, number, _ENUM)
    field.type_name = enum
    return field


def _message(name: str, *fields: FieldDescriptorProto, nested: Iterable[DescriptorProto] = ()) -> DescriptorProto:
    return DescriptorProto(name=name, field=fields, nested_type=nested)


def _add_map(message: DescriptorProto, scope: str, name: str, number: int, value: str) -> DescriptorProto:
    """Add `map<string, value> name = number`; `scope` is the message's full name with leading dot.

    In a descriptor a map is a repeated nested message NameEntry {key = 1, value = 2}
    (protobuf's descriptor.proto, MessageOptions.map_entry).
    """
    entry = _message(
        "".join(part.capitalize() for part in name.split("_")) + "Entry",
        _field("key", 1, _STRING),
        _field("value", 2, value),
    )
    entry.options.map_entry = True
    message.nested_type.append(entry)
    message.field.append(_field(name, number, f"{scope}.{entry.name}", repeated=True))
    return message


def _enum(name: str, values: Iterable[tuple[str, int]]) -> EnumDescriptorProto:
    enum = EnumDescriptorProto(name=name)
    for label, number in values:
        enum.value.add(name=label, number=number)
    return enum


def _file(
    path: str,
    package: str,
    *messages: DescriptorProto,
    enums: Iterable[EnumDescriptorProto] = (),
    uses: Iterable[str] = (),
) -> FileDescriptorProto:
    return FileDescriptorProto(
        name=path, package=package, syntax="proto3", message_type=messages, enum_type=enums, dependency=uses
    )


def _tensorflow_files() -> Iterable[FileDescriptorProto]:
    types = "tensorflow/core/framework/types.proto"
    shape = "tensorflow/core/framework/tensor_shape.proto"
    tensor = "tensorflow/core/framework/tensor.proto"
    numbered = [(label, number) for number, label in enumerate(DATA_TYPES)]
    yield _file(types, "tensorflow", enums=[_enum("DataType", numbered)])
    dim = _message("Dim", _field("size", 1, _INT64), _field("name", 2, _STRING))
    yield _file(
        shape,
        "tensorflow",
        _message(
            "TensorShapeProto",
            _field("dim", 2, f"{_SHAPE}.Dim", repeated=True),
            _field("unknown_rank", 3, _BOOL),
            nested=[dim],
        ),
    )
    yield _file(
        tensor,
        "tensorflow",
        _message(
            "TensorProto",
            _enum_field("dtype", 1, ".tensorflow.DataType"),
            _field("tensor_shape", 2, _SHAPE),
            _field("version_number", 3, _INT32),
            _field("tensor_content", 4, _BYTES),
            _field("float_val", 5, _FLOAT, repeated=True),
        ),
        uses=[types, shape],
    )
    signature = _message("SignatureDef", _field("method_name", 3, _STRING))
    for name, number in (("inputs", 1), ("outputs", 2)):
        _add_map(signature, ".tensorflow.SignatureDef", name, number, ".tensorflow.TensorInfo")
    yield _file(
        "tensorflow/core/protobuf/meta_graph.proto",
        "tensorflow",
        _message(
            "TensorInfo",
            _field("name", 1, _STRING),
            _enum_field("dtype", 2, ".tensorflow.DataType"),
            _field("tensor_shape", 3, _SHAPE),
        ),
        signature,
        uses=[types, shape],
    )
    codes = _enum("Code", [(label, number) for number, label in enumerate(_CODES)])
    yield _file("tensorflow/core/protobuf/error_codes.proto", "tensorflow.error", enums=[codes])


def _model_spec() -> DescriptorProto:
    spec = _message(
        "ModelSpec",
        _field("name", 1, _STRING),
        _field("version", 2, _INT64_VALUE),
        _field("version_label", 4, _STRING),
        _field("signature_name", 3, _STRING),
    )
    spec.oneof_decl.add(name="version_choice")
    for member in (spec.field[1], spec.field[2]):
        member.oneof_index = 0
    return spec


def _serving_files() -> Iterable[FileDescriptorProto]:
    package = "tensorflow.serving"
    model = "tensorflow_serving/apis/model.proto"
    status = "tensorflow_serving/util/status.proto"
    yield _file(model, package, _model_spec(), uses=["google/protobuf/wrappers.proto"])
    yield _file(
        status,
        package,
        _message(
            "StatusProto",
            _enum_field("error_code", 1, ".tensorflow.error.Code"),
            _field("error_message", 2, _STRING),
        ),
        uses=["tensorflow/core/protobuf/error_codes.proto"],
    )
    request = _message("PredictRequest", _field("model_spec", 1, _MODEL_SPEC))
    response = _message("PredictResponse", _field("model_spec", 2, _MODEL_SPEC))
    yield _file(
        "tensorflow_serving/apis/predict.proto",
        package,
        _add_map(request, ".tensorflow.serving.PredictRequest", "inputs", 2, _TENSOR),
        _add_map(response, ".tensorflow.serving.PredictResponse", "outputs", 1, _TENSOR),
        uses=["tensorflow/core/framework/tensor.proto", model],
    )
    yield _status_file(package, model, status)
    yield _metadata_file(package, model)


def _status_file(package: str, model: str, status: str) -> FileDescriptorProto:
    version = _message(
        "ModelVersionStatus",
        _field("version", 1, _INT64),
        _enum_field("state", 2, ".tensorflow.serving.ModelVersionStatus.State"),
        _field("status", 3, ".tensorflow.serving.StatusProto"),
    )
    version.enum_type.append(_enum("State", MODEL_STATES.items()))
    return _file(
        "tensorflow_serving/apis/get_model_status.proto",
        package,
        _message("GetModelStatusRequest", _field("model_spec", 1, _MODEL_SPEC)),
        version,
        _message(
            "GetModelStatusResponse",
            _field("model_version_status", 1, ".tensorflow.serving.ModelVersionStatus", repeated=True),
        ),
        uses=[model, status],
    )


def _metadata_file(package: str, model: str) -> FileDescriptorProto:
    response = _message("GetModelMetadataResponse", _field("model_spec", 1, _MODEL_SPEC))
    return _file(
        "tensorflow_serving/apis/get_model_metadata.proto",
        package,
        _add_map(
            _message("SignatureDefMap"),
            f".{SIGNATURE_DEF_MAP}",
            "signature_def",
            1,
            ".tensorflow.SignatureDef",
        ),
        _message(
            "GetModelMetadataRequest",
            _field("model_spec", 1, _MODEL_SPEC),
            _field("metadata_field", 2, _STRING, repeated=True),
        ),
        _add_map(response, ".tensorflow.serving.GetModelMetadataResponse", "metadata", 2, _ANY),
        uses=["google/protobuf/any.proto", "tensorflow/core/protobuf/meta_graph.proto", model],
    )
