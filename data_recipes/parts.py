"""Dividing questions into parts for training, validation and test, by clip: no clip is in two parts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from avrt.data.shards.source import SourceItem
from avrt.errors import AvrtError, BadSampleError

PARTS = ("train", "val", "test")


def read_shares(text: str) -> dict[str, float]:
    """The shares of the parts, as in `80/10/10`; parts with a share of 0 are left out.

    Raises:
        AvrtError: If these are not three shares that make up the whole.
    """
    try:
        numbers = [float(word) for word in text.replace(",", "/").replace(":", "/").split("/")]
    except ValueError:
        numbers = []
    total = sum(numbers)
    whole = abs(total - 1) < 1e-6 or abs(total - 100) < 1e-6
    if len(numbers) != len(PARTS) or not whole or min(numbers) < 0:
        remedy = "give the shares of train, val and test in per cent, such as 80/10/10"
        raise AvrtError("these are not three shares that make up 100", where=f"--parts {text}", remedy=remedy)
    return {name: number / total for name, number in zip(PARTS, numbers, strict=True) if number}


class Division:
    """Which part each question belongs to.

    Args:
        items: All questions; errors among them belong to the first part.
        shares: Part -> its share of the clips.
        root: The data set's folder; clips are known by their paths below it, so that it may be moved.
        together: A field of the questions' metadata: clips with the same value stay together too, for example clips
            that were cut from one video.

    Raises:
        AvrtError: If there are fewer clips than parts, or no question has that field.
    """

    def __init__(
        self,
        items: Iterable[SourceItem | BadSampleError],
        shares: dict[str, float],
        root: Path,
        together: str | None = None,
    ) -> None:
        self._root, self._real_root, self._together = root, os.path.realpath(root), together
        self._parent: dict[str, str] = {}
        self._first = next(iter(shares))
        for item in items:
            if isinstance(item, SourceItem):
                keys = self._keys(item)
                for key in keys[1:]:
                    self._join(keys[0], key)
                self._parent.setdefault(keys[0], keys[0])
        if together is not None and not any(key.startswith("=") for key in self._parent):
            remedy = "name a column that --explain lists as metadata"
            raise AvrtError(f"no question has the field {together}", where="--together", remedy=remedy)
        self._part = self._divide(shares)

    def _keys(self, item: SourceItem) -> list[str]:
        """What ties a question to others: its files, and its value in the field `together`."""
        # a clip and a link to it, or one in a folder that is a link, are the same clip
        keys = [os.path.relpath(os.path.realpath(path), self._real_root) for path in item.files.values()]
        value = item.sample.metadata.get(self._together) if self._together is not None else None
        return [*keys, *([] if value is None else [f"={value}"])]

    def _group(self, key: str) -> str:
        while (above := self._parent.setdefault(key, key)) != key:
            key = above
        return key

    def _join(self, one: str, other: str) -> None:
        first, second = sorted((self._group(one), self._group(other)))
        self._parent[second] = first

    def _divide(self, shares: dict[str, float]) -> dict[str, str]:
        """Group -> part: the groups in an order that their names decide, cut at the shares."""
        groups = sorted(
            {self._group(key) for key in self._parent}, key=lambda key: hashlib.sha256(key.encode()).digest()
        )
        if len(groups) < len(shares):
            remedy = "use fewer parts, such as --parts 50/0/50, or more clips; clips that --together joins are one"
            what = f"has {len(groups)} groups of clips that must stay together, too few for {len(shares)} parts"
            raise AvrtError(what, where=self._root, remedy=remedy)
        counts = {part: max(1, int(share * len(groups))) for part, share in shares.items()}
        while sum(counts.values()) != len(groups):
            step = 1 if sum(counts.values()) < len(groups) else -1
            # the part that is furthest from its share gets or gives one
            part = max(
                (p for p in counts if step > 0 or counts[p] > 1),
                key=lambda p: step * (shares[p] * len(groups) - counts[p]),
            )
            counts[part] += step
        ordered = iter(groups)
        return {next(ordered): part for part, count in counts.items() for _ in range(count)}

    def part(self, item: SourceItem | BadSampleError) -> str:
        """The part of a question, or of an error."""
        if not isinstance(item, SourceItem):
            return self._first
        return self._part[self._group(self._keys(item)[0])]

    @property
    def clips(self) -> dict[str, int]:
        """Part -> number of its clips, where clips that stay together count as one."""
        parts = list(self._part.values())
        return {part: parts.count(part) for part in dict.fromkeys(parts)}
