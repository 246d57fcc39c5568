"""The base of models in this process: requests that wait at the same time are answered as one batch, in a thread."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from avrt.errors import AvrtError
from avrt.traces.analysis import is_thinking_tag
from avrt.traces.backend import Backend
from avrt.traces.requests import CallFailedError, Reply, Request


class BatchingBackend(Backend):
    """A model in this process, which answers batches.

    Args:
        batch_size: Most requests in a batch.
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._pool: ThreadPoolExecutor | None = None
        self._worker: asyncio.Task[None] | None = None

    @property
    def max_concurrency(self) -> int:
        """Two batches: the next one waits while one is being answered."""
        return 2 * self._batch_size

    @abstractmethod
    def load(self) -> None:
        """Load the model; runs in the backend's thread."""

    @abstractmethod
    def answer(self, requests: list[Request]) -> list[Reply | CallFailedError]:
        """Answer a batch; runs in the backend's thread."""

    async def open(self) -> None:
        """Load the model and start the task that makes batches."""
        if self._pool is not None:
            return
        self._pool = ThreadPoolExecutor(1)
        self._waiting: asyncio.Queue[tuple[Request, asyncio.Future[Reply]]] = asyncio.Queue()
        await asyncio.get_running_loop().run_in_executor(self._pool, self.load)
        self._worker = asyncio.create_task(self._serve())

    async def close(self) -> None:
        """Stop the task and its thread."""
        if self._worker is not None:
            self._worker.cancel()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool = self._worker = None

    async def complete(self, request: Request) -> Reply:
        """Wait for the batch that holds the request; see `Backend.complete` for the errors."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        await self._waiting.put((request, future))
        return await future

    async def _serve(self) -> None:
        """Answer batches until the backend is closed."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._waiting.get()]
            await asyncio.sleep(0.02)  # requests that come at the same time join the batch
            while len(batch) < self._batch_size and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            begun = time.monotonic()
            try:
                replies = await loop.run_in_executor(self._pool, self.answer, [request for request, _ in batch])
            except Exception as error:  # a fault of the model ends the run through those who wait
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


def decode_reply(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """A reply's text without special tokens, but with thinking tags, which some tokenizers count as special."""
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    tags = {number for number in special if is_thinking_tag(tokenizer.added_tokens_decoder[number].content)}
    if not tags.intersection(token_ids):
        return str(tokenizer.decode(token_ids, skip_special_tokens=True))
    kept = [number for number in token_ids if number not in special or number in tags]
    return str(tokenizer.decode(kept, skip_special_tokens=False))
