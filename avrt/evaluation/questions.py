"""Questions as a report shows them: clips as a browser plays them, answers in full, one question under every mask."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from avrt.data.sample import LETTERS
from avrt.data.shards.reader import ShardSet
from avrt.errors import AvrtError, BadSampleError
from avrt.evaluation.claims import HIDDEN, claims
from avrt.evaluation.protocol import MASKS
from avrt.evaluation.records import Prediction
from avrt.evaluation.runs import Run
from avrt.evaluation.scorers import score
from avrt.evaluation.tables import cell

SHOWN_MASKS = {
    "av": "pictures and sound",
    "a": "sound alone",
    "v": "pictures alone",
    "a_blank": "sound and black pictures",
    "v_silent": "pictures and silence",
    "text": "the question alone",
    "shuffled": "pictures and the sound of another clip",
}


@dataclass(frozen=True)
class Answer:
    """What one student answered under one mask.

    Attributes:
        subject: The student, and who asked.
        text: Its answer in full, or why there is none.
        right: Whether it counts, or None without an answer.
        rule: By which rule.
        claimed: Sentences that claim a sense which was hidden.
    """

    subject: str
    text: str
    right: bool | None
    rule: str
    claimed: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """In a few words."""
        told = {True: "right", False: "wrong", None: "not asked"}[self.right]
        claim = "; claims a hidden sense" if self.claimed else ""
        return f"{told} ({self.rule} rule){claim}"


@dataclass(frozen=True)
class Side:
    """A question under one mask.

    Attributes:
        mask: The mask's name.
        shown: What is shown under it.
        answers: The answers.
        media: The clip as the mask leaves it, as base64 WebM; empty without any.
        tag: `video` or `audio`.
        why: Why there is no clip.
    """

    mask: str
    shown: str
    answers: list[Answer]
    media: str = ""
    tag: str = "video"
    why: str = ""


@dataclass(frozen=True)
class Question:
    """One question side by side under several masks (AVRT Figure 3).

    Attributes:
        id: Its id.
        benchmark: Where it is from.
        question: Its text.
        choices: Letter and text of each option.
        answer: The right letter.
        sides: It under each mask.
    """

    id: str
    benchmark: str
    question: str
    choices: list[tuple[str, str]]
    answer: str | None
    sides: list[Side]

    def markdown(self) -> str:
        """As Markdown: a column for each mask, a row for each student."""
        subjects = list(dict.fromkeys(answer.subject for side in self.sides for answer in side.answers))
        lines = [f"## {cell(self.question)}", "", f"{cell(self.benchmark)}, `{cell(self.id)}`:"]
        lines += [f"({letter}) {cell(text)}" for letter, text in self.choices]
        lines += ["", f"The right answer is {self.answer or 'not known'}.", ""]
        head = ["student", *(f"{side.mask}: {side.shown}" for side in self.sides)]
        rows = [head, ["---"] * len(head)]
        for subject in subjects:
            found = [[a for a in side.answers if a.subject == subject] for side in self.sides]
            told = [" ".join(f"**{a.verdict}** {a.text}" for a in answers) or "-" for answers in found]
            rows.append([subject, *told])
        return "\n".join([*lines, *("| " + " | ".join(map(cell, row)) + " |" for row in rows), ""])


def side_by_side(runs: Sequence[Run], ids: Sequence[str]) -> list[Question]:
    """Questions by their ids, each under every mask that it was asked under.

    Raises:
        AvrtError: If no run has a question of an id.
    """
    found = []
    for name in ids:
        having = [(run, p) for run in runs for p in run.predictions if p.id == name]
        if not having:
            known = ", ".join(dict.fromkeys(p.id for run in runs for p in run.predictions[:2]))
            raise AvrtError("no run has a question of this id", where=f"--figure3 {name}", remedy=f"such as {known}")
        for benchmark in dict.fromkeys(run.result.benchmark for run, _ in having):
            found.append(_question([pair for pair in having if pair[0].result.benchmark == benchmark]))
    return found


def _question(having: Sequence[tuple[Run, Prediction]]) -> Question:
    run, first = having[0]
    order = [*MASKS, *(run.result.mask for run, _ in having)]
    sides = []
    for mask in dict.fromkeys(sorted((r.result.mask for r, _ in having), key=order.index)):
        same = [(r, p) for r, p in having if r.result.mask == mask]
        media, tag, why = media_of(*same[0], masked=True)
        sides.append(Side(mask, SHOWN_MASKS.get(mask, mask), [answer_of(r, p) for r, p in same], media, tag, why))
    choices = list(zip(LETTERS, first.choices, strict=False))
    return Question(first.id, run.result.benchmark, first.question, choices, first.answer, sides)


def answer_of(run: Run, prediction: Prediction) -> Answer:
    """A run's first answer to a question, judged by the run's rule."""
    rule = run.result.headline
    if not prediction.responses:
        return Answer(run.subject, prediction.error or "no answer", None, rule)
    text = prediction.responses[0]
    claimed = tuple(c for sense in HIDDEN.get(run.result.mask, ()) for c in claims(text, sense))
    return Answer(run.subject, text, score(rule, text, prediction.sample()).correct, rule, claimed)


def media_of(run: Run, prediction: Prediction, *, masked: bool = False) -> tuple[str, str, str]:
    """A question's clip as base64 WebM, `video` or `audio`, and why there is none.

    Args:
        run: Whose shards hold it.
        prediction: The question.
        masked: Show what the run's mask leaves of the clip.
    """
    from avrt.data.media.webm import to_webm
    from avrt.data.shards.members import decode_members

    try:
        _, clip = decode_members(ShardSet(run.result.environment["shards"]).read(prediction.position))
    except (AvrtError, BadSampleError, OSError, IndexError, KeyError) as error:
        return "", "", f"no clip: {error}"
    if masked:
        protocol = run.result.protocol
        senses: Any = "vision" if protocol.get("shuffle_audio") else protocol.get("prompt.senses", "both")
        clip = clip.part(senses, blank=protocol.get("prompt.masked") == "blank")
    if clip.pictures is None and clip.audio is None:
        return "", "", "nothing is shown" if masked else "a question without media"
    kind = "audio" if clip.pictures is None else "video"
    return base64.b64encode(to_webm(clip)).decode(), kind, ""
