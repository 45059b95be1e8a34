"""A TensorFlow Serving in Python, as far as the smoke checks look, with knobs to misbehave."""

from __future__ import annotations

import json
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

import grpc
from google.protobuf.message import Message

from serving_factory.smoke import messages_pb2 as pb
from serving_factory.smoke.gpu import DENSE
from serving_factory.smoke.grpc_client import SIGNATURE_DEF_MAP

if TYPE_CHECKING:
    from collections.abc import Callable

_M = TypeVar("_M", bound=Message)
MODEL = "half_plus_two"
OLD, NEW = 123, 124


@dataclass(kw_only=True)
class Behaviour:
    """How the fake behaves; changed by a test before it starts."""

    available: bool = True
    load_error: str = ""
    added: dict[int, float] = field(default_factory=lambda: {OLD: 2.0, NEW: 3.0})
    wrong_protocol: str = ""
    takes_new_version: bool = True
    ends_old_version: bool = True
    fails_in_swap: str = ""
    drops_connections: bool = False
    signature: str = "serving_default"
    reported_version: int | None = None
    dense_error: float = 0.0
    fails_dense: str = ""
    refuses: str = ""
    output: str = "y"


class FakeServing:
    """The server; `with` starts and stops it."""

    def __init__(self, folder: Path | None = None, behaviour: Behaviour | None = None, *, model: str = MODEL) -> None:
        self.folder = folder
        self.model = model
        self.behaviour = behaviour or Behaviour()
        self.requests: list[tuple[str, bytes]] = []
        self.swap_requests = 0
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self._pool = ThreadPoolExecutor(max_workers=8)
        self._grpc = grpc.server(self._pool)
        self._grpc.add_generic_rpc_handlers(tuple(_Services(self).handlers()))
        self.rest_port: int = self._http.server_address[1]
        self.grpc_port = self._grpc.add_insecure_port("127.0.0.1:0")
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def rest_address(self) -> str:
        return f"127.0.0.1:{self.rest_port}"

    @property
    def grpc_address(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._grpc.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
        self._grpc.stop(0).wait()
        self._pool.shutdown()

    def versions(self) -> list[int]:
        if self.folder is None:
            return [OLD]
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdecimal())

    def current(self) -> int:
        versions = self.versions()
        return versions[-1] if self.behaviour.takes_new_version else versions[0]

    def statuses(self) -> list[tuple[int, str, str]]:
        """Version, state and error message of each version."""
        behaviour, current = self.behaviour, self.current()
        if behaviour.load_error:
            return [(current, "END", behaviour.load_error)]
        if not behaviour.available:
            return [(current, "LOADING", "")]
        ended = "END" if behaviour.ends_old_version else "AVAILABLE"
        loaded = [version for version in self.versions() if version <= current]
        return [(version, "AVAILABLE" if version == current else ended, "") for version in reversed(loaded)]

    def predict(self, values: list[float], protocol: str) -> list[float]:
        if self.behaviour.refuses:
            raise LookupError(self.behaviour.refuses)
        if self.model == DENSE.model:
            if self.behaviour.fails_dense:
                raise LookupError(self.behaviour.fails_dense)
            rows = (values[at : at + 256] for at in range(0, len(values), 256))
            return [sum(row) / 256 + self.behaviour.dense_error for row in rows]
        version = self.current()
        if version == NEW:
            self.swap_requests += 1
            if self.behaviour.fails_in_swap == protocol and self.swap_requests > 1:
                raise LookupError(f"Servable not found for request: Latest({MODEL})")
        added = self.behaviour.added[version] + (1.0 if self.behaviour.wrong_protocol == protocol else 0.0)
        return [0.5 * value + added for value in values]

    def metadata_version(self) -> int:
        return self.behaviour.reported_version or self.current()


def _handler(fake: FakeServing) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            fake.requests.append((self.path, b""))
            if self.path == f"/v1/models/{fake.model}":
                self._answer(200, {"model_version_status": [_status_json(*item) for item in fake.statuses()]})
            elif self.path == f"/v1/models/{MODEL}/metadata":
                self._answer(200, _metadata_json(fake))
            else:
                self._answer(404, {"error": f"Could not find any versions of model {self.path}"})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            fake.requests.append((self.path, body))
            document = json.loads(body)
            values = document.get("instances") or document["inputs"]["x"]
            values = values[0] if isinstance(values[0], list) else values  # a column of rows of one
            values = [row["x"][0] if isinstance(row, dict) else row for row in values]
            try:
                values = fake.predict(values, "REST")
            except LookupError as error:
                self._answer(404, {"error": str(error)})
            else:
                self._answer(200, {"predictions" if "instances" in document else "outputs": values})

        def _answer(self, code: int, document: object) -> None:
            # Pretty-printed, as upstream does: a client must parse, not compare text.
            data = json.dumps(document, indent=4).encode()
            head = f"HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
            self.wfile.write(head.encode() + data)
            if fake.behaviour.drops_connections:
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            pass

    return Handler


def _status_json(version: int, state: str, error: str) -> dict[str, object]:
    status = {"error_code": "NOT_FOUND" if error else "OK", "error_message": error}
    return {"version": str(version), "state": state, "status": status}


def _metadata_json(fake: FakeServing) -> dict[str, object]:
    def tensor(name: str) -> dict[str, object]:
        shape = {"dim": [{"size": "-1", "name": ""}, {"size": "1", "name": ""}], "unknown_rank": False}
        return {"dtype": "DT_FLOAT", "tensor_shape": shape, "name": f"{name}:0"}

    signature = {
        "inputs": {"x": tensor("x")},
        "outputs": {"y": tensor("y")},
        "method_name": "tensorflow/serving/predict",
    }
    return {
        "model_spec": {"name": MODEL, "signature_name": "", "version": str(fake.metadata_version())},
        "metadata": {"signature_def": {"signature_def": {fake.behaviour.signature: signature}}},
    }


class _Services:
    """The gRPC half; requests are kept with their names."""

    def __init__(self, fake: FakeServing) -> None:
        self.fake = fake

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        prediction = {
            "Predict": self._method(pb.PredictRequest, self._predict),
            "GetModelMetadata": self._method(pb.GetModelMetadataRequest, self._metadata),
        }
        model = {"GetModelStatus": self._method(pb.GetModelStatusRequest, self._status)}
        return [
            grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", prediction),
            grpc.method_handlers_generic_handler("tensorflow.serving.ModelService", model),
        ]

    def _method(
        self, kind: type[_M], handler: Callable[[_M, grpc.ServicerContext], Message]
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        def answer(data: bytes, context: grpc.ServicerContext) -> bytes:
            self.fake.requests.append((kind.__name__, data))
            return handler(kind.FromString(data), context).SerializeToString()

        return grpc.unary_unary_rpc_method_handler(answer)

    def _predict(self, request: pb.PredictRequest, context: grpc.ServicerContext) -> Message:
        try:
            tensor = request.inputs["x"]
            raw = [value for (value,) in struct.iter_unpack("<f", tensor.tensor_content)]
            values = self.fake.predict(raw or list(tensor.float_val), "gRPC")
        except LookupError as error:
            context.abort(grpc.StatusCode.NOT_FOUND, str(error))
        shape = pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=len(values))])
        return pb.PredictResponse(
            outputs={
                self.fake.behaviour.output: pb.TensorProto(dtype=pb.DT_FLOAT, tensor_shape=shape, float_val=values)
            }
        )

    def _status(self, request: pb.GetModelStatusRequest, context: grpc.ServicerContext) -> Message:
        if request.model_spec.name != self.fake.model:
            context.abort(grpc.StatusCode.NOT_FOUND, "Could not find any versions of model")
        response = pb.GetModelStatusResponse()
        for version, state, error in self.fake.statuses():
            item = response.model_version_status.add(version=version, state=state)
            item.status.error_code = 5 if error else 0
            item.status.error_message = error
        return response

    def _metadata(self, _request: pb.GetModelMetadataRequest, context: grpc.ServicerContext) -> Message:
        if self.fake.behaviour.load_error or not self.fake.behaviour.available:
            context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found for request")
        signatures = pb.SignatureDefMap()
        signature = signatures.signature_def[self.fake.behaviour.signature]
        signature.inputs["x"].dtype = signature.outputs["y"].dtype = pb.DT_FLOAT
        response = pb.GetModelMetadataResponse(model_spec=pb.ModelSpec(name=MODEL))
        response.model_spec.version.value = self.fake.metadata_version()
        response.metadata["signature_def"].type_url = f"type.googleapis.com/{SIGNATURE_DEF_MAP}"
        response.metadata["signature_def"].value = signatures.SerializeToString()
        return response
