"""Triton kernels on the CPU: Triton's interpreter, with the three things it lacks for the kernels tested here.

It hands numbers to a kernel as Python's own, where the compiler makes float32 of them; it calculates with the bits of
bfloat16 as if they were integers, where hardware rounds each result to bfloat16; and it has no CUDA library.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch


@contextmanager
def interpreter(*packages: str) -> Iterator[None]:
    """Interpret the Triton kernels of some packages, which are imported anew for it and forgotten afterwards."""
    _forget(packages)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        _repair(patch)
        yield
    _forget(packages)


def _forget(packages: tuple[str, ...]) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] in packages]:
        del sys.modules[name]


def _repair(patch: pytest.MonkeyPatch) -> None:
    import triton.language as tl
    from triton.language.extra import libdevice
    from triton.runtime import JITFunction
    from triton.runtime import interpreter as stock

    # Triton's own functions were made for the compiler where it was imported before.
    for module in [module for name, module in sys.modules.items() if name.startswith("triton.language")]:
        for name, value in list(vars(module).items()):
            if isinstance(value, JITFunction):
                patch.setattr(module, name, stock.InterpretedFunction(value.fn))

    builder = stock.InterpreterBuilder
    convert, cast, binary = stock._implicit_cvt, builder.cast_impl, builder.binary_op

    def implicit_cvt(arg: object) -> object:
        if isinstance(arg, float):
            return tl.tensor(stock.TensorHandle(np.array([arg], np.float32), tl.float32), tl.float32)
        return convert(arg)

    def cast_impl(self: object, source: stock.TensorHandle, target: tl.dtype) -> stock.TensorHandle:
        pair = (source.dtype.scalar, target.scalar)
        if pair == (tl.bfloat16, tl.float32):
            return stock.TensorHandle(_wide(source.data), tl.float32)
        if pair == (tl.float32, tl.bfloat16):
            return stock.TensorHandle(_narrow(source.data), tl.bfloat16)
        return cast(self, source, target)

    def binary_op(
        self: object, left: stock.TensorHandle, right: stock.TensorHandle, op: Callable[..., np.ndarray]
    ) -> stock.TensorHandle:
        if left.dtype.scalar != tl.bfloat16:
            return binary(self, left, right, op)
        return stock.TensorHandle(_narrow(op(_wide(left.data), _wide(right.data))), tl.bfloat16)

    patch.setattr(libdevice, "rsqrt", lambda value: tl.math.rsqrt(value))  # looked up when called, interpreted then
    patch.setattr(stock, "_implicit_cvt", implicit_cvt)
    patch.setattr(builder, "cast_impl", cast_impl)
    patch.setattr(builder, "binary_op", binary_op)
    patch.setattr(builder, "create_fp_to_fp", lambda self, source, target, _: cast_impl(self, source, target))


def _wide(bits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(np.ascontiguousarray(bits)).view(torch.bfloat16).float().numpy()


def _narrow(values: np.ndarray) -> np.ndarray:
    rounded = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(torch.bfloat16)
    return rounded.view(torch.int16).numpy().view(np.uint16)
