"""The strict reader of responses: the think/answer format, the chosen letter, and the words of the reasoning.

Rewards, trace filters and the strict score of benchmarks use it; `avrt.choices` reads replies in free text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_FORMAT = re.compile(r"\s*<think>(?P<think>.*?)</think>\s*<answer>(?P<answer>.*?)</answer>\s*", re.DOTALL)
_THINK = re.compile(r"<think>(.*?)</think>", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_LETTER = re.compile(r"\s*([A-Z])\s*")
# letters and nothing else: `A, C`, `AC`, `A and C`, `A/C`, or one on each line
_LETTERS = re.compile(r"[A-Z](?: ?(?:,|/|;|\+|&|,? and ) ?[A-Z]| ?[A-Z])*")
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


@dataclass(frozen=True, slots=True)
class Response:
    """The parts of a response.

    Attributes:
        text: The whole response.
        think: The text inside ``<think>``; None unless there is exactly one such part.
        letter: The letter inside ``<answer>``; None if there is none, or if no choice has it. If several choices may be
            right, all given letters in order, as in ``A,C``.
        well_formed: Whether the response is exactly ``<think>...</think><answer>X</answer>``: each tag once, in this
            order, only white space around them, some reasoning, and the letter of a choice (AVRT eq. 4).
    """

    text: str
    think: str | None
    letter: str | None
    well_formed: bool

    @property
    def think_words(self) -> int | None:
        """Number of whitespace-separated words of the reasoning (w of AVRT eq. 6); None without reasoning."""
        return None if self.think is None else len(self.think.split())


def parse_response(text: str, letters: str, *, several: bool = False) -> Response:
    """Read one response.

    Args:
        text: The response, without special tokens.
        letters: The letters of the question's choices, e.g. ``ABCD``.
        several: Whether several choices may be right. If not, two letters are not an answer.
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
    """The letters of a text that consists of letters, sorted, as in ``A,C``.

    The text may have them in any order, separated by commas, slashes, `&`, `and`, spaces or nothing.

    Args:
        text: The text.
        letters: The letters of the choices.

    Returns:
        The letters; None if the text holds anything else, a letter of no choice, or a letter twice.
    """
    text = " ".join(text.split())
    if not _LETTERS.fullmatch(text):
        return None
    given = [character for character in text if character.isupper()]
    return ",".join(sorted(given)) if len(set(given)) == len(given) and set(given) <= set(letters) else None


def format_response(think: str, letter: str) -> str:
    """The target format of every trace: the reasoning, and the letter or letters (`A,C`), in their tags."""
    return f"<think>{think.strip()}</think><answer>{letter}</answer>"
