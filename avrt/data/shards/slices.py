"""One part of a conversion that is divided among jobs: which questions it takes, and what it leaves for the merge.

Part i of n takes neighbouring questions, from i - 1 to i n-ths of all. Its folder holds shards like any other, whose
manifest says under `slice` which part it is. A question that is left out is named there with its number among all
questions, so that the merge can put it into its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from avrt.errors import AvrtError

T = TypeVar("T")
SLICE = "slice"
"""The entry of a manifest's recipe that tells a part."""
_PART = re.compile(r"([1-9]\d{0,5})/([1-9]\d{0,5})")
_NUMBERED = re.compile(r"(.*) \[item (\d+)\]", re.DOTALL)


@dataclass(frozen=True)
class Slice:
    """A part of a conversion.

    Attributes:
        part: Its number, from 1 on.
        of: The number of parts.
        first: The number of its first question among all, from 0 on.
        items: How many questions it takes, with those that cannot be used.
        samples_per_shard: Size of the shards, also of the merged ones.
    """

    part: int
    of: int
    first: int
    items: int
    samples_per_shard: int

    @classmethod
    def cut(cls, part: int, of: int, items: int, samples_per_shard: int) -> Slice:
        """Part `part` of `of` of that many questions."""
        first = items * (part - 1) // of
        return cls(part, of, first, items * part // of - first, samples_per_shard)

    @classmethod
    def of_recipe(cls, recipe: Mapping[str, Any]) -> Slice | None:
        """The part that a manifest tells of; None for shards that are no part.

        Raises:
            TypeError: If the entry has other fields.
        """
        return cls(**recipe[SLICE]) if SLICE in recipe else None

    def record(self) -> dict[str, dict[str, int]]:
        """Its entry in the manifest's recipe."""
        return {SLICE: asdict(self)}

    def take(self, items: Iterable[T]) -> Iterable[T]:
        """Its questions among all."""
        return islice(items, self.first, self.first + self.items)


def read_part(text: str) -> tuple[int, int]:
    """(i, n) of `i/n`.

    Raises:
        AvrtError: If it is not a part.
    """
    found = _PART.fullmatch(text)
    number, of = (0, 0) if found is None else (int(found[1]), int(found[2]))
    if not 1 <= number <= of:
        raise AvrtError("is not a part", where=f"--part {text}", remedy="give i/n with i from 1 to n, such as 2/8")
    return number, of


def part_folder(out: Path, number: int, of: int) -> Path:
    """The folder of one part inside the folder of all."""
    return out / f"part-{number:05d}-of-{of:05d}"


def numbered(name: str, item: int) -> str:
    """The name of a question that is left out of a part, with its number among all questions."""
    return f"{name} [item {item}]"


def name_and_number(text: str) -> tuple[str, int]:
    """The same in two.

    Raises:
        ValueError: If there is no number.
    """
    found = _NUMBERED.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} has no number")
    return found[1], int(found[2])
