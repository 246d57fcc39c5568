"""Whether a server that refuses one call refuses all: moderation and missing routes cost a sample, a bad key the run.

A call is refused by HTTP 401, 402, 403 or 404. While others are let pass, a refusal is about what that call shows. To
tell without paying twice, the server is asked for a few words only where nothing has passed yet, or nothing for long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from avrt.traces.completions import REFUSALS, RefusedError
from avrt.traces.requests import ServerDownError

IN_A_ROW = 20
SKIPPING = "where only what these samples show is refused, --retry_failed false passes over them"


class Doorkeeper:
    """Keeps count of what one server lets pass, and decides what a refusal means.

    Args:
        url: The server.
        ask: Asks it for a few words; raises `RefusedError` if it refuses, anything else tells nothing against it.
    """

    def __init__(self, url: str, ask: Callable[[], Awaitable[object]]) -> None:
        self._url = url
        self._ask = ask
        self._passed = False
        self._row = 0
        self._limit = IN_A_ROW
        self._closed: RefusedError | None = None
        self._deciding = asyncio.Lock()

    def passed(self) -> None:
        """A call was let pass."""
        self._passed = True
        self._row = 0

    def check(self) -> None:
        """See that the server is not known to refuse everything, before it is asked once more.

        Raises:
            ServerDownError: If it is.
        """
        if self._closed is not None:
            raise ServerDownError(
                f"refuses every call: {self._closed.what}",
                where=self._url,
                remedy=f"{REFUSALS.get(self._closed.status, 'see what it says')}; finished calls are kept; {SKIPPING}",
            )

    async def refused(self) -> None:
        """Take note of a refusal; returns where it is that one call's failure.

        Raises:
            ServerDownError: If the server refuses everything.
        """
        self._row += 1
        async with self._deciding:  # of several calls that are refused at once, one finds out for all
            self.check()
            if self._passed and self._row < self._limit:
                return
            try:
                await self._ask()
            except RefusedError as again:
                self._closed = again
            self.check()
            if self._row >= self._limit:
                self._limit *= 2
            self._passed = True
