"""Lets torchvision be imported beside a torch that it was not built for, by declaring two operators nobody calls.

Loaded by a .pth file when the interpreter of the server's environment starts.
"""

import importlib.abc
import sys
from typing import Any


class _BeforeTorchvision(importlib.abc.MetaPathFinder):
    """Acts once, when torchvision is first looked for."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Declare the operators, and leave the finding to others."""
        if name != "torchvision":
            return
        sys.meta_path.remove(self)
        import torch

        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        sys.modules["_torchvision_library"] = library  # type: ignore[assignment]


sys.meta_path.insert(0, _BeforeTorchvision())
