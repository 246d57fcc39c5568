"""Messages between a trainer and a rollout engine in another process: JSON with tensors beside it, over a socket.

Runs in the engine's own Python environment too, so it imports nothing of this project. Tensors travel as safetensors:
nothing that is received is ever executed.

A message is 16 bytes with the lengths of its two parts, then the JSON, then the tensors.
"""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

import torch
from safetensors.torch import load, save

_HEAD = struct.Struct("!QQ")
LARGEST_TEXT = 1 << 28
LARGEST_TENSORS = 1 << 34


class WireError(ConnectionError):
    """The other side has gone, or does not speak this protocol."""


def send(connection: socket.socket, message: dict[str, Any], tensors: dict[str, torch.Tensor] | None = None) -> None:
    """Send one message.

    Args:
        connection: To the other side.
        message: Anything that JSON can hold.
        tensors: By name; sent from the CPU.
    """
    text = json.dumps(message).encode()
    data = save(_apart(tensors)) if tensors else b""
    try:
        connection.sendall(_HEAD.pack(len(text), len(data)) + text)
        connection.sendall(data)
    except OSError as error:
        raise WireError(f"the other side has gone: {error}") from None


def receive(connection: socket.socket) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Receive one message; see `send`.

    Raises:
        WireError: If the connection ends, or brings something else than a message.
    """
    text_size, data_size = _HEAD.unpack(_exactly(connection, _HEAD.size))
    if text_size > LARGEST_TEXT or data_size > LARGEST_TENSORS:
        raise WireError("received data that is not a message of this protocol")
    text, data = _exactly(connection, text_size), _exactly(connection, data_size)
    try:
        message = json.loads(text)
        tensors = load(bytes(data)) if data else {}
    except Exception as error:  # safetensors raises an exception class of its own
        raise WireError(f"received data that is not a message of this protocol: {error}") from None
    if not isinstance(message, dict):
        raise WireError("received data that is not a message of this protocol")
    return message, tensors


def _apart(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors on the CPU, none sharing memory with another: safetensors refuses those."""
    seen: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        place = plain.untyped_storage().data_ptr()
        found[name] = plain.clone() if place in seen else plain
        seen.add(place)
    return found


def _exactly(connection: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
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
