"""The packaged configurations: the paper's numbers, and nano overlays that only override."""

from pathlib import Path

import pytest
import yaml

CONFIGS = Path(__file__).parents[1] / "configs"


def load(name: str) -> dict:
    return yaml.safe_load((CONFIGS / name).read_text())


@pytest.mark.parametrize("name", ["sft.yaml", "grpo.yaml"])
def test_hyper_parameters_of_the_paper(name):
    config = load(name)
    model, trainer = config["model"]["init_args"], config["trainer"]
    assert model["student"]["source"] == "Qwen/Qwen2.5-Omni-3B"
    optimizer = model["optimizer"]
    assert [optimizer[k] for k in ("lr", "betas", "eps", "weight_decay", "warmup_steps")] == [
        2e-6, [0.9, 0.999], 1e-8, 0.01, 100
    ]  # fmt: skip
    assert config["data"]["batch_size"] * trainer["devices"] == 32
    assert model["micro_batch_size"] == 1
    assert trainer["max_epochs"] == 1
    assert trainer["precision"].startswith("bf16")
    assert trainer["strategy"]["init_args"] == {"stage": 2, "offload_optimizer": True}


def test_grpo_numbers_of_the_paper():
    model = load("grpo.yaml")["model"]["init_args"]
    assert model["group_size"] == 4
    assert model["rollout"]["temperature"] == 1.0
    assert model["objective"] == {"clip": 0.2, "beta": 0.01}
    rewards = model["rewards"]
    assert [rewards[k] for k in ("format", "accuracy", "length")] == [1, 1, 1]
    assert rewards["length_shape"] == {"mu": 100, "sigma": 20, "w_min": 200, "w_max": 300, "bonus": 0.2}


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_nano_overlays_change_values_not_the_pipeline(stage):
    overlay = load(f"nano/{stage}.yaml")
    assert "class_path" not in str(overlay)
    assert "strategy" not in overlay["trainer"]
    assert "callbacks" not in overlay["trainer"]
