"""Which samples are kept: the teachers' verdicts, the filter strategies of AVRT Table 5, and the difficulty."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from avrt.evaluation.statistics import majority

VISUAL, AUDIO = "visual", "audio"


@dataclass(frozen=True)
class TeacherVerdict:
    """The votes of one teacher on one question.

    Attributes:
        teacher: Its name.
        votes: The letter of each of its k replies; None where a reply is undecided.
        answer: The right letter.
        cut_off: How many of its replies were cut off; these do not vote.
    """

    teacher: str
    votes: tuple[str | None, ...]
    answer: str
    cut_off: int = 0

    @property
    def letter(self) -> str | None:
        """The letter with most votes; None on a tie or without votes."""
        return majority(self.votes, tie=None)

    @property
    def correct(self) -> bool:
        """Whether its letter is the right one."""
        return self.letter == self.answer

    def record(self) -> dict[str, str | int | None]:
        """Its columns in the store."""
        return {
            "teacher": self.teacher, "letter": self.letter, "votes": json.dumps(self.votes), "answer": self.answer,
            "correct": int(self.correct),
        }  # fmt: skip


def _every_teacher_right(verdicts: Sequence[TeacherVerdict]) -> str | None:
    """Which teachers are not right and why; None if all are right."""
    if not verdicts:
        return "no teacher of that name"
    cut = [v.teacher for v in verdicts if v.letter is None and v.cut_off == len(v.votes)]
    undecided = [v.teacher for v in verdicts if v.letter is None and v.cut_off < len(v.votes)]
    wrong = [v.teacher for v in verdicts if v.letter is not None and not v.correct]
    found = ((wrong, "wrong"), (undecided, "undecided"), (cut, "cut off"))
    parts = [f"{' and '.join(names)} {what}" for names, what in found if names]
    return ", ".join(parts) or None


def _one_teacher(name: str) -> Callable[[Sequence[TeacherVerdict]], str | None]:
    return lambda verdicts: _every_teacher_right([v for v in verdicts if v.teacher == name])


def _any(verdicts: Sequence[TeacherVerdict]) -> str | None:
    return None if any(v.correct for v in verdicts) else "no teacher right"


def _majority(verdicts: Sequence[TeacherVerdict]) -> str | None:
    chosen = majority([vote for v in verdicts for vote in v.votes], tie=None)
    answers = {v.answer for v in verdicts}
    return None if chosen in answers else "majority of all votes wrong" if chosen else "no majority among all votes"


# Each returns the reason why a sample is dropped, or None to keep it.
STRATEGIES: dict[str, Callable[[Sequence[TeacherVerdict]], str | None]] = {
    "both_correct": _every_teacher_right,  # AVRT's; with more than two teachers all of them
    "any_correct": _any,
    "audio_only": _one_teacher(AUDIO),
    "visual_only": _one_teacher(VISUAL),
    "majority": _majority,
    "none": lambda verdicts: None,
}


def difficulty(verdicts: Sequence[TeacherVerdict]) -> str:
    """`easy` if every teacher is right, `hard` if no teacher is, `medium` otherwise (AVRT Table 8)."""
    right = sum(v.correct for v in verdicts)
    return "easy" if verdicts and right == len(verdicts) else "medium" if right else "hard"
