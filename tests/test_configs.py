"""The packaged configurations: the paper's numbers, and nano overlays that only override."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from avrt.objectives.rewards import LengthReward
from avrt.prompts import fill_template
from avrt.training.launch import read_config
from tests.conftest import make_sample

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
    assert trainer["precision"] == "bf16-mixed"  # which leaves the student as it was loaded (test_bf16.py)
    assert trainer["strategy"]["init_args"] == {"stage": 2, "offload_optimizer": True}


def test_grpo_numbers_of_the_paper():
    model = load("grpo.yaml")["model"]["init_args"]
    assert model["group_size"] == 4
    assert model["rollout"]["temperature"] == 1.0
    assert model["loss"] == {"epsilon": 0.2, "beta": 0.01}
    rewards = model["rewards"]
    assert [rewards[k] for k in ("format", "accuracy", "length")] == [1, 1, 1]
    assert rewards["length_shape"] == {"mu": 100, "sigma": 20, "w_min": 200, "w_max": 300, "bonus": 0.2}


def test_the_corrected_window_changes_nothing_else(monkeypatch):
    module, _ = read(monkeypatch, "grpo.yaml", "length_100_200.yaml")
    assert module.rewards.rewards["length"] == (1.0, LengthReward(mu=100, sigma=20, w_min=100, w_max=200, bonus=0.2))
    printed, _ = read(monkeypatch, "grpo.yaml")
    assert printed.rewards.rewards["length"] == (1.0, LengthReward(mu=100, sigma=20, w_min=200, w_max=300, bonus=0.2))
    assert (printed.options.unbiased_std, printed.options.std_epsilon) == (True, 1e-4)


PLACES = {
    "trainer.strategy.init_args.offload_optimizer", "trainer.strategy.init_args.reduce_bucket_size",
    "trainer.strategy.init_args.allgather_bucket_size", "model.init_args.micro_batch_size",
}  # fmt: skip


def test_h100_overlays_change_where_things_lie_and_no_number_of_the_paper():
    assert set(leaves(load("h100.yaml"))) == PLACES
    assert set(leaves(load("h100_7b.yaml"))) == {"model.init_args.reference", "model.init_args.micro_batch_size"}


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_a_stage_on_h100s_is_the_same_stage(stage, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["avrt"])
    names = (f"{stage}.yaml", "h100.yaml")
    module, data, trainer = read_config([word for name in names for word in ("--config", str(CONFIGS / name))])
    printed, printed_data = read(monkeypatch, f"{stage}.yaml")
    assert not trainer.strategy.offloads_optimizer
    assert trainer.strategy.config["zero_optimization"]["stage"] == 2
    assert (module.micro_batch_size, data.batch_size) == (4, 8)
    assert data.batch_size % module.micro_batch_size == 0
    for name in ("student_options", "optimizer_options", "generation", "num_iterations"):
        assert getattr(module, name) == getattr(printed, name)
    assert data.batch_size == printed_data.batch_size
    if stage == "grpo":
        assert replace(module.options, micro_batch_size=1) == printed.options
        large, _ = read(monkeypatch, "grpo.yaml", "ablations/size_7b.yaml", "h100.yaml", "h100_7b.yaml")
        assert (large.reference_place, large.micro_batch_size) == ("host", 2)
        assert replace(large.options, micro_batch_size=1) == printed.options


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_the_4_bit_overlay_changes_what_is_trained_and_its_rate(stage, monkeypatch):
    printed, _ = read(monkeypatch, f"{stage}.yaml")
    module, _ = read(monkeypatch, f"{stage}.yaml", "qlora.yaml")
    assert replace(module.student_options, quantize=None, lora=None) == printed.student_options
    assert (module.student_options.quantize, module.student_options.lora.rank) == ("nf4", 16)
    assert replace(module.optimizer_options, lr=2e-6) == printed.optimizer_options


def test_offloaded_memory_is_page_locked(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["avrt"])
    _, _, trainer = read_config(["--config", str(CONFIGS / "grpo.yaml")])
    assert trainer.strategy.config["zero_optimization"]["offload_optimizer"]["pin_memory"]
    _, _, trainer = read_config(["--config", str(CONFIGS / "grpo.yaml"), "--trainer.strategy.pin_memory", "false"])
    assert not trainer.strategy.config["zero_optimization"]["offload_optimizer"]["pin_memory"]


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_nano_overlays_change_values_not_the_pipeline(stage):
    overlay = load(f"nano/{stage}.yaml")
    assert "class_path" not in str(overlay)
    assert "strategy" not in overlay["trainer"]
    assert "callbacks" not in overlay["trainer"]


BENCHMARKS = {
    "omnibench": 1142, "dailyomni": 1197, "mmar": 1000, "avqa": 17208, "avqa_r1": 1911, "mmau": 1000, "videomme": 2700,
    "worldsense": 3172, "avhbench": 5302, "omnivideobench": 1000, "intentbench": 2689,
}  # fmt: skip


def read(monkeypatch, *names: str):
    monkeypatch.setattr(sys, "argv", ["avrt"])
    module, data, _ = read_config([word for name in names for word in ("--config", str(CONFIGS / name))])
    return module, data


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmarks_are_declared_whole(name, monkeypatch):
    module, data = read(monkeypatch, f"{name}.yaml")
    assert module.benchmark.name == name
    assert module.benchmark.expected == BENCHMARKS[name]
    assert module.benchmark.scorers[0] == "strict"
    assert module.generation.temperature == 0
    assert data.prompt.audio_in_video


PROTOCOLS = CONFIGS / "protocols"
LETTER = "Answer with the option's letter from the given choices directly."


@pytest.mark.parametrize(
    ("benchmark", "protocol", "begins", "ends", "asked_by", "rule"),
    [
        ("dailyomni", "dailyomni_authors", "\nYour task is to", "or D. Don't generate any other text.\n", "authors",
         "dailyomni"),
        ("dailyomni", "dailyomni_nemo_rl", "Which thing is seen?\nA. a ball\nB. a box\nC. a star First reason briefly",
         "Format example: <think>your reasoning</think><answer>A</answer>", "nemo_rl", "nemo_rl"),
        ("omnibench", "omnibench_authors", "Please answer the following", "A. a ball\nB. a box\nC. a star.", "authors",
         "omnibench"),
        ("omnibench", "omnibench_lmms_eval", "Question:\nWhich thing is seen?\n\nOptions:\nA. a ball", "directly.",
         "lmms_eval", "lmms_eval_omnibench"),
        ("mmar", "mmar_authors", "Which thing is seen?\nSelect one option from", "choices:\na ball\na box\na star",
         "authors", "mmar"),
        ("mmar", "mmar_lmms_eval", "Listen to the audio", "C. a star\nThe best answer is:", "lmms_eval",
         "lmms_eval_mmar"),
        ("mmau", "mmau_lmms_eval", "Which thing is seen?\nA. a ball", f"C. a star\n{LETTER}", "lmms_eval",
         "lmms_eval_mmau"),
        ("worldsense", "worldsense_lmms_eval", "Carefully watch", "option.\nWhich thing is seen?\nA. a ball\nB. a box\n"
         "C. a star\n", "lmms_eval", "lmms_eval_worldsense"),
        ("videomme", "videomme_lmms_eval", "Select the best answer", f"C. a star\n\n{LETTER}", "lmms_eval",
         "lmms_eval_videomme"),
        ("avhbench", "yes_no", "Which thing is seen?\na ball\na box", "answer Yes or No inside <answer> </answer>.",
         "words", "avhbench"),
        ("omnibench", "qwen", "Which thing is seen?\nA. a ball", "C. a star", "qwen", "omnibench"),
        ("avqa", "qwen", "Which thing is seen?\nA. a ball", "C. a star", "qwen", "lenient"),
    ],
)  # fmt: skip
def test_named_protocols_ask_and_score_as_they_say(benchmark, protocol, begins, ends, asked_by, rule, monkeypatch):
    module, data = read(monkeypatch, f"{benchmark}.yaml", f"protocols/{protocol}.yaml")
    prompt = data.prompt
    text = fill_template(make_sample(), prompt.template, prompt.choice, prompt.instruction)
    assert text.startswith(begins)
    assert text.endswith(ends)
    assert (module.benchmark.name, module.benchmark.protocol, module.benchmark.headline_scorer) == (
        benchmark,
        asked_by,
        rule,
    )
    assert rule in module.benchmark.scorers
    assert module.generation.temperature == 0
    assert module.benchmark.needs["audio_seconds"] is None
    if protocol == "dailyomni_authors":
        assert "Choices: ['A. a ball', 'B. a box', 'C. a star']\n" in text
        assert (module.benchmark.needs["fps"], module.generation.max_new_tokens) == (2.0, 10)
    if protocol == "dailyomni_nemo_rl":
        assert module.benchmark.needs == {"frames": 32, "audio_seconds": None}
        assert not prompt.audio_in_video


def test_every_card_of_others_is_tested():
    [mark] = test_named_protocols_ask_and_score_as_they_say.pytestmark
    cards = {path.stem for path in PROTOCOLS.glob("*.yaml")} - {"nemo_rl_intent_grpo"}
    assert cards == {case[1] for case in mark.args[1]}


def test_the_recipe_of_intent_train_is_as_published(monkeypatch):
    module, data = read(monkeypatch, "grpo.yaml", "protocols/nemo_rl_intent_grpo.yaml")
    assert module.student_options.source == "Qwen/Qwen2.5-Omni-7B"
    assert (module.optimizer_options.lr, module.optimizer_options.warmup_steps) == (1e-6, 10)
    config = load("grpo.yaml")
    assert data.batch_size * config["trainer"]["devices"] == 32
    assert module.options.group_size == 8
    assert (module.options.loss.beta, module.options.loss.epsilon) == (0.01, 0.2)
    rewards = load("protocols/nemo_rl_intent_grpo.yaml")["model"]["init_args"]["rewards"]
    assert rewards == {"format": 0.2, "accuracy": 0.8, "length": 0.0}
    text = fill_template(make_sample(), data.prompt.template, data.prompt.choice, data.prompt.instruction)
    assert text.startswith("Which thing is seen? Options:\nA.a ball\nB.a box\nC.a star First reason briefly")


def leaves(record: dict, prefix: str = "") -> dict:
    return {
        k: v
        for key, value in record.items()
        for k, v in (leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}).items()
    }


@pytest.mark.parametrize("path", sorted((CONFIGS / "ablations").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_ablation_names_its_table_and_changes_what_it_ablates_alone(path):
    changed = leaves(yaml.safe_load(path.read_text()))
    ablated = {
        "audio_traces": {"name", "merger.reads", "merger.template"},
        "visual_traces": {"name", "merger.reads", "merger.template"},
        "gemma_merger": {"name", "merger.backend.init_args.model"},
        "unfiltered_traces": {"name", "filter", "as_many_as", "draw_seed"},
        "shuffled_traces": {"name", "shuffle_seed"},
        "open_text": {"name", "merger.reads_thinking"},
        "no_length": {"model.init_args.rewards.length"},
        "rl_only": {"model.init_args.student.source"},
        "size_7b": {"model.init_args.student.source"},
    }
    assert set(changed) == ablated[path.stem]
    assert path.read_text().startswith(("# Table ", "# The project page's ", "# What "))
    assert changed.get("name", path.stem) == path.stem  # the folder of its traces is called as it is
