"""Messages between a trainer and a rollout engine in another process: JSON with tensors beside it, over a socket.

Runs in the engine's own Python environment too, so it imports nothing of this project. Nothing that is received is ever
executed.

A message is 16 bytes with the lengths of its two parts, then JSON, which names the tensors with dtype, shape and place,
then their bytes as they lie in memory, each at a multiple of 64. On a CPU they are copied on neither side.
"""

from __future__ import annotations

import json
import math
import socket
import struct
from collections.abc import Mapping
from typing import Any

import torch

_HEAD = struct.Struct("!QQ")
LARGEST_TEXT = 1 << 28
LARGEST_TENSORS = 1 << 34
ALIGNMENT = 64
SMALL = 1 << 16
"""Tensors of fewer bytes are sent together, and get memory of their own when they arrive."""
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
        torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
    )
}  # fmt: skip


KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 8}
"""Seconds and number of probes after which a machine that has vanished counts as gone: three minutes."""


class WireError(ConnectionError):
    """The other side has gone, or does not speak this protocol."""


def keep_alive(connection: socket.socket) -> None:
    """Have a connection send small messages at once, and notice when the other machine has vanished."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def send(connection: socket.socket, message: dict[str, Any], tensors: Mapping[str, torch.Tensor] | None = None) -> None:
    """Send one message.

    Args:
        connection: To the other side.
        message: Anything that JSON can hold.
        tensors: By name; sent from the CPU.
    """
    table, parts, size = [], [], 0
    for name, tensor in (tensors or {}).items():
        table.append([name, dtype_name(tensor), list(tensor.shape), size])
        parts.append(byte_view(tensor.detach().cpu()))
        size += aligned(len(parts[-1]))
    text = json.dumps({"message": message, "tensors": table}).encode()
    waiting = bytearray(_HEAD.pack(len(text), size) + text)
    try:
        for part in parts:
            if len(part) >= SMALL:
                connection.sendall(waiting)
                connection.sendall(part.numpy().data)
                waiting = bytearray()
            else:
                waiting += part.numpy().data
            waiting += bytes(aligned(len(part)) - len(part))
        connection.sendall(waiting)
    except OSError as error:
        raise WireError(f"the other side has gone: {error}") from None


def receive(connection: socket.socket) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Receive one message; see `send`.

    Raises:
        WireError: If the connection ends, or brings something else than a message.
    """
    text_size, data_size = _HEAD.unpack(_exactly(connection, _HEAD.size).numpy().tobytes())
    if text_size > LARGEST_TEXT or data_size > LARGEST_TENSORS:
        raise WireError("received data that is not a message of this protocol")
    text, data = _exactly(connection, text_size), _exactly(connection, data_size)
    try:
        whole = json.loads(text.numpy().tobytes())
        message, table = whole["message"], whole["tensors"]
        found = {}
        for name, dtype, shape, offset in table:
            tensor = tensor_at(data, dtype, shape, offset)
            found[str(name)] = tensor.clone() if tensor.nbytes < SMALL else tensor
    except (ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        raise WireError(f"received data that is not a message of this protocol: {error}") from None
    if not isinstance(message, dict):
        raise WireError("received data that is not a message of this protocol")
    return message, found


def aligned(size: int) -> int:
    """Bytes from the begin of one tensor to the begin of the next."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def dtype_name(tensor: torch.Tensor) -> str:
    """What a tensor's dtype is called in messages.

    Raises:
        ValueError: If it has no name there.
    """
    name = str(tensor.dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(f"tensors of {name} cannot be sent")
    return name


def byte_view(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's bytes (N,), without a copy where they lie in order."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def tensor_at(data: torch.Tensor, dtype: str, shape: list[int], offset: int) -> torch.Tensor:
    """A view of some bytes (N,) as a tensor.

    Raises:
        ValueError: If it does not lie within them.
    """
    kind, size = DTYPES[dtype], byte_size(dtype, shape)
    if not 0 <= offset <= len(data) - size or offset % kind.itemsize:
        raise ValueError(f"{size} bytes at {offset} do not lie within {len(data)}")
    return data[offset : offset + size].view(kind).view(shape)


def byte_size(dtype: str, shape: list[int]) -> int:
    """Bytes of a tensor that a message names.

    Raises:
        ValueError: If there is no such tensor.
    """
    if dtype not in DTYPES or not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError(f"no tensor is {dtype} {shape}")
    return math.prod(shape) * DTYPES[dtype].itemsize


def _exactly(connection: socket.socket, size: int) -> torch.Tensor:
    data = torch.empty(size, dtype=torch.uint8)
    view = data.numpy().data
    done = 0
    while done < size:
        try:
            count = connection.recv_into(view[done:], size - done)
        except OSError as error:
            raise WireError(f"the other side has gone: {error}") from None
        if not count:
            raise WireError("the other side has closed the connection")
        done += count
    return data
