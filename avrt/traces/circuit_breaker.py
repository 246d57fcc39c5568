"""Whether a server that refuses one call refuses all calls: then the run ends, otherwise one sample fails.

HTTP 401, 402, 403 and 404 refuse a call. A refusal among calls that succeed is about the call's content, such as a clip
that moderation flags. To decide without paying for a call twice, the server gets a short test call only while no call
has succeeded yet, or after many refusals in a row.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from avrt.traces.chat_completions import REFUSALS, RefusedError
from avrt.traces.requests import ServerDownError

IN_A_ROW = 20
SKIPPING = "if only some samples are refused, --retry_failed false skips them"


class CircuitBreaker:
    """Counts refusals of one server, and stops further calls once it refuses every call.

    Args:
        url: The server.
        test_call: Makes a short call; raises `RefusedError` if the server refuses it. Other errors are not refusals.
    """

    def __init__(self, url: str, test_call: Callable[[], Awaitable[object]]) -> None:
        self._url = url
        self._test_call = test_call
        self._succeeded = False
        self._in_a_row = 0
        self._limit = IN_A_ROW
        self._refusal: RefusedError | None = None
        self._deciding = asyncio.Lock()

    def record_success(self) -> None:
        """Count a call that the server did not refuse."""
        self._succeeded = True
        self._in_a_row = 0

    def check(self) -> None:
        """Stop a call to a server that refuses every call.

        Raises:
            ServerDownError: If the server does.
        """
        if self._refusal is not None:
            remedy = REFUSALS.get(self._refusal.status, "see the server's message")
            raise ServerDownError(
                f"refuses every call: {self._refusal.what}",
                where=self._url,
                remedy=f"{remedy}; finished calls are kept; {SKIPPING}",
            )

    async def record_refusal(self) -> None:
        """Count a refusal, and make the test call where it is needed; returns if the refusal is this call's alone.

        Raises:
            ServerDownError: If the server refuses every call.
        """
        self._in_a_row += 1
        async with self._deciding:  # of several calls refused at once, one makes the test call
            self.check()
            if self._succeeded and self._in_a_row < self._limit:
                return
            try:
                await self._test_call()
            except RefusedError as refusal:
                self._refusal = refusal
            self.check()
            if self._in_a_row >= self._limit:
                self._limit *= 2
            self._succeeded = True
