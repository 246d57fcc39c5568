"""For backends in this process: requests that wait at the same time are answered together, in a thread of their own."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from avrt.errors import AvrtError
from avrt.traces.backend import Backend
from avrt.traces.reading import is_mark
from avrt.traces.requests import CallFailedError, Reply, Request


class BatchingBackend(Backend):
    """Base of in-process models.

    Args:
        batch_size: Requests answered together.
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._pool: ThreadPoolExecutor | None = None
        self._worker: asyncio.Task[None] | None = None

    @property
    def slots(self) -> int:
        """See `Backend.slots`: as many again wait while a batch is being answered."""
        return 2 * self._batch_size

    @abstractmethod
    def load(self) -> None:
        """Load the model; runs in the backend's thread."""

    @abstractmethod
    def answer(self, requests: list[Request]) -> list[Reply | CallFailedError]:
        """Answer a batch; runs in the backend's thread."""

    async def open(self) -> None:
        """Load the model and start taking requests."""
        if self._pool is not None:
            return
        self._pool = ThreadPoolExecutor(1)
        self._waiting: asyncio.Queue[tuple[Request, asyncio.Future[Reply]]] = asyncio.Queue()
        await asyncio.get_running_loop().run_in_executor(self._pool, self.load)
        self._worker = asyncio.create_task(self._serve())

    async def close(self) -> None:
        """Stop taking requests."""
        if self._worker is not None:
            self._worker.cancel()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool = self._worker = None

    async def complete(self, request: Request) -> Reply:
        """See `Backend.complete`."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        await self._waiting.put((request, future))
        return await future

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._waiting.get()]
            await asyncio.sleep(0.02)  # let those that are about to ask join the batch
            while len(batch) < self._batch_size and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            begun = time.monotonic()
            try:
                replies = await loop.run_in_executor(self._pool, self.answer, [request for request, _ in batch])
            except Exception as error:  # a fault of the model ends the run, and whoever waits must hear of it
                for _, future in batch:
                    if not future.done():
                        future.set_exception(AvrtError(f"{type(error).__name__}: {error}", where=self.model))
                continue
            share = (time.monotonic() - begun) / len(batch)
            for (_, future), reply in zip(batch, replies, strict=True):
                if future.done():
                    continue
                if isinstance(reply, CallFailedError):
                    future.set_exception(reply)
                else:
                    future.set_result(replace(reply, seconds=share))


def spoken_text(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """What a model wrote, without special tokens but with the marks of its thinking, which some tokenizers count so."""
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    marks = {number for number in special if is_mark(tokenizer.added_tokens_decoder[number].content)}
    if not marks.intersection(token_ids):
        return str(tokenizer.decode(token_ids, skip_special_tokens=True))
    kept = [number for number in token_ids if number not in special or number in marks]
    return str(tokenizer.decode(kept, skip_special_tokens=False))
