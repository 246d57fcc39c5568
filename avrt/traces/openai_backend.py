"""Models behind OpenAI-compatible servers (vLLM, transformers serve, hosted ones), through the `openai` client."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from avrt.errors import AvrtError
from avrt.text import clean
from avrt.traces.backend import Backend
from avrt.traces.completions import (
    RefusedError,
    SetbackError,
    error_text,
    judge_status,
    read_completion,
    retry_after,
    shorten,
)
from avrt.traces.refusals import Doorkeeper
from avrt.traces.requests import CallFailedError, Media, Reply, Request, ServerDownError


@dataclass
class _Endpoint:
    """One server: its client, how many calls it has and has had, and until when it asked to be left alone."""

    url: str
    client: Any
    doorkeeper: Doorkeeper
    busy: int = 0
    begun: int = 0
    resting_until: float = 0.0

    def preference(self) -> tuple[bool, int, int]:
        """Sorts first the server to ask next: not resting, the least busy; of equals the one that was asked least."""
        return self.resting_until > time.monotonic(), self.busy, self.begun


class OpenAIBackend(Backend):
    """Chat completions over HTTP: pictures as `image_url`, sound as `input_audio` (WAV), text.

    Needs the extra `traces`. What may pass is tried again with growing pauses, on whichever endpoint has the fewest
    calls: HTTP 429 and 5xx, timeouts, lost connections, empty and unreadable replies. What the server refuses is not,
    and is its sample's failure; see `avrt.traces.refusals` for when it is the run's.

    Args:
        model: The model's name at the server.
        endpoints: Base URLs, each ending in `/v1`; requests are spread over them.
        concurrency: Calls at a time per endpoint.
        timeout: Seconds for one attempt.
        attempts: How often a call is sent at most while the server answers others.
        pause: Seconds before the second attempt; doubled each time, up to `longest_pause`, shortened at random.
        longest_pause: Longest pause in seconds; also caps a server's `Retry-After`.
        give_up_after: Seconds without any answer from any endpoint after which the run ends.
        api_key_variable: Environment variable with the key, if the server wants one.
    """

    def __init__(
        self,
        model: str,
        endpoints: Sequence[str],
        concurrency: int = 16,
        timeout: float = 300.0,
        attempts: int = 6,
        pause: float = 1.0,
        longest_pause: float = 60.0,
        give_up_after: float = 300.0,
        api_key_variable: str = "OPENAI_API_KEY",
    ) -> None:
        if not endpoints:
            raise AvrtError("has no endpoint", where=f"backend of {model}", remedy="endpoints: [http://HOST:PORT/v1]")
        self._model = model
        self._urls = list(endpoints)
        self._concurrency = concurrency
        self._timeout = timeout
        self._attempts = attempts
        self._pause = pause
        self._longest_pause = longest_pause
        self._give_up_after = give_up_after
        self._api_key_variable = api_key_variable
        self._endpoints: list[_Endpoint] = []
        self._last_sign = time.monotonic()

    @property
    def model(self) -> str:
        """See `Backend.model`."""
        return self._model

    @property
    def slots(self) -> int:
        """See `Backend.slots`."""
        return self._concurrency * len(self._urls)

    def divide(self, processes: int) -> None:
        """See `Backend.divide`."""
        self._concurrency = -(-self._concurrency // processes)

    async def open(self) -> None:
        """Connect, and see that every endpoint is there and serves the model."""
        try:
            import openai
        except ImportError:
            raise AvrtError(
                "OpenAIBackend needs the package openai", where=self._model, remedy="pip install 'avrt[traces]'"
            ) from None
        key = _key(self._api_key_variable)
        self._places = asyncio.Semaphore(self.slots)
        for url in self._urls:
            http = _fast_http(openai)
            client = openai.AsyncOpenAI(
                base_url=url, api_key=key, max_retries=0, timeout=self._timeout, http_client=http
            )
            self._endpoints.append(_Endpoint(url, client, Doorkeeper(url, partial(self._ask_little, client))))
        await asyncio.gather(*(self._probe(endpoint, openai) for endpoint in self._endpoints))
        self._last_sign = time.monotonic()

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(endpoint.client.close() for endpoint in self._endpoints))
        self._endpoints = []

    async def complete(self, request: Request) -> Reply:
        """See `Backend.complete`."""
        async with self._places:
            try:
                body = self._body(request)
            except (RuntimeError, ValueError, OSError) as error:  # what soundfile raises
                raise CallFailedError(f"its sound cannot be read: {error}") from None
            begun = time.monotonic()
            failures: list[str] = []
            while True:
                endpoint = min(self._endpoints, key=_Endpoint.preference)
                await asyncio.sleep(max(0.0, endpoint.resting_until - time.monotonic()))
                endpoint.doorkeeper.check()
                endpoint.busy += 1
                endpoint.begun += 1
                try:
                    reply = await self._attempt(endpoint.client, body, len(failures) + 1)
                    endpoint.doorkeeper.passed()
                    return reply
                except RefusedError as refusal:
                    await endpoint.doorkeeper.refused()
                    raise CallFailedError(refusal.what) from None
                except SetbackError as setback:
                    failures.append(str(setback))
                    await self._recover(endpoint, setback, failures, begun)
                finally:
                    endpoint.busy -= 1

    async def _recover(self, endpoint: _Endpoint, setback: SetbackError, failures: list[str], begun: float) -> None:
        """Wait before the next attempt, unless there is to be none."""
        silence = time.monotonic() - max(self._last_sign, begun)
        if setback.outage and self._last_sign < begun:
            # Nobody has been answered since this call began: the server is away, which is not this call's fault.
            if silence > self._give_up_after:
                raise ServerDownError(
                    f"no answer for {silence:.0f} s: {setback}",
                    where=endpoint.url,
                    remedy="start the server, then run the same command again; finished calls are kept",
                )
        elif len(failures) >= self._attempts:
            raise CallFailedError(f"failed {len(failures)} times, last: {failures[-1]}")
        pause = min(self._longest_pause, self._pause * 2 ** (len(failures) - 1))
        if setback.wait:
            endpoint.resting_until = time.monotonic() + min(self._longest_pause, setback.wait)
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    async def _attempt(self, client: Any, body: dict[str, Any], number: int) -> Reply:
        import openai

        begun = time.monotonic()
        try:
            # The typed helpers take a millisecond a call to look through the body and to build models of the reply.
            raw = await client.post("/chat/completions", body=body, cast_to=str)
        except openai.APITimeoutError:
            raise SetbackError(f"no reply within {self._timeout:.0f} s", outage=True) from None
        except openai.APIStatusError as error:
            judged = judge_status(
                error.status_code, error.body or error.response.text, retry_after(error.response.headers)
            )
            if not (isinstance(judged, SetbackError) and judged.outage):
                self._last_sign = time.monotonic()
            raise judged from None
        except openai.APIConnectionError as error:
            raise SetbackError(f"connection: {error.__cause__ or error}", outage=True) from None
        except (openai.APIError, ValueError) as error:
            self._last_sign = time.monotonic()
            raise SetbackError(f"unreadable reply: {error}") from None
        self._last_sign = time.monotonic()
        try:
            return read_completion(json.loads(raw), time.monotonic() - begun, number)
        except (ValueError, RecursionError) as error:
            raise SetbackError(f"unreadable reply: {error}: {shorten(raw) or 'nothing'}") from None

    async def _ask_little(self, client: Any) -> None:
        """Ask for a word, to see whether the server lets anything pass; only a refusal matters."""
        body = {"model": self._model, "messages": [{"role": "user", "content": "Say yes."}], "max_tokens": 1}
        try:
            await self._attempt(client, body, 1)
        except RefusedError:
            raise
        except (SetbackError, CallFailedError):
            return

    async def _probe(self, endpoint: _Endpoint, openai: Any) -> None:
        """Ask an endpoint for its models; servers without such a list are taken at their word."""
        try:
            listed = await endpoint.client.with_options(timeout=min(30.0, self._timeout)).models.list()
            names = [entry.id for entry in listed.data or []]
        except openai.APIConnectionError as error:
            raise ServerDownError(
                f"cannot be reached: {error.__cause__ or error}", where=endpoint.url, remedy="is the server up?"
            ) from None
        except openai.AuthenticationError as error:
            raise ServerDownError(
                f"HTTP 401: {error_text(error.body)}", where=endpoint.url, remedy="check the API key"
            ) from None
        except (openai.APIError, ValueError, AttributeError, TypeError, RecursionError):
            return
        if names and self._model not in names:
            raise AvrtError(f"does not serve {self._model}", where=endpoint.url, remedy=f"it serves {', '.join(names)}")

    def _body(self, request: Request) -> dict[str, Any]:
        content: Any = clean(request.prompt)  # half a surrogate pair cannot be sent
        if request.media:
            content = [*_media_parts(request.media), {"type": "text", "text": content}]
        system = [{"role": "system", "content": clean(request.system)}] if request.system else []
        sampling = request.sampling
        body = {
            "model": self._model,
            "messages": [*system, {"role": "user", "content": content}],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            **({} if sampling.seed is None else {"seed": sampling.seed}),
        }
        return {**body, **sampling.extra}


def _media_parts(media: Media) -> list[dict[str, Any]]:
    pictures = [
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{_base64(picture)}"}}
        for picture in media.pictures
    ]
    sound = media.sound
    if sound is None:
        return pictures
    return [*pictures, {"type": "input_audio", "input_audio": {"data": _base64(_wav(sound)), "format": "wav"}}]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _wav(flac: bytes) -> bytes:
    """The same 16-bit samples as WAV, the format that every server takes."""
    import soundfile

    samples, rate = soundfile.read(io.BytesIO(flac), dtype="int16")
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def _key(variable: str) -> str:
    """The API key; servers that want none are given a word, as the client insists on a key."""
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise AvrtError(
            "holds a character that no key has, such as a space or a line break",
            where=f"environment variable {variable}",
            remedy="set it to the key alone",
        )
    return key or "none"


def _fast_http(openai: Any) -> Any:
    """The client's aiohttp transport, which costs half as much as its default; that one where aiohttp is missing."""
    try:
        return openai.DefaultAioHttpClient()
    except (RuntimeError, ImportError):
        return openai.DefaultAsyncHttpxClient()
