"""Runs an image with a model inside, and asks that: zeros, as its own signature says, or a request of the user's."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from packaging.version import Version

from serving_factory.catalogue.facts import Release, ServerFacts
from serving_factory.docker.engine import ContainerSpec, Engine
from serving_factory.docker.process import Cancel
from serving_factory.errors import ModelError, SmokeError, UsageError, WrongAnswerError
from serving_factory.smoke import messages_pb2 as pb
from serving_factory.smoke.answers import ServerAnswerError
from serving_factory.smoke.checks import check_healthy, check_ready, check_stop, first_answer
from serving_factory.smoke.grpc_client import enum_name, shape_of
from serving_factory.smoke.run import look
from serving_factory.smoke.saved_model import DEFAULT_SIGNATURE, ModelSignature, SavedModel, TensorKind
from serving_factory.smoke.server import RunningServer

_PATIENCE = 600.0  # seconds: a large model takes minutes to load, and its first answer may compile
_ANSWER_WITHIN = 60.0
_HEALTH_TIMEOUT = 60.0
_TOLERANCE = 1e-5
_MEMBERS = ("signature_name", "instances", "inputs", "expected", "tolerance")
_MOST_ZEROS = 2**25  # more values would take gigabytes as JSON, here and in the server
_COLUMNS = Version("1.11.0")  # the first whose json_tensor.cc knows `inputs`
# Zero by type in JSON: those that json_tensor.cc converts, in every release from 1.8.0 on.
_IN_JSON: Mapping[str, object] = {
    **dict.fromkeys(("DT_FLOAT", "DT_DOUBLE"), 0.0),
    **dict.fromkeys(("DT_INT8", "DT_INT16", "DT_INT32", "DT_INT64", "DT_UINT8", "DT_UINT32", "DT_UINT64"), 0),
    "DT_BOOL": False,
    "DT_STRING": "",
}
# Bytes of a value, all of which are 0 in a zero
_BYTES = {
    **dict.fromkeys(("DT_BOOL", "DT_INT8", "DT_UINT8", "DT_QINT8", "DT_QUINT8"), 1),
    **dict.fromkeys(("DT_INT16", "DT_UINT16", "DT_QINT16", "DT_QUINT16", "DT_HALF", "DT_BFLOAT16"), 2),
    **dict.fromkeys(("DT_FLOAT", "DT_INT32", "DT_UINT32", "DT_QINT32"), 4),
    **dict.fromkeys(("DT_DOUBLE", "DT_INT64", "DT_UINT64", "DT_COMPLEX64"), 8),
    "DT_COMPLEX128": 16,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A user's request: the body of a REST predict request, and its answer where that is known."""

    file: Path
    body: Mapping[str, object]
    expected: object = None
    tolerance: float = _TOLERANCE  # relative to the expected number, and absolute below 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a model in an image is asked."""

    model: str
    version: int
    signature: str
    kinds: ModelSignature
    request: Request | None
    facts: ServerFacts  # what the release's server can do
    columns: bool  # whether REST takes whole tensors by name, and not rows alone
    unasked: Mapping[str, str]  # protocol -> why it is not asked to predict


def read_request(file: Path) -> Request:
    """Read a request and the members `expected` and `tolerance` beside it; raises UsageError."""
    example = 'write it like {"instances": [1.0, 2.0], "expected": [2.5, 3.0]}'
    try:
        body = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"`--request` {file} is not JSON: {error}", remedy=example) from None
    if not isinstance(body, dict) or ("instances" in body) == ("inputs" in body):
        raise UsageError(
            f"`--request` {file} must be an object with `instances` or `inputs`",
            why="it is the body of a predict request of TensorFlow Serving's REST API",
            remedy=example,
        )
    if unknown := sorted(body.keys() - {*_MEMBERS}):  # servers pass over them
        known = ", ".join(f"`{name}`" for name in _MEMBERS)
        raise UsageError(f"`--request` {file}: unknown member `{unknown[0]}`", why=f"known are {known}", remedy=example)
    expected, tolerance = body.pop("expected", None), body.pop("tolerance", _TOLERANCE)
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < math.inf:
        raise UsageError(
            f"`--request` {file}: `tolerance` must be a number from 0 on, got {tolerance!r}", remedy=example
        )
    if not isinstance(body.get("signature_name", ""), str):
        raise UsageError(f"`--request` {file}: `signature_name` must be a text", remedy=example)
    return Request(file=file, body=body, expected=expected, tolerance=float(tolerance))


def question_for(model: SavedModel, name: str, release: Release, request: Request | None) -> Question:
    """Choose a signature and the protocols; raises UsageError, ModelError where there is nothing to ask."""
    facts, columns = release.server, release.version >= _COLUMNS
    if request and not facts.rest:
        raise UsageError("`--request` is for REST, which this release does not have", remedy="leave it out")
    names = sorted(model.signatures, key=lambda one: (one != DEFAULT_SIGNATURE, one))
    signature = str(request.body.get("signature_name") or DEFAULT_SIGNATURE) if request else names[0]
    if signature not in names:
        raise UsageError(
            f"{model.folder} has no signature {signature}",
            why=f"its signatures are: {', '.join(names)}",
            remedy="name one of them at `signature_name` in the request",
        )
    kinds = model.signatures[signature]
    unasked = dict(_unasked(kinds, facts, request, columns=columns))
    if len(unasked) > 1:
        raise ModelError(
            f"No zeros can be sent to the signature {signature} of {name}.",
            why="\n".join(f"{protocol}: {why}" for protocol, why in unasked.items()),
            remedy="Give a request of your own: --request FILE."
            if facts.rest
            else "Save the model with inputs of other types.",
        )
    return Question(
        model=name,
        version=model.version,
        signature=signature,
        kinds=kinds,
        request=request,
        facts=facts,
        columns=columns,
        unasked=unasked,
    )


def _unasked(
    kinds: ModelSignature, facts: ServerFacts, request: Request | None, *, columns: bool
) -> Iterator[tuple[str, str]]:
    if request:
        yield "gRPC", "the request is one of REST"
        return
    values = sum(math.prod(kind.sizes) for kind in kinds.inputs.values())
    if values > _MOST_ZEROS:
        yield from dict.fromkeys(("REST", "gRPC"), f"the inputs have {values:,} values").items()
        return
    if not facts.rest:
        yield "REST", "the release has none"
    elif no_json := _others(kinds.inputs, _IN_JSON):
        yield "REST", f"JSON has no form of {no_json}"
    elif not kinds.inputs:
        yield "REST", "the signature takes nothing"
    elif not columns and not _has_rows(kinds):
        yield "REST", "the release takes rows alone, and the signature has none"
    if no_zero := _others(kinds.inputs, {**_BYTES, "DT_STRING": 0}):
        yield "gRPC", f"there is no zero of {no_zero}"


def _has_rows(kinds: ModelSignature) -> bool:
    """Whether all tensors have the same first size."""
    first = {kind.sizes[:1] for kind in (*kinds.inputs.values(), *kinds.outputs.values())}
    return len(first) == 1 and () not in first


def _others(inputs: Mapping[str, TensorKind], known: Mapping[str, object]) -> str:
    return ", ".join(f"{name} ({kind.dtype})" for name, kind in inputs.items() if kind.dtype not in known)


def ask_embedded(
    engine: Engine, spec: ContainerSpec, question: Question, *, cancel: Cancel, progress: Callable[[str], None]
) -> Mapping[str, str]:
    """Run the image, and give what each check saw; the container is removed in every case."""
    checks: dict[str, Callable[[RunningServer], str]] = {"ready": check_ready}
    asks = {"REST": _ask_rest, "gRPC": _ask_grpc}
    checks |= {protocol: partial(ask, question) for protocol, ask in asks.items() if protocol not in question.unasked}
    checks |= {"version": partial(_check_version, question), "healthy": check_healthy, "stop": check_stop}
    seen: dict[str, str] = {}
    with engine.container(spec) as container:
        server = RunningServer(
            container,
            cancel,
            facts=question.facts,
            model=question.model,
            patience=_PATIENCE,
            health_timeout=_HEALTH_TIMEOUT,
            answer_within=_ANSWER_WITHIN,
        )
        with closing(server):
            for name, check in checks.items():
                seen[name] = look(name, check, server)
                progress(f"{name}: {seen[name]}")
    return seen


def _ask_rest(question: Question, server: RunningServer) -> str:
    request = question.request
    body = request.body if request else _zero_body(question)
    member = "predictions" if "instances" in body else "outputs"
    got = _asked(
        question, server, lambda: server.rest.predict_json(question.model, body, lambda answer: answer[member])
    )
    if request is None:
        outputs = question.kinds.outputs
        first = got if question.columns else got[0]
        named = set(first) if isinstance(first, dict) else set()
        _require(question, server, "REST", outputs.keys() - named if len(outputs) > 1 else ())
        return f"zeros -> {', '.join(outputs)}"
    if request.expected is None:
        return f"{request.file} -> {_brief(got)}"
    if difference := differs(got, request.expected, request.tolerance, member):
        raise server.fault(
            WrongAnswerError,
            f"{question.model} answered the request of {request.file} with another answer than expected.",
            why=difference,
            remedy="Correct the model, or `expected` and `tolerance` in the request.",
        )
    return f"{request.file} -> {_brief(got)}, as expected"


def _zero_body(question: Question) -> Mapping[str, object]:
    inputs = question.kinds.inputs
    if question.columns:
        columns = {name: _zeros(_IN_JSON[kind.dtype], kind.sizes) for name, kind in inputs.items()}
        return {"signature_name": question.signature, "inputs": columns}
    row = {name: _zeros(_IN_JSON[kind.dtype], kind.sizes[1:]) for name, kind in inputs.items()}
    number = next(iter(inputs.values())).sizes[0]
    return {"signature_name": question.signature, "instances": [row] * number}


def _ask_grpc(question: Question, server: RunningServer) -> str:
    inputs = {name: _zero_tensor(kind) for name, kind in question.kinds.inputs.items()}
    outputs = _asked(question, server, lambda: server.grpc.predict_tensors(question.model, question.signature, inputs))
    types = {name: enum_name(pb.DataType, tensor.dtype) for name, tensor in outputs.items()}
    kinds = question.kinds.outputs.items()
    _require(question, server, "gRPC", [name for name, kind in kinds if types.get(name) != kind.dtype])
    return f"zeros -> {', '.join(f'{name} {[dim.size for dim in outputs[name].tensor_shape.dim]}' for name in types)}"


def _asked(question: Question, server: RunningServer, ask: Callable[[], Any]) -> Any:  # noqa: ANN401 - any JSON
    try:
        return first_answer(server, ask)[0]
    except ServerAnswerError as error:
        request = question.request
        sent = f"the request of {request.file}" if request else f"zeros for its signature {question.signature}"
        own = "Correct the request." if request else "Where zeros make no sense, give a request: --request FILE."
        raise server.fault(
            SmokeError, f"{question.model} did not answer {sent}.", why=str(error), remedy=own
        ) from error


def _require(question: Question, server: RunningServer, protocol: str, missing: Any) -> None:  # noqa: ANN401
    if missing:
        raise server.fault(
            WrongAnswerError,
            f"The answer of {question.model} over {protocol} is not what its signature says.",
            why=f"Missing, or of another type: {', '.join(sorted(missing))}.",
            remedy="Save the model again: its signature and its graph do not fit.",
        )


def _check_version(question: Question, server: RunningServer) -> str:
    statuses = server.grpc.model_status(question.model)
    if not any(one.version == question.version and one.available for one in statuses):
        raise server.fault(
            WrongAnswerError,
            f"The server does not serve version {question.version} of {question.model}.",
            why=", ".join(map(str, statuses)) or "It serves no version.",
        )
    return f"version {question.version} AVAILABLE"


def _zeros(zero: object, sizes: tuple[int, ...]) -> object:
    for size in reversed(sizes):
        zero = [zero] * size
    return zero


def _zero_tensor(kind: TensorKind) -> pb.TensorProto:
    tensor = pb.TensorProto(dtype=kind.dtype, tensor_shape=shape_of(kind.sizes))
    count = math.prod(kind.sizes)
    if kind.dtype == "DT_STRING":
        tensor.string_val.extend([b""] * count)
    else:
        tensor.tensor_content = bytes(count * _BYTES[kind.dtype])
    return tensor


def differs(got: object, expected: object, tolerance: float, place: str) -> str:
    """Say where two JSON values differ first; empty where they agree."""
    match got, expected:
        case (list(), list()) if len(got) == len(expected):
            parts = [(f"{place}[{index}]", *pair) for index, pair in enumerate(zip(got, expected, strict=True))]
        case (dict(), dict()) if got.keys() == expected.keys():
            parts = [(f"{place}.{name}", got[name], expected[name]) for name in got]
        case (int() | float(), int() | float()) if not isinstance(got, bool) and not isinstance(expected, bool):
            near = math.isclose(got, expected, rel_tol=tolerance, abs_tol=tolerance)
            near = near or (math.isnan(got) and math.isnan(expected))
            return "" if near else f"{place} is {got}, expected {expected} within {tolerance:g}"
        case _:
            return "" if got == expected else f"{place} is {_brief(got)}, expected {_brief(expected)}"
    return next((found for at, one, other in parts if (found := differs(one, other, tolerance, at))), "")


def _brief(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:100]}..."  # noqa: PLR2004
