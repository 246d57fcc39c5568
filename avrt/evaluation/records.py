"""Predictions: what a student answered to each question, journaled as it happens and merged without loss or repeat."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from avrt.data.sample import LETTERS, Modality, Relation, Sample
from avrt.errors import AvrtError
from avrt.files import write_whole
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
        metadata: Whatever else the sample carries.
        responses: k answers without special tokens; empty if there was an error.
        finished: For each whether it ended by itself.
        position: Where in the shards the sample lies.
        error: Why it could not be asked, or None.
        several: Whether more than one choice may be right.
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
    position: int = -1
    error: str | None = None
    several: bool = False

    @classmethod
    def of(cls, sample: Sample, position: int, **outcome: Any) -> Prediction:
        """The prediction of one sample; `outcome` fills in responses, or an error."""
        return cls(
            id=sample.id,
            question=sample.question,
            choices=sample.choices,
            answer=sample.answer_letter,
            media=tuple(str(m) for m in sample.media),
            relation=None if sample.relation is None else str(sample.relation),
            question_type=sample.question_type,
            metadata=dict(sample.metadata),
            position=position,
            several=sample.several,
            **outcome,
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

    def to_json(self) -> str:
        """One line of JSON."""
        return to_json(asdict(self), sort_keys=True)

    @classmethod
    def from_record(cls, record: Any) -> Prediction:
        """A prediction from its JSON form, read.

        Raises:
            ValueError: If it is no prediction.
        """
        if not isinstance(record, dict) or "id" not in record or "responses" not in record:
            raise ValueError("not a prediction")
        known = {f.name for f in fields(cls)}
        values = {key: clean_all(value) for key, value in record.items() if key in known}
        for name in ("choices", "media", "responses", "finished"):
            values[name] = tuple(values.get(name, ()))
        return cls(**values)


def read_predictions(path: Path) -> list[Prediction]:
    """All predictions of a file.

    Raises:
        AvrtError: If it is missing or a line is no prediction; the message names the line.
    """
    if not path.is_file():
        raise AvrtError("no such file", where=path)
    found = []
    try:
        for number, record in json_lines(path.read_bytes()):
            try:
                found.append(Prediction.from_record(record))
            except (ValueError, TypeError) as error:
                raise AvrtError(f"line {number} is no prediction: {error}", where=path) from None
    except ValueError as error:
        raise AvrtError(f"not a file of predictions: {error}", where=path) from None
    return found


class Journal:
    """Answers on disk as soon as they exist, one file per process that ever wrote.

    Each process appends whole batches to a file of its own, whose first line says under which protocol the answers
    were given. Reading passes over a line that a kill cut short.

    Args:
        folder: Where predictions go.
        protocol: The protocol in force, as a flat mapping; see `avrt.evaluation.protocol`.

    Raises:
        AvrtError: If the folder holds answers given under another protocol; the message names what differs.
    """

    def __init__(self, folder: Path, protocol: Mapping[str, Any]) -> None:
        self._folder = folder / JOURNAL
        self._folder.mkdir(parents=True, exist_ok=True)
        self._protocol = clean_all(protocol)
        for path in self._files():
            head = next(_lines(path), None)
            if head is None:
                continue  # killed before the first line was whole: it holds nothing
            earlier = head.get("protocol", {})
            keys = sorted(k for k in {*earlier, *self._protocol} if earlier.get(k) != self._protocol.get(k))
            if keys:
                raise AvrtError(
                    f"holds answers given under another protocol; {keys[0]} was {earlier.get(keys[0])!r}, "
                    f"now {self._protocol.get(keys[0])!r}",
                    where=folder,
                    remedy="choose another folder, or delete this one",
                )
        self._path = self._folder / f"{uuid.uuid4().hex}.jsonl"

    def answered(self) -> dict[int, Prediction]:
        """What has been answered so far, by position in the shards."""
        found: dict[int, Prediction] = {}
        for path in self._files():
            for record in _lines(path):
                if "protocol" not in record:
                    prediction = Prediction.from_record(record)
                    found.setdefault(prediction.position, prediction)
        return found

    def add(self, predictions: list[Prediction]) -> None:
        """Append a batch and wait until it is on disk."""
        lines = [prediction.to_json() for prediction in predictions]
        if not self._path.exists():
            lines.insert(0, to_json({"protocol": self._protocol}))
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write("".join(line + "\n" for line in lines))
            stream.flush()
            os.fsync(stream.fileno())

    def merge(self, expected: int) -> list[Prediction]:
        """Every prediction exactly once, in the order of the shards, also written as `predictions.jsonl`.

        Args:
            expected: Number of samples in the shards.

        Raises:
            AvrtError: If any is missing.
        """
        found = self.answered()
        missing = [i for i in range(expected) if i not in found]
        if missing or len(found) != expected:
            raise AvrtError(
                f"{len(missing)} of {expected} questions have no answer, the first at position {missing[:1]}",
                where=self._folder,
                remedy="run the same command again; what is answered is not asked twice",
            )
        predictions = [found[i] for i in range(expected)]
        data = "".join(prediction.to_json() + "\n" for prediction in predictions)
        write_whole(self._folder.parent / PREDICTIONS, data.encode())
        return predictions

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.jsonl"))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_bytes().split(b"\n"):
        try:
            record = json.loads(line)
        except ValueError:
            continue  # cut short by a kill: its batch is asked again
        if isinstance(record, dict):
            yield record
