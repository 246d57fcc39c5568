"""What people write in one cell of a table: choices in a row, several answers, yes or no, a sense, reasoning."""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from avrt.data.sample import LETTERS, Relation, Sample
from avrt.data_recipes.columns import NO_COLUMN
from avrt.errors import BadSampleError
from avrt.messages import short
from avrt.response import format_response, parse_response

_SEPARATORS = ("\n", "|", ";")
_NAMED_CHOICE = re.compile(r"(?:option|choice|answer)[\s_:#-]*[(\[]?([A-Za-z]|\d{1,2})[)\]]?[.:]?", re.IGNORECASE)
_LONGEST_LIST = 100_000
_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False, "": False}
_SENSES = {
    Relation.BOTH: "both, av, audio-visual, audiovisual, audio and video, audio+video, video+audio, multimodal",
    Relation.AUDIO: "audio, sound, a, hearing, heard",
    Relation.VISION: "vision, visual, video, view, image, v, sight, seen",
}
_RELATIONS = {word.strip(): relation for relation, words in _SENSES.items() for word in words.split(",")}


def split_choices(value: Any, separator: str | None) -> Any:
    """Choices that are written in one cell, on lines of their own or between `|` or `;`, as a list.

    Args:
        value: The cell; lists, objects and JSON are left as they are, for `read_options`.
        separator: What stands between the choices, if it is another text.
    """
    if not isinstance(value, str) or value.strip()[:1] in ("[", "{"):
        return value
    marks = _SEPARATORS if separator is None else (separator,)
    whole = value.strip() if separator is None else value
    mark = next((mark for mark in marks if mark in whole), None)
    if mark is None:
        return value
    parts = [part.strip() for part in whole.split(mark)]
    while parts and not parts[-1]:  # others that are empty keep their place, and so the letters behind them
        parts.pop()
    return parts


def listed(answer: Any) -> Any:
    """A list that is written as text, in JSON or as Python writes it; any other answer as it is."""
    text = answer.strip() if isinstance(answer, str) else ""
    if not (text.startswith("[") and text.endswith("]")) or not 2 < len(text) < _LONGEST_LIST:
        return answer
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        return found if isinstance(found, list) else answer
    return answer  # `[B]` is a letter in brackets


def chosen(answer: Any, options: Any, columns: Sequence[str] = ()) -> Any:
    """An answer without the word before its letter or number, as in `Option B`, or the letter of a choice's column.

    Args:
        answer: The answer.
        options: The choices; an answer that one of them says is left as it is.
        columns: The columns of the choices, if each has one.
    """
    if not isinstance(answer, str):
        return answer
    said = options.values() if isinstance(options, Mapping) else options if isinstance(options, (list, tuple)) else ()
    text = answer.strip()
    if any(isinstance(option, str) and option.strip().casefold() == text.casefold() for option in said):
        return answer
    names = [name.strip().casefold() for name in columns]
    if len(text) > 1 and names.count(text.casefold()) == 1:
        return LETTERS[names.index(text.casefold())]
    named = _NAMED_CHOICE.fullmatch(text)
    return named[1] if named and named[1].isalpha() else answer


def is_yes_or_no(answer: Any) -> bool:
    """Whether an answer is the word yes or no."""
    return isinstance(answer, str) and answer.strip().strip(".").casefold() in ("yes", "no")


def truth(value: Any, name: str, field: str) -> bool:
    """A cell that says yes or no.

    Raises:
        BadSampleError: If it says neither.
    """
    said = _TRUTHS.get("" if value is None else str(value).strip().lower())
    if said is None:
        raise BadSampleError(f"field '{field}' is {short(value)}, needs true or false", where=name)
    return said


def relation(value: Any, name: str, field: str) -> Relation | None:
    """The senses that a question needs, by one of their usual names.

    Raises:
        BadSampleError: If it is no such name.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    plain = unicodedata.normalize("NFKC", value).strip().casefold().replace("_", "-") if isinstance(value, str) else ""
    if plain not in _RELATIONS:
        raise BadSampleError(
            f"field '{field}' is {short(value)}, needs both, audio or vision",
            where=name,
            remedy="--columns.relation none ignores it",
        )
    return _RELATIONS[plain]


def trace(value: Any, sample: Sample, name: str, field: str) -> str | None:
    """Reasoning as a target for fine-tuning: plain text is put between its tags, with the right answer behind it.

    Args:
        value: The cell.
        sample: The question; without an answer the text is left as it is.
        name: The row's name, for errors.
        field: The field's name, for errors.

    Raises:
        BadSampleError: If it is not a text, ends in another answer, or has its tags in another form.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, str):
        raise BadSampleError(f"field '{field}' is {short(value)}, needs a text", where=name)
    right = sample.answer_letter
    if right is None:
        return value
    if "<answer>" in value:
        text = value.strip()
    elif "<think>" in value:
        text = f"{value.rstrip()}<answer>{right}</answer>"
    else:
        text = format_response(value, right)
    read = parse_response(text, "".join(sample.letters), several=sample.several)
    if read.letter not in (None, right):
        remedy = f"correct one of them; --columns.trace {NO_COLUMN} ignores it"
        raise BadSampleError(
            f"field '{field}' ends in another answer than the row's: {read.letter}, not {right}",
            where=name,
            remedy=remedy,
        )
    if not read.well_formed:
        remedy = f"write plain text, or <think>...</think><answer>{right}</answer>"
        raise BadSampleError(f"field '{field}' is not reasoning with an answer behind it", where=name, remedy=remedy)
    return text
