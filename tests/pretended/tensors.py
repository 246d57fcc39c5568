"""Tensors on the pretended device, the memory they take, and the values of those that are small."""

from __future__ import annotations

import weakref
from typing import Any, NoReturn

import torch
from torch import Tensor

CUDA = torch.device("cuda", 0)
META = torch.device("meta")
LARGEST_VALUES = 1 << 20
"""Tensors of more elements have no values: masks of (T, T), activations."""
WITHOUT_VALUES = (torch.bfloat16, torch.float16)
"""Weights and activations, which nobody reads."""
BLOCK = 512
"""PyTorch's CUDA allocator rounds sizes up to multiples of it, in bytes."""


class PretendedTensor(Tensor):
    """A tensor on the pretended device: cuda:0 to Python, meta to C++ (see the package's docstring).

    Args:
        meta: Shape, strides and storage.

    Attributes:
        is_number: Whether C++ made it of a number that Python assigned, which on CUDA would stay on the host.
    """

    meta: Tensor
    is_number = False

    @staticmethod
    def __new__(cls, meta: Tensor) -> PretendedTensor:
        return Tensor._make_wrapper_subclass(
            cls,
            meta.size(),
            strides=meta.stride(),
            storage_offset=meta.storage_offset(),
            dtype=meta.dtype,
            device=META,
        )

    def __init__(self, meta: Tensor) -> None:
        self.meta = meta

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:  # type: ignore[override]
        raise RuntimeError(f"{func}: used outside of its `with PretendedDevice()`")

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)

    def get_device(self) -> int:
        return CUDA.index

    def data_ptr(self) -> int:
        """Not a number to read from, but as lasting and as different as an address."""
        return int(self.meta.untyped_storage()._cdata + self.meta.storage_offset() * self.element_size())

    def tolist(self) -> Any:
        """One copy to the host, as on a real device; C++ refuses this for subclasses."""
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy it first")
        return self.cpu().numpy()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        """As that of a parameter, for the copy of a policy that is its reference."""
        copied = self.detach().clone().requires_grad_(self.requires_grad)
        if getattr(self, "_is_param", False):
            copied._is_param = True
        memo[id(self)] = copied
        return copied

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"PretendedTensor({tuple(self.shape)}, {self.dtype})"


class Memory:
    """All storages of the device: their sizes, and where they are known their values.

    Attributes:
        live: Bytes at present.
        peak: Most bytes since somebody set it.
    """

    def __init__(self) -> None:
        self.live = 0
        self.peak = 0
        self._sizes: dict[int, int] = {}
        self._values: dict[int, torch.UntypedStorage] = {}

    def add(self, meta: Tensor) -> bool:
        """Take account of a tensor's storage until it is gone; False if it was known before."""
        storage = meta.untyped_storage()
        key = storage._cdata
        if key in self._sizes:
            return False
        self._sizes[key] = -(-storage.nbytes() // BLOCK) * BLOCK
        self.live += self._sizes[key]
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._remove, key)
        return True

    def values(self, meta: Tensor) -> Tensor | None:
        """A tensor's values, as a view of those of its storage; None if they are not known."""
        known = self._values.get(meta.untyped_storage()._cdata)
        if known is None:
            return None
        return torch.empty(0, dtype=meta.dtype).set_(known, meta.storage_offset(), meta.size(), meta.stride())

    def set_values(self, meta: Tensor, values: Tensor) -> None:
        """Make the values of a new storage known by those of the tensor that spans it, if they are to be kept."""
        if meta.numel() > LARGEST_VALUES or meta.dtype in WITHOUT_VALUES:
            return
        storage = meta.untyped_storage()
        self._values[storage._cdata] = torch.UntypedStorage(storage.nbytes())  # type: ignore[no-untyped-call]
        written = self.values(meta)
        assert written is not None
        written.copy_(values)

    def forget(self, meta: Tensor) -> None:
        """Something unknown was written to the tensor's storage."""
        self._values.pop(meta.untyped_storage()._cdata, None)

    def release(self, size: int) -> None:
        """Give back bytes that were added to `live` by hand."""
        self.live -= size

    def _remove(self, key: int) -> None:
        self.live -= self._sizes.pop(key)
        self._values.pop(key, None)
