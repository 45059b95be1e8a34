"""The HTTP side: /predict, /healthz, /readyz, /metrics."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from http.client import responses

from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest
from tornado.httputil import HTTPServerRequest
from tornado.web import Application, RequestHandler, stream_request_body

from gateway.batching import Batcher
from gateway.processing import RefusedError, postprocess, preprocess
from gateway.serving import Serving
from gateway.settings import Settings

_LOG = logging.getLogger("gateway")
_REQUESTS = Counter("gateway_requests_total", "Requests to /predict by their HTTP status", ["status"])
_SECONDS = Histogram("gateway_request_seconds", "Time from the end of a request's head to its answer")
_RUNNING = Gauge("gateway_requests_running", "Requests to /predict that are being worked on")


class Gateway:
    """What the handlers share."""

    def __init__(self, settings: Settings, serving: Serving) -> None:
        self.settings = settings
        self.serving = serving
        self.batcher = Batcher(serving.predict, rows=settings.batch_rows, delay=settings.batch_delay)
        self.workers = ThreadPoolExecutor(thread_name_prefix="processing")
        self.running = 0
        self.draining = False

    async def predict(self, body: bytes, content_type: str) -> object:
        """Answer one request; RefusedError."""
        expected = await self.serving.model_input()
        loop = asyncio.get_running_loop()
        rows = await loop.run_in_executor(self.workers, preprocess, body, content_type, expected, self.settings)
        outputs = await self.batcher.predict(rows)
        return await loop.run_in_executor(self.workers, postprocess, outputs)


@stream_request_body
class PredictHandler(RequestHandler):
    """POST /predict: JSON rows or an image; the answer is JSON."""

    def initialize(self, gateway: Gateway) -> None:
        """Begin a request."""
        self._gateway = gateway
        self._chunks: list[bytes] = []
        self._size = 0
        self._counted = False
        self._answering = False
        self._id = self.request.headers.get("X-Request-Id", "")[:64] or uuid.uuid4().hex
        self.set_header("X-Request-Id", self._id)

    def prepare(self) -> None:
        """Refuse by the head alone what must not be read."""
        gateway = self._gateway
        if self.request.method != "POST":
            return
        if self._too_big(int(self.request.headers.get("Content-Length", 0))):
            return
        if gateway.draining or gateway.running >= gateway.settings.max_requests:
            self.set_header("Retry-After", "1")
            self._refuse(503, "the gateway is shutting down" if gateway.draining else "too many requests are waiting")
            return
        gateway.running += 1
        self._counted = True
        _RUNNING.inc()

    def data_received(self, chunk: bytes) -> None:
        """Take a part of the body, within the limit."""
        self._size += len(chunk)
        if not self._finished and not self._too_big(self._size):
            self._chunks.append(chunk)

    async def post(self) -> None:
        """Answer."""
        if self._finished:
            return
        self._answering = True
        content_type = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        try:
            self.finish(json.dumps(await self._gateway.predict(b"".join(self._chunks), content_type)))
        except RefusedError as refused:
            if refused.status == 503:  # noqa: PLR2004
                self.set_header("Retry-After", "1")
            self._refuse(refused.status, str(refused))

    def set_default_headers(self) -> None:
        """Everything that this handler answers is JSON."""
        self.set_header("Content-Type", "application/json")

    def write_error(self, status_code: int, **kwargs: object) -> None:
        """Answer with Tornado's own refusals, and what was not foreseen: the log has its traceback."""
        del kwargs
        self.finish(json.dumps({"error": responses.get(status_code, "unknown")}))

    def on_finish(self) -> None:
        """Count the request."""
        self._release()
        _REQUESTS.labels(self.get_status()).inc()
        _SECONDS.observe(self.request.request_time())

    def on_connection_close(self) -> None:
        """Free the place of a client that goes in the middle of its body: nothing is answered then."""
        if not self._answering:
            self._release()

    def _release(self) -> None:
        if self._counted:
            self._counted = False
            self._gateway.running -= 1
            _RUNNING.dec()

    def _too_big(self, size: int) -> bool:
        limit = self._gateway.settings.max_body
        if size > limit:
            self.set_header("Connection", "close")  # the rest of the body is not read
            self._refuse(413, f"the body has {size} bytes or more; {limit} are allowed")
        return size > limit

    def _refuse(self, status: int, message: str) -> None:
        self.set_status(status)
        self.finish(json.dumps({"error": message}))


class HealthHandler(RequestHandler):
    """GET /healthz: the gateway works. GET /readyz: and so does the model server."""

    def initialize(self, gateway: Gateway, *, ready: bool) -> None:
        """Begin a request."""
        self._gateway = gateway
        self._ready = ready

    async def get(self) -> None:
        """Answer with 200 or 503."""
        problem = "the gateway is shutting down" if self._gateway.draining else ""
        if self._ready and not problem and not await self._gateway.serving.available():
            problem = f"no version of {self._gateway.settings.model} is available"
        self.set_status(503 if problem else 200)
        self.finish({"status": problem or "ok"})


class MetricsHandler(RequestHandler):
    """GET /metrics, for Prometheus."""

    def get(self) -> None:
        """Answer with all metrics."""
        self.set_header("Content-Type", CONTENT_TYPE_LATEST)
        self.finish(generate_latest())


def make_app(gateway: Gateway) -> Application:
    """The application of a gateway."""
    return Application(
        [
            ("/predict", PredictHandler, {"gateway": gateway}),
            ("/healthz", HealthHandler, {"gateway": gateway, "ready": False}),
            ("/readyz", HealthHandler, {"gateway": gateway, "ready": True}),
            ("/metrics", MetricsHandler),
        ],
        log_function=_log_request,
    )


def _log_request(handler: RequestHandler) -> None:
    request: HTTPServerRequest = handler.request
    _LOG.log(
        logging.DEBUG if handler.get_status() < 300 and request.path != "/predict" else logging.INFO,  # noqa: PLR2004
        "request",
        extra={
            "fields": {
                "method": request.method,
                "path": request.path,
                "status": handler.get_status(),
                "milliseconds": round(1000 * request.request_time(), 1),
                "request_id": getattr(handler, "_id", None),
                "client": request.remote_ip,
            }
        },
    )


class JsonFormatter(logging.Formatter):
    """A line of JSON for each record."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the record's fields, and the traceback of an error that no one expected."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)
