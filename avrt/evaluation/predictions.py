"""Predictions: the answers of a student to each question, one record for every command that asks a student."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from avrt.data.sample import LETTERS, Modality, Relation, Sample
from avrt.errors import AvrtError
from avrt.evaluation.protocol import differences
from avrt.files import write_whole
from avrt.response import Response, parse_response
from avrt.text import clean_all, json_lines, to_json

PREDICTIONS = "predictions.jsonl"
JOURNAL = "journal"


@dataclass(frozen=True, slots=True)
class Prediction:
    """A question with the answers that a student gave.

    Attributes:
        id: The sample's id.
        question: Its text.
        choices: Its options.
        answer: The right letter, or all of them as in ``A,C``; None where it is not known.
        media: What the clip carries.
        relation: Which sense the question needs, where the dataset says so.
        question_type: The dataset's category.
        metadata: Anything else that the sample carries.
        responses: k answers without special tokens; empty if there was an error.
        finished: For each whether it ended with the end token, rather than at the longest length.
        index: Index of the sample in the shards; -1 for a question from elsewhere.
        error: Why the question could not be asked, or None.
        several: Whether more than one choice may be right.
        rewards: Rewards of the first answer, from modules that have rewards; see `avrt.objectives.rewards.RewardSum`.
    """

    id: str
    question: str
    choices: tuple[str, ...]
    answer: str | None
    media: tuple[str, ...] = ()
    relation: str | None = None
    question_type: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    responses: tuple[str, ...] = ()
    finished: tuple[bool, ...] = ()
    index: int = -1
    error: str | None = None
    several: bool = False
    rewards: Mapping[str, float] | None = None

    @classmethod
    def from_sample(
        cls,
        sample: Sample,
        index: int,
        *,
        responses: tuple[str, ...] = (),
        finished: tuple[bool, ...] = (),
        error: str | None = None,
    ) -> Prediction:
        """The prediction of one sample: its answers, or the error in their place."""
        return cls(
            id=sample.id,
            question=sample.question,
            choices=sample.choices,
            answer=sample.answer_letter,
            media=tuple(str(m) for m in sample.media),
            relation=None if sample.relation is None else str(sample.relation),
            question_type=sample.question_type,
            metadata=dict(sample.metadata),
            responses=responses,
            finished=finished,
            index=index,
            error=error,
            several=sample.several,
        )

    def sample(self) -> Sample:
        """The question as a sample, which scorers take."""
        right = () if self.answer is None else tuple(map(LETTERS.index, self.answer.split(",")))
        return Sample(
            id=self.id,
            question=self.question,
            choices=tuple(self.choices),
            answer=(right if self.several else right[0]) if right else None,
            media=tuple(Modality(m) for m in self.media),
            relation=None if self.relation is None else Relation(self.relation),
            question_type=self.question_type,
            metadata=self.metadata,
            several=self.several,
        )

    @property
    def response(self) -> Response | None:
        """The first answer as the strict scorer and the rewards read it; None where there is no answer."""
        if not self.responses:
            return None
        return parse_response(self.responses[0], LETTERS[: len(self.choices)], several=self.several)

    @property
    def correct(self) -> bool | None:
        """Whether the first answer is right by the strict scorer; None without an answer or a known right one."""
        response = self.response
        return None if response is None or self.answer is None else response.letter == self.answer

    def to_json(self) -> str:
        """One line of JSON."""
        return to_json(asdict(self), sort_keys=True)

    def to_record(self) -> dict[str, Any]:
        """The content of a line of `predictions.jsonl`: the fields, and what follows from them for the first answer.

        These are `choice`, `correct` and `well_formed`, by the strict scorer; reading the file back ignores them.
        """
        response = self.response
        return {
            **asdict(self),
            "choice": response.letter if response else None,
            "correct": self.correct,
            "well_formed": response.well_formed if response else None,
        }

    @classmethod
    def from_record(cls, record: Any) -> Prediction:
        """A prediction from its decoded JSON form; unknown fields are ignored.

        Raises:
            ValueError: If it is not a prediction.
        """
        if not isinstance(record, dict) or "id" not in record or "responses" not in record:
            raise ValueError("the fields id and responses are missing")
        known = {f.name for f in fields(cls)}
        values = {key: clean_all(value) for key, value in record.items() if key in known}
        for name in ("choices", "media", "responses", "finished"):
            values[name] = tuple(values.get(name, ()))
        return cls(**values)


def read_predictions(path: Path) -> list[Prediction]:
    """All predictions of a file.

    Raises:
        AvrtError: If it is missing or a line is not a prediction; the message names the line.
    """
    if not path.is_file():
        raise AvrtError("no such file", where=path)
    found = []
    try:
        for number, record in json_lines(path.read_bytes()):
            try:
                found.append(Prediction.from_record(record))
            except (ValueError, TypeError) as error:
                raise AvrtError(f"line {number} is not a prediction: {error}", where=path) from None
    except ValueError as error:
        raise AvrtError(f"not a file of predictions: {error}", where=path) from None
    return found


class PredictionWriter:
    """Collects the predictions of a run and writes them as `predictions.jsonl`.

    With a protocol the run can be killed and resumed: each process appends its batches to a journal file of its own,
    whose first line holds the protocol, and `merge` reads the files of all processes, earlier ones too. A line that a
    kill cut short is ignored. Without a protocol predictions stay in memory, and `gather` brings those of all ranks
    together.

    Args:
        folder: The folder of `predictions.jsonl` and of the journal.
        protocol: The protocol that the questions are asked by, as a flat mapping; see `avrt.evaluation.protocol`.

    Raises:
        AvrtError: If the folder holds answers under another protocol; the message names the first difference.
    """

    def __init__(self, folder: Path, protocol: Mapping[str, Any] | None = None) -> None:
        self.path = folder / PREDICTIONS
        self._kept: list[Prediction] = []
        self._protocol: Mapping[str, Any] | None = None if protocol is None else clean_all(protocol)
        self._journal = folder / JOURNAL
        if self._protocol is None:
            return
        self._journal.mkdir(parents=True, exist_ok=True)
        for path in self._files():
            head = next(_lines(path), None)
            if head is None:
                continue  # killed before the first line was complete
            earlier = head.get("protocol", {})
            if changed := differences(earlier, self._protocol):
                name, (old, new) = next(iter(changed.items()))
                raise AvrtError(
                    f"holds answers given under another protocol; {name} was {old!r}, now {new!r}",
                    where=folder,
                    remedy="choose another folder, or delete this one",
                )
        self._file = self._journal / f"{uuid.uuid4().hex}.jsonl"

    def answered(self) -> dict[int, Prediction]:
        """The predictions in the journal, by index in the shards."""
        found: dict[int, Prediction] = {}
        for path in self._files():
            for record in _lines(path):
                if "protocol" not in record:
                    prediction = Prediction.from_record(record)
                    found.setdefault(prediction.index, prediction)
        return found

    def add(self, predictions: Iterable[Prediction]) -> None:
        """Keep the predictions of a batch; with a journal they are on disk when this returns."""
        if self._protocol is None:
            self._kept += predictions
            return
        lines = [prediction.to_json() for prediction in predictions]
        if not lines:
            return
        if not self._file.exists():
            lines.insert(0, to_json({"protocol": self._protocol}))
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write("".join(line + "\n" for line in lines))
            stream.flush()
            os.fsync(stream.fileno())

    def gather(self) -> list[Prediction]:
        """The predictions of all ranks since the last call, in the order of the shards; every rank has to call it."""
        from avrt.distributed import gather_objects

        gathered = gather_objects(self._kept)
        self._kept = []
        return sorted((p for part in gathered for p in part), key=lambda p: (p.index, p.id))

    def merge(self, expected: int, elsewhere: Mapping[int, Prediction] | None = None) -> list[Prediction]:
        """Every prediction of the journal exactly once, in the order of the shards.

        Args:
            expected: Number of samples in the shards.
            elsewhere: Predictions that are in the journals of other folders.

        Raises:
            AvrtError: If any is missing.
        """
        found = {**(elsewhere or {}), **self.answered()}
        missing = [i for i in range(expected) if i not in found]
        if missing or len(found) != expected:
            raise AvrtError(
                f"{len(missing)} of {expected} questions have no answer, the first at index {missing[:1]}",
                where=self._journal,
                remedy="run the same command again; answered questions are not asked again",
            )
        return [found[i] for i in range(expected)]

    def write(self, predictions: Iterable[Prediction]) -> None:
        """Write `predictions.jsonl`, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, "".join(to_json(p.to_record(), sort_keys=True) + "\n" for p in predictions).encode())

    def _files(self) -> list[Path]:
        return sorted(self._journal.glob("*.jsonl"))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a journal file, without lines that a kill cut short."""
    for line in path.read_bytes().split(b"\n"):
        try:
            record = json.loads(line)
        except ValueError:
            continue  # its question is asked again
        if isinstance(record, dict):
            yield record
