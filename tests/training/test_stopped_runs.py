"""Whatever stops a run, and wherever: with `last` every sample is trained on exactly once an epoch."""

import json
import os
import random
import socket
import subprocess
import sys
from collections import Counter
from dataclasses import asdict

import pytest

from avrt.commands import shards as shards_command
from avrt.data.shards import ShardSet
from tests.training.stopping import WHYS, Case

CASES = {1: 40, 2: 24}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    root = tmp_path_factory.mktemp("stopped")
    options = ("--root", root / "clips", "--out", root / "train", "--split", "train", "--clips", 7)
    shards_command.main(["nano_world", *map(str, options), "--questions_per_clip", "2"])
    return root / "train"


def draw(rng: random.Random, samples: int, ranks: int) -> Case:
    """A random case; stops lie anywhere from the first batch on, also at the end of an epoch."""
    stage = rng.choice(["sft", "sft", "grpo"])
    epochs = rng.randint(1, 3)
    runs = rng.choice([2, 2, 3])
    size = rng.randint(1, 5)
    sizes = [size] * runs if rng.random() < 0.6 else [rng.randint(1, 5) for _ in range(runs)]
    steps = -(-samples // (max(sizes) * ranks)) * epochs
    stops = [(rng.choice(WHYS), rng.randint(1, max(1, steps // (runs - 1)))) for _ in range(runs - 1)]
    return Case(
        stage,
        epochs,
        sizes,
        [rng.choice([0, 0, 1, 2]) for _ in range(runs)],
        stops,
        updates=rng.choice([1, 2]) if stage == "grpo" else 1,
        dynamic=rng.choice([0, 2]) if stage == "grpo" else 0,
        seed=rng.randint(0, 99),
    )


def trained(parts: list[list[dict]]) -> Counter:
    """How often each id was trained on by the weights that came out in the end, over the ranks of one case."""
    counts: Counter = Counter()
    for runs in parts:
        kept: dict[int, list[str]] = {}
        for run in runs:
            kept |= {int(number): ids for number, ids in run["batches"].items()}
            kept = {number: ids for number, ids in kept.items() if number <= run["saved"]}
        for ids in kept.values():
            counts.update(ids)
    return counts


@pytest.mark.parametrize("ranks", sorted(CASES))
def test_every_sample_once_an_epoch(shards, tmp_path, ranks):
    samples = len(ShardSet(shards))
    rng = random.Random(20 + ranks)
    cases = [draw(rng, samples, ranks) for _ in range(CASES[ranks])]
    file = tmp_path / "cases.json"
    file.write_text(json.dumps([asdict(case) for case in cases]))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(ranks):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "GROUP_RANK": 0,
                 "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}  # fmt: skip
        environment = {**os.environ, **({k: str(v) for k, v in place.items()} if ranks > 1 else {})}
        command = [sys.executable, "-m", "tests.training.stopping", file, tmp_path / f"{rank}.jsonl", shards]
        with (tmp_path / f"{rank}.log").open("w") as log:
            processes.append(subprocess.Popen(list(map(str, command)), env=environment, stdout=log, stderr=log))
    for rank, process in enumerate(processes):
        assert process.wait(timeout=900) == 0, (tmp_path / f"{rank}.log").read_text()[-4000:]
    records = [[json.loads(line) for line in (tmp_path / f"{rank}.jsonl").open()] for rank in range(ranks)]
    assert [len(lines) for lines in records] == [len(cases)] * ranks
    everything = sorted(sample.id for sample in ShardSet(shards).samples())
    for number, case in enumerate(cases):
        counts = trained([lines[number]["runs"] for lines in records])
        assert sorted(counts) == everything, case
        assert set(counts.values()) == {case.epochs}, (case, counts)
