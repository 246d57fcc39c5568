"""The orientation of a video's frames: the eight ways in which a display matrix turns and mirrors them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Orientation:
    """What is done to a stored frame, in this order.

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
        """The orientation in a decoded frame's display matrix; unchanged if it has none."""
        data = frame.side_data.get("DISPLAYMATRIX")
        if data is None:
            return cls()
        # x' = a x + c y and y' = b x + d y, where y grows downwards
        a, b, _, c, d, *_ = (int(value) for value in np.frombuffer(bytes(data), np.int32))
        if abs(b) + abs(c) > abs(a) + abs(d):
            return cls(True, c < 0, b < 0)
        return cls(False, a < 0, d < 0)

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """Turn an (H, W, ...) picture the right way up."""
        if self.transposed:
            picture = picture.swapaxes(0, 1)
        return picture[:: -1 if self.top_bottom else 1, :: -1 if self.left_right else 1]

    def __str__(self) -> str:
        """The orientation in words; empty if the picture stays as it is."""
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
