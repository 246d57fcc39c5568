"""Checks of merged traces: format, letter, length, leaks of the given answer, refusals, repetition."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from avrt.response import parse_response
from avrt.traces.merger_reply import format_fault

_GIVEN = r"(?:given|provided|supplied|stated|told|indicated|specified|known|labell?ed|marked|confirmed|designated)"
_TRUTH = (
    r"(?:(?:correct|right|true|expected|final|reference|gold(?:en)?)\s+(?:answer|option|choice|response|letter)|answer)"
)
LEAKS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\bground[\s-]?truth\b",
        r"\b(?:answer|solution)\s+key\b",
        rf"\b(?:the|this|that|an?)\s+{_GIVEN}\s+(?:correct\s+|right\s+)?(?:answer|option|choice|solution)\b",
        rf"\b{_TRUTH}\s+(?:\w+\s+){{0,3}}?(?:is|was|has been|being|already|as)\s+(?:\w+\s+){{0,2}}?{_GIVEN}\b",
        rf"\b{_TRUTH}\s+{_GIVEN}\b",
        rf"\b(?:I|we)\s+(?:\w+\s+){{0,2}}?(?:was|were|am|are|have been|had been|'ve been)\s+(?:\w+\s+)?{_GIVEN}\b",
        r"\b(?:I|we)\s+(?:already\s+)?know\s+(?:\w+\s+){0,3}?(?:correct|right|true)?\s*(?:answer|option|choice)\s+(?:is|must|should)\b",
        r"\b(?:since|because|as|given that|knowing(?: that)?|considering(?: that)?)\s+(?:we know\s+)?(?:that\s+)?the\s+"
        r"(?:correct|right|true|expected)\s+(?:answer|option|choice|one)\s+(?:is|must|was)\b",
        r"\b(?:according to|based on|as per|per|following|consistent with|matches|aligns with|agrees with)\s+(?:the\s+)"
        r"(?:correct|right|expected|reference|provided|given)\s+(?:answer|option|choice|label|solution)\b",
        r"\b(?:the|this)\s+(?:prompt|instructions?|task description|user)\s+(?:\w+\s+){0,2}?"
        r"(?:says?|states?|tells?|told|gives?|gave|reveals?|mentions?|indicates?|provides?)\b.{0,60}\b(?:answer|option|choice)\b",
        r"\b(?:audio|visual|vision|first|second|other)\s+(?:agent|teacher|model|analysis|analyst|expert)(?:'s)?\b",
        r"\b(?:both|the two|the)\s+(?:provided\s+|given\s+)?analyses\b",
    )
]
REFUSALS = re.compile(
    r"\b(?:I(?:'m| am) (?:sorry|unable|not able)"
    r"|I (?:can(?:'t| ?not)) (?:help|assist|answer|determine|comply|see|hear)"
    r"|as an? (?:AI|language model|text-based)|I do(?:n't| not) have (?:access|the ability))\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class CheckOptions:
    """The checks of merged traces. A trace that fails one is dropped, and the reason is recorded.

    Attributes:
        min_words: Fewest words of reasoning.
        max_words: Most words of reasoning.
        leaks: Drop traces that show that the answer was given.
        refusals: Drop traces in which the merger declines or speaks of itself as a model.
        repeats: How often the same 8 words in a row may occur.
        extra_leaks: Further regular expressions for leaks, in any language.
    """

    min_words: int = 10
    max_words: int = 500
    leaks: bool = True
    refusals: bool = True
    repeats: int = 2
    extra_leaks: tuple[str, ...] = ()


def check_trace(text: str, letters: str, answer: str, options: CheckOptions, *, several: bool = False) -> str | None:
    """Why a merged trace fails the checks; None if it passes.

    Args:
        text: The trace; see `avrt.traces.merger_reply.read_trace`.
        letters: Letters of the question's choices.
        answer: The right one, or all right ones as in `A,C`.
        options: What to check.
        several: Whether several choices may be right.
    """
    response = parse_response(text, letters, several=several)
    count = response.think_words
    if response.think is None or count is None or not response.well_formed:
        return f"format: {format_fault(text)}"
    if response.letter != answer:
        return "letter: not the right answer's"
    if not options.min_words <= count <= options.max_words:
        return f"length: {'below' if count < options.min_words else 'above'} the bounds"
    if options.leaks and find_leak(response.think, options.extra_leaks):
        return "leak: shows that the answer was given"
    if options.refusals and REFUSALS.search(_flat(response.think)):
        return "refusal"
    if _most_repeated(response.think) > options.repeats:
        return "repetition"
    return None


def find_leak(think: str, extra: tuple[str, ...] = ()) -> str | None:
    """The first words that show that the writer was given the answer or an analysis; None without any."""
    flat = _flat(think)
    for pattern in [*LEAKS, *(re.compile(e, re.IGNORECASE) for e in extra)]:
        if match := pattern.search(flat):
            return match[0]
    return None


def _flat(text: str) -> str:
    """The text on one line, with typewriter apostrophes."""
    return " ".join(text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").split())


def _most_repeated(think: str, length: int = 8) -> int:
    words = think.casefold().split()
    runs = Counter(tuple(words[i : i + length]) for i in range(len(words) - length + 1))
    return max(runs.values(), default=1)
