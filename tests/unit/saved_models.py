"""SavedModels for tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from serving_factory.smoke import messages_pb2, saved_model_pb2

PREDICT = "tensorflow/serving/predict"
DIM = messages_pb2.TensorShapeProto.Dim


def tensor(dtype: str = "DT_FLOAT", *sizes: int) -> messages_pb2.TensorInfo:
    shape = messages_pb2.TensorShapeProto(dim=[DIM(size=size) for size in sizes])
    return messages_pb2.TensorInfo(dtype=dtype, tensor_shape=shape)


def signature(
    inputs: Mapping[str, messages_pb2.TensorInfo] | None = None, method: str = PREDICT
) -> messages_pb2.SignatureDef:
    given = {"x": tensor("DT_FLOAT", -1, 1)} if inputs is None else inputs
    return messages_pb2.SignatureDef(inputs=given, outputs={"y": tensor("DT_FLOAT", -1)}, method_name=method)


def graph(
    *ops: str,
    tags: Iterable[str] = ("serve",),
    restore: str = "",
    assets: Iterable[str] = (),
    functions: Mapping[str, Iterable[str]] | None = None,
    **signatures: messages_pb2.SignatureDef,
) -> saved_model_pb2.MetaGraphDef:
    made = saved_model_pb2.MetaGraphDef(signature_def=signatures or {"serving_default": signature()})
    made.meta_info_def.tags.extend(tags)
    made.saver_def.restore_op_name = restore
    made.asset_file_def.extend(saved_model_pb2.AssetFileDef(filename=name) for name in assets)
    made.graph_def.node.extend(saved_model_pb2.NodeDef(op=op) for op in ops or ("Placeholder",))
    for name, called in (functions or {}).items():
        function = made.graph_def.library.function.add(signature=saved_model_pb2.OpDef(name=name))
        function.node_def.extend(saved_model_pb2.NodeDef(op=op) for op in called)
    return made


def write_model(folder: Path, *graphs: saved_model_pb2.MetaGraphDef, files: Iterable[str] = ()) -> Path:
    """Write a version: saved_model.pb with these graphs, or a usual one, and other files."""
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    folder.mkdir(parents=True, exist_ok=True)
    model = saved_model_pb2.SavedModel(meta_graphs=graphs or [graph()])
    (folder / "saved_model.pb").write_bytes(model.SerializeToString())
    return folder
