"""Which way up a video's pictures are shown: the eight ways that a display matrix can turn and mirror them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Orientation:
    """What is done to a stored picture, in this order.

    Attributes:
        transposed: Rows become columns.
        left_right: Mirrored left to right.
        top_bottom: Mirrored top to bottom.
    """

    transposed: bool = False
    left_right: bool = False
    top_bottom: bool = False

    @classmethod
    def of(cls, frame: Any) -> Orientation:
        """What a decoded frame's display matrix says; nothing where it has none."""
        data = frame.side_data.get("DISPLAYMATRIX")
        if data is None:
            return cls()
        # x' = a x + c y, y' = b x + d y, y running down
        a, b, _, c, d, *_ = (int(value) for value in np.frombuffer(bytes(data), np.int32))
        if abs(b) + abs(c) > abs(a) + abs(d):
            return cls(True, c < 0, b < 0)
        return cls(False, a < 0, d < 0)

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """An (H, W, ...) picture the right way up."""
        if self.transposed:
            picture = picture.swapaxes(0, 1)
        return picture[:: -1 if self.top_bottom else 1, :: -1 if self.left_right else 1]

    def __str__(self) -> str:
        """In words; empty if the picture stays as it is."""
        return {
            (False, False, False): "",
            (False, True, False): "mirrored left to right",
            (False, False, True): "mirrored top to bottom",
            (False, True, True): "turned by 180 degrees",
            (True, False, True): "turned by 90 degrees",
            (True, True, False): "turned by 270 degrees",
            (True, False, False): "turned by 90 degrees and mirrored top to bottom",
            (True, True, True): "turned by 90 degrees and mirrored left to right",
        }[self.transposed, self.left_right, self.top_bottom]
