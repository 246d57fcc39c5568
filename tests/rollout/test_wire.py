"""What trainer and rollout engine tell each other arrives whole; what is no message, or no engine, is refused."""

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading

import pytest
import torch

from avrt.errors import AvrtError
from avrt.models.engine_prompts import EngineFacts
from avrt.policy.vllm.engine import VLLMEngine
from avrt.policy.vllm.options import VLLMOptions
from avrt.policy.vllm.process import WORKER, EngineProcess
from avrt.rollout.sampling import SamplingOptions
from avrt.rollout.vllm_process.wire import WireError, receive, send


@pytest.fixture
def pair():
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def test_messages_and_tensors_arrive_as_they_were_sent(pair):
    whole = torch.arange(6, dtype=torch.int64)
    tensors = {"a": torch.rand(1000, 1000), "b": torch.ones(3, dtype=torch.bfloat16), "c": whole, "d": whole[2:5],
               "e": torch.tensor(7), "f": torch.empty(0, 4), "g": torch.rand(300, 400).T}  # fmt: skip
    thread = threading.Thread(target=send, args=(pair[0], {"do": "load", "text": "ü"}, tensors))
    thread.start()
    message, found = receive(pair[1])
    thread.join()
    assert message == {"do": "load", "text": "ü"}
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def framed(text, size):
    """A message of a peer that says something else than it sends."""
    data = json.dumps(text).encode()
    return struct.pack("!QQ", len(data), size) + data + bytes(size)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("!QQ", 1 << 60, 0),
        struct.pack("!QQ", 2, 0) + b"[]",
        struct.pack("!QQ", 2, 9) + b"{}" + b"\x80\x04\x95pickle"[:9],
        framed({"message": {}, "tensors": [["a", "float32", [3], 0]]}, 8),
        framed({"message": {}, "tensors": [["a", "float32", [1], -4]]}, 8),
        framed({"message": {}, "tensors": [["a", "float32", [1], 2]]}, 8),
        framed({"message": {}, "tensors": [["a", "int8", [-1], 0]]}, 8),
        framed({"message": {}, "tensors": [["a", "object", [1], 0]]}, 8),
        framed({"message": {}, "tensors": [["a", "int8", [0, 2**70], 0]]}, 8),
        framed({"message": {}, "tensors": [["a"]]}, 8),
        framed({"message": []}, 0),
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
    pid = engine.pid
    engine.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_engine_that_takes_too_long_is_ended_and_the_option_named(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec sleep 60\n")
    python.chmod(0o755)
    process = EngineProcess(VLLMOptions(python=str(python), start_seconds=0.5))
    with pytest.raises(AvrtError, match=r"not started within 0\.5 seconds \(raise model\.vllm\.start_seconds\)"):
        process.open("m", {}, EngineFacts())
    process.close()


STAND_IN = '''
"""In vLLM's place, which sleeps on GPUs only: writes down what is asked of it, and what it sees of the machine."""

import json
import logging
import os

__version__ = "none"


def note(*what):
    with open(os.environ["AVRT_TEST_NOTES"], "a") as file:
        file.write(json.dumps(what) + "\\n")


class LLM:
    def __init__(self, model, **settings):
        seen = [os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "LOCAL_RANK", "TORCHELASTIC_RUN_ID")]
        note("start", settings["enable_sleep_mode"], *seen)

    def collective_rpc(self, method, kwargs=None):
        if method == "follow_trainer":
            return [["what it lacks"]]
        if method == "reload_weights":
            log = logging.getLogger("vllm.model_executor.model_loader.reload.layerwise")
            log.warning("%s: Failed to load weights", "Tower")
            log.warning("something else")
        note(method, *([] if kwargs is None else [len(kwargs["weights_iterator"]) > 0]))

    def reset_prefix_cache(self):
        note("reset_prefix_cache")

    def reset_mm_cache(self):
        pass

    llm_engine = type("Engine", (), {"engine_core": None})

    def sleep(self, level):
        note("sleep", level)

    def wake_up(self, tags):
        note("wake_up", tags)
'''


@pytest.fixture
def python_with_stand_in(tmp_path, monkeypatch):
    """This Python, which finds the stand-in where vLLM would be; and the file of its notes."""
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text(STAND_IN)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("AVRT_TEST_NOTES", str(tmp_path / "notes"))
    return str(python), tmp_path / "notes"


WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU, and the engine is given it")


@pytest.mark.parametrize(
    ("visible", "gpu", "expected", "level"),
    [
        pytest.param(None, None, None, 1, marks=WITHOUT_GPU),
        pytest.param("4, 5", None, "4, 5", 1, marks=WITHOUT_GPU),
        (None, 2, "2", 2),
        ("4,5,7", 2, "7", 1),
        ("GPU-ab", 0, "GPU-ab", 1),
    ],
)
def test_an_engine_has_its_ranks_gpu_and_wakes_its_cache_after_loading(
    nano, python_with_stand_in, monkeypatch, visible, gpu, expected, level
):
    """The worker itself, in a process of its own; without a GPU, and without being told of one, it sees what we see.

    After a sleep of level 2, in which all weights are lost, it reads the model again before ours are pushed.
    """
    python, notes = python_with_stand_in
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "torchrun's")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    engine = VLLMEngine(VLLMOptions(python=python, model="m", sleep=True, sleep_level=level), rank=2, gpu=gpu)
    try:
        engine.start(nano)
        os.kill(engine.pid, signal.SIGTERM)  # Slurm's, to all processes of a step: the trainer's step needs it still
        for _ in range(2):
            engine.push(nano)
            engine.rest()
    finally:
        engine.close()
    load = [["reload_weights", True], ["reset_prefix_cache"]]
    read_again = [["reload_weights"]] if level == 2 else []
    assert [json.loads(line) for line in notes.read_text().splitlines()] == [
        ["start", True, expected, None, None], ["sleep", level],
        *2 * [["wake_up", ["weights"]], *read_again, *load, ["wake_up", ["kv_cache"]], ["sleep", level]],
    ]  # fmt: skip


def test_completions_that_vllm_would_cut_off_are_refused(nano, batch):
    longest = max(len(ids) for ids in batch.prompt_ids)
    engine = VLLMEngine(VLLMOptions(python="python", settings={"max_model_len": longest + 7}))
    with pytest.raises(
        AvrtError, match=rf"sample .*: a prompt of {longest} and completions of up to 8 tokens do not fit into vLLM's"
    ):
        engine.generate(nano, nano.encode(batch), SamplingOptions(max_new_tokens=8), list(range(4)), 1)


def test_an_engine_that_slept_when_its_trainer_went_is_woken_by_the_next(nano, python_with_stand_in, capfd):
    """What it lacks is said here; of what it logs, only what is no news is left out."""
    python, notes = python_with_stand_in
    with listening([python, WORKER, "--listen", "127.0.0.1:0"]) as (_, address):
        for _ in range(2):
            engine = VLLMEngine(VLLMOptions(addresses=[address], model="m", sleep=True))
            engine.start(nano)
            engine.close()
        engine = VLLMEngine(VLLMOptions(addresses=[address], model="m", sleep=True))
        with pytest.warns(UserWarning, match="vLLM none has no what it lacks, where 0.32 is put right"):
            engine.start(nano)
        engine.push(nano)
        engine.close()
    logged = capfd.readouterr().err
    assert "something else" in logged
    assert "Failed to load weights" not in logged
    calls = [json.loads(line) for line in notes.read_text().splitlines()]
    assert calls[1:] == [
        ["sleep", 1], ["wake_up", ["weights"]], ["reload_weights", True], ["reset_prefix_cache"],
        ["wake_up", ["kv_cache"]],
    ]  # fmt: skip


def test_an_engine_ends_with_the_trainer_that_started_it_whatever_it_is_at(python_with_stand_in):
    """Its connection stays, and it is ready for the next message: as one that samples when its trainer is killed."""
    python, _ = python_with_stand_in
    trainer = f"import subprocess; subprocess.run([{python!r}, {str(WORKER)!r}, '--once'])"
    with listening([sys.executable, "-c", trainer]) as (process, address):
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            send(connection, {"do": "nothing"})
            assert receive(connection)[0] == {"error": "RuntimeError: no model was started"}
            process.kill()
            assert connection.recv(1) == b""


@contextlib.contextmanager
def listening(command):
    """A process, and the address at which it says that a worker listens."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process, next(line for line in process.stdout if line.startswith("listening on ")).split()[-1]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
