"""What every backend is: something with a name that turns requests into replies, so many at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod

from avrt.traces.requests import Reply, Request


class Backend(ABC):
    """A model behind one small protocol. Construction is cheap; `open` does the loading or connecting."""

    @property
    @abstractmethod
    def model(self) -> str:
        """What decides its replies; a call is repeated if this changes."""

    @property
    @abstractmethod
    def slots(self) -> int:
        """How many requests it works on at a time."""

    def divide(self, processes: int) -> None:  # noqa: B027
        """Leave room for as many processes at the same server."""

    async def open(self) -> None:  # noqa: B027 - nothing to do for many
        """Get ready.

        Raises:
            AvrtError: If the model cannot be loaded, or the server cannot be reached.
        """

    @abstractmethod
    async def complete(self, request: Request) -> Reply:
        """Answer one request; many may be waiting at once.

        Raises:
            CallFailedError: If this request has failed for good.
            ServerDownError: If no request can be answered any more.
        """

    async def close(self) -> None:  # noqa: B027
        """Release what `open` took."""
