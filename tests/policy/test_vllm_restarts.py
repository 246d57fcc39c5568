"""An engine that is killed is started again, given the weights and asked again: the same samples, or one clear end.

The worker is the real one and is really killed; the package vLLM in it is a stand-in (`tests/policy/stand_in`).
"""

import copy
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch

from avrt.errors import AvrtError
from avrt.models.engine_prompts import EngineFacts
from avrt.policy.vllm.engine import VLLMEngine
from avrt.policy.vllm.exported import ExportedModel
from avrt.policy.vllm.options import VLLMOptions
from avrt.policy.vllm.process import WORKER
from avrt.rollout.sampling import SamplingOptions
from benchmarks.receiver.vllm import checksum
from tests.policy.standing_in import stand_in

QUESTION = (SamplingOptions(max_new_tokens=6), list(range(8)), 2)


@pytest.fixture
def vllm(tmp_path, monkeypatch):
    return stand_in(tmp_path, monkeypatch)


def learn(student):
    """Move its weights."""
    with torch.no_grad():
        for parameter in student.decoder.language_model.parameters():
            parameter.mul_(1.5)


def same(answers, others):
    return all(
        a.token_ids.equal(b.token_ids) and a.logprobs.equal(b.logprobs) for a, b in zip(answers, others, strict=True)
    )


@pytest.mark.parametrize(
    ("way", "dies", "asked"),
    [
        ("shared_memory", "sample:2", ["load", "sample", "start", "load", "sample"]),
        # Again while it is given the weights once more, and while it is pushed new ones.
        ("socket", "sample:2,load:3,load:5", ["load", "sample", "start", "load", "start", "load", "sample"]),
    ],
)
def test_a_killed_engine_answers_by_the_weights_pushed_last(nano, batch, vllm, monkeypatch, way, dies, asked):
    """Killed in mid-rollout; meanwhile the policy has learned."""
    monkeypatch.setenv("STAND_IN_DIES", dies)
    student = copy.deepcopy(nano)
    engine = VLLMEngine(VLLMOptions(python=str(vllm.python), transfer=way))
    engine.supply.keeps = True
    try:
        engine.start(student)
        answers = engine.generate(student, student.encode(batch), *QUESTION)
        pushed = {name: checksum(tensor) for name, tensor in student.released_weights()}
        pending = engine.begin(student, student.encode(batch), *QUESTION)
        learn(student)
        with pytest.warns(UserWarning, match="ended by SIGKILL.: it is started again, given the weights and asked"):
            again = engine.finish(pending)
        assert engine.checksums() == pushed
        assert same(answers, again)
        assert engine.metrics()["rollout/engine_restarts"] == asked.count("start")
        assert engine.supply.way == way
        assert vllm.names() == ["start", "load", "sample", *asked]
        engine.generate(student, student.encode(batch), *QUESTION)
        assert engine.restarts == dies.count(":")
        assert engine.checksums() == {name: checksum(tensor) for name, tensor in student.released_weights()}
    finally:
        engine.close()
    assert vllm.gone()


def test_an_engine_that_fails_in_the_middle_is_not_asked_again_but_started(nano, batch, vllm, monkeypatch):
    """It would go on with the requests that are left."""
    monkeypatch.setenv("STAND_IN_LOSES", "sample:1")
    engine = VLLMEngine(VLLMOptions(python=str(vllm.python)))
    try:
        engine.start(nano)
        with pytest.warns(UserWarning, match="failed to sample: RuntimeError: in the middle.: it is started again"):
            answers = engine.generate(nano, nano.encode(batch), *QUESTION)
        assert same(answers, engine.generate(nano, nano.encode(batch), *QUESTION))
        assert vllm.names() == ["start", "load", "sample", "start", "load", "sample", "sample"]
    finally:
        engine.close()
    assert vllm.gone()


def test_an_engine_that_ends_again_and_again_ends_the_run(nano, batch, vllm, monkeypatch):
    monkeypatch.setenv("STAND_IN_DIES", "sample:1,load:2,start:3,start:4")
    engine = VLLMEngine(VLLMOptions(python=str(vllm.python)))
    try:
        engine.start(nano)
        with (
            pytest.warns(UserWarning, match="started again"),
            pytest.raises(
                AvrtError, match="has ended 4 times without answering a rollout, the last time: ended by"
            ) as end,
        ):
            engine.generate(nano, nano.encode(batch), *QUESTION)
        assert "\n" not in str(end.value)
    finally:
        engine.close()
    assert vllm.gone()


@pytest.mark.filterwarnings("ignore:the vLLM engine has gone")
@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ({"STAND_IN_FAILS": "load"}, "told to fail"),  # while weights are handed over
        ({"STAND_IN_DIES": "start:2,start:3,start:4"}, "has ended 4 times"),  # before they are
    ],
)
def test_a_rank_whose_engine_fails_gathers_scattered_weights_to_the_end(nano, vllm, monkeypatch, patch, message):
    """Or ranks that gather with it would wait for ever instead of hearing why."""
    for name, value in patch.items():
        monkeypatch.setenv(name, value)
    student, gathered = copy.deepcopy(nano), []

    def released(*, everything=True):
        yield from nano.released_weights(everything=everything)
        gathered.append("all")

    monkeypatch.setattr(student, "is_partitioned", True)
    monkeypatch.setattr(student, "released_weights", released)
    engine = VLLMEngine(VLLMOptions(python=str(vllm.python)))
    try:
        engine.start(nano)
        if "STAND_IN_DIES" in patch:
            os.kill(engine.pid, signal.SIGKILL)
        with pytest.raises(AvrtError, match=message):
            engine.push(student)
    finally:
        engine.close()
    assert gathered == ["all"]


def test_what_a_killed_trainer_wrote_for_its_engine_is_deleted_by_the_next(nano, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = ExportedModel(nano, 0, wanted=True)
    other = ExportedModel(nano, 0, wanted=True)
    assert Path(left.path, "config.json").exists()  # its trainer lives
    os.close(left._lock)  # as the system does when that is killed
    left._lock = -1
    last = ExportedModel(nano, 0, wanted=True)
    assert [Path(each.path).exists() for each in (left, other, last)] == [False, True, True]
    other.close()
    last.close()
    assert not list(tmp_path.iterdir())
    assert ExportedModel(nano, 0, wanted=False).path == ""


def listening(vllm, port=0):
    """A worker that listens, and its address."""
    worker = subprocess.Popen([vllm.python, WORKER, "--listen", f"127.0.0.1:{port}"], stdout=subprocess.PIPE, text=True)
    return worker, next(line for line in worker.stdout if line.startswith("listening on ")).split()[-1]


def test_an_engine_elsewhere_is_waited_for_and_lets_go_of_the_trainers_memory(nano, batch, vllm, monkeypatch):
    worker, address = listening(vllm)
    workers = [worker]
    engine = VLLMEngine(VLLMOptions(addresses=[address], reconnect_seconds=120))
    try:
        engine.start(nano)
        answers = engine.generate(nano, nano.encode(batch), *QUESTION)
        pending = engine.begin(nano, nano.encode(batch), *QUESTION)
        worker.kill()
        worker.wait()
        thread = threading.Thread(target=lambda: workers.append(listening(vllm, address.rpartition(":")[2])[0]))
        thread.start()
        with pytest.warns(UserWarning, match="the vLLM engine has gone"):
            assert same(answers, engine.finish(pending))
        thread.join()
        # The first way that works is taken by itself, here on the same machine.
        assert engine.supply.way == "shared_memory"
        maps = Path(f"/proc/{workers[1].pid}/maps")
        assert "memfd:avrt-weights" in maps.read_text()
        engine.close()
        deadline = time.monotonic() + 30
        while "memfd:avrt-weights" in maps.read_text():
            assert time.monotonic() < deadline, "the worker still holds the memory of a trainer that has gone"
            time.sleep(0.1)
    finally:
        engine.close()
        for each in workers:
            each.kill()
            each.wait()


def test_an_engine_that_stays_away_is_named_after_some_time(nano):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    engine = VLLMEngine(VLLMOptions(addresses=[address], model="m"))
    begun = time.monotonic()
    with pytest.raises(AvrtError, match=f"{address}: cannot be reached"):
        engine._process.open("m", {}, EngineFacts(), patience=2)
    assert time.monotonic() - begun >= 1
