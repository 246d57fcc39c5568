"""`avrt doctor` as users run it: healthy, biased, and pointed at nothing."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from avrt.commands.plan import PHASES
from tests.conftest import avrt

CONFIG = ("--config", "grpo.yaml", "--config", "nano/grpo.yaml")


def test_healthy_configuration(world):
    done = avrt("doctor", *CONFIG, "--data.train", world / "train", "--samples", 2)
    assert done.stdout.count("PASS") == 4
    assert "torch" in done.stdout


def test_an_attention_that_cannot_pack_passes_too(world):
    done = avrt("doctor", *CONFIG, "--data.train", world / "train", "--model.student.attention", "eager")
    assert done.stdout.count("PASS") == 4


def test_truncated_sampling_ends_with_status_1(world):
    done = avrt(
        "doctor", *CONFIG, "--data.train", world / "train", "--model.rollout.top_p", 0.9, "--samples=1", check=False
    )
    assert done.returncode == 1
    assert "FAIL" in done.stdout
    assert "biased" in done.stdout


def test_other_configurations_are_refused():
    done = avrt("doctor", "--config", "sft.yaml", "--config", "nano/sft.yaml", check=False)
    assert done.returncode == 2
    assert "grpo.yaml" in done.stderr
    done = avrt("doctor", *CONFIG, check=False)
    assert "data.train" in done.stderr


# ---- --plan


def test_plan_of_the_papers_run():
    """Without a GPU and without weights, from the released dimensions alone."""
    done = avrt("doctor", "--plan", "h100", "--config", "grpo.yaml")
    told = " ".join(done.stdout.split())
    assert "decoder 3.40 G parameters, towers 1.31 G" in told  # transformers' own count of the released thinker
    assert "2,000 tokens" in told
    assert "AVQA" in told
    assert "fits into 4 x H100" in told
    assert "the paper's 1,254 steps take" in told
    assert re.search(r"a checkpoint takes 47\.6 GB on disk", told)  # 3.397 G parameters of 2 + 12 bytes
    parts = dict(re.findall(r"│ (\S.*?)\s+│\s+([\d.]+) │\s+[\d.-]+ │", done.stdout))
    parts = {name: float(value) for name, value in parts.items() if name != "step"}
    held = [value for name, value in parts.items() if name not in ("at all times", *PHASES)]
    assert sum(held) == pytest.approx(parts["at all times"], abs=0.03)
    assert "--trainer.strategy.offload_optimizer false" in told  # 80 GB need none


def test_plan_loads_no_weights():
    """A student of 15 GB, planned in less memory than a tenth of that takes beside the imports."""
    script = (
        "import resource, sys\n"
        "import avrt.commands.doctor as doctor\n"
        "import avrt.commands.plan\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "before = peak()\n"
        "arguments = ['--plan', 'H200', '--config', 'configs/grpo.yaml', '--model.student.source']\n"
        "try:\n    doctor.main([*arguments, 'Qwen/Qwen2.5-Omni-7B'])\n"
        "except SystemExit as error:\n    print('STATUS', error.code, peak() - before)\n"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root)
    assert "decoder 7.62 G parameters" in done.stdout
    _, status, growth = next(line for line in done.stdout.splitlines() if line.startswith("STATUS")).split()
    assert status == "0"
    assert int(growth) < 1.5e9


def test_a_card_that_is_too_small_names_what_fits():
    """And the overrides that it names do fit."""
    arguments = ("--plan", "RTX4090", "--config", "grpo.yaml", "--trainer.strategy.offload_optimizer", "false")
    done = avrt("doctor", *arguments, check=False)
    assert done.returncode == 1
    assert "does not fit into 4 x RTX4090" in done.stdout
    wanted = next(line for line in done.stdout.splitlines() if line.startswith("  --"))
    assert avrt("doctor", *arguments, *wanted.split()).returncode == 0
    # Of the 7B nothing fits on two of them: then larger cards are named.
    done = avrt(
        "doctor", "--plan=RTX4090", "--config", "grpo.yaml", "--config", "ablations/size_7b.yaml",
        "--trainer.devices", 2, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "nothing that was tried fits" in done.stdout
    assert re.search(r"it fits .*H200", " ".join(done.stdout.split()))


def test_plan_of_fine_tuning_with_adapters():
    done = avrt("doctor", "--plan", "--config", "sft.yaml", "--model.student.lora.rank", 16)
    told = " ".join(done.stdout.split())
    # 36 layers; q and o 2048 + 2048, k and v 2048 + 256, gate and up and down 2048 + 11008, times 16
    assert f"adapters of rank 16: {36 * 16 * (2 * 4096 + 2 * 2304 + 3 * 13056) / 1e6:.1f} M parameters" in told
    assert "reference" not in done.stdout
    assert "rollout" not in done.stdout
    assert "fits into 4 x H100" in told
    done = avrt("doctor", "--plan=RTX4090", "--config", "grpo.yaml", "--config", "qlora.yaml", "--trainer.devices", 1)
    told = " ".join(done.stdout.split())
    assert f"on {36 * (2 * 2048 * 2048 + 2 * 2048 * 256 + 3 * 2048 * 11008) / 1e9:.2f} G in 4 bits" in told
    assert "fits into 1 x RTX4090" in told
    refused = avrt(
        "doctor",
        "--plan",
        "--config",
        "grpo.yaml",
        "--config",
        "qlora.yaml",
        "--trainer.strategy.stage",
        3,
        check=False,
    )
    assert refused.stderr.splitlines()[-1].startswith("avrt: error: model.student.quantize: ZeRO-3 cannot scatter")


def test_plan_reads_the_prompts_of_its_training_data(world):
    done = avrt("doctor", "--plan", *CONFIG, "--data.train", world / "train")
    assert "as in the first 8 samples" in done.stdout
    assert "AVQA" not in done.stdout


def test_unknown_cards_and_students_are_refused():
    done = avrt("doctor", "--plan", "H1000", "--config", "grpo.yaml", check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("avrt: error: H1000: no such card")
    assert "H100, " in done.stderr
    done = avrt("doctor", "--plan", "--config", "grpo.yaml", "--model.student.source", "./nowhere", check=False)
    assert done.returncode == 2
    assert "./nowhere: no such folder" in done.stderr
