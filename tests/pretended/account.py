"""What the pretended device counts, and the lines that it counts it by."""

from __future__ import annotations

import os
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import transformers

import avrt

_ROOTS = {
    f"{Path(avrt.__file__).parent}{os.sep}": "avrt/",
    f"{Path(transformers.__file__).parent}{os.sep}": "transformers/",
}
_FILES = ("account.py", "device.py", "graphs.py", "operations.py", "tensors.py")
_INSTRUMENT = {str(Path(__file__).with_name(name)) for name in _FILES}
_TESTS = str(Path(__file__).parents[1])


@dataclass
class Account:
    """What happened on the device in some part of a program.

    Attributes:
        kernels: Launched, by the name of the operation.
        attention: Fused attention calls among them, forward only, by the name of the operation.
        synchronizations: Waits of the host, by what and where.
        blocking_copies: From the host's pageable memory, by what and where.
        start: Live bytes at the beginning.
        peak: Most bytes above those.
        kept: Bytes above those at the end.
    """

    kernels: Counter[str] = field(default_factory=Counter)
    attention: Counter[str] = field(default_factory=Counter)
    synchronizations: Counter[str] = field(default_factory=Counter)
    blocking_copies: Counter[str] = field(default_factory=Counter)
    start: int = 0
    peak: int = 0
    kept: int = 0

    def __str__(self) -> str:
        """All counts, and the lines that wait."""
        lines = [
            f"{self.kernels.total()} kernels, {self.attention.total()} attention calls, "
            f"{self.synchronizations.total()} synchronizations, {self.blocking_copies.total()} blocking copies, "
            f"peak {self.peak / 1e9:.2f} GB above {self.start / 1e9:.2f} GB"
        ]
        for name, found in (("waits", self.synchronizations), ("copies", self.blocking_copies)):
            lines += [f"  {name} {count:6d}  {what}" for what, count in found.most_common()]
        return "\n".join(lines)


def caller() -> str:
    """The innermost line of `avrt` or transformers that is being run, else of the tests."""
    frame: FrameType | None = sys._getframe(1)
    test = "elsewhere"
    while frame is not None:
        file = frame.f_code.co_filename
        for root, name in _ROOTS.items():
            if file.startswith(root):
                return f"{name}{file.removeprefix(root)}:{frame.f_lineno}"
        if test == "elsewhere" and file.startswith(_TESTS) and file not in _INSTRUMENT:
            test = f"tests{file.removeprefix(_TESTS)}:{frame.f_lineno}"
        frame = frame.f_back
    return test
