"""MODE=single: the model server as a child process, in an image that has both."""

from __future__ import annotations

import asyncio
import signal
import socket
from asyncio.subprocess import Process

from gateway.settings import Settings

SERVER = "/usr/bin/tensorflow_model_server"
_STOP_SECONDS = 5.0


def free_port() -> int:
    """A port of the loopback interface that no one listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


async def start(settings: Settings, port: int) -> Process:
    """Start the server on a port; its output is the gateway's own. FileNotFoundError where the image has none."""
    model = f"{settings.model_base_path.rstrip('/')}/{settings.model}"
    arguments = (f"--port={port}", f"--model_name={settings.model}", f"--model_base_path={model}")
    return await asyncio.create_subprocess_exec(SERVER, *arguments)


async def stop(process: Process) -> None:
    """End it, by force where it does not end."""
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), _STOP_SECONDS)
    except asyncio.TimeoutError:  # noqa: UP041 - Python 3.10 has two of them
        process.kill()
        await process.wait()
