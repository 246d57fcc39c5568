"""Questions as the report shows them: the clip, the answers in full, and one question under every mask."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from avrt.data.sample import LETTERS
from avrt.data.shards.reader import ShardSet
from avrt.errors import AvrtError, BadSampleError
from avrt.evaluation.benchmark_runs import BenchmarkRun
from avrt.evaluation.hallucination import MASKED_SENSES, perception_claims
from avrt.evaluation.predictions import Prediction
from avrt.evaluation.protocol import in_mask_order
from avrt.evaluation.scorers import score
from avrt.evaluation.tables import cell
from avrt.html.replies import Piece, pieces

SHOWN_MASKS = {
    "av": "video and audio",
    "a": "audio only",
    "v": "video only",
    "a_blank": "audio and black video",
    "v_silent": "video and silence",
    "text": "question only",
    "shuffled": "video and the audio of another clip",
}


@dataclass(frozen=True)
class Answer:
    """The answer of one student under one mask.

    Attributes:
        subject: The student, and whose protocol it is.
        text: The answer in full, or why there is none.
        right: Whether it is right by the rule; None without an answer.
        rule: The run's headline scorer.
        hallucinated: Sentences that claim to perceive a masked sense.
    """

    subject: str
    text: str
    right: bool | None
    rule: str
    hallucinated: tuple[str, ...] = ()

    @property
    def outcome(self) -> str:
        """`right`, `wrong` or `not asked`."""
        return {True: "right", False: "wrong", None: "not asked"}[self.right]

    @property
    def verdict(self) -> str:
        """The verdict in a few words."""
        suffix = "; hallucinates a masked sense" if self.hallucinated else ""
        return f"{self.outcome} ({self.rule} rule){suffix}"

    @property
    def pieces(self) -> list[Piece]:
        """The text in pieces: reasoning, answer, and what is neither."""
        return pieces(self.text)


@dataclass(frozen=True)
class Side:
    """A question under one mask.

    Attributes:
        mask: The mask's name.
        shown: What the student sees and hears, in words.
        answers: The answers.
        media: The masked clip as base64 WebM; empty if there is none.
        tag: `video` or `audio`.
        why: Why there is no clip.
    """

    mask: str
    shown: str
    answers: list[Answer]
    media: str = ""
    tag: str = "video"
    why: str = ""

    @property
    def right(self) -> int:
        """How many of the answers are right."""
        return sum(answer.right is True for answer in self.answers)


@dataclass(frozen=True)
class Question:
    """One question side by side under several masks (AVRT Figure 3).

    Attributes:
        id: Its id.
        benchmark: Its benchmark.
        question: Its text.
        choices: Letter and text of each option.
        answer: The right letter.
        sides: One for each mask.
    """

    id: str
    benchmark: str
    question: str
    choices: list[tuple[str, str]]
    answer: str | None
    sides: list[Side]

    def markdown(self) -> str:
        """The question as Markdown: a column for each mask, a row for each student."""
        subjects = list(dict.fromkeys(answer.subject for side in self.sides for answer in side.answers))
        lines = [f"## {cell(self.question)}", "", f"{cell(self.benchmark)}, `{cell(self.id)}`:"]
        lines += [f"({letter}) {cell(text)}" for letter, text in self.choices]
        lines += ["", f"The right answer is {self.answer or 'not known'}.", ""]
        head = ["student", *(f"{side.mask}: {side.shown}" for side in self.sides)]
        rows = [head, ["---"] * len(head)]
        for subject in subjects:
            by_side = [[a for a in side.answers if a.subject == subject] for side in self.sides]
            cells = [" ".join(f"**{a.verdict}** {a.text}" for a in answers) or "-" for answers in by_side]
            rows.append([subject, *cells])
        return "\n".join([*lines, *("| " + " | ".join(map(cell, row)) + " |" for row in rows), ""])


def side_by_side(runs: Sequence[BenchmarkRun], ids: Sequence[str]) -> list[Question]:
    """Questions by their ids, each under every mask of the runs.

    Raises:
        AvrtError: If no run has a question with one of the ids.
    """
    found = []
    for name in ids:
        having = [(run, p) for run in runs for p in run.predictions if p.id == name]
        if not having:
            known = ", ".join(dict.fromkeys(p.id for run in runs for p in run.predictions[:2]))
            raise AvrtError("no run has a question with this id", where=f"--figure3 {name}", remedy=f"such as {known}")
        for benchmark in dict.fromkeys(run.result.benchmark for run, _ in having):
            found.append(_question([pair for pair in having if pair[0].result.benchmark == benchmark]))
    return found


def _question(having: Sequence[tuple[BenchmarkRun, Prediction]]) -> Question:
    """One question from its predictions in several runs."""
    run, first = having[0]
    sides = []
    for mask in in_mask_order(r.result.mask for r, _ in having):
        same = [(r, p) for r, p in having if r.result.mask == mask]
        media, tag, why = media_of(*same[0], masked=True)
        sides.append(Side(mask, SHOWN_MASKS.get(mask, mask), [answer_of(r, p) for r, p in same], media, tag, why))
    choices = list(zip(LETTERS, first.choices, strict=False))
    return Question(first.id, run.result.benchmark, first.question, choices, first.answer, sides)


def answer_of(run: BenchmarkRun, prediction: Prediction) -> Answer:
    """A run's first answer to a question, with its verdict by the run's headline scorer."""
    rule = run.result.headline
    if not prediction.responses:
        return Answer(run.subject, prediction.error or "no answer", None, rule)
    text = prediction.responses[0]
    hallucinated = tuple(c for sense in MASKED_SENSES.get(run.result.mask, ()) for c in perception_claims(text, sense))
    return Answer(run.subject, text, score(rule, text, prediction.sample()).correct, rule, hallucinated)


def media_of(run: BenchmarkRun, prediction: Prediction, *, masked: bool = False) -> tuple[str, str, str]:
    """A question's clip as base64 WebM, `video` or `audio`, and why there is none.

    Args:
        run: The run, whose shards hold the clip.
        prediction: The question.
        masked: Apply the run's mask to the clip.
    """
    from avrt.data.media.webm import to_webm
    from avrt.data.shards.members import decode_members

    try:
        _, clip = decode_members(ShardSet(run.result.environment["shards"]).read(prediction.index))
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
