"""Reading what teachers write: thinking apart from the reply, and the option that a labelled analysis chooses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from avrt.data.sample import LETTERS
from avrt.response import parse_response

# Qwen, DeepSeek and most others; Kimi's own spelling. A missing opening tag is common: the chat template wrote it.
_THINKING = re.compile(r"\A\s*(?:<think>|◁think▷)?(?P<thinking>.*?)(?:</think>|◁/think▷)(?P<rest>.*)\Z", re.DOTALL)
_UNCLOSED = re.compile(r"\A\s*(?:<think>|◁think▷)(?P<thinking>.*)\Z", re.DOTALL)
_LABEL = r"(?im)^[\s*#_>-]*{}[\s*_]*[:\uFF1A][\s*_]*"
_ANSWER_LABEL = re.compile(r"(?i)(?<![A-Za-z])(?:final\s+)?answer[\s*_]*(?:is)?[\s*_]*[:\uFF1A][\s*_]*")
_DESCRIPTION_LABEL = re.compile(_LABEL.format(r"(?:(?:visual|audio|video|sound|speech|music)\s+)?description"))
_REASONING_LABEL = re.compile(r"(?i)(?<![A-Za-z])reasoning[\s*_]*[:\uFF1A][\s*_]*")
_BRACKETED = re.compile(r"\(\s*([A-Z])\s*\)")
_LEADING = re.compile(r"([A-Z])(?:\s*[.):,\uFF1A]|\s*$)", re.MULTILINE)


@dataclass(frozen=True)
class Analysis:
    """A teacher's reply taken apart.

    Attributes:
        text: The analysis without tags and without the choice, as the merger is given it.
        letter: The option chosen, or None if none can be told.
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
    text: str, choices: Sequence[str], reasoning: str | None = None, *, cut_off: bool = False
) -> Analysis:
    """Read a teacher's reply in either format: labelled parts ending in ``Answer: (X) text``, or think and answer tags.

    Args:
        text: The reply.
        choices: The question's options.
        reasoning: Thinking that the server returned in a field of its own.
        cut_off: The reply ended at its limit of tokens. Whatever it weighed last, it decided nothing: no letter.
    """
    letters = LETTERS[: len(choices)]
    thinking, visible = split_thinking(text, reasoning)
    if "<answer>" in visible:
        letter = parse_response(visible, letters).letter
        analysis = visible.partition("<answer>")[0].strip()
    else:
        analysis, letter = _read_labelled(visible, choices)
    return Analysis(analysis or thinking, None if cut_off else letter)


def split_labelled(analysis: str) -> tuple[str, str]:
    """Description and reasoning of an analysis without its answer; all of it is description where labels lack."""
    start = _DESCRIPTION_LABEL.search(analysis)
    body = analysis[start.end() :] if start else analysis
    if middle := _REASONING_LABEL.search(body):
        return body[: middle.start()].strip(), body[middle.end() :].strip()
    return body.strip(), ""


def _read_labelled(text: str, choices: Sequence[str]) -> tuple[str, str | None]:
    """The text before the last answer label, and the letter after it."""
    labels = list(_ANSWER_LABEL.finditer(text))
    if not labels:
        return text.strip(), None
    return text[: labels[-1].start()].strip(" \n*#_"), _choice(text[labels[-1].end() :], choices)


def _choice(claim: str, choices: Sequence[str]) -> str | None:
    """The one option that a claim such as ``(B) a dog`` names; None where letter and text name different ones."""
    lines = claim.strip().splitlines()
    line = lines[0].strip(" *_`.") if lines else ""
    named = {LETTERS[i] for i, choice in enumerate(choices) if _plain(line) == _plain(choice)}
    if len(named) == 1:
        return named.pop()
    match = _BRACKETED.search(line) or _LEADING.match(line)
    if not match or match[1] not in LETTERS[: len(choices)]:
        return None
    rest = _plain(line[match.end() :])
    others = {_plain(choice) for i, choice in enumerate(choices) if LETTERS[i] != match[1]}
    own = _plain(choices[LETTERS.index(match[1])])
    return None if rest in others and rest != own else match[1]


def _plain(text: str) -> str:
    return re.sub(r"[\s.,;:!*_\"'`]+", " ", text).strip().casefold()
