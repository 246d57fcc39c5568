"""The analysis in a teacher's reply: its thinking, its text without the answer, and the letter that it chooses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from avrt.choices import read_choice, read_choices

# Thinking tags of Qwen, DeepSeek and most others, then those of Kimi.
_TAG = re.compile(r"<\s*(/?)\s*think(?:ing)?\s*>|◁\s*(/?)\s*think\s*▷", re.IGNORECASE)
_LABEL = r"(?im)^[\s*#_>-]*{}[\s*_]*[:\uFF1A][\s*_]*"
_ANSWER_LABEL = re.compile(r"(?i)(?<![A-Za-z])(?:final\s+)?answer[\s*_]*(?:is)?[\s*_]*[:\uFF1A][\s*_]*")
_DESCRIPTION_LABEL = re.compile(_LABEL.format(r"(?:(?:visual|audio|video|sound|speech|music)\s+)?description"))
_REASONING_LABEL = re.compile(r"(?i)(?<![A-Za-z])reasoning[\s*_]*[:\uFF1A][\s*_]*")


@dataclass(frozen=True)
class Analysis:
    """A parsed reply of a teacher.

    Attributes:
        text: The text outside of the thinking, without the answer.
        thinking: The thinking, without its tags.
        letter: The letter of the chosen option, or letters as in `A,C`, by the text outside of the thinking alone; None
            where the text chooses none.
    """

    text: str
    thinking: str
    letter: str | None

    def for_merger(self, *, thinking: bool = True, words: int | None = None) -> str:
        """The text that a merger gets: the thinking, then the text outside of it.

        Args:
            thinking: Whether to include the thinking.
            words: Most words of thinking; longer thinking loses its middle.
        """
        if not thinking:
            return self.text
        return "\n\n".join(part for part in (truncate_middle(self.thinking, words), self.text) if part)


def truncate_middle(text: str, words: int | None) -> str:
    """A text of at most `words` words; a longer one keeps its beginning and its end around `[...]`."""
    found = [match.span() for match in re.finditer(r"\S+", text)]
    if words is None or len(found) <= words:
        return text
    head = (words + 1) // 2
    tail = len(found) - (words - head)
    parts = (text[: found[head - 1][1]] if head else "", "[...]", text[found[tail][0] :] if words > head else "")
    return "\n".join(part for part in parts if part)


def is_thinking_tag(text: str) -> bool:
    """Whether a text is a thinking tag and nothing else."""
    return _TAG.fullmatch(text.strip()) is not None


def split_thinking(text: str, reasoning: str | None = None) -> tuple[str, str]:
    """Separate a reply's thinking, in tags or in a field of its own, from the rest.

    Args:
        text: The reply.
        reasoning: Thinking that the server returns in a field of its own.

    Returns:
        (thinking, the text outside of it).
    """
    inner: list[str] = []
    outer: list[str] = []
    inside, start = False, 0
    for tag in _TAG.finditer(text):
        closing = bool(tag[1] or tag[2])
        # where the first tag is a closing one, the chat template has written the opening one
        (inner if inside or (closing and not start) else outer).append(text[start : tag.start()])
        inside, start = not closing, tag.end()
    (inner if inside else outer).append(text[start:])
    thinking = _joined(inner)
    own = (reasoning or "").strip()
    if own and _flat(own) != _flat(thinking):  # some servers send the thinking in both places
        thinking = _joined([_TAG.sub("", own), thinking])
    return thinking, _joined(outer)


def read_analysis(
    text: str,
    choices: Sequence[str],
    reasoning: str | None = None,
    *,
    cut_off: bool = False,
    several: bool = False,
) -> Analysis:
    """Parse a teacher's reply: labelled parts that end in ``Answer: (X) text``, or think and answer tags.

    Args:
        text: The reply.
        choices: The question's choices.
        reasoning: Thinking that the server returns in a field of its own.
        cut_off: Whether the reply reached its token limit; such a reply chooses no letter.
        several: Whether several choices may be right.
    """
    thinking, visible = split_thinking(text, reasoning)
    read = read_choices if several else read_choice
    letter = None if cut_off else read(visible, choices)
    return Analysis(_without_answer(visible), thinking, letter)


def split_analysis(analysis: str) -> tuple[str, str]:
    """(description, reasoning) of an analysis; without labels all of it is description."""
    start = _DESCRIPTION_LABEL.search(analysis)
    body = analysis[start.end() :] if start else analysis
    if middle := _REASONING_LABEL.search(body):
        return body[: middle.start()].strip(), body[middle.end() :].strip()
    return body.strip(), ""


def _without_answer(text: str) -> str:
    """The text before its answer tag, or before the last label `Answer:`."""
    if "<answer>" in text:
        return text.partition("<answer>")[0].strip()
    labels = list(_ANSWER_LABEL.finditer(text))
    return text[: labels[-1].start()].strip(" \n*#_") if labels else text.strip()


def _joined(parts: Sequence[str]) -> str:
    return "\n".join(part.strip() for part in parts if part.strip())


def _flat(text: str) -> str:
    return " ".join(_TAG.sub(" ", text).split())
