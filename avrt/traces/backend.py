"""The interface of every teacher and merger: a named model that turns requests into replies, several at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod

from avrt.traces.requests import Reply, Request
from avrt.traces.templates import Template


class Backend(ABC):
    """A model that answers requests. Construction is cheap; `open` loads the model or connects to its server."""

    @property
    @abstractmethod
    def model(self) -> str:
        """The model's name in the keys of stored calls; another name means that calls are made again."""

    @property
    @abstractmethod
    def max_concurrency(self) -> int:
        """How many requests it works on at a time."""

    def own_template(self) -> Template | None:
        """The prompt that the model was trained with, where that is known."""
        return None

    def share_among(self, processes: int) -> None:  # noqa: B027
        """Take a part of the server's concurrency only, as several processes use the same server."""

    async def open(self) -> None:  # noqa: B027 - nothing to do for many
        """Load the model, or connect to its server.

        Raises:
            AvrtError: If the model cannot be loaded, or the server cannot be reached.
        """

    @abstractmethod
    async def complete(self, request: Request) -> Reply:
        """Answer one request; many may be waiting at once.

        Raises:
            CallFailedError: If this request has failed permanently.
            ServerDownError: If the server answers no request any more.
        """

    async def close(self) -> None:  # noqa: B027
        """Release what `open` took."""
