"""A SavedModel on this machine: what is in it, and whether a server could load that.

Source of the layout: github.com/tensorflow/tensorflow, `tensorflow/cc/saved_model/loader.cc` and `constants.h`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from serving_factory.errors import ModelError
from serving_factory.smoke import messages_pb2, saved_model_pb2
from serving_factory.smoke.grpc_client import enum_name

SERVED_TAGS = {"serve"}  # --saved_model_tags of every release's server
DEFAULT_SIGNATURE = "serving_default"
# The first three are those of predict_util.cc.
_METHODS = {f"tensorflow/serving/{name}" for name in ("predict", "classify", "regress")}
_GRAPH = "saved_model.pb"
_INDEX, _SHARD = "variables/variables.index", re.compile(r"variables/variables\.data-(\d{5})-of-(\d{5})")
_VARIABLES = {"VarHandleOp", "VarHandlesOp", "Variable", "VariableV2"}
_VERSIONS = range(2**63)  # servers pass over folders with another number (file_system_storage_path_source.cc)
_REFERENCE = 100  # added to a type, that of a reference to it (types.proto): a variable of TensorFlow 1 as an output
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class TensorKind:
    """Data type, such as `DT_FLOAT`, and sizes of a tensor; what is not known is 1."""

    dtype: str
    sizes: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.sizes)}"


@dataclass(frozen=True, slots=True)
class ModelSignature:
    """Name -> kind of the tensors that a signature takes and gives."""

    inputs: Mapping[str, TensorKind]
    outputs: Mapping[str, TensorKind]


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedModel:
    """One version of a model that a server could load."""

    folder: Path
    version: int
    alone: bool  # whether the folder is a SavedModel itself, and so no version
    passed_over: tuple[int, ...]  # lower versions beside it
    files: tuple[str, ...]  # their paths in the folder, sorted
    signatures: Mapping[str, ModelSignature]  # those that can be asked to predict
    ops: frozenset[str]  # that its graph calls


def read_saved_model(place: Path) -> SavedModel:
    """Read the highest version in a model's folder, or a folder that is a SavedModel itself; raises ModelError."""
    folder, versions = _versions(place)
    version = max(versions)
    files = tuple(sorted(_files(folder, place)))
    graph = _graph(folder, files)
    ops = _ops(graph.graph_def)
    _check_variables(folder, files, graph, ops)
    if missing := {f"assets/{one.filename}" for one in graph.asset_file_def} - set(files):
        raise _incomplete(folder, f"it needs {_listed(missing)}")
    signatures = {name: _signature(one) for name, one in graph.signature_def.items() if one.method_name in _METHODS}
    if not signatures:
        raise ModelError(
            f"{folder} has no signature that a server could be asked for.",
            why=f"signatures: {_listed(graph.signature_def) or 'none'}; one is for {' or '.join(sorted(_METHODS))}",
            remedy="Save it with signatures: tf.saved_model.save(model, folder, signatures=...).",
        )
    return SavedModel(
        folder=folder,
        version=version,
        alone=folder == place,
        passed_over=tuple(sorted(versions - {version})),
        files=files,
        signatures=signatures,
        ops=ops,
    )


def _versions(place: Path) -> tuple[Path, set[int]]:
    """The folder to embed, and the numbers of all versions."""
    remedy = "Name a folder with a numbered folder in it, such as half_plus_two with half_plus_two/1/saved_model.pb."
    if not place.is_dir():
        raise ModelError(f"{place} is no folder.", remedy=remedy)
    if (place / _GRAPH).exists():
        return place, {1}
    found: dict[int, Path] = {}
    for path in sorted(place.iterdir()):
        numbered = path.name.isascii() and path.name.isdecimal() and int(path.name) in _VERSIONS
        if numbered and path.is_dir() and (other := found.setdefault(int(path.name), path)) != path:
            raise ModelError(f"{other} and {path} are the same version.", remedy="Remove one of them.")
    if not found:
        raise ModelError(
            f"{place} holds neither a {_GRAPH} nor a version.",
            why=f"It holds {_listed(path.name for path in place.iterdir()) or 'nothing'}.",
            remedy=remedy,
        )
    return found[max(found)], set(found)


def _files(folder: Path, place: Path) -> Iterator[str]:
    """The paths of all files; a link is what it leads to."""
    inside = place.resolve()
    folders = [folder]
    while folders:
        for path in folders.pop().iterdir():
            link = path.is_symlink()
            if path.is_dir() and not link:
                folders.append(path)
            elif path.is_file() and path.resolve().is_relative_to(inside):
                yield path.relative_to(folder).as_posix()
            else:
                raise ModelError(
                    f"{path} is {f'a link to {path.readlink()}' if link else 'neither a file nor a folder'}.",
                    why=f"An image has files and folders, and links to files in {place} as copies of them.",
                    remedy="Copy the model with what its links lead to, and name the copy: cp -rL",
                )


def _graph(folder: Path, files: Iterable[str]) -> saved_model_pb2.MetaGraphDef:
    """The graph that a server loads."""
    if _GRAPH not in files:
        raise _incomplete(folder, f"{_GRAPH} is missing; there is {_listed(files) or 'no file'}")
    data = (folder / _GRAPH).read_bytes()
    try:
        graphs = saved_model_pb2.SavedModel.FromString(data).meta_graphs
    except DecodeError:
        raise ModelError(
            f"{folder / _GRAPH} is no SavedModel: it does not parse.",
            why=f"It has {len(data)} bytes; it may be cut off, or a pointer of Git LFS.",
            remedy="Copy it again from where it was saved.",
        ) from None
    for graph in graphs:
        if set(graph.meta_info_def.tags) == SERVED_TAGS:
            return graph
    tags = " and ".join(f"{{{', '.join(sorted(one.meta_info_def.tags))}}}" for one in graphs)
    raise ModelError(
        f"{folder / _GRAPH} has no graph with the tag `serve`.",
        why=f"It has {f'graphs with the tags {tags}' if graphs else 'none'}; servers load that tagged `serve`.",
        remedy="Save it for serving: tf.saved_model.save tags it so.",
    )


def _ops(graph: saved_model_pb2.GraphDef) -> frozenset[str]:
    # A function is called like an op.
    functions = graph.library.function
    called = {node.op for nodes in (graph.node, *(one.node_def for one in functions)) for node in nodes}
    return frozenset(called - {one.signature.name for one in functions})


def _check_variables(
    folder: Path, files: Iterable[str], graph: saved_model_pb2.MetaGraphDef, ops: frozenset[str]
) -> None:
    """Look for the values of variables: without an index a server leaves them without any, and says nothing."""
    shards = [found for file in files if (found := _SHARD.fullmatch(file))]
    if _INDEX in files or (graph.saver_def.restore_op_name and ops & _VARIABLES):
        if _INDEX not in files:
            raise _incomplete(folder, f"its graph has variables, and {_INDEX} is missing")
        counts = {int(found[2]) for found in shards} or {1}
        missing = {f"variables/variables.data-{i:05}-of-{n:05}" for n in counts for i in range(n)} - set(files)
        if missing:
            raise _incomplete(folder, f"values of variables are missing: {_listed(missing)}")


def _signature(signature: messages_pb2.SignatureDef) -> ModelSignature:
    inputs, outputs = (
        {name: _kind(tensor) for name, tensor in sorted(tensors.items())}
        for tensors in (signature.inputs, signature.outputs)
    )
    return ModelSignature(inputs, outputs)


def _kind(tensor: messages_pb2.TensorInfo) -> TensorKind:
    shape = tensor.tensor_shape
    sizes = (1,) if shape.unknown_rank else tuple(dim.size if dim.size >= 0 else 1 for dim in shape.dim)
    return TensorKind(enum_name(messages_pb2.DataType, tensor.dtype % _REFERENCE), sizes)


def _incomplete(folder: Path, why: str) -> ModelError:
    remedy = "Copy the whole folder again from where it was saved: saved_model.pb, variables/, assets/."
    return ModelError(f"{folder} is no complete SavedModel: {why}.", remedy=remedy)


def _listed(names: Iterable[str]) -> str:
    found = sorted(names)
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more
