"""The trace in a merger's reply, which may think before it, wrap it up, or lose half of it to its server's parser."""

from __future__ import annotations

import re

from avrt.response import format_response
from avrt.traces.requests import Reply

_TAG = re.compile(r"<\s*(/?)\s*(think|answer)\s*>|◁\s*(/?)\s*(think)\s*▷", re.IGNORECASE)
_WHOLE = re.compile(r"<think>([^<]*(?:<(?!/?(?:think|answer)>)[^<]*)*)</think>\s*<answer>([^<]*)</answer>")
_ANSWER = re.compile(r"<answer>[^<]*</answer>")
_THINK_TAGS = ("<think>", "</think>")


def trace_of(reply: Reply) -> str:
    """The trace that a merger wrote, as nothing but think and answer where that can be told; else the reply's text.

    Taken off are its own thinking before the trace, a code fence, and words around it. Put back are an opening tag that
    the chat template wrote, and the part in `<think>` that its server's reasoning parser moved to another field.

    Args:
        reply: The merger's reply.
    """
    text = plain_tags(reply.text).strip()
    found = _WHOLE.findall(text) or _WHOLE.findall(_put_back(text, plain_tags(reply.reasoning or "")))
    if len({(think.strip(), answer.strip()) for think, answer in found}) != 1:
        return text
    think, answer = found[-1]
    return text if _WHOLE.fullmatch(text) else format_response(think, answer.strip())


def plain_tags(text: str) -> str:
    """The text with every spelling of a think or answer tag as `<think>`, `</think>`, `<answer>`, `</answer>`."""
    return _TAG.sub(lambda tag: f"<{tag[1] or tag[3] or ''}{(tag[2] or tag[4]).lower()}>", text)


def format_fault(text: str) -> str:
    """Which part of the format a trace that cannot be used does not keep to, as far as that can be told."""
    wholes, answers = len(_WHOLE.findall(text)), len(_ANSWER.findall(text))
    if not text.strip():
        return "the reply is empty"
    if wholes > 1:
        return "several traces in one reply"
    if wholes == 1 and answers == 1:
        return "not the letter of a choice between <answer> and </answer>"
    if text.count("<think>") > text.count("</think>"):
        return "<think> is not closed"
    if "<answer>" not in text:
        return "no <answer>X</answer>"
    if not any(tag in text for tag in _THINK_TAGS):
        return "no <think>...</think>, neither in the reply nor in a field of its own"
    return "not exactly <think>...</think><answer>X</answer>"


def _put_back(text: str, reasoning: str) -> str:
    """The text with the tags, or the thinking, that somebody else took out of it."""
    if "</think>" in text and "<think>" not in text:
        return f"<think>{text}"
    if reasoning.strip() and not any(tag in text for tag in _THINK_TAGS) and _ANSWER.search(text):
        inside = reasoning.strip().removeprefix("<think>").removesuffix("</think>")
        return f"<think>{inside}</think>{_ANSWER.findall(text)[-1] if len(_ANSWER.findall(text)) == 1 else text}"
    return text
