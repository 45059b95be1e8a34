"""REST client for a TensorFlow Serving server.

Source of paths and JSON shapes: github.com/tensorflow/serving, `tensorflow_serving/g3doc/api_rest.md`; the
metadata answer is the JSON form of `tensorflow_serving/apis/get_model_metadata.proto`.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from serving_factory.smoke.answers import (
    ANSWER_WITHIN,
    ModelMetadata,
    ServerAnswerError,
    ServerUnavailableError,
    Signature,
    VersionStatus,
)

_CUT = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)
_MOST_TEXT = 500
_T = TypeVar("_T")


class RestClient(AbstractContextManager["RestClient"]):
    """REST client over one kept-alive connection."""

    def __init__(self, address: str, *, timeout: float = ANSWER_WITHIN) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=timeout)
        self._address = address
        self._used = False
        self.reconnects = 0

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; a later request opens a new one."""
        self._used = False
        self._connection.close()

    def predict(self, model: str, values: Sequence[float]) -> list[float]:
        """Send the values as instances of the only input; return the predictions' numbers in row-major order."""
        # Decimals also for whole numbers: servers before 1.11.0 refuse JSON integers for floats.
        body = {"instances": [float(value) for value in values]}
        return self.predict_json(model, body, lambda answer: _numbers(answer["predictions"]))

    def predict_json(self, model: str, body: Mapping[str, object], read: Callable[[dict[str, Any]], _T]) -> _T:
        """Send a body; return what is read of the answer."""
        return self._ask(read, f"/v1/models/{model}:predict", json.dumps(body).encode())

    def send(self, model: str, body: bytes) -> str:
        """Send the body of a predict request, and return that of the answer as it is; raises as `predict`."""
        status, text = self._exchange(f"/v1/models/{model}:predict", body)
        if status != http.client.OK:
            # It may quote the request, and ends with what is wrong.
            raise ServerAnswerError(f"HTTP {status}: {text if len(text) < _MOST_TEXT else '... ' + text[-_MOST_TEXT:]}")
        return text

    def model_status(self, model: str) -> list[VersionStatus]:
        """Return the state of every version; raises as `predict`."""
        return self._ask(lambda answer: [*map(_status, answer["model_version_status"])], f"/v1/models/{model}")

    def metadata(self, model: str) -> ModelMetadata:
        """Return the newest version's signatures; raises as `predict`."""
        return self._ask(_metadata, f"/v1/models/{model}/metadata")

    def _ask(self, read: Callable[[dict[str, Any]], _T], path: str, body: bytes | None = None) -> _T:
        status, text = self._exchange(path, body)
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if status != http.client.OK:
            raise ServerAnswerError(f"HTTP {status}: {answer.get('error', text) if isinstance(answer, dict) else text}")
        try:
            return read(answer)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ServerAnswerError(f"malformed: {text}") from error

    def _exchange(self, path: str, body: bytes | None) -> tuple[int, str]:
        method, headers = ("POST", {"Content-Type": "application/json"}) if body is not None else ("GET", {})
        try:
            self._connection.request(method, path, body=body, headers=headers)
            response = self._connection.getresponse()
            text = response.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as fault:
            reused = self._used
            self.close()
            # A server may close a kept connection at any time (RFC 9112, 9.3.1): ask once more on a fresh one.
            if reused and isinstance(fault, _CUT):
                self.reconnects += 1
                return self._exchange(path, body)
            why = str(fault) or type(fault).__name__
            raise ServerUnavailableError(f"{method} http://{self._address}{path}: {why}") from fault
        self._used = True
        return response.status, text


def _numbers(value: object) -> list[float]:
    if isinstance(value, list):
        return [number for item in value for number in _numbers(item)]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return [float(value)]
    raise TypeError(value)


def _status(item: dict[str, Any]) -> VersionStatus:
    status = item.get("status", {})
    code = status.get("error_code", "OK")
    error = "" if code == "OK" else f"{code}: {status.get('error_message', '')}"
    return VersionStatus(int(item["version"]), str(item["state"]), error)


def _metadata(answer: dict[str, Any]) -> ModelMetadata:
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    return ModelMetadata(
        int(answer["model_spec"]["version"]),
        {
            name: Signature(_types(signature.get("inputs", {})), _types(signature.get("outputs", {})))
            for name, signature in signatures.items()
        },
    )


def _types(tensors: dict[str, Any]) -> dict[str, str]:
    return {name: str(tensor["dtype"]) for name, tensor in tensors.items()}
