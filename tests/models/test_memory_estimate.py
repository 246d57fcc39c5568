"""The memory forecast against numbers worked by hand and against what a process really takes."""

import subprocess
import sys
from pathlib import Path

import pytest

from avrt.commands.phases import advice
from avrt.models.memory_estimate import Shape, expected_bytes, weight_bytes

SHAPE = Shape(hidden=10, intermediate=30, layers=3, key_value=4, vocabulary=100, bytes=2, checkpointing=False)


def test_forecast_by_hand():
    """One prompt of 6 tokens, 2 answers of 2: 10 tokens in all, 4 of them scored."""
    found = expected_bytes(SHAPE, [6], 2, 2)
    assert found["rollout"] == 2 * 3 * 4 * 10 * 2 + 2 * 100 * 3 * 4
    layer = 10 * ((70 + 8 + 120) * 2 + 20 * 4)
    assert found["reference"] == 10 * (40 + 90) * 2 + 4 * 100 * (2 + 8)
    assert found["update"] == 3 * layer + 4 * 100 * (2 + 20)
    saving = Shape(**{**vars(SHAPE), "checkpointing": True})
    assert expected_bytes(saving, [6], 2, 2)["update"] == 3 * 10 * 10 * 2 + 2 * layer + 4 * 100 * 22


def test_weights_under_zero():
    options = {"reference": True, "ranks": 4}
    stage2 = weight_bytes(1000, 500, 2, stage=2, offload=True, **options)
    assert stage2 == {"weights": 5000, "gradients": 500, "optimizer": 0}
    stage3 = weight_bytes(1000, 500, 2, stage=3, offload=False, **options)
    assert stage3 == {"weights": 1250, "gradients": 500, "optimizer": 3000}


@pytest.mark.parametrize(
    ("forecast", "fixed", "checkpointing", "told"),
    [
        (10e9, 10e9, False, "6.2 times as large"),
        (10e9, 75e9, False, "stage 3"),
        (90e9, 10e9, False, "gradient_checkpointing true"),
        (90e9, 10e9, True, "micro_batch_size"),
    ],
)
def test_advice(forecast, fixed, checkpointing, told):
    phases = {"rollout": 1e9, "reference": 1e9, "update": forecast}
    assert told in advice(phases, fixed, 80e9, checkpointing=checkpointing)[-1]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_forecast_and_measurement_agree_within_a_factor_of_two(checkpointing):
    """In a process of its own, whose memory nothing else has stretched."""
    script = (
        "import sys; sys.path.insert(0, 'benchmarks')\n"
        "import torch; torch.set_num_threads(1)\n"
        "from dataclasses import replace\nfrom measuring import scaled_student, make_batch\n"
        "from avrt.commands.phases import run_phases\n"
        "from avrt.policy.policy import Policy\nmade = scaled_student(8)\n"
        f"options = replace(made.options, gradient_checkpointing={checkpointing})\n"
        "student = Policy(made.family, made.model, made.inputs.processor, options)\n"
        "for phase in run_phases(student, make_batch(student, 700), 4, 100):\n"
        "    print(phase.name, phase.measured, phase.expected)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root)
    found = {name: (int(m), int(e)) for name, m, e in (line.split() for line in done.stdout.splitlines()[-3:])}
    measured, expected = found["update"]
    assert 0.5 < measured / expected < 2, found
