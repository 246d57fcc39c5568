"""Numbering the items of several parts, one part after the other: shards of a folder, folders of a mixture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Parts:
    """Where an item of several parts lies.

    Args:
        sizes: Number of items in each part.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self._ends = np.cumsum(sizes, dtype=np.int64)
        self._sizes = sizes

    def __len__(self) -> int:
        """Number of items in all parts."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def start(self, part: int) -> int:
        """Number of the first item of a part."""
        return int(self._ends[part]) - self._sizes[part]

    def count(self, items: np.ndarray) -> list[int]:
        """How many of some items, given by their numbers, lie in each part."""
        parts = np.searchsorted(self._ends, items, side="right")
        return [int(count) for count in np.bincount(parts, minlength=len(self._sizes))]

    def locate(self, item: int) -> tuple[int, int]:
        """The part in which an item lies, and its number within that part.

        Raises:
            IndexError: If there is no such item.
        """
        if not 0 <= item < len(self):
            raise IndexError(f"sample {item} of {len(self)}")
        part = int(np.searchsorted(self._ends, item, side="right"))
        return part, item - self.start(part)
