"""Reading what teachers write: thinking apart from the reply, and the option that a labelled analysis chooses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from avrt.choices import read_choice, read_choices

# Qwen, DeepSeek and most others; Kimi's own spelling. A missing opening tag is common: the chat template wrote it.
_THINKING = re.compile(r"\A\s*(?:<think>|◁think▷)?(?P<thinking>.*?)(?:</think>|◁/think▷)(?P<rest>.*)\Z", re.DOTALL)
_UNCLOSED = re.compile(r"\A\s*(?:<think>|◁think▷)(?P<thinking>.*)\Z", re.DOTALL)
_LABEL = r"(?im)^[\s*#_>-]*{}[\s*_]*[:\uFF1A][\s*_]*"
_ANSWER_LABEL = re.compile(r"(?i)(?<![A-Za-z])(?:final\s+)?answer[\s*_]*(?:is)?[\s*_]*[:\uFF1A][\s*_]*")
_DESCRIPTION_LABEL = re.compile(_LABEL.format(r"(?:(?:visual|audio|video|sound|speech|music)\s+)?description"))
_REASONING_LABEL = re.compile(r"(?i)(?<![A-Za-z])reasoning[\s*_]*[:\uFF1A][\s*_]*")


@dataclass(frozen=True)
class Analysis:
    """A teacher's reply taken apart.

    Attributes:
        text: The analysis without tags and without the choice, as the merger is given it.
        letter: The option chosen, or options as in `A,C`, or None if none can be told.
    """

    text: str
    letter: str | None


def split_thinking(text: str, reasoning: str | None = None) -> tuple[str, str]:
    """A reply's thinking and the rest, whichever way the server marks thinking.

    Args:
        text: The reply.
        reasoning: Thinking that came in a field of its own.

    Returns:
        (thinking, what follows it).
    """
    if match := _THINKING.match(text):
        inside, rest = match["thinking"], match["rest"]
    elif match := _UNCLOSED.match(text):
        inside, rest = match["thinking"], ""
    else:
        inside, rest = "", text
    return "\n".join(part.strip() for part in (reasoning or "", inside) if part.strip()), rest.strip()


def read_analysis(
    text: str,
    choices: Sequence[str],
    reasoning: str | None = None,
    *,
    cut_off: bool = False,
    several: bool = False,
) -> Analysis:
    """Read a teacher's reply in either format: labelled parts ending in ``Answer: (X) text``, or think and answer tags.

    Args:
        text: The reply.
        choices: The question's options.
        reasoning: Thinking that the server returned in a field of its own.
        cut_off: The reply ended at its limit of tokens. Whatever it weighed last, it decided nothing: no letter.
        several: Whether several choices may be right.
    """
    thinking, visible = split_thinking(text, reasoning)
    analysis = _without_answer(visible)
    read = read_choices if several else read_choice
    letter = None if cut_off else read(visible, choices)
    return Analysis(analysis or thinking, letter)


def split_labelled(analysis: str) -> tuple[str, str]:
    """Description and reasoning of an analysis without its answer; all of it is description where labels lack."""
    start = _DESCRIPTION_LABEL.search(analysis)
    body = analysis[start.end() :] if start else analysis
    if middle := _REASONING_LABEL.search(body):
        return body[: middle.start()].strip(), body[middle.end() :].strip()
    return body.strip(), ""


def _without_answer(text: str) -> str:
    """The text before its answer tag, or before the last line that is labelled as the answer."""
    if "<answer>" in text:
        return text.partition("<answer>")[0].strip()
    labels = list(_ANSWER_LABEL.finditer(text))
    return text[: labels[-1].start()].strip(" \n*#_") if labels else text.strip()
