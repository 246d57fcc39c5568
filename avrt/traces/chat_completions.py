"""Parsing of chat completions: text, reasoning and token counts in the forms that servers use, and their errors.

A `RetryableError` may pass with another attempt. A `CallFailedError` does not, and is not paid for twice.
"""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Mapping

from avrt.traces.requests import CallFailedError, Reply, is_cut_off

LONGEST_TEXT = 300
# Some providers send HTTP 200 with an error inside, whose words stand for what others say by a status.
_TRANSIENT = ("overload", "rate_limit", "rate limit", "timeout", "timed out", "unavailable", "server_error", "internal")
_FILTERED = ("content_filter", "safety", "recitation", "prohibited_content", "blocklist", "sensitive")
_OUTAGE = (502, 503, 504)  # a gateway without a server behind it
_MOST = 2**63 - 1  # the largest integer of SQLite


class RetryableError(Exception):
    """One attempt has failed, and another one may succeed.

    Args:
        what: What happened.
        outage: Whether the server seems to be down.
        wait: Seconds that the server asks to wait.
    """

    def __init__(self, what: str, *, outage: bool = False, wait: float = 0.0) -> None:
        super().__init__(what)
        self.outage = outage
        self.wait = wait


class RefusedError(CallFailedError):
    """A server refuses a call because of its key, account, route or content.

    Args:
        what: The server's message.
        status: The HTTP status.
    """

    def __init__(self, what: str, *, status: int, where: object | None = None, remedy: str | None = None) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.status = status


REFUSALS = {
    401: "check the API key",
    402: "check the account's credit",
    403: "check the API key and its permissions",
    404: "check the model's name and the endpoint's path",
}


def error_for_status(status: int, body: object, wait: float = 0.0) -> RetryableError | CallFailedError:
    """The error of a call that got an HTTP status other than 200.

    Args:
        status: The status.
        body: The response's body.
        wait: Seconds that the server asks to wait.
    """
    what = f"HTTP {status}: {error_text(body)}"
    if status in REFUSALS or _code(body) == "insufficient_quota":
        return RefusedError(what, status=402 if status == 429 else status)
    if status in (408, 409, 425, 429) or (status >= 500 and status != 501):
        return RetryableError(what, outage=status in _OUTAGE, wait=wait)
    return CallFailedError(what)


def read_completion(record: object, seconds: float = 0.0, attempts: int = 1) -> Reply:
    """Parse a chat completion.

    Args:
        record: The JSON that came with HTTP 200.
        seconds: From sending the request to receiving the reply.
        attempts: How often the request was sent.

    Raises:
        RetryableError: If it holds no reply, and another attempt may bring one.
        CallFailedError: If the model or a filter declines, or the content is not text.
    """
    choice = (_choice(record) if isinstance(record, Mapping) else None) or {}
    message = choice.get("message")
    if message is None and isinstance(choice.get("text"), str):
        message = {"content": choice["text"]}
    if not isinstance(record, Mapping) or not isinstance(message, Mapping):
        raise RetryableError(f"reply without a message: {shorten(json.dumps(record))}")
    ending = choice.get("finish_reason")
    ending = ending if isinstance(ending, str) else None
    text, inside, declined = _parts(message.get("content"))
    reasoning = "\n".join(part for part in (_reasoning(message), inside) if part.strip()) or None
    refusal = message.get("refusal")
    declined = refusal if isinstance(refusal, str) and refusal.strip() else declined
    if declined.strip():
        raise CallFailedError(f"the model declines: {shorten(declined)}")
    if (ending or "").lower() in _FILTERED:
        raise CallFailedError(f"the provider's content filter stopped the reply (finish_reason {ending})")
    if (ending or "").lower() in ("error", "abort"):
        raise RetryableError(f"the server stopped the reply (finish_reason {ending})")
    if not text.strip() and not (reasoning or "").strip() and not is_cut_off(ending):
        if message.get("tool_calls") or message.get("function_call"):
            raise CallFailedError("the model calls a tool instead of replying")
        raise RetryableError("empty reply")
    usage = record.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    prompt, written = (_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens"))
    return Reply(text, reasoning, ending, prompt, written, seconds, attempts)


def _choice(record: Mapping[str, object]) -> Mapping[str, object] | None:
    """The first choice of a completion, None without one; raises the error that is there in its place."""
    choices = record.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], Mapping) else None
    error = record.get("error") or (choice or {}).get("error")
    if error or (choice is None and (record.get("object") == "error" or "detail" in record)):
        raise _error_in_body(error or record)
    return choice


def _error_in_body(error: object) -> RetryableError | CallFailedError:
    """The error of a call that got HTTP 200 with an error inside, whose code is an HTTP status or a word."""
    text, code = error_text(error), _code(error)
    if code.isdecimal() and 400 <= int(code[:4]) < 600:
        return error_for_status(int(code), error)
    if any(word in f"{code} {text}".lower() for word in _TRANSIENT):
        return RetryableError(f"error inside HTTP 200: {text}")
    return CallFailedError(f"error inside HTTP 200: {text}")


def _code(error: object) -> str:
    """The code, status or type of an error, as text; empty without one."""
    error = error.get("error", error) if isinstance(error, Mapping) else error
    if not isinstance(error, Mapping):
        return ""
    found = [error.get(name) for name in ("code", "status", "type")]
    return next((str(value) for value in found if isinstance(value, (int, str)) and value), "")


def error_text(body: object) -> str:
    """A server's message about an error and the metadata beside it, in one short line."""
    if isinstance(body, Mapping):
        inner = body.get("error", body)
        if isinstance(inner, Mapping):
            said = next((inner[key] for key in ("message", "detail", "msg") if inner.get(key)), None)
            reasons = inner.get("metadata")
            parts = [said if isinstance(said, str) else None if said is None else json.dumps(said)]
            parts.append(json.dumps(reasons) if reasons and said is not None else None)
            body = " ".join(part for part in parts if part) or json.dumps(inner)
        else:
            body = inner
    return shorten(body if isinstance(body, str) else json.dumps(body, default=str)) or "no text"


def shorten(text: str) -> str:
    """The first 300 characters of a text, on one line."""
    flat = " ".join(text[: 4 * LONGEST_TEXT].split())
    return flat if len(flat) <= LONGEST_TEXT else f"{flat[:LONGEST_TEXT]}..."


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a server asks to wait by `Retry-After`, as a number or a date; 0 without the header."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            return max(0.0, float(value) * unit)
        except ValueError:
            pass
        try:
            return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
        except (ValueError, TypeError, OverflowError):
            continue
    return 0.0


def _parts(content: object) -> tuple[str, str, str]:
    """(text, reasoning, refusal) of a message's content: a text, a list of parts as Mistral sends them, or None."""
    if content is None or isinstance(content, str):
        return content or "", "", ""
    texts, thoughts, refusals, foreign = [], [], [], []
    for part in content if isinstance(content, list) else [content]:
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        if isinstance(part, Mapping) and kind == "refusal":
            refusals.append(_text_of(part.get("refusal")))
        elif isinstance(part, Mapping) and kind in ("thinking", "reasoning", "reasoning_content"):
            thoughts.append(_text_of(next((part[key] for key in ("thinking", "text", "summary") if part.get(key)), "")))
        elif isinstance(part, str) or (isinstance(part, Mapping) and isinstance(part.get("text"), (str, Mapping))):
            texts.append(_text_of(part))
        elif part is not None:
            foreign.append(str(kind) if isinstance(part, Mapping) else type(part).__name__)
    if foreign and not any(text.strip() for text in [*texts, *thoughts, *refusals]):
        raise CallFailedError(f"the reply's content holds no text, but: {shorten(', '.join(foreign))}")
    return "".join(texts), "\n".join(thoughts), "\n".join(refusals)


def _reasoning(message: Mapping[str, object]) -> str:
    """Thinking in a field of its own, which has one name in new vLLM, another elsewhere, a third in OpenRouter."""
    for name in ("reasoning_content", "reasoning", "reasoning_details"):
        if (text := _text_of(message.get(name))).strip():
            return text
    return ""


def _text_of(value: object, depth: int = 0) -> str:
    """The text of a part or of a list of parts; empty without one."""
    if isinstance(value, str):
        return value
    if depth > 8:
        return ""
    if isinstance(value, list):
        return "".join(_text_of(part, depth + 1) for part in value)
    if isinstance(value, Mapping):
        found = (value.get(key) for key in ("text", "value", "thinking", "summary", "content"))
        return next((text for part in found if (text := _text_of(part, depth + 1))), "")
    return ""


def _count(value: object) -> int | None:
    """A number of tokens; None for a value that cannot be one."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST else None
