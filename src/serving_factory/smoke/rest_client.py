"""REST client for a TensorFlow Serving server.

Source of paths and JSON shapes: github.com/tensorflow/serving, `tensorflow_serving/g3doc/api_rest.md`; the
metadata answer is the JSON form of `tensorflow_serving/apis/get_model_metadata.proto`.
"""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any, Self, TypeVar

from serving_factory.smoke.answers import (
    DEFAULT_SIGNATURE,
    ModelMetadata,
    ModelState,
    ServerAnswerError,
    ServerUnavailableError,
    Signature,
    TensorSpec,
    VersionStatus,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType


_T = TypeVar("_T")


class RestClient:
    """REST client over one kept-alive connection.

    Args:
        address: `host:port`.
        timeout: seconds that connecting, and each read, may take.
    """

    def __init__(self, address: str, *, timeout: float = 5.0) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=timeout)
        self._address = address
        self._used = False
        self.reconnects = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; a later request opens a new one."""
        self._used = False
        self._connection.close()

    def predict(
        self,
        model: str,
        values: Sequence[float],
        *,
        version: int | None = None,
        signature: str = DEFAULT_SIGNATURE,
    ) -> list[float]:
        """Send the values as instances of the signature's only input.

        Returns:
            The predictions' numbers in row-major order.

        Raises:
            ServerUnavailableError: no answer.
            ServerAnswerError: an HTTP error, or an answer without numbers.
        """
        body: dict[str, object] = {"instances": [float(value) for value in values]}
        if signature != DEFAULT_SIGNATURE:
            body["signature_name"] = signature
        where = "" if version is None else f"/versions/{version}"
        answer = self._ask("POST", f"/v1/models/{model}{where}:predict", json.dumps(body).encode())
        return _read(lambda: _numbers(answer["predictions"]), answer)

    def model_status(self, model: str) -> list[VersionStatus]:
        """Say the state of every version the server knows of; raises as `predict`."""
        answer = self._ask("GET", f"/v1/models/{model}")
        return _read(lambda: [_version_from_json(item) for item in answer["model_version_status"]], answer)

    def metadata(self, model: str) -> ModelMetadata:
        """Say the newest version's signatures; raises as `predict`."""
        answer = self._ask("GET", f"/v1/models/{model}/metadata")
        return _read(lambda: _metadata_from_json(answer), answer)

    def _ask(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        status, text = self._exchange(method, path, body)
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if status != http.client.OK:
            said = answer.get("error", text) if isinstance(answer, dict) else text
            raise ServerAnswerError(f"HTTP {status}", str(said))
        if not isinstance(answer, dict):
            raise ServerAnswerError("malformed", text)
        return answer

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, str]:
        reused = self._used
        try:
            return self._exchange_once(method, path, body)
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError) as cut:
            self.close()
            if not reused:
                raise ServerUnavailableError(self._no_answer(method, path, cut)) from cut
        except (OSError, http.client.HTTPException) as fault:
            self.close()
            raise ServerUnavailableError(self._no_answer(method, path, fault)) from fault
        # A server may close a kept connection at any time (RFC 9112, 9.3.1): ask once more on a fresh one.
        self.reconnects += 1
        return self._exchange(method, path, body)

    def _exchange_once(self, method: str, path: str, body: bytes | None) -> tuple[int, str]:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        self._connection.request(method, path, body=body, headers=headers)
        response = self._connection.getresponse()
        text = response.read().decode(errors="replace")
        self._used = True
        return response.status, text

    def _no_answer(self, method: str, path: str, fault: Exception) -> str:
        return f"{method} http://{self._address}{path}: {str(fault) or type(fault).__name__}"


def _read(reader: Callable[[], _T], answer: object) -> _T:
    try:
        return reader()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ServerAnswerError("malformed", json.dumps(answer)) from error


def _numbers(value: object) -> list[float]:
    if isinstance(value, list):
        return [number for item in value for number in _numbers(item)]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return [float(value)]
    raise TypeError(value)


def _version_from_json(item: dict[str, Any]) -> VersionStatus:
    status = item.get("status", {})
    return VersionStatus(
        int(item["version"]),
        ModelState(item["state"]),
        status.get("error_code", "OK"),
        status.get("error_message", ""),
    )


def _metadata_from_json(answer: dict[str, Any]) -> ModelMetadata:
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    return ModelMetadata(
        answer["model_spec"]["name"],
        int(answer["model_spec"]["version"]),
        {
            name: Signature(
                item.get("method_name", ""),
                _specs_from_json(item.get("inputs", {})),
                _specs_from_json(item.get("outputs", {})),
            )
            for name, item in signatures.items()
        },
    )


def _specs_from_json(tensors: dict[str, Any]) -> dict[str, TensorSpec]:
    def shape(item: dict[str, Any]) -> tuple[int, ...] | None:
        if item.get("unknown_rank"):
            return None
        return tuple(int(dim.get("size", 0)) for dim in item.get("dim", []))

    return {name: TensorSpec(item["dtype"], shape(item.get("tensor_shape", {}))) for name, item in tensors.items()}
