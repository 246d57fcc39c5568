"""The overlays at true size: they fit the cards that they name, by the plan, and change what they say alone."""

from pathlib import Path

import pytest
import yaml

from avrt.commands.plan import plan
from avrt.models.families import FAMILIES

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("stage", ["sft", "grpo"])
@pytest.mark.parametrize(
    ("overlay", "family", "card"), [("qwen3_omni_30b", "Qwen3-Omni", "H100"), ("gemma4_e2b", "Gemma 4", "RTX4090")]
)
def test_a_released_model_fits_its_cards(overlay, family, card, stage, capsys):
    status = plan(card, [part for name in (stage, overlay) for part in ("--config", str(CONFIGS / f"{name}.yaml"))])
    printed = " ".join(capsys.readouterr().out.split())
    assert status == 0, printed
    [known] = [each for each in FAMILIES if each.name == family]
    source = yaml.safe_load((CONFIGS / f"{overlay}.yaml").read_text())["model"]["init_args"]["student"]["source"]
    assert known.released_config(source) is not None
    assert f"{source} (by the released dimensions, which this package knows)" in printed
