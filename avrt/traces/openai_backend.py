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
from typing import TYPE_CHECKING, Any

from avrt.errors import AvrtError
from avrt.text import clean
from avrt.traces.backend import Backend
from avrt.traces.chat_completions import (
    RefusedError,
    RetryableError,
    error_for_status,
    error_text,
    read_completion,
    retry_after,
    shorten,
)
from avrt.traces.circuit_breaker import CircuitBreaker
from avrt.traces.requests import CallFailedError, Media, Reply, Request, ServerDownError

if TYPE_CHECKING:
    from openai import AsyncOpenAI


@dataclass
class _Endpoint:
    """One server: its client, its calls in progress and begun, and the time until which it asks to wait."""

    url: str
    client: AsyncOpenAI
    breaker: CircuitBreaker
    in_progress: int = 0
    begun: int = 0
    wait_until: float = 0.0

    def load(self) -> tuple[bool, int, int]:
        """The sort key for the next call: servers without a wait first, then those with fewest calls."""
        return self.wait_until > time.monotonic(), self.in_progress, self.begun


class OpenAIBackend(Backend):
    """Chat completions over HTTP: images as `image_url`, audio as `input_audio` (WAV), text.

    Needs the extra `traces`. HTTP 429 and 5xx, timeouts, lost connections, empty and unreadable replies are tried again
    with growing pauses, each time at the endpoint with the fewest calls. A refused call is not tried again: its sample
    fails, or the run ends; `avrt.traces.circuit_breaker` decides.

    Args:
        model: The model's name at the server.
        endpoints: Base URLs, each ending in `/v1`; requests are spread over them.
        concurrency: Most calls at a time at each endpoint.
        timeout: Seconds for one attempt.
        attempts: Most attempts of a call while the server answers others.
        pause: Seconds before the second attempt, doubled each time up to `longest_pause`; jitter takes up to half off.
        longest_pause: Longest pause in seconds, also where a server's `Retry-After` is longer.
        give_up_after: Seconds without any answer from any endpoint after which the run ends.
        api_key_variable: Environment variable with the API key, where the server needs one.
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
        self._last_answer = time.monotonic()

    @property
    def model(self) -> str:
        """The model's name at the server."""
        return self._model

    @property
    def max_concurrency(self) -> int:
        """The concurrency of all endpoints together."""
        return self._concurrency * len(self._urls)

    def share_among(self, processes: int) -> None:
        """Divide the concurrency of each endpoint, rounded up."""
        self._concurrency = -(-self._concurrency // processes)

    async def open(self) -> None:
        """Connect to every endpoint and check that it serves the model."""
        try:
            import openai
        except ImportError:
            what, remedy = "OpenAIBackend needs the package openai", "pip install 'avrt[traces]'"
            raise AvrtError(what, where=self._model, remedy=remedy) from None
        key = _key(self._api_key_variable)
        self._places = asyncio.Semaphore(self.max_concurrency)
        for url in self._urls:
            http, timeout = _fast_http(), self._timeout
            client = openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=timeout, http_client=http)
            self._endpoints.append(_Endpoint(url, client, CircuitBreaker(url, partial(self._test_call, client))))
        await asyncio.gather(*(self._probe(endpoint) for endpoint in self._endpoints))
        self._last_answer = time.monotonic()

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(endpoint.client.close() for endpoint in self._endpoints))
        self._endpoints = []

    async def complete(self, request: Request) -> Reply:
        """Send a request until an endpoint answers it; see `Backend.complete` for the errors."""
        async with self._places:
            try:
                body = self._body(request)
            except (RuntimeError, ValueError, OSError) as error:  # soundfile raises any of these
                raise CallFailedError(f"the audio cannot be read: {error}") from None
            begun = time.monotonic()
            failures: list[str] = []
            while True:
                endpoint = min(self._endpoints, key=_Endpoint.load)
                await asyncio.sleep(max(0.0, endpoint.wait_until - time.monotonic()))
                endpoint.breaker.check()
                endpoint.in_progress += 1
                endpoint.begun += 1
                try:
                    reply = await self._attempt(endpoint.client, body, len(failures) + 1)
                    endpoint.breaker.record_success()
                    return reply
                except RefusedError as refusal:
                    await endpoint.breaker.record_refusal()
                    raise CallFailedError(refusal.what) from None
                except RetryableError as error:
                    failures.append(str(error))
                    await self._pause_or_fail(endpoint, error, failures, begun)
                finally:
                    endpoint.in_progress -= 1

    async def _pause_or_fail(
        self, endpoint: _Endpoint, error: RetryableError, failures: list[str], begun: float
    ) -> None:
        """Wait before the next attempt.

        Raises:
            ServerDownError: If no endpoint has answered for `give_up_after` seconds.
            CallFailedError: If the last attempt has failed.
        """
        silence = time.monotonic() - max(self._last_answer, begun)
        if error.outage and self._last_answer < begun:
            # No call has been answered since this one began: the server is down, and attempts do not count.
            if silence > self._give_up_after:
                remedy = "start the server, then run the same command again; finished calls are kept"
                raise ServerDownError(f"no answer for {silence:.0f} s: {error}", where=endpoint.url, remedy=remedy)
        elif len(failures) >= self._attempts:
            raise CallFailedError(f"failed {len(failures)} times, last: {failures[-1]}")
        pause = min(self._longest_pause, self._pause * 2 ** (len(failures) - 1))
        if error.wait:
            endpoint.wait_until = time.monotonic() + min(self._longest_pause, error.wait)
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    async def _attempt(self, client: AsyncOpenAI, body: dict[str, object], number: int) -> Reply:
        """Send a request once and parse its reply."""
        import openai

        begun = time.monotonic()
        try:
            # The client's typed methods take 1 ms more a call: they inspect the body and build objects of the reply.
            raw = await client.post("/chat/completions", body=body, cast_to=str)
        except openai.APITimeoutError:
            raise RetryableError(f"no reply within {self._timeout:.0f} s", outage=True) from None
        except openai.APIStatusError as error:
            response = error.response
            failure = error_for_status(error.status_code, error.body or response.text, retry_after(response.headers))
            if not (isinstance(failure, RetryableError) and failure.outage):
                self._last_answer = time.monotonic()
            raise failure from None
        except openai.APIConnectionError as error:
            raise RetryableError(f"connection: {error.__cause__ or error}", outage=True) from None
        except (openai.APIError, ValueError) as error:
            self._last_answer = time.monotonic()
            raise RetryableError(f"unreadable reply: {error}") from None
        self._last_answer = time.monotonic()
        try:
            return read_completion(json.loads(raw), time.monotonic() - begun, number)
        except (ValueError, RecursionError) as error:
            raise RetryableError(f"unreadable reply: {error}: {shorten(raw) or 'nothing'}") from None

    async def _test_call(self, client: AsyncOpenAI) -> None:
        """Ask for one word, to see whether the server refuses every call; other errors are ignored."""
        messages = [{"role": "user", "content": "Say yes."}]
        try:
            await self._attempt(client, {"model": self._model, "messages": messages, "max_tokens": 1}, 1)
        except RefusedError:
            raise
        except (RetryableError, CallFailedError):
            return

    async def _probe(self, endpoint: _Endpoint) -> None:
        """Check that an endpoint lists the model; a server without a list passes."""
        import openai

        try:
            listed = await endpoint.client.with_options(timeout=min(30.0, self._timeout)).models.list()
            names = [entry.id for entry in listed.data or []]
        except openai.APIConnectionError as error:
            what = f"cannot be reached: {error.__cause__ or error}"
            raise ServerDownError(what, where=endpoint.url, remedy="start the server") from None
        except openai.AuthenticationError as error:
            what = f"HTTP 401: {error_text(error.body)}"
            raise ServerDownError(what, where=endpoint.url, remedy="check the API key") from None
        except (openai.APIError, ValueError, AttributeError, TypeError, RecursionError):
            return
        if names and self._model not in names:
            raise AvrtError(f"does not serve {self._model}", where=endpoint.url, remedy=f"it serves {', '.join(names)}")

    def _body(self, request: Request) -> dict[str, object]:
        """The JSON of a request."""
        content: str | list[dict[str, object]] = clean(request.prompt)  # a lone surrogate cannot be sent
        if request.media:
            content = [*_media_parts(request.media), {"type": "text", "text": content}]
        system = [{"role": "system", "content": clean(request.system)}] if request.system else []
        sampling = request.sampling
        return {
            "model": self._model,
            "messages": [*system, {"role": "user", "content": content}],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            **({} if sampling.seed is None else {"seed": sampling.seed}),
            **sampling.extra,
        }


def _media_parts(media: Media) -> list[dict[str, object]]:
    parts: list[dict[str, object]] = [
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{_base64(jpeg)}"}} for jpeg in media.images
    ]
    if media.audio is not None:
        parts.append({"type": "input_audio", "input_audio": {"data": _base64(_wav(media.audio)), "format": "wav"}})
    return parts


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _wav(flac: bytes) -> bytes:
    """The same 16-bit samples as WAV, which every server takes."""
    import soundfile

    samples, rate = soundfile.read(io.BytesIO(flac), dtype="int16")
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def _key(variable: str) -> str:
    """The API key; "none" without one, as the client does not work without a key."""
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable() and " " not in key):
        what = "holds a character that no API key has, such as a space or a line break"
        remedy = "set it to the key and nothing else"
        raise AvrtError(what, where=f"environment variable {variable}", remedy=remedy)
    return key or "none"


def _fast_http() -> Any:
    """The client's aiohttp transport, which takes half the time of the default; the default without aiohttp."""
    import openai

    try:
        return openai.DefaultAioHttpClient()
    except (RuntimeError, ImportError):
        return openai.DefaultAsyncHttpxClient()
