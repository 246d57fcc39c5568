"""The one reader of answers: the strict think/answer format, the chosen letter, and the words of the reasoning.

Rewards, trace filters and benchmarks all read responses through this module.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_FORMAT = re.compile(r"\s*<think>(?P<think>.*?)</think>\s*<answer>(?P<answer>.*?)</answer>\s*", re.DOTALL)
_THINK = re.compile(r"<think>(.*?)</think>", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_LETTER = re.compile(r"\s*([A-Z])\s*")
# `A, C`, `AC`, `A and C`, `A/C`, one of them on each line: letters, and nothing else.
_LETTERS = re.compile(r"[A-Z](?: ?(?:,|/|;|\+|&|,? and ) ?[A-Z]| ?[A-Z])*")
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


@dataclass(frozen=True, slots=True)
class Response:
    """A response taken apart.

    Attributes:
        text: The whole response.
        think: The text inside ``<think>``, or None without exactly one such part.
        letter: The letter inside ``<answer>``, or None if there is none, or one that no choice goes by. Of a question
            with several right choices all letters that are given, in order, as in ``A,C``.
        well_formed: Whether the response is exactly ``<think>...</think><answer>X</answer>``: each tag once, in this
            order, nothing but white space around them, some reasoning, and the letter of a choice (AVRT eq. 4).
    """

    text: str
    think: str | None
    letter: str | None
    well_formed: bool

    @property
    def think_words(self) -> int | None:
        """Number of whitespace-separated words of the reasoning (w of AVRT eq. 6), None without a think part."""
        return None if self.think is None else len(self.think.split())


def parse_response(text: str, letters: str, *, several: bool = False) -> Response:
    """Read one response.

    Args:
        text: What the model wrote, without special tokens.
        letters: The letters that the question's choices go by, e.g. ``ABCD``.
        several: Whether the question may have several right choices; otherwise two letters are no answer.
    """
    thinks, answers = _THINK.findall(text), _ANSWER.findall(text)
    think = thinks[0] if len(thinks) == 1 else None
    letter = None
    if len(answers) == 1 and several:
        letter = read_letters(answers[0], letters)
    elif len(answers) == 1 and (match := _LETTER.fullmatch(answers[0])) and match[1] in letters:
        letter = match[1]
    once = all(text.count(tag) == 1 for tag in _TAGS)
    match = _FORMAT.fullmatch(text)
    well_formed = bool(once and match and match["think"].strip() and letter)
    return Response(text=text, think=think, letter=letter, well_formed=well_formed)


def read_letters(text: str, letters: str) -> str | None:
    """The letters that a text consists of, in order, as in ``A,C``.

    They may be given in any order, with commas, slashes, `&`, `and`, spaces or nothing between them.

    Args:
        text: What should be nothing but letters.
        letters: The letters that choices go by.

    Returns:
        The letters; None if there is anything else, a letter that no choice goes by, or one of them twice.
    """
    text = " ".join(text.split())
    if not _LETTERS.fullmatch(text):
        return None
    given = [character for character in text if character.isupper()]
    return ",".join(sorted(given)) if len(set(given)) == len(given) and set(given) <= set(letters) else None


def format_response(think: str, letter: str) -> str:
    """The target format of every trace: reasoning and letter, or letters as in `A,C`, between their tags."""
    return f"<think>{think.strip()}</think><answer>{letter}</answer>"
