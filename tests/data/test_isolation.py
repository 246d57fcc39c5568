"""Processes that inputs crash, hang and exhaust: each costs its own input, and the order stays."""

import ctypes
import os
import signal
import time

import pytest

from avrt.data.media.isolation import IsolatedPool, Limits
from avrt.errors import AvrtError, BadSampleError


def work(task: str) -> str:
    """What a hostile file might bring about."""
    match task:
        case "crash":
            ctypes.string_at(0)
        case "hang":
            time.sleep(60)
        case "spin":
            while True:
                pass
        case "end":
            os._exit(3)
        case "eat":
            return str(len(bytearray(8 << 30)))
        case "bad":
            raise BadSampleError("no picture", where="file")
        case "bug":
            raise KeyError("oops")
        case "slow":
            time.sleep(0.3)
    return f"{task} by {os.getpid()}"


@pytest.mark.parametrize("workers", [1, 3])
def test_each_costs_its_own_input_and_the_order_stays(workers):
    tasks = ["a", "crash", "slow", "b", "hang", "c", "eat", "spin", "d", "bad", "bug", "end", "e"]
    with IsolatedPool(work, workers, Limits(seconds=1.5, gigabytes=2)) as pool:
        outcomes = list(pool.map(tasks))
    assert [task for task, _ in outcomes] == tasks
    said = {task: str(outcome) for task, outcome in outcomes}
    for task in "abcde":
        assert said[task].startswith(f"{task} by ")
    assert "SIGSEGV" in said["crash"]
    assert "longer than 1.5 s" in said["hang"]
    assert "longer than 1.5 s" in said["spin"]
    assert "more than 2 GB" in said["eat"]
    assert "no picture" in said["bad"]
    assert "KeyError" in said["bug"]
    assert "status 3" in said["end"]


def test_inputs_are_read_only_a_little_ahead():
    read = []

    def tasks():
        for i in range(100):
            read.append(i)
            yield f"{i}"

    with IsolatedPool(work, 2, Limits()) as pool:
        for number, _ in enumerate(pool.map(tasks())):
            assert len(read) <= number + 8


def test_leaving_early_stops_every_process():
    with IsolatedPool(work, 2, Limits()) as pool:
        pids = {int(outcome.split()[-1]) for _, outcome in pool.map(["slow", "slow", "a", "b"])}
        next(iter(pool.map(["a", "hang", "hang"])))
    time.sleep(0.2)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, signal.SIG_DFL)


def test_senseless_settings_are_refused():
    with pytest.raises(ValueError, match="seconds"):
        Limits(seconds=0)
    with pytest.raises(AvrtError, match="at least one process"):
        IsolatedPool(work, 0, Limits())
