"""The forecast of weights, gradients and optimizer states against what DeepSpeed allocates, on two real ranks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from avrt.models.memory_estimate import Partitioning, held_bytes
from tests.models.deepspeed_memory import BUCKET, RANKS
from tests.traces.servers import free_port

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("stage", "offload", "dtype"),
    [(2, False, "bfloat16"), (2, True, "bfloat16"), (3, False, "bfloat16")],
)
def test_deepspeed_holds_what_is_forecast(stage, offload, dtype):
    """On the CPU both sides of an offload are one memory: the sum of the two is compared."""
    port = str(free_port())
    command = [sys.executable, "-m", "tests.models.deepspeed_memory"]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), port, str(stage), str(offload), dtype],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        for rank in range(RANKS)
    ]  # fmt: skip
    lines = [rank.communicate(timeout=300)[0].splitlines() for rank in ranks]
    found = json.loads(next(line for line in lines[0] if line.startswith("FOUND")).removeprefix("FOUND"))
    size = getattr(torch, dtype).itemsize
    how = Partitioning(
        stage=stage, ranks=RANKS, offload_optimizer=offload, accumulate=4, bucket=BUCKET, reference="none"
    )
    held = held_bytes(found["trained"], found["frozen"], size, how, largest=found["largest"])
    one_weight = found["largest"] * size  # on its way between the sides, or gathered
    assert found["accumulating"] == pytest.approx(held.always + held.host, rel=0.03, abs=3 * one_weight)
