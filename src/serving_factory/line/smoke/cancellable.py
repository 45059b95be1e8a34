"""An engine whose containers can be asked nothing more once the run is to end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from serving_factory.engine.cancel import Cancel
from serving_factory.engine.docker import ContainerSpec
from serving_factory.line.smoke.types import ContainerEngine, RunningContainer

__all__ = ["CancellableEngine"]


class CancellableEngine:
    """Passes everything on to an engine, unless the run is to end.

    The checks ask their containers something several times a second; so a cancelled run leaves them soon, by an
    exception, and the containers are removed on its way out.

    Args:
        engine: the engine.
        cancel: asks for the end.
    """

    def __init__(self, engine: ContainerEngine, cancel: Cancel) -> None:
        self._engine = engine
        self._cancel = cancel

    @contextmanager
    def container(self, spec: ContainerSpec, /) -> Iterator[RunningContainer]:
        """Start a container; removed on leaving.

        Raises:
            CancelledError: the run is to end.
        """
        self._cancel.check()
        with self._engine.container(spec) as container:
            yield _Container(container, self._cancel)


class _Container:
    """A container that raises CancelledError at whatever it is asked, once the run is to end."""

    def __init__(self, container: RunningContainer, cancel: Cancel) -> None:
        self._container = container
        self._cancel = cancel

    def port(self, container_port: int, /) -> int:
        self._cancel.check()
        return self._container.port(container_port)

    def logs(self, tail: int = 30) -> str:
        self._cancel.check()
        return self._container.logs(tail)

    def status(self) -> str:
        self._cancel.check()
        return self._container.status()

    def exit_code(self) -> int | None:
        self._cancel.check()
        return self._container.exit_code()

    def health(self) -> str | None:
        self._cancel.check()
        return self._container.health()

    def stop(self, timeout: int) -> float:
        self._cancel.check()
        return self._container.stop(timeout)

    def exec(self, argv: tuple[str, ...], /) -> tuple[int, str]:
        self._cancel.check()
        return self._container.exec(argv)
