"""The trace in a merger's reply, which may also hold thinking, a code fence, or text around the trace."""

from __future__ import annotations

import re

from avrt.response import format_response
from avrt.traces.requests import Reply

_TAG = re.compile(r"<\s*(/?)\s*(think|answer)\s*>|◁\s*(/?)\s*(think)\s*▷", re.IGNORECASE)
_WHOLE = re.compile(r"<think>([^<]*(?:<(?!/?(?:think|answer)>)[^<]*)*)</think>\s*<answer>([^<]*)</answer>")
_ANSWER = re.compile(r"<answer>([^<]*)</answer>")
_THINK_TAGS = ("<think>", "</think>")


def read_trace(reply: Reply) -> str:
    """The trace in a merger's reply, with nothing around its think and answer parts; the whole text without a trace.

    The merger's own thinking, a code fence, and text around the trace are left out. An opening tag that the chat
    template has written, and a think part that the server's reasoning parser has moved to another field, are restored.

    Args:
        reply: The merger's reply.
    """
    text = normalize_tags(reply.text).strip()
    if _WHOLE.fullmatch(text):
        return text
    found = _only_trace(_restore_think(text, normalize_tags(reply.reasoning or "")))
    return text if found is None else format_response(*found)


def _only_trace(text: str) -> tuple[str, str] | None:
    """(think, answer) of the one trace in a text; None without a trace, or with another trace or answer beside it.

    Traces and answers inside the merger's own thinking do not count: it may try a trace there, or quote the format.
    """
    wholes = list(_WHOLE.finditer(text))
    if not wholes:
        return None
    last = wholes[-1]
    visible = text[: last.start()].rpartition("</think>")[2] + text[last.end() :]
    others = {answer[1].strip() for answer in _ANSWER.finditer(visible)}
    alike = len({(whole[1].strip(), whole[2].strip()) for whole in wholes}) == 1
    if others and not (alike and others == {last[2].strip()}):
        return None
    return last[1].strip(), last[2].strip()


def normalize_tags(text: str) -> str:
    """The text with every variant of a think or answer tag as `<think>`, `</think>`, `<answer>` or `</answer>`."""
    return _TAG.sub(lambda tag: f"<{tag[1] or tag[3] or ''}{(tag[2] or tag[4]).lower()}>", text)


def format_fault(text: str) -> str:
    """What is wrong with the format of a trace that fails `parse_response`."""
    wholes, answers = len(_WHOLE.findall(text)), {answer.strip() for answer in _ANSWER.findall(text)}
    if not text.strip():
        return "the reply is empty"
    if wholes > 1:
        return "several traces in one reply"
    if len(answers) > 1:
        return "several answers in one reply"
    if _WHOLE.fullmatch(text.strip()):
        return "not the letter of a choice between <answer> and </answer>"
    if text.count("<think>") > text.count("</think>"):
        return "<think> is not closed"
    if "<answer>" not in text:
        return "no <answer>X</answer>"
    if not any(tag in text for tag in _THINK_TAGS):
        return "no <think>...</think>, neither in the reply nor in a field of its own"
    return "not exactly <think>...</think><answer>X</answer>"


def _restore_think(text: str, reasoning: str) -> str:
    """The text with a think part that the chat template or the server has taken out; an extra tag does no harm."""
    if "</think>" in text:
        return f"<think>{text}"
    if reasoning.strip() and "<think>" not in text and _ANSWER.search(text):
        inside = reasoning.strip().removesuffix("</think>")
        return f"<think>{inside}</think>{text[text.index('<answer>') :]}"
    return text
