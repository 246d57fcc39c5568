"""The benchmarks compare like with like: both sides compute the same numbers."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "command",
    [
        ("grpo.py", "--groups", "2", "--prompts", "500", "--answer", "8", "--rounds", "1", "--scale", "16"),
        ("sft.py", "--samples", "2", "--prompt", "700", "--answer", "9", "--rounds", "1", "--scale", "16",
         "--vocabulary", "2000"),
    ],
    ids=lambda command: command[0],
)  # fmt: skip
def test_both_sides_agree(command):
    done = subprocess.run(
        [sys.executable, f"benchmarks/{command[0]}", *command[1:]], capture_output=True, text=True, cwd=ROOT, check=True
    )
    [difference] = re.findall(r"differ by (?:at most )?(\d\.?\d*e[+-]\d+)", done.stdout)
    assert float(difference) < 1e-4
