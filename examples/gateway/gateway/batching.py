"""Puts rows of requests that arrive together into one call of the model server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import numpy as np
from prometheus_client import Histogram

from gateway.processing import RefusedError
from gateway.tensors import Array

Outputs = Mapping[str, Array]
_Batch = list[tuple[Array, asyncio.Future[Outputs]]]
_ROWS = Histogram(
    "gateway_batch_rows", "Rows of a call to the model server", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)


class Batcher:
    """Waits a moment for more rows of the same shape, up to a number; each request gets its own rows back."""

    def __init__(self, predict: Callable[[Array], Awaitable[Outputs]], *, rows: int, delay: float) -> None:
        self._predict = predict
        self._rows = rows
        self._delay = delay
        self._waiting: dict[tuple[int, ...], _Batch] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def predict(self, rows: Array) -> Outputs:
        """Predict rows; what went wrong with a batch went wrong with each request of it."""
        if len(rows) >= self._rows:
            _ROWS.observe(len(rows))
            return await self._predict(rows)
        shape = rows.shape[1:]
        answer: asyncio.Future[Outputs] = asyncio.get_running_loop().create_future()
        if sum(len(other) for other, _ in self._waiting.get(shape, [])) + len(rows) > self._rows:
            self._start(shape)
        batch = self._waiting.setdefault(shape, [])
        batch.append((rows, answer))
        if sum(len(other) for other, _ in batch) == self._rows:
            self._start(shape)
        elif len(batch) == 1:
            asyncio.get_running_loop().call_later(self._delay, self._start_if, shape, batch)
        return await answer

    def _start_if(self, shape: tuple[int, ...], batch: _Batch) -> None:
        if self._waiting.get(shape) is batch:  # else it was full before its time
            self._start(shape)

    def _start(self, shape: tuple[int, ...]) -> None:
        task = asyncio.get_running_loop().create_task(self._run(self._waiting.pop(shape)))
        self._running.add(task)  # the loop itself keeps no reference
        task.add_done_callback(self._running.discard)

    async def _run(self, batch: _Batch) -> None:
        batch = [(rows, answer) for rows, answer in batch if not answer.done()]  # a client may have gone
        if not batch:
            return
        together = np.concatenate([rows for rows, _ in batch])
        _ROWS.observe(len(together))
        try:
            outputs = _checked(await self._predict(together), len(together))
        except Exception as error:  # noqa: BLE001 - whatever it is, a request waits for it
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            return
        begin = 0
        for rows, answer in batch:
            part = slice(begin, begin + len(rows))
            if not answer.done():
                answer.set_result({name: array[part] for name, array in outputs.items()})
            begin += len(rows)


def _checked(outputs: Outputs, rows: int) -> Outputs:
    if any(array.ndim == 0 or len(array) != rows for array in outputs.values()):
        raise RefusedError(502, "the model's output has no row for each input row: set BATCH_ROWS=1")
    return outputs
