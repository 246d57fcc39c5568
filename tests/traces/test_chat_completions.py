"""Chat completions in the forms that servers use: their text, or their error and whether it is retried."""

import email.utils
import time

import pytest

from avrt.traces.chat_completions import (
    RefusedError,
    RetryableError,
    error_for_status,
    error_text,
    read_completion,
    retry_after,
)
from avrt.traces.requests import CallFailedError, Reply


def completion(content="text", finish="stop", **further):
    message = {"role": "assistant", "content": content, **further}
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}


def test_an_ordinary_reply():
    record = {**completion(reasoning="hm"), "usage": {"prompt_tokens": 7, "completion_tokens": 2}}
    assert read_completion(record, 1.5, 3) == Reply("text", "hm", "stop", 7, 2, 1.5, 3)


@pytest.mark.parametrize(
    ("content", "text", "reasoning"),
    [
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab", None),
        (["a", "b"], "ab", None),
        ({"type": "text", "text": "a"}, "a", None),
        ([{"type": "output_text", "text": "a"}], "a", None),
        (
            [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "a"}],
            "a",
            "hm",
        ),
        ([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}], "a", "hm"),
        ([{"type": "reasoning", "summary": [{"text": "hm"}]}, {"type": "text", "text": {"value": "a"}}], "a", "hm"),
        ([{"type": "image_url", "image_url": {}}, {"type": "text", "text": "a"}], "a", None),
        ([{"type": "thinking", "thinking": "hm"}], "", "hm"),
    ],
)
def test_content_as_parts(content, text, reasoning):
    reply = read_completion(completion(content))
    assert (reply.text, reply.reasoning) == (text, reasoning)


@pytest.mark.parametrize(
    ("further", "reasoning"),
    [
        ({"reasoning_content": "hm"}, "hm"),
        ({"reasoning": "hm", "reasoning_content": None}, "hm"),
        ({"reasoning": [{"text": "h"}, {"text": "m"}]}, "hm"),
        ({"reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}, "hm"),
        ({"reasoning": 7}, None),
        ({"reasoning": " "}, None),
    ],
)
def test_thinking_in_a_field_of_its_own(further, reasoning):
    assert read_completion(completion(**further)).reasoning == reasoning


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"error": {"message": "context length exceeded", "code": 400}}, "context length exceeded"),
        ({"error": "no such thing"}, "error inside HTTP 200: no such thing"),
        ({"error": {"message": "bad", "code": "invalid_request"}}, "error inside HTTP 200: bad"),
        ({"object": "error", "message": "too long", "code": 400}, "HTTP 400: too long"),
        ({"detail": "no"}, "error inside HTTP 200: no"),
        ({"choices": [{"error": {"message": "bad", "code": 413}, "message": {"content": ""}}]}, "HTTP 413: bad"),
        (completion(None, refusal="I won't."), "the model declines: I won't."),
        (completion("half", refusal="I won't."), "the model declines: I won't."),
        (completion([{"type": "refusal", "refusal": "No."}], refusal=" "), "the model declines: No."),
        (completion([{"type": "refusal", "refusal": "No."}]), "the model declines: No."),
        (completion("half", "content_filter"), "content filter"),
        (completion(None, "SAFETY"), "content filter"),
        (completion(None, "tool_calls", tool_calls=[{}]), "calls a tool"),
        (completion([{"type": "image_url"}]), "holds no text, but: image_url"),
        (completion(7), "holds no text, but: int"),
    ],
)
def test_permanent_errors_are_not_retried(record, told):
    with pytest.raises(CallFailedError, match=told.replace("(", r"\(")):
        read_completion(record)


@pytest.mark.parametrize(
    "record",
    [
        {"error": {"message": "x", "code": 429}},
        {"error": {"message": "x", "code": 502}},
        {"error": {"message": "x", "code": "503"}},
        {"error": "the model is overloaded"},
        {"error": {"message": "x", "type": "server_error"}},
        completion(""),
        completion(" \n"),
        completion("half", "error"),
        {"choices": []},
        {"choices": [None]},
        {"choices": [{"finish_reason": "stop"}]},
        [],
        None,
        "text",
    ],
)
def test_errors_that_are_retried(record):
    with pytest.raises(RetryableError):
        read_completion(record)


@pytest.mark.parametrize("finish", ["length", "max_tokens", "MAX_TOKENS", "model_length"])
def test_an_empty_reply_at_its_token_limit_is_cut_off(finish):
    assert read_completion(completion(None, finish)).cut_off
    assert read_completion(completion("half", finish)).cut_off
    assert not read_completion(completion("whole", "stop")).cut_off


def test_counts_that_are_not_numbers_are_left_out():
    for odd in (None, -1, 10**30, True, "7", 1.5, []):
        reply = read_completion({**completion(), "usage": {"prompt_tokens": odd, "completion_tokens": 3}})
        assert (reply.prompt_tokens, reply.completion_tokens) == (None, 3)
    assert read_completion({**completion(finish=3), "usage": []}).finish_reason is None


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, CallFailedError), (413, CallFailedError), (422, CallFailedError), (501, CallFailedError),
        (401, RefusedError), (402, RefusedError), (403, RefusedError), (404, RefusedError),
        (408, RetryableError), (409, RetryableError), (425, RetryableError), (429, RetryableError),
        (500, RetryableError),
        (502, RetryableError), (503, RetryableError), (504, RetryableError), (529, RetryableError),
    ],
)  # fmt: skip
def test_statuses(status, kind):
    judged = error_for_status(status, {"message": "why"}, 4.0)
    assert type(judged) is kind
    assert str(judged).startswith(f"HTTP {status}: why")
    if kind is RetryableError:
        assert judged.wait == 4.0
        assert judged.outage == (status in (502, 503, 504))


def test_an_empty_account_is_not_retried():
    assert isinstance(error_for_status(429, {"message": "pay", "code": "insufficient_quota"}), RefusedError)


def test_error_messages_are_one_short_line():
    assert error_text({"error": {"message": "flagged", "metadata": {"reasons": ["violence"]}}}) == (
        'flagged {"reasons": ["violence"]}'
    )
    assert error_text("<html>\n gateway\n</html>") == "<html> gateway </html>"
    assert error_text({"detail": [{"msg": "x"}]}) == '[{"msg": "x"}]'
    assert error_text("") == "no text"
    assert error_text(None) == "null"
    assert len(error_text("word " * 1000)) == 303


def test_retry_after_is_a_number_or_a_date():
    assert retry_after({"retry-after": "7"}) == 7.0
    assert retry_after({"retry-after-ms": "250", "retry-after": "7"}) == 0.25
    later = email.utils.formatdate(time.time() + 90, usegmt=True)
    assert 85 < retry_after({"retry-after": later}) <= 91
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
    assert retry_after({"retry-after": "soon"}) == 0.0
    assert retry_after({"retry-after": "-3"}) == 0.0
    assert retry_after({}) == 0.0
