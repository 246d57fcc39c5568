"""Reading a data set's options and answer as choices and the index of the right one.

All recipes use `read_labels`, so that a spelling has the same meaning everywhere. It does not guess: an answer with no
reading, or with two that disagree, is refused by the name of its field.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from avrt.data.sample import LETTERS
from avrt.data_recipes.options import Options, read_options
from avrt.errors import BadSampleError
from avrt.messages import short
from avrt.response import read_letters


class Answers(StrEnum):
    """What a data set's answers are; this decides if an answer has two readings."""

    AUTO = "auto"
    INDEX = "index"
    LETTER = "letter"
    TEXT = "text"


@dataclass(frozen=True)
class Labels:
    """A question's choices and answer.

    Attributes:
        choices: The options' texts, without letters and repetitions.
        answer: Index of the right choice, or the indexes of all right ones if there may be several; None if the data
            set gives no answer.
        notes: What was left out or joined.
        moved: Whether a choice has another letter than in the data set, so that texts with letters are wrong.
    """

    choices: tuple[str, ...]
    answer: int | tuple[int, ...] | None
    notes: tuple[str, ...] = ()
    moved: bool = False


@dataclass(frozen=True)
class _Reader:
    """The context in which an answer is read."""

    options: Options
    kind: Answers
    base: int
    where: str
    field: str

    def refuse(self, value: Any, why: str, remedy: str | None = None) -> BadSampleError:
        return BadSampleError(f"field '{self.field}' is {short(value)}, {why}", where=self.where, remedy=remedy)


_TAGGED = re.compile(r"\s*<answer>(.*)</answer>\s*", re.DOTALL | re.IGNORECASE)
_ONE_LETTER = re.compile(r"(?:\(\s*([A-Za-z])\s*\)|\[\s*([A-Za-z])\s*\]|([A-Za-z])\s*[).:]?)[.:]?")
_LETTER_AND_TEXT = re.compile(r"(?:[(\[]\s*([A-Za-z])\s*[)\]][.:]?\s*|([A-Za-z])(?:\)\s*|[.:]\s+))(\S.*)", re.DOTALL)
_NUMERAL = re.compile(r"[+-]?\d{1,9}(?:\.0+)?")
_NUMBER = re.compile(r"[+-]?[\d.,]*\d")
_SEVERAL = re.compile(r"[A-Za-z](?:\s*(?:,|;|/|&|\+|\band\b|\bor\b|\s)?\s*[A-Za-z])+")
_REMEDY = "say what the answers are; recipe folder has --answers index, letter or text"
_NUMBERED = re.compile(r"[(\[]?(\d+)[)\].:]\s")


def read_labels(
    options: Any,
    answer: Any,
    *,
    where: str,
    fields: tuple[str, str] = ("choices", "answer"),
    kind: Answers = Answers.AUTO,
    base: int = 0,
    several: bool = False,
) -> Labels:
    """Read a data set's options and answer as choices and an index.

    Args:
        options: A list of texts, lettered or bare, an object of texts by letter or number, or either of them as JSON.
        answer: The right option's text, its letter, or its index; a letter may stand in brackets or before the text.
            None if there is no answer.
        where: Name of the row, for errors.
        fields: Names of the two fields, for errors.
        kind: What the answers are, if it is known. Otherwise an answer that is the letter or index of one option and
            the text of another is refused.
        base: Index of the first option.
        several: Whether several options may be right. Then the answer is a list of the above, or a text of letters such
            as `A,C` or `A and C`.

    Raises:
        BadSampleError: If there are fewer than two different options, or the answer is not exactly one of them.
    """
    found = read_options(options, where, fields[0])
    reader = _Reader(found, kind, base, where, fields[1])
    right = () if answer is None else _positions(reader, answer) if several else (_position(reader, answer),)
    if not all(found.texts[place] for place in right):
        raise reader.refuse(answer, "a choice that is null or empty")
    choices, indexes, notes, moved = _together(found, right, where, fields[0])
    return Labels(choices, None if answer is None else indexes if several else indexes[0], notes, moved)


def _positions(reader: _Reader, answer: Any) -> tuple[int, ...]:
    """The places of all right options: of the entries of a list, of the letters of a text, or of the one option."""
    if isinstance(answer, str):
        tagged = _TAGGED.fullmatch(answer)
        text = unicodedata.normalize("NFKC", tagged[1] if tagged else answer).strip()
        letters = read_letters(text, LETTERS[: len(reader.options.texts)])
        answer = letters.split(",") if letters and _says(reader.options, text) is None else [answer]
    entries = answer if isinstance(answer, (list, tuple)) else [answer]
    if not entries:
        raise reader.refuse(answer, "needs an answer")
    right = [_position(reader, entry) for entry in entries]
    if len(set(right)) < len(right):
        raise reader.refuse(answer, "which names a choice twice")
    return tuple(right)


def _together(
    options: Options, right: tuple[int, ...], where: str, field: str
) -> tuple[tuple[str, ...], tuple[int, ...], tuple[str, ...], bool]:
    """The fields of `Labels`, without empty options and with one of those that say the same, the right one if any."""
    notes: list[str] = []
    kept: dict[str, int] = {}
    for position, text in enumerate(options.texts):
        if not text:
            continue
        same = same_text(text)
        if same not in kept:
            kept[same] = position
            continue
        notes.append(
            f"choices {LETTERS[kept[same]]} and {LETTERS[position]} say the same ({short(text, 40)}): one left"
        )
        # the spelling of the right one stays, so that an answer by text finds it
        if position in right and options.texts[kept[same]] != text:
            kept[same] = position
    empty = sum(not text for text in options.texts)
    if empty:
        notes.insert(0, f"{empty} of its choices {'is' if empty == 1 else 'are'} null or empty: left out")
    places = sorted(kept.values())
    if len(places) < 2:
        raise BadSampleError(
            f"field '{field}' has {len(places)} different {'text' if len(places) == 1 else 'texts'}, needs 2 to 26",
            where=where,
        )
    indexes = sorted({places.index(kept[same_text(options.texts[place])]) for place in right})
    choices = tuple(options.texts[place] for place in places)
    return choices, tuple(indexes), tuple(notes), places != list(range(len(places)))


def same_text(text: str) -> str:
    """A key that is equal for options that say the same.

    Spaces, the composition of accents, a full stop at the end, and capitals of words do not count. Capitals do count in
    single letters and in tokens with digits: `m` and `M`, or the chords `Cm7` and `CM7`, are different.
    """
    words = unicodedata.normalize("NFC", text).split()
    plain = [
        word.casefold() if len(word.strip(",.;!?")) > 1 and word.strip(",.;!?").isalpha() else word for word in words
    ]
    joined = " ".join(plain)
    return joined[:-1].rstrip() if joined.endswith(".") and not joined.endswith("..") and len(joined) > 2 else joined


def _position(reader: _Reader, answer: Any) -> int:
    """The place of the right option among all options of the data set, empty ones included."""
    while isinstance(answer, (list, tuple)) and len(answer) == 1:
        answer = answer[0]
    if isinstance(answer, (list, tuple)):
        raise reader.refuse(answer, "needs one answer")
    if isinstance(answer, bool) or not isinstance(answer, (str, int, float)):
        raise reader.refuse(answer, "needs a text, letter or index")
    if isinstance(answer, float) and not (math.isfinite(answer) and answer.is_integer()):
        raise reader.refuse(answer, "needs an index")
    if not isinstance(answer, str):
        return _by_index(reader, answer, int(answer))
    return _by_text(reader, answer)


def _by_index(reader: _Reader, answer: Any, number: int) -> int:
    """The option with a number: by its key in an object, or else by its index."""
    options = reader.options
    if options.numbers is not None:
        if number not in options.numbers:
            raise reader.refuse(answer, "which is not a key of the options")
        return options.numbers.index(number)
    index = number - reader.base
    if not 0 <= index < len(options.texts):
        if (said_by := _as_text(reader, number)) is not None:
            return said_by
        last = len(options.texts) - 1 + reader.base
        remedy = _REMEDY if reader.kind is Answers.AUTO else None
        raise reader.refuse(answer, f"needs an index from {reader.base} to {last}", remedy)
    if reader.kind is not Answers.INDEX:
        said = [i for i, text in enumerate(options.texts) if _numeral(text) == number]
        counted = [i for i, text in enumerate(options.texts) if (m := _NUMBERED.match(text)) and int(m[1]) == number]
        if said and reader.kind is Answers.TEXT:
            return said[0]
        if any(i != index for i in said + counted):
            raise reader.refuse(
                answer, f"which may be an index or the text of choice {LETTERS[(said + counted)[0]]}", _REMEDY
            )
    return index


def _as_text(reader: _Reader, number: int) -> int | None:
    """The one option that is a number which is no index; None if it would be another one counted from 0 or from 1."""
    if reader.kind not in (Answers.AUTO, Answers.TEXT):
        return None
    texts = reader.options.texts
    said = [place for place, text in enumerate(texts) if _numeral(text) == number]
    counted = number - (1 - reader.base)  # from the other of 0 and 1
    if len(said) != 1 or (reader.kind is Answers.AUTO and 0 <= counted < len(texts) and counted != said[0]):
        return None
    return said[0]


def _by_text(reader: _Reader, answer: str) -> int:
    """The option that a text means: as an option's text, as a letter, as both, or as an index."""
    options = reader.options
    tagged = _TAGGED.fullmatch(answer)
    text = (tagged[1] if tagged else answer).strip()
    if not text:
        raise reader.refuse(answer, "needs an answer")
    plain = unicodedata.normalize("NFKC", text).strip()
    if reader.kind is Answers.INDEX and _NUMERAL.fullmatch(plain):
        return _by_index(reader, answer, int(float(plain)))
    said = _says(options, text)
    letter = _ONE_LETTER.fullmatch(plain)
    place = _by_letter(reader, answer, next(filter(None, letter.groups()))) if letter else None
    if place is not None and said is not None and place != said and not options.lettered:
        if reader.kind is Answers.LETTER:
            return place
        if reader.kind is not Answers.TEXT:
            raise reader.refuse(answer, f"which is one choice's letter and the text of choice {LETTERS[said]}", _REMEDY)
        return said
    if place is not None and (options.lettered or said is None):
        return place
    if said is not None:
        return said
    if _NUMERAL.fullmatch(plain) and not any(_NUMBER.fullmatch(text) for text in options.texts if text):
        return _by_index(reader, answer, int(float(plain)))
    both = _LETTER_AND_TEXT.fullmatch(text)
    if both is not None:
        place, said = _by_letter(reader, answer, both[1] or both[2]), _says(options, both[3])
        if place is not None and said is not None and same_text(options.texts[place]) == same_text(options.texts[said]):
            return place
        raise reader.refuse(answer, "whose letter and text belong to different choices")
    if letter is not None:
        raise reader.refuse(answer, f"needs a letter from A to {LETTERS[len(options.texts) - 1]}")
    why = (
        "which has several letters, needs one"
        if len(plain) < 60 and _SEVERAL.fullmatch(plain) and _all_letters(plain)
        else "which no choice says"
    )
    raise reader.refuse(answer, why)


def _by_letter(reader: _Reader, answer: str, letter: str) -> int | None:
    """The option with a letter; None if there is none.

    Raises:
        BadSampleError: If the text of another option begins with this letter.
    """
    options, place = reader.options, LETTERS.index(letter.upper())
    if options.own_letters.get(letter.upper(), place) != place:
        raise reader.refuse(answer, "a letter that the text of another choice begins with", _REMEDY)
    return place if options.numbers is None and place < len(options.texts) else None


def _says(options: Options, text: str) -> int | None:
    """The one option with a text: compared exactly, then without regard to spaces, then to capitals."""
    spellings: tuple[Any, ...] = (
        lambda t: t,
        lambda t: " ".join(unicodedata.normalize("NFC", t).split()),
        lambda t: " ".join(unicodedata.normalize("NFC", t).casefold().split()),
    )
    for spelling in spellings:
        wanted = spelling(text)
        found = [
            i
            for i, (bare, whole) in enumerate(zip(options.texts, options.whole, strict=True))
            if bare and wanted in (spelling(bare), spelling(whole))
        ]
        if found and len({same_text(options.texts[i]) for i in found}) == 1:
            return found[0]
        if found:
            return None
    return None


def _all_letters(text: str) -> bool:
    words = [word for word in re.split(r"[\s,;/&+]+", text) if word.lower() not in ("and", "or")]
    return all(len(word) == 1 or word.isupper() for word in words)


def _numeral(text: str) -> float | None:
    return float(text) if _NUMERAL.fullmatch(text) else None


def index_in(options: Any, answer: Any) -> tuple[int, int] | None:
    """An answer read as an index, and the number of options; None if it cannot be an index.

    Args:
        options: The options, as for `read_labels`.
        answer: The answer, as for `read_labels`.
    """
    if isinstance(answer, bool) or not isinstance(answer, (int, float, str)):
        return None
    text = str(answer).strip() if not isinstance(answer, int) or abs(answer) < 10**9 else ""
    if not _NUMERAL.fullmatch(text):
        return None
    try:
        found = read_options(options, "", "")
    except BadSampleError:
        return None
    if found.numbers is not None or (isinstance(answer, str) and any(_NUMBER.fullmatch(said) for said in found.texts)):
        return None
    return int(float(text)), len(found.texts)


def counts_from_one(pairs: Iterable[tuple[Any, Any]]) -> bool:
    """Whether the indexes of a data set seem to count from 1: none is 0, and one equals the number of options.

    Args:
        pairs: Options and answer of each row.
    """
    indexes = [found for options, answer in pairs if (found := index_in(options, answer)) is not None]
    return all(index != 0 for index, _ in indexes) and any(index == count for index, count in indexes)
