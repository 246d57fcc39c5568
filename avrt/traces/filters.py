"""Which samples are kept: teachers' verdicts, the filter strategies of AVRT Table 5, and difficulty from agreement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

VISUAL, AUDIO = "visual", "audio"


@dataclass(frozen=True)
class Verdict:
    """What one teacher made of one question.

    Attributes:
        teacher: Its name.
        votes: The letter of each of its k replies, None where none can be told.
        answer: The right letter.
        cut_off: How many of its replies were cut off; these have no vote.
    """

    teacher: str
    votes: tuple[str | None, ...]
    answer: str
    cut_off: int = 0

    @property
    def letter(self) -> str | None:
        """The letter with most votes; None on a tie or without any."""
        return majority(self.votes)

    @property
    def correct(self) -> bool:
        """Whether its letter is the right one."""
        return self.letter == self.answer


def majority(votes: Sequence[str | None]) -> str | None:
    """The most frequent letter; replies without a letter do not vote, and a tie elects nobody."""
    counts = Counter(vote for vote in votes if vote is not None).most_common(2)
    if not counts or (len(counts) == 2 and counts[0][1] == counts[1][1]):
        return None
    return counts[0][0]


def _wrong(verdicts: Sequence[Verdict]) -> str | None:
    """Why these verdicts are not all right, None if they are."""
    if not verdicts:
        return "no teacher of that name"
    cut = [v.teacher for v in verdicts if v.letter is None and v.cut_off == len(v.votes)]
    silent = [v.teacher for v in verdicts if v.letter is None and v.cut_off < len(v.votes)]
    wrong = [v.teacher for v in verdicts if v.letter is not None and not v.correct]
    found = ((wrong, "wrong"), (silent, "undecided"), (cut, "cut off"))
    parts = [f"{' and '.join(names)} {what}" for names, what in found if names]
    return ", ".join(parts) or None


def _named(name: str) -> Callable[[Sequence[Verdict]], str | None]:
    return lambda verdicts: _wrong([v for v in verdicts if v.teacher == name])


def _any(verdicts: Sequence[Verdict]) -> str | None:
    return None if any(v.correct for v in verdicts) else "no teacher right"


def _majority(verdicts: Sequence[Verdict]) -> str | None:
    chosen = majority([vote for v in verdicts for vote in v.votes])
    answers = {v.answer for v in verdicts}
    return None if chosen in answers else "majority of all votes wrong" if chosen else "no majority among all votes"


# Each gives the reason for which a sample is dropped, or None to keep it.
STRATEGIES: dict[str, Callable[[Sequence[Verdict]], str | None]] = {
    "both_correct": _wrong,  # AVRT's: every teacher, however many there are
    "any_correct": _any,
    "audio_only": _named(AUDIO),
    "visual_only": _named(VISUAL),
    "majority": _majority,
    "none": lambda verdicts: None,
}


def difficulty(verdicts: Sequence[Verdict]) -> str:
    """`easy` if every teacher is right, `hard` if none is, else `medium` (AVRT Table 8)."""
    right = sum(v.correct for v in verdicts)
    return "easy" if verdicts and right == len(verdicts) else "medium" if right else "hard"
