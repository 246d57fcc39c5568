"""What trainer and rollout engine tell each other arrives whole; what is no message, or no engine, is refused."""

import contextlib
import os
import socket
import struct
import sys
import threading

import pytest
import torch

from avrt.errors import AvrtError
from avrt.policy.vllm_engine import VLLMEngine, VLLMOptions
from avrt.rollout.vllm_process.wire import WireError, receive, send


@pytest.fixture
def pair():
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def test_messages_and_tensors_arrive_as_they_were_sent(pair):
    whole = torch.arange(6, dtype=torch.int64)
    tensors = {"a": torch.rand(1000, 1000), "b": torch.ones(3, dtype=torch.bfloat16), "c": whole, "d": whole[2:5]}
    thread = threading.Thread(target=send, args=(pair[0], {"do": "load", "text": "ü"}, tensors))
    thread.start()
    message, found = receive(pair[1])
    thread.join()
    assert message == {"do": "load", "text": "ü"}
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("!QQ", 1 << 60, 0),
        struct.pack("!QQ", 2, 0) + b"[]",
        struct.pack("!QQ", 2, 9) + b"{}" + b"\x80\x04\x95pickle"[:9],
        b"GET / HTTP/1.1\r\n\r\n",
        b"",
        struct.pack("!QQ", 50, 0) + b"{",
    ],
)
def test_what_is_no_message_is_refused(pair, data):
    pair[0].sendall(data)
    pair[0].shutdown(socket.SHUT_WR)
    with pytest.raises(WireError):
        receive(pair[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (VLLMOptions(), "one of python and addresses"),
        (VLLMOptions(python="python", addresses=["localhost:1"]), "one of python and addresses"),
        (VLLMOptions(python="/nowhere/python"), "cannot be run"),
        (VLLMOptions(addresses=["127.0.0.1:1"], model="m"), "cannot be reached"),
        (VLLMOptions(addresses=["nonsense"], model="m"), "cannot be reached"),
    ],
)
def test_engines_that_are_not_there_are_named(nano, options, message):
    with pytest.raises(AvrtError, match=message):
        VLLMEngine(options).start(nano)


def test_a_python_without_vllm_is_named_and_ended(nano, tmp_path):
    """This very environment holds no vLLM: the worker starts, and says what it lacks."""
    engine = VLLMEngine(VLLMOptions(python=sys.executable))
    with pytest.raises(AvrtError, match="No module named 'vllm'"):
        engine.start(nano)
    process = engine._process
    engine.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


def test_a_sleeping_engine_is_woken_before_it_gets_weights(nano):
    """A stand-in for vLLM, which sleeps on GPUs only, that tells in which order it was asked."""
    asked = []

    def answer(listener):
        connection, _ = listener.accept()
        with connection, contextlib.suppress(WireError):
            while True:
                message, _ = receive(connection)
                asked.append(message["do"])
                send(connection, {"version": "none"})

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        options = VLLMOptions(addresses=[f"127.0.0.1:{listener.getsockname()[1]}"], model="m", sleep=True)
        engine = VLLMEngine(options)
        engine.start(nano)
        for _ in range(2):
            engine.push(nano)
            engine.rest()
        engine.close()
        thread.join()
    assert asked == ["start", "load", "sleep", "wake_up", "load", "sleep"]
