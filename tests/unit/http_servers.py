"""HTTP servers on loopback, for as long as a block lasts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class QuietHandler(BaseHTTPRequestHandler):
    """Logs nothing, and answers in one call."""

    def reply(self, status: int, body: bytes = b"", **headers: str | list[str]) -> None:
        """Answer; `_` in the name of a header stands for `-`."""
        self.send_response(status)
        for name, value in headers.items():
            for one in [value] if isinstance(value, str) else value:
                self.send_header(name.replace("_", "-"), one)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(handler: Callable[..., Any], *, host: str = "127.0.0.1") -> Iterator[ThreadingHTTPServer]:
    """Serve requests; gives the server."""
    with ThreadingHTTPServer((host, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
