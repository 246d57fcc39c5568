"""The trace in a merger's reply, which may think before it, wrap it up, or lose half of it to its server's parser."""

from __future__ import annotations

import re

from avrt.response import format_response
from avrt.traces.requests import Reply

_TAG = re.compile(r"<\s*(/?)\s*(think|answer)\s*>|◁\s*(/?)\s*(think)\s*▷", re.IGNORECASE)
_WHOLE = re.compile(r"<think>([^<]*(?:<(?!/?(?:think|answer)>)[^<]*)*)</think>\s*<answer>([^<]*)</answer>")
_ANSWER = re.compile(r"<answer>([^<]*)</answer>")
_THINK_TAGS = ("<think>", "</think>")


def trace_of(reply: Reply) -> str:
    """The trace that a merger wrote, as nothing but think and answer where that can be told; else the reply's text.

    Taken off are its own thinking before the trace, a code fence, and words around it. Put back are an opening tag that
    the chat template wrote, and the part in `<think>` that its server's reasoning parser moved to another field.

    Args:
        reply: The merger's reply.
    """
    text = plain_tags(reply.text).strip()
    if _WHOLE.fullmatch(text):
        return text
    found = _only_trace(text if _WHOLE.search(text) else _put_back(text, plain_tags(reply.reasoning or "")))
    return text if found is None else format_response(*found)


def _only_trace(text: str) -> tuple[str, str] | None:
    """(think, answer) of the one trace in a text; None where there is none, or another claim beside it.

    What stands before the end of a merger's own thinking is no claim: it may well try a trace, or quote the format.
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


def plain_tags(text: str) -> str:
    """The text with every spelling of a think or answer tag as `<think>`, `</think>`, `<answer>`, `</answer>`."""
    return _TAG.sub(lambda tag: f"<{tag[1] or tag[3] or ''}{(tag[2] or tag[4]).lower()}>", text)


def format_fault(text: str) -> str:
    """Which part of the format a trace that cannot be used does not keep to, as far as that can be told."""
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


def _put_back(text: str, reasoning: str) -> str:
    """The text with the tags, or the thinking, that somebody else took out of it."""
    if "</think>" in text and "<think>" not in text:
        return f"<think>{text}"
    if reasoning.strip() and not any(tag in text for tag in _THINK_TAGS) and _ANSWER.search(text):
        inside = reasoning.strip().removeprefix("<think>").removesuffix("</think>")
        start = text.index("<answer>")
        return f"{text[:start]}<think>{inside}</think>{text[start:]}"
    return text
