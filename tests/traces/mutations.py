"""Good chat completions made bad in a seeded way: what servers, proxies and models send, and worse."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

Answer = tuple[int, bytes, dict[str, str]]
CHARACTERS = [
    "\ud83d",
    "\udc00",
    "\0",
    "\x1b[2J\x1b]0;title\x07",
    "\u2028",
    "\u2029",
    "\x85",
    "\ufeff",
    "\u202e",
    "\r",
    "\ufffe",
]
ODD: list[Any] = [None, True, 0, -1, 1.5, 10**30, "", " ", "text", [], {}, [None], [[]], {"text": None}, "\ud83d", "\0"]
STATUSES = [400, 401, 402, 403, 404, 408, 409, 413, 418, 422, 425, 429, 500, 501, 502, 503, 504]
ERRORS: list[Any] = [
    "text",
    "",
    None,
    {"message": "no", "code": 400},
    {"message": "flagged", "code": 403, "metadata": {"reasons": ["\ud83d"]}},
    {"message": {"deep": [1]}, "code": "x"},
    {"message": "overloaded", "code": 529},
    {"code": 429},
    {"type": "server_error"},
    ["a", "b"],
    7,
    {"message": "[/bold] \x1b[31m", "code": None},
    {"error": {"message": "inner"}},
    {"message": "you have no quota", "code": "insufficient_quota"},
]
ENDINGS = ["length", "max_tokens", "content_filter", "error", "abort", "tool_calls", "MAX_TOKENS", None, 3, [], {}, ""]
TAGS = ["<think>", "</think>", "<answer>", "</answer>", "◁think▷", "◁/think▷", "```", "```xml\n", "Answer: (B)", "(A)"]
LISTS: list[Callable[[str], Any]] = [
    lambda text: [{"type": "text", "text": text}],
    lambda text: [text],
    lambda text: {"type": "text", "text": text},
    lambda text: [
        {"type": "output_text", "text": text[: len(text) // 2]},
        {"type": "text", "text": text[len(text) // 2 :]},
    ],
    lambda text: [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": text}],
    lambda text: [{"type": "thinking", "thinking": text}],
    lambda text: [{"type": "refusal", "refusal": text}],
    lambda text: [{"type": "image_url", "image_url": {"url": "x"}}],
    lambda text: [{"type": "text"}, None, 5, [], {"type": 3, "text": {"value": text}}],
    lambda text: [],
]


def mutate(record: dict[str, Any], seed: str) -> Answer:
    """Status, body and headers of a reply with a fault that the seed decides."""
    draw = random.Random(seed)
    whole = copy.deepcopy(record)
    kind = draw.choice(KINDS)
    return kind(whole, draw)


def _sent(record: Any) -> Answer:
    return 200, json.dumps(record).encode(), {}


def _message(record: dict[str, Any]) -> dict[str, Any]:
    return record["choices"][0]["message"]


def _character(record: dict[str, Any], draw: random.Random) -> Answer:
    message = _message(record)
    for _ in range(draw.randint(1, 3)):
        at = draw.randint(0, len(message["content"]))
        message["content"] = message["content"][:at] + draw.choice(CHARACTERS) + message["content"][at:]
    return _sent(record)


def _tag(record: dict[str, Any], draw: random.Random) -> Answer:
    message = _message(record)
    tag, at = draw.choice(TAGS), draw.randint(0, len(message["content"]))
    removed = message["content"].replace(tag, "", 1)
    added = message["content"][:at] + tag + message["content"][at:]
    message["content"] = draw.choice([removed, added, f"{tag}{message['content']}", message["content"] * 2])
    return _sent(record)


def _cut(record: dict[str, Any], draw: random.Random) -> Answer:
    message = _message(record)
    message["content"] = message["content"][: draw.randint(0, len(message["content"]))]
    record["choices"][0]["finish_reason"] = draw.choice(["length", "stop"])
    return _sent(record)


def _wrapped(record: dict[str, Any], draw: random.Random) -> Answer:
    message = _message(record)
    text = message["content"]
    message["content"] = draw.choice(
        [f"```html\n{text}\n```", f"Sure!\n{text}\nAnything else?", f"<think>Hm.</think>\n{text}", f"Hm.</think>{text}"]
    )
    return _sent(record)


def _listed(record: dict[str, Any], draw: random.Random) -> Answer:
    message = _message(record)
    message["content"] = draw.choice(LISTS)(message["content"])
    return _sent(record)


def _field(record: dict[str, Any], draw: random.Random) -> Answer:
    holder, name = draw.choice(
        [
            (record, "choices"),
            (record, "usage"),
            (record["usage"], "prompt_tokens"),
            (record["choices"], 0),
            (record["usage"], "completion_tokens"),
            (record["choices"][0], "message"),
            (_message(record), "content"),
            (_message(record), "reasoning"),
            (_message(record), "reasoning_content"),
            (_message(record), "refusal"),
            (_message(record), "tool_calls"),
            (_message(record), "reasoning_details"),
            (record, "detail"),
        ]
    )
    holder[name] = draw.choice(ODD)
    return _sent(record)


def _lost(record: dict[str, Any], draw: random.Random) -> Answer:
    holder = draw.choice([record, record["choices"][0], _message(record)])
    del holder[draw.choice(list(holder))]
    return _sent(record)


def _ending(record: dict[str, Any], draw: random.Random) -> Answer:
    record["choices"][0]["finish_reason"] = draw.choice(ENDINGS)
    if draw.random() < 0.4:
        _message(record)["content"] = draw.choice(["", None])
    return _sent(record)


def _parsed(record: dict[str, Any], draw: random.Random) -> Answer:
    message = _message(record)
    head, middle, tail = message["content"].partition("</think>")
    if middle:
        message["content"] = draw.choice(["\n\n", ""]) + tail
    message[draw.choice(["reasoning", "reasoning_content"])] = head.replace("<think>", "") + draw.choice(
        ["", *CHARACTERS]
    )
    return _sent(record)


def _error_inside(record: dict[str, Any], draw: random.Random) -> Answer:
    error = draw.choice(ERRORS)
    if draw.random() < 0.3:
        record["choices"][0]["error"] = error
        return _sent(record)
    return _sent({"error": error} if draw.random() < 0.7 else {**record, "error": error})


def _status(record: dict[str, Any], draw: random.Random) -> Answer:
    body = draw.choice(
        [json.dumps({"error": draw.choice(ERRORS)}), "<html>gateway</html>", "", "[]", '{"detail": [1]}']
    )
    wait = draw.choice(["0", "0.01", "Wed, 21 Oct 2015 07:28:00 GMT", "soon", "nan", "-3"])
    return draw.choice(STATUSES), body.encode(), {"Retry-After": wait}


def _broken(record: dict[str, Any], draw: random.Random) -> Answer:
    data = json.dumps(record).encode()
    bodies = [
        data[: draw.randint(0, len(data))], b"\xff\xfe" + data, b"data: " + data, b"null", b"[]", b'"text"', b"7",
        b"[" * 100_000, b'{"choices": ' + b"9" * 5000 + b"}", b"NaN", b"<html><body>login</body></html>",
        b'{"a":' * 900 + b"1" + b"}" * 900,
    ]  # fmt: skip
    return 200, draw.choice(bodies), {}


def _huge(record: dict[str, Any], draw: random.Random) -> Answer:
    message = _message(record)
    message["content"] = (
        draw.choice(["word ", "(", "<", "<think>", "*", "Answer: ", "\ud83d", "\n"]) * 20_000 + message["content"]
    )
    return _sent(record)


KINDS: list[Callable[[dict[str, Any], random.Random], Answer]] = [
    _character, _character, _tag, _tag, _cut, _wrapped, _listed, _field, _field, _lost, _ending, _parsed, _error_inside,
    _status, _broken, _huge,
]  # fmt: skip
