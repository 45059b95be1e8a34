"""Serves until SIGTERM, then answers what has begun, and ends."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from asyncio.subprocess import Process
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from gateway import child
from gateway.app import Gateway, JsonFormatter, make_app
from gateway.serving import Serving
from gateway.settings import Mode, Settings, SettingsError, read_settings

_LOG = logging.getLogger("gateway")
_USAGE = 64  # sysexits.h


def main() -> int:
    """Run the gateway; give its exit code."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=os.environ.get("LOG_LEVEL", "INFO").upper(), handlers=[handler])
    try:
        settings = read_settings(os.environ)
    except SettingsError as error:
        for line in str(error).splitlines():
            _LOG.error(line)
        return _USAGE
    return asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> int:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    try:
        sockets = bind_sockets(settings.port)
    except OSError as error:
        _LOG.error("port %s cannot be opened: %s; set GATEWAY_PORT", settings.port, error.strerror)
        return 1
    process, address = None, settings.serving
    if settings.mode is Mode.SINGLE:
        port = child.free_port()
        address = f"127.0.0.1:{port}"
        try:
            process = await child.start(settings, port)
        except FileNotFoundError:
            _LOG.error("MODE=single needs %s: build the gateway on a serving image", child.SERVER)
            return _USAGE
    serving = Serving(settings, address)
    gateway = Gateway(settings, serving)
    server = HTTPServer(make_app(gateway), max_body_size=2**40)  # the handler has the limit, and answers with 413
    server.add_sockets(sockets)
    _LOG.info("listening", extra={"fields": {"port": settings.port, "serving": address, "mode": settings.mode.value}})
    ended = await _until_stopped(stopped, process)
    gateway.draining = True
    server.stop()
    await _drain(gateway)
    await server.close_all_connections()
    await serving.close()
    if process:
        await child.stop(process)
    _LOG.info("ended", extra={"fields": {"unfinished": gateway.running}})
    return ended


async def _until_stopped(stopped: asyncio.Event, process: Process | None) -> int:
    """Wait for a signal, or for the end of the child process, which is an error of its own."""
    waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(stopped.wait())]
    if process:
        waits.append(asyncio.ensure_future(process.wait()))
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for one in waits:
        one.cancel()
    if stopped.is_set() or process is None:
        return 0
    _LOG.error("the model server ended with exit code %s", process.returncode)
    return 1


async def _drain(gateway: Gateway) -> None:
    end = asyncio.get_running_loop().time() + gateway.settings.drain
    while gateway.running and asyncio.get_running_loop().time() < end:
        await asyncio.sleep(0.02)
