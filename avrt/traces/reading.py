"""Reading what teachers write: thinking apart from the reply, and the option that a labelled analysis chooses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from avrt.choices import read_choice, read_choices

# Qwen, DeepSeek and most others; Kimi's own spelling.
_MARK = re.compile(r"<\s*(/?)\s*think(?:ing)?\s*>|◁\s*(/?)\s*think\s*▷", re.IGNORECASE)
_LABEL = r"(?im)^[\s*#_>-]*{}[\s*_]*[:\uFF1A][\s*_]*"
_ANSWER_LABEL = re.compile(r"(?i)(?<![A-Za-z])(?:final\s+)?answer[\s*_]*(?:is)?[\s*_]*[:\uFF1A][\s*_]*")
_DESCRIPTION_LABEL = re.compile(_LABEL.format(r"(?:(?:visual|audio|video|sound|speech|music)\s+)?description"))
_REASONING_LABEL = re.compile(r"(?i)(?<![A-Za-z])reasoning[\s*_]*[:\uFF1A][\s*_]*")


@dataclass(frozen=True)
class Analysis:
    """A teacher's reply taken apart.

    Attributes:
        text: What was said openly, without tags and without the choice.
        thinking: What was thought before it, without marks.
        letter: The option chosen, or options as in `A,C`, or None if none can be told; thinking chooses nothing.
    """

    text: str
    thinking: str
    letter: str | None

    def told(self, *, thinking: bool = True, words: int | None = None) -> str:
        """What a merger reads of it: the thinking, then what was said openly.

        Args:
            thinking: Whether the thinking is read at all.
            words: Most words of thinking; from longer thinking the middle is left out.
        """
        if not thinking:
            return self.text
        return "\n\n".join(part for part in (shortened(self.thinking, words), self.text) if part)


def shortened(text: str, words: int | None) -> str:
    """A text of at most so many words: where there are more, its beginning and its end around a mark."""
    found = [match.span() for match in re.finditer(r"\S+", text)]
    if words is None or len(found) <= words:
        return text
    head = (words + 1) // 2
    tail = len(found) - (words - head)
    parts = (text[: found[head - 1][1]] if head else "", "[...]", text[found[tail][0] :] if words > head else "")
    return "\n".join(part for part in parts if part)


def is_mark(text: str) -> bool:
    """Whether a text is a mark where thinking begins or ends, and nothing else."""
    return _MARK.fullmatch(text.strip()) is not None


def split_thinking(text: str, reasoning: str | None = None) -> tuple[str, str]:
    """A reply's thinking and the rest, whichever way the server marks thinking.

    Args:
        text: The reply.
        reasoning: Thinking that came in a field of its own.

    Returns:
        (thinking, what stands outside of it).
    """
    thoughts: list[str] = []
    spoken: list[str] = []
    inside, place = False, 0
    for mark in _MARK.finditer(text):
        closing = bool(mark[1] or mark[2])
        # a first mark that closes: the chat template wrote the opening one
        (thoughts if inside or (closing and not place) else spoken).append(text[place : mark.start()])
        inside, place = not closing, mark.end()
    (thoughts if inside else spoken).append(text[place:])
    thinking = _joined(thoughts)
    own = (reasoning or "").strip()
    if own and _flat(own) != _flat(thinking):  # some servers send it in both places
        thinking = _joined([_MARK.sub("", own), thinking])
    return thinking, _joined(spoken)


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
    read = read_choices if several else read_choice
    letter = None if cut_off else read(visible, choices)
    return Analysis(_without_answer(visible), thinking, letter)


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


def _joined(parts: Sequence[str]) -> str:
    return "\n".join(part.strip() for part in parts if part.strip())


def _flat(text: str) -> str:
    return " ".join(_MARK.sub(" ", text).split())
