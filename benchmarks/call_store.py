"""Calls per second through the call store of stage 0: `python benchmarks/call_store.py --store DIR_OR_URL ...`.

A call is a claim, which is on disk before the call would be made, and a reply, likewise. One process, then three that
share the store make calls, each `--at-once` at a time with no pause in them, so that only the store takes time. Several
stores are measured in turns. Every store must be new: a folder that is not there, a database without tables.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time

from avrt.traces.requests import Reply, Request, Sampling
from avrt.traces.store import CallStore
from avrt.traces.store_place import read_place

PROMPT, ANSWER = "What is seen and heard? " * 40, "There is something to be seen. " * 60


async def make_calls(place: str, name: str, calls: int, at_once: int) -> None:
    """Claim and finish calls that no other process makes, after the signal on standard input."""
    store = CallStore(read_place(place))
    print("ready", flush=True)
    begin = float(sys.stdin.readline())
    await asyncio.sleep(begin - time.time())
    numbers = iter(range(calls))

    async def work() -> None:
        for number in numbers:
            request = Request("visual", f"{name}-{number}", "", PROMPT, Sampling(), number=number)
            key = request.key("model")
            claim = await store.claim(key, request, "model")
            assert claim.state == "mine", claim
            await store.finish(key, Reply(ANSWER, None, "stop", 700, 300, 1.0))

    await asyncio.gather(*(work() for _ in range(at_once)))
    store.close()
    print(time.time(), flush=True)


def measure(place: str, processes: int, calls: int, at_once: int) -> float:
    """Calls per second of several processes together, from their common beginning to the end of the last."""
    command = [sys.executable, __file__, "--store", place, "--calls", str(calls), "--at-once", str(at_once), "--worker"]
    started = [
        subprocess.Popen([*command, os.urandom(8).hex()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    begin = time.time() + 0.2
    for process in started:
        process.stdin.write(f"{begin}\n")
        process.stdin.flush()
    ends = [float(process.communicate()[0]) for process in started]
    return processes * calls / (max(ends) - begin)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", nargs="+", required=True)
    parser.add_argument("--calls", type=int, default=3000, help="of each process")
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker")
    options = parser.parse_args()
    if options.worker:
        asyncio.run(make_calls(options.store[0], options.worker, options.calls, options.at_once))
        return
    for processes in (1, 3):
        found: dict[str, list[float]] = {place: [] for place in options.store}
        for _ in range(options.rounds):
            for place in options.store:
                found[place].append(measure(place, processes, options.calls, options.at_once))
        for place, rates in found.items():
            print(f"{processes} processes, {place}: {statistics.median(rates):.0f} calls/s (most {max(rates):.0f})")


if __name__ == "__main__":
    main()
