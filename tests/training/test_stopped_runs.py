"""Whatever stops a run, and wherever: with `last` every sample is trained on exactly once an epoch."""

import json
import os
import random
import socket
import subprocess
from collections import Counter
from dataclasses import asdict

import pytest

from avrt.commands import shards as shards_command
from avrt.data.loading.order import SampleOrder, Source
from avrt.data.loading.plans import EpochPlan
from avrt.data.shards.reader import ShardSet
from avrt.errors import AvrtError
from avrt.training.deepspeed_internals import made_by, make_universal
from avrt.training.lightning_internals import place_loops
from tests.conftest import WARM
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
        command = [WARM.python, "-m", "tests.training.stopping", file, tmp_path / f"{rank}.jsonl", shards]
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


def progress(total: int, current: int) -> dict:
    """Counts as Lightning saves them, all alike: what a run that was stopped by `max_steps` says of its epoch."""
    names = ("ready", "completed", "started", "processed")
    return {"total": dict.fromkeys(names, total), "current": dict.fromkeys(names, current)}


def saved(epoch: int, consumed: int, batches: int, current: int) -> dict:
    loop = {
        "state_dict": {"combined_loader": [{"epoch": epoch, "consumed": consumed}]},
        "epoch_progress": progress(1, 1),
        "epoch_loop.batch_progress": {**progress(batches, current), "is_last_batch": True},
        "epoch_loop.state_dict": {"_batches_that_stepped": batches},
        "epoch_loop.val_loop.batch_progress": {**progress(7, 7), "is_last_batch": True},
        "epoch_loop.val_loop.state_dict": {"kept": 7},
    }
    return {"loops": {"fit_loop": loop}, "callbacks": {"Timer": {"time_elapsed": {"train": 9.0}}, "Other": {}}}


@pytest.mark.parametrize(
    ("state", "steps_per_epoch", "loader", "epochs", "batches"),
    [
        # 10 samples in steps of 4: stopped after one step of the second epoch, four steps in all
        ((1, 4, 4, 1), 3, (1, 4), (2, 1), (4, 3, 1, 0)),
        ((1, 8, 5, 2), 3, (1, 8), (2, 1), (5, 4, 2, 1)),
        # at the end of an epoch, where the next one begins
        ((1, 12, 6, 3), 3, (2, 0), (2, 2), (6, 6, 0, 0)),
        # an epoch cut short by limit_train_batches ends there, and only there
        ((0, 8, 2, 2), 2, (1, 0), (1, 1), (2, 2, 0, 0)),
        ((0, 8, 2, 2), 3, (0, 8), (1, 0), (2, 1, 2, 1)),
        # a smaller batch before: one sample, after which as many steps are left as before it
        ((0, 1, 1, 1), 3, (0, 1), (0, 0), (1, 1, 0, 0)),
        # nothing trained yet
        ((0, 0, 0, 0), 3, (0, 0), (0, 0), (0, 0, 0, 0)),
    ],
)
def test_the_loops_are_placed_by_the_data_alone(state, steps_per_epoch, loader, epochs, batches):
    checkpoint = saved(*state)
    plan = EpochPlan(SampleOrder((Source((10,)),)), batch_size=2, world_size=2)
    begin = place_loops(checkpoint, plan, steps_per_epoch)
    loop = checkpoint["loops"]["fit_loop"]
    assert begin == {"epoch": loader[0], "consumed": loader[1]}
    assert loop["state_dict"]["combined_loader"] == [begin]
    begun, over = epochs
    for part in ("total", "current"):
        counts = loop["epoch_progress"][part]
        assert counts == {"ready": begun, "started": begun, "processed": over, "completed": over}
    total, total_done, current, current_done = batches
    found = loop["epoch_loop.batch_progress"]
    assert found["total"] == {"ready": total, "started": total, "processed": total, "completed": total_done}
    assert found["current"] == {"ready": current, "started": current, "processed": current, "completed": current_done}
    assert found["is_last_batch"] is False
    assert loop["epoch_loop.state_dict"]["_batches_that_stepped"] == total_done
    assert set(loop["epoch_loop.val_loop.batch_progress"]["total"].values()) == {0}
    assert loop["epoch_loop.val_loop.state_dict"] == {"kept": 7}
    assert checkpoint["callbacks"] == {"Other": {}}


def test_a_checkpoint_without_a_training_loop_is_left_alone():
    assert place_loops({}, EpochPlan(SampleOrder((Source((10,)),)), 2), 3) is None


def test_the_processes_that_made_a_checkpoint_are_counted(tmp_path):
    parts = tmp_path / "checkpoint"
    parts.mkdir()
    assert made_by(tmp_path) is None
    for rank in range(3):
        (parts / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").touch()
        (parts / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt").touch()
    assert made_by(tmp_path) == 3


def test_a_checkpoint_that_cannot_be_cut_anew_is_told_in_one_line(tmp_path, capfd):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"torn")
    with pytest.raises(AvrtError, match=r"cannot be resumed by another number of processes: .*[Ee]rror") as caught:
        make_universal(tmp_path)
    assert "go on with --trainer.devices 1" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    printed = capfd.readouterr()
    assert "Traceback" not in printed.out + printed.err
    (tmp_path / "latest_universal").touch()
    make_universal(tmp_path)  # is there already
