"""Taking a chat completion apart: text, reasoning and counts in whatever shape servers give them, and what went wrong.

What another attempt may mend is a `SetbackError`; what it cannot mend is a `CallFailedError`, not to be paid for twice.
"""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Mapping
from typing import Any

from avrt.traces.requests import CallFailedError, Reply, is_cut_off

LONGEST_TEXT = 300
# Providers that answer HTTP 200 and put an error inside say in words what others say by a status.
_PASSING = ("overload", "rate_limit", "rate limit", "timeout", "timed out", "unavailable", "server_error", "internal")
_FILTERED = ("content_filter", "safety", "recitation", "prohibited_content", "blocklist", "sensitive")
_OUTAGE = (502, 503, 504)  # what a gateway says while nothing stands behind it
_MOST = 2**63 - 1  # what SQLite holds


class SetbackError(Exception):
    """One attempt came to nothing, and another may not.

    Args:
        what: What happened.
        outage: Whether it looks as if no server was there.
        wait: Seconds for which the server asked to be left alone.
    """

    def __init__(self, what: str, *, outage: bool = False, wait: float = 0.0) -> None:
        super().__init__(what)
        self.outage = outage
        self.wait = wait


class RefusedError(CallFailedError):
    """A server does not let this call pass: its key, its account, its route, or what it shows.

    Args:
        what: What the server says.
        status: The HTTP status that says so.
    """

    def __init__(self, what: str, *, status: int, where: object | None = None, remedy: str | None = None) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.status = status


REFUSALS = {
    401: "check the API key",
    402: "check the account's credit",
    403: "check the API key and what it may use",
    404: "check the model's name and the endpoint's path",
}


def judge_status(status: int, body: Any, wait: float = 0.0) -> SetbackError | CallFailedError:
    """What an HTTP status other than 200 means for a call.

    Args:
        status: The status.
        body: What came with it.
        wait: Seconds for which the server asked to be left alone.
    """
    what = f"HTTP {status}: {error_text(body)}"
    if status in REFUSALS or _code(body) == "insufficient_quota":
        return RefusedError(what, status=402 if status == 429 else status)
    if status in (408, 409, 425, 429) or (status >= 500 and status != 501):
        return SetbackError(what, outage=status in _OUTAGE, wait=wait)
    return CallFailedError(what)


def read_completion(record: Any, seconds: float = 0.0, attempts: int = 1) -> Reply:
    """Take a chat completion apart.

    Args:
        record: The JSON that came with HTTP 200.
        seconds: From sending to receiving.
        attempts: How often it was sent.

    Raises:
        SetbackError: If there is no reply in it, and another attempt may bring one.
        CallFailedError: If the server says that there is to be none, or it cannot be read.
    """
    choice = _choice(record)
    message = choice.get("message")
    if message is None and isinstance(choice.get("text"), str):
        message = {"content": choice["text"]}
    if not isinstance(message, Mapping):
        raise SetbackError(f"reply without a message: {shorten(json.dumps(record))}")
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
        raise SetbackError(f"the server broke the reply off (finish_reason {ending})")
    if not text.strip() and not (reasoning or "").strip() and not is_cut_off(ending):
        if message.get("tool_calls") or message.get("function_call"):
            raise CallFailedError("the model calls a tool instead of replying")
        raise SetbackError("empty reply")
    usage = record.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    prompt, written = (_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens"))
    return Reply(text, reasoning, ending, prompt, written, seconds, attempts)


def _choice(record: Any) -> Mapping[str, Any]:
    """The one choice of a completion, unless there is an error in its place."""
    if not isinstance(record, Mapping):
        raise SetbackError(f"reply without a message: {shorten(json.dumps(record))}")
    choices = record.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], Mapping) else None
    error = record.get("error") or (choice or {}).get("error")
    if error or (choice is None and (record.get("object") == "error" or "detail" in record)):
        raise _judge_inside(error or record)
    if choice is None:
        raise SetbackError(f"reply without a message: {shorten(json.dumps(record))}")
    return choice


def _judge_inside(error: Any) -> SetbackError | CallFailedError:
    """What an error inside HTTP 200 means: its code is an HTTP status at most providers, and words at others."""
    text, code = error_text(error), _code(error)
    if code.isdecimal() and 400 <= int(code[:4]) < 600:
        return judge_status(int(code), error)
    if any(word in f"{code} {text}".lower() for word in _PASSING):
        return SetbackError(f"error inside HTTP 200: {text}")
    return CallFailedError(f"error inside HTTP 200: {text}")


def _code(error: Any) -> str:
    """The code or type of an error, as text; empty if it has none."""
    error = error.get("error", error) if isinstance(error, Mapping) else error
    if not isinstance(error, Mapping):
        return ""
    found = [error.get(name) for name in ("code", "status", "type")]
    return next((str(value) for value in found if isinstance(value, (int, str)) and value), "")


def error_text(body: Any) -> str:
    """What a server says of an error, in one short line: its message, and the reasons that it gives."""
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
    """The beginning of a text, on one line."""
    flat = " ".join(text[: 4 * LONGEST_TEXT].split())
    return flat if len(flat) <= LONGEST_TEXT else f"{flat[:LONGEST_TEXT]}..."


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a server asks to be left alone for, by a number or a date; 0 if it does not say."""
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


def _parts(content: Any) -> tuple[str, str, str]:
    """(text, reasoning, refusal) of a message's content: text, a list of parts as Mistral writes them, or nothing."""
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


def _reasoning(message: Mapping[str, Any]) -> str:
    """Thinking in a field of its own: vLLM renamed the field, others kept the old name, OpenRouter gives details."""
    for name in ("reasoning_content", "reasoning", "reasoning_details"):
        if (text := _text_of(message.get(name))).strip():
            return text
    return ""


def _text_of(value: Any, depth: int = 0) -> str:
    """The text in a part or in a list of parts; empty for what holds none."""
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


def _count(value: Any) -> int | None:
    """A number of tokens, None for what is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST else None
