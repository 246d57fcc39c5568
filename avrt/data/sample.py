"""The record that everything else works on: a question with choices about a clip, and its JSON form."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sized
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from math import isfinite
from typing import Any, TypeVar

from avrt.errors import BadSampleError
from avrt.messages import short
from avrt.text import clean, to_json

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SCHEMA_VERSION = 3
Member = TypeVar("Member", bound=StrEnum)
_PICTURES = {"jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff"}
_SOUNDS = {"wav", "flac", "mp3", "ogg", "opus", "m4a", "aac"}


class Modality(StrEnum):
    """A kind of media that a clip can carry."""

    VIDEO = "video"
    IMAGE = "image"
    AUDIO = "audio"

    @classmethod
    def named(cls, file: str) -> Modality:
        """The modality of a media file by its suffix; video if the suffix is unknown."""
        suffix = file.lower().rpartition(".")[2]
        return cls.IMAGE if suffix in _PICTURES else cls.AUDIO if suffix in _SOUNDS else cls.VIDEO


class Sense(StrEnum):
    """One of the two senses: vision takes in frames and pictures, audio takes in sound."""

    VISION = "vision"
    AUDIO = "audio"


class Relation(StrEnum):
    """Which senses a question needs (AVQA's ``question_relation``)."""

    BOTH = "both"
    AUDIO = "audio"
    VISION = "vision"


@dataclass(frozen=True, slots=True)
class Evidence:
    """One step of the annotators' reasoning.

    Attributes:
        sense: The sense that perceives the evidence; None if the annotators do not say.
        evidence: What is seen or heard.
        inference: What follows from it.
    """

    sense: Relation | None
    evidence: str
    inference: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """A question with choices about one clip.

    Most questions have one right choice. A question with `several` has one or more, and a right answer gives all of
    them and no other. A yes/no question has the two choices Yes and No; the prompt decides whether it is asked by
    letters or by these words. `answer_letter` writes the answer of all three kinds.

    Attributes:
        id: Unique within a dataset.
        question: The question's text, without its choices.
        choices: 2 to 26 options, without letters.
        answer: Index of the right choice, with `several` the indexes of all right choices; None if it is unknown.
        media: What the clip carries, in canonical order; may be empty.
        relation: Which senses the question needs, if the dataset says so.
        question_type: The dataset's own category, such as ``Which`` or ``Event Sequence``.
        trace: A ``<think>...</think><answer>X</answer>`` target for fine-tuning.
        metadata: Anything else that can be written as JSON.
        several: Whether more than one choice may be right.
        evidence: The annotators' reasoning, step by step. It is never part of a prompt.

    Raises:
        BadSampleError: If a field has an invalid value; the message names the field.

    Texts are cleaned by `avrt.text.clean`, so that a sample can be written to any file.
    """

    id: str
    question: str
    choices: tuple[str, ...]
    answer: int | tuple[int, ...] | None
    media: tuple[Modality, ...] = ()
    relation: Relation | None = None
    question_type: str | None = None
    trace: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    several: bool = False
    evidence: tuple[Evidence, ...] = ()

    def __post_init__(self) -> None:
        """Check every field here, so that no later stage has to."""
        if not isinstance(self.id, str) or not self.id:
            raise BadSampleError("field 'id' must be a non-empty string", where="sample")
        where = f"sample {short(self.id)}"
        for name in ("question", "question_type", "trace"):
            text = getattr(self, name)
            if not isinstance(text, str) and (text is not None or name == "question"):
                raise BadSampleError(f"field '{name}' is {short(text)}, needs a text", where=where)
            if text is not None:
                object.__setattr__(self, name, clean(text))
        if not self.question.strip():
            raise BadSampleError("field 'question' is empty", where=where)
        if not isinstance(self.choices, (list, tuple)):
            raise BadSampleError(f"field 'choices' is {short(self.choices)}, needs a list of texts", where=where)
        if not 2 <= len(self.choices) <= len(LETTERS):
            raise BadSampleError(f"field 'choices' has {len(self.choices)} entries, needs 2 to 26", where=where)
        if not all(isinstance(choice, str) and choice.strip() for choice in self.choices):
            raise BadSampleError("field 'choices' has an entry that is empty or not a text", where=where)
        if not isinstance(self.several, bool):
            raise BadSampleError(f"field 'several' is {short(self.several)}, needs true or false", where=where)
        answer = _answer(self.answer, len(self.choices), self.several, where)
        media = _members(Modality, self.media, "media", where)
        relation = None if self.relation is None else _members(Relation, [self.relation], "relation", where)[0]
        checked = {
            "id": clean(self.id), "choices": tuple(map(clean, self.choices)), "answer": answer, "media": media,
            "relation": relation, "evidence": _evidence(self.evidence, where), "metadata": _plain(self.metadata, where),
        }  # fmt: skip
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def letters(self) -> str:
        """The letters of its choices, e.g. ``ABCD``."""
        return letters_of(self.choices)

    @property
    def right(self) -> tuple[int, ...]:
        """The indexes of all right choices; empty if they are unknown."""
        return () if self.answer is None else self.answer if isinstance(self.answer, tuple) else (self.answer,)

    @property
    def answer_letter(self) -> str | None:
        """The letter of the right choice, or the letters of all right choices in order, as in ``A,C``."""
        return ",".join(LETTERS[index] for index in self.right) or None

    @property
    def yes_no(self) -> bool:
        """Whether the choices are Yes and No."""
        return sorted(choice.strip().lower() for choice in self.choices) == ["no", "yes"]

    def to_json(self) -> bytes:
        """The record as one line of UTF-8 JSON; equal records give equal bytes."""
        return to_json({"version": SCHEMA_VERSION, **asdict(self)}, sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes | str) -> Sample:
        """Read a record that `to_json` wrote.

        Raises:
            BadSampleError: If it is not a JSON object of this schema; the message names the field.
        """
        try:
            record = json.loads(data)
            if (version := record["version"]) != SCHEMA_VERSION:
                raise BadSampleError(
                    f"schema version {version!r}, this avrt reads {SCHEMA_VERSION}", remedy="make the shards again"
                )
            return cls(**{part.name: record[part.name] for part in fields(cls)})
        except KeyError as error:
            raise BadSampleError(f"field {error} is missing", where="sample record") from None
        except (ValueError, TypeError, RecursionError) as error:
            raise BadSampleError(f"not a sample record: {error}", where="sample record") from None


def letters_of(choices: Sized) -> str:
    """The letters of a question's choices, e.g. ``ABCD`` for four."""
    return LETTERS[: len(choices)]


def _members(kind: type[Member], values: Any, name: str, where: str) -> tuple[Member, ...]:
    """The values as members of an enumeration, in its order."""
    if not isinstance(values, (list, tuple, set, frozenset)):
        raise BadSampleError(f"field '{name}' is {short(values)}, needs a list", where=where)
    known = {str(member) for member in kind}
    for value in values:
        if not isinstance(value, str) or value not in known:
            raise BadSampleError(
                f"field '{name}' is {short(value)}, needs one of {', '.join(sorted(known))}", where=where
            )
    return tuple(member for member in kind if member in values)


def _answer(answer: Any, choices: int, several: bool, where: str) -> int | tuple[int, ...] | None:
    """The checked answer: an index, or with `several` the indexes in order."""
    if answer is None:
        return None
    right = tuple(answer) if several and isinstance(answer, (list, tuple)) else (answer,)
    whole = all(isinstance(index, int) and not isinstance(index, bool) for index in right)
    if not (whole and right and len(set(right)) == len(right) and all(0 <= index < choices for index in right)):
        needs = "different indexes" if several else "an index"
        raise BadSampleError(f"field 'answer' is {short(answer)}, needs {needs} below {choices}", where=where)
    return tuple(sorted(right)) if several else int(answer)


def _evidence(steps: Any, where: str) -> tuple[Evidence, ...]:
    """The checked steps of reasoning, each given as an `Evidence` or as an object with its fields."""
    if not isinstance(steps, (list, tuple)):
        raise BadSampleError(f"field 'evidence' is {short(steps)}, needs a list", where=where)
    found = []
    for step in steps:
        if isinstance(step, Evidence):
            step = {"sense": step.sense, "evidence": step.evidence, "inference": step.inference}
        if not isinstance(step, Mapping):
            raise BadSampleError(f"field 'evidence' holds {short(step)}, needs objects", where=where)
        sense = step.get("sense")
        sense = None if sense is None else _members(Relation, [sense], "evidence.sense", where)[0]
        texts = [step.get(name, "") for name in ("evidence", "inference")]
        if not all(isinstance(text, str) for text in texts):
            raise BadSampleError("field 'evidence' has a step with a field that is not a text", where=where)
        found.append(Evidence(sense, *map(clean, texts)))
    return tuple(found)


def _plain(metadata: Any, where: str) -> Mapping[str, Any]:
    """The metadata as JSON can hold it: texts are cleaned, numbers that are not finite become null."""
    if not isinstance(metadata, Mapping):
        raise BadSampleError(f"field 'metadata' is {short(metadata)}, needs an object", where=where)

    def plain(value: Any) -> Any:
        if isinstance(value, str):
            return clean(value)
        if isinstance(value, float):
            return value if isfinite(value) else None
        if isinstance(value, Mapping):
            return {clean(str(key)): plain(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(inner) for inner in value]
        if value is None or isinstance(value, (int, bool)):
            return value
        raise BadSampleError(f"field 'metadata' holds {short(value)}, which JSON cannot hold", where=where)

    try:
        return {clean(str(key)): plain(value) for key, value in metadata.items()}
    except RecursionError:
        raise BadSampleError("field 'metadata' is nested too deeply", where=where) from None
