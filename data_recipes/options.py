"""Reading the options of a question: a list, an object, or either as JSON, with or without letters before the texts."""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from avrt.data.sample import LETTERS
from avrt.errors import BadSampleError
from avrt.messages import short

_LONGEST = 1_000_000
# `A. x`, `A.x`, `A) x`, `(A) x`, `[A] x`, `A: x`; a colon needs a space (`A:maj` is a chord), `A.D.` is not option A
_LETTERED = re.compile(
    r"\s*(?:[(\[]\s*([A-Za-z])\s*[)\]][.:]?\s*|([A-Za-z])\s?(?:\)\s*|:\s+|\.(?:\s+|(?![A-Za-z]\.))|\u3001\s*))(\S.*)",
    re.DOTALL,
)
_WIDE = "".join(
    map(chr, (0xFF08, 0xFF09, 0xFF0E, 0xFF1A, 0xFF3B, 0xFF3D, *range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B)))
)
_NARROW = {ord(wide): unicodedata.normalize("NFKC", wide) for wide in _WIDE}
_SPACED = re.compile(r"\s*[(\[]?([A-Za-z])[)\].:]+\s+\S")


@dataclass(frozen=True)
class Options:
    """A question's options as the data set has them.

    Attributes:
        texts: The texts without letters; empty for options that are null or blank.
        whole: The texts with their letters, if they have any.
        lettered: Whether the data set itself gives all options letters.
        numbers: The keys, if the options are an object with numbers as keys.
        own_letters: If only some texts begin with a letter: the letter -> the option's place.
    """

    texts: tuple[str, ...]
    whole: tuple[str, ...]
    lettered: bool = False
    numbers: tuple[int, ...] | None = None
    own_letters: Mapping[str, int] = field(default_factory=dict)


def read_options(value: Any, where: str, name: str) -> Options:
    """The options in a field.

    Raises:
        BadSampleError: If they are not texts, or their letters are not in order.
    """

    def refuse(why: str) -> BadSampleError:
        return BadSampleError(f"field '{name}' {why}", where=where)

    if isinstance(value, str):
        value = _spelled(value, refuse)
    numbers: tuple[int, ...] | None = None
    keyed = False
    if isinstance(value, Mapping):
        if getattr(value, "repeated", None) is not None:
            raise refuse(f"has the key {short(value.repeated)} twice")  # type: ignore[attr-defined]
        if isinstance(value.get("text"), (list, tuple)) and isinstance(value.get("label"), (list, tuple)):
            value = _paired(value, refuse)
        value, numbers = _ordered(value, refuse)
        keyed = numbers is None
    if not isinstance(value, (list, tuple)):
        raise refuse(f"is {short(value)}, needs a list of texts")
    if len(value) > len(LETTERS):
        raise refuse(f"has {len(value)} entries, needs 2 to 26")
    for number, entry in enumerate(value):
        if entry is not None and not isinstance(entry, str):
            what = f"holds {short(entry)}" if isinstance(entry, (bytes, bytearray)) else f"has entry {short(entry)}"
            raise refuse(f"{what} at place {number + 1}, needs a text")
    whole = tuple((entry or "").strip() for entry in value)
    return _without_letters(whole, keyed, numbers, refuse)


def _spelled(text: str, refuse: Any) -> Any:
    """A list or object that is written as text, in JSON or as a Python literal."""
    bare = text.strip()
    if bare[:1] not in ("[", "{") or len(bare) > _LONGEST:
        raise refuse(f"is the text {short(text)}, needs a list")
    try:
        return json.loads(bare, object_pairs_hook=unrepeated)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(bare)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        raise refuse(f"is the text {short(text)}, needs a list") from None


class Repeated(dict[str, Any]):
    """A JSON object with a repeated key, of which JSON readers silently drop the first.

    Attributes:
        repeated: The key.
    """

    repeated: str


def unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.loads`: a dictionary that remembers a repeated key."""
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    marked = Repeated(made)
    keys = [key for key, _ in pairs]
    marked.repeated = next(key for key in keys if keys.count(key) > 1)
    return marked


def _paired(value: Mapping[str, Any], refuse: Any) -> Mapping[Any, Any]:
    """Options given as two lists, `text` and `label`."""
    labels, texts = value["label"], value["text"]
    if len(labels) != len(texts) or len({str(label) for label in labels}) != len(labels):
        raise refuse("has labels that do not fit its texts")
    return {str(label): text for label, text in zip(labels, texts, strict=True)}


def _ordered(value: Mapping[Any, Any], refuse: Any) -> tuple[list[Any], tuple[int, ...] | None]:
    """An object's values in the order of its keys, which must be consecutive, and the keys if they are numbers."""
    keys = {unicodedata.normalize("NFKC", str(key)).strip().strip("().[]:").upper(): key for key in value}
    if len(keys) != len(value):
        raise refuse("has keys that are the same letter")
    if keys and all(key.isascii() and key.isdigit() and len(key) < 4 for key in keys):
        numbers = {int(key): original for key, original in keys.items()}
        names = sorted(numbers)
        if (
            len(numbers) != len(value)
            or names[0] not in (0, 1)
            or names != list(range(names[0], names[0] + len(names)))
        ):
            raise refuse(f"has the keys {_few(value)}, which are not consecutive")
        return [value[numbers[number]] for number in names], tuple(names)
    if not keys or not all(len(key) == 1 and key in LETTERS for key in keys):
        raise refuse(f"is an object with the keys {_few(value)}, which are neither letters nor numbers")
    names_of = sorted(keys)
    # in a table every row has all letters, with null for missing options
    given = [value[keys[name]] for name in names_of]
    if "".join(names_of) != LETTERS[: len(names_of)]:
        raise refuse(f"has the keys {_few(value)}, which are not consecutive")
    return given, None


def _few(value: Mapping[Any, Any]) -> str:
    return ", ".join(short(str(key), 20) for key in list(value)[:6]) or "(none)"


def _without_letters(whole: tuple[str, ...], keyed: bool, numbers: tuple[int, ...] | None, refuse: Any) -> Options:
    """Remove the letters if all options have their own letter in order."""
    found = [_LETTERED.fullmatch(text[:4].translate(_NARROW) + text[4:]) if text else None for text in whole]
    present = [place for place, text in enumerate(whole) if text]
    letters = {place: (m[1] or m[2]).upper() for place in present if (m := found[place])}
    if present and len(letters) == len(present):
        if all(LETTERS[place] == letter for place, letter in letters.items()):
            texts = tuple(m[3].strip() if m else "" for m in found)
            return Options(texts, whole, lettered=numbers is None, numbers=numbers)
        if _meant(list(letters.values())):
            raise refuse(f"has the letters {', '.join(letters[place] for place in present)}, which are not in order")
    spaced = {m[1].upper(): place for place, text in enumerate(whole) if (m := _SPACED.match(text))}
    own = spaced if len(spaced) > 1 and not keyed else {}
    return Options(whole, whole, lettered=keyed, numbers=numbers, own_letters=own)


def _meant(letters: list[str]) -> bool:
    """Whether letters before all texts are letters of the options, and not initials of names."""
    first = set(LETTERS[: len(letters)])
    return set(letters) <= first or len(set(letters) & first) > 1
