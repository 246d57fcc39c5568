"""What docs/logging.md says that a run logs is what every logger holds afterwards, at the steps that it says."""

import csv
import json
import re
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import DummyLogger

from avrt.training.run_log.options import flat_options
from avrt.training.run_log.run_log import RunLog, contact_sheet
from avrt.training.run_log.tensorboard import markdown
from avrt.training.run_log.writer import Table
from tests.conftest import avrt
from tests.training.logs import read_csv, read_mlflow, read_tensorboard, read_wandb, tensorboard_options
from tests.training.runs import SMALL

PAGE = Path(__file__).parents[2] / "docs" / "logging.md"
LOGGERS = "lightning.pytorch.loggers"
# When -> the steps of the runs below: fine-tuning takes three, GRPO two with each of three batches.
STEPS = {
    "SFT": {"step": {0, 1, 2}, "validation": {2}, "shown": {0, 2}},
    "GRPO": {"step": {0, 2, 4}, "validation": {4}, "shown": {0, 4}},
}
# Everything that is logged under a condition, but for what `train/updated` stands for in GRPO alone.
CONDITIONS = (
    "--model.student.feature_cache.gigabytes",
    1,
    "--model.student.feature_cache.folder",
    "cache",
    "--data.dropout.audio",
    0.0,
    "--data.dropout.vision",
    0.0,
    "--model.student.source",
    "nano-qwen3-omni",
    "--model.router_loss",
    0.01,
)
GRPO = (
    "--model.group_size", 2, "--model.rollout.max_new_tokens", 5, "--model.num_iterations", 2, "--trainer.max_steps", 6,
    "--model.dynamic_sampling", 1, "--model.loss.importance_sampling_cap", 2, "--show_rollouts.every_n_steps", 3,
)  # fmt: skip
SFT = ("--trainer.max_steps", 3, "--show_rollouts.every_n_steps", 2)


def documented() -> dict[str, dict[str, dict[str, set[int]]]]:
    """Run -> kind -> pattern of a name -> steps, from the page's table."""
    found = {run: {} for run in STEPS}
    for line in PAGE.read_text().splitlines():
        if row := re.match(r"\| `([^`]+)` \| (\w+) \| ([A-Z, ]+) \| ([a-z, ]+) \| ", line):
            name, kind, runs, when = row.groups()
            for run in runs.split(", "):
                steps = set().union(*(STEPS[run][moment] for moment in when.split(", ")))
                pattern = re.sub(r"\b(NAME|TYPE|SOURCE|N)\b", "[^/]+", name)
                found[run].setdefault(kind, {})[pattern] = steps
    assert {kind for kinds in found.values() for kind in kinds} == {"scalar", "text", "picture", "sound", "histogram"}
    return found


def assert_as_documented(log, run) -> None:
    page = documented()[run]
    for kind, patterns in page.items():
        for name, steps in log[kind].items():
            fits = [p for p in patterns if re.fullmatch(p, name)]
            assert fits, f"{kind} {name} is not on the page"
            assert steps == patterns[min(fits, key=lambda p: p.count("[^/]+"))], (kind, name)
        for pattern in patterns:
            assert any(re.fullmatch(pattern, name) for name in log[kind]), f"no {kind} {pattern} was written"
    assert {kind for kind, names in log.items() if names} <= set(page)


@pytest.fixture(scope="module")
def runs(world, tmp_path_factory):
    """Folders of a short fine-tuning run and a short GRPO run, each with all loggers."""
    folder = tmp_path_factory.mktemp("runs")
    sources = [{"shards": str(world / name), "name": name} for name in ("train", "test")]
    for run, options in (("SFT", SFT), ("GRPO", GRPO)):
        root = folder / run
        root.mkdir()
        kinds = {
            "CSVLogger": {"save_dir": str(root), "name": "csv"},
            "WandbLogger": {"save_dir": str(root), "offline": True},
            "MLFlowLogger": {"tracking_uri": f"sqlite:///{root}/m.db", "artifact_location": str(root / "artifacts")},
            "TensorBoardLogger": {"save_dir": str(root), "name": "board"},
        }
        if run == "SFT":
            del kinds["MLFlowLogger"]  # making its tables takes ten seconds
        loggers = [{"class_path": f"{LOGGERS}.{kind}", "init_args": settings} for kind, settings in kinds.items()]
        stage = f"{run.lower()}.yaml"
        avrt(
            "fit", "--config", stage, "--config", f"nano/{stage}", *SMALL, "--data.train", json.dumps(sources),
            "--trainer.strategy", "auto",
            "--data.val", world / "val", "--data.batch_size", 4, "--model.generation.max_new_tokens", 4,
            "--trainer.limit_val_batches", 1, "--trainer.val_check_interval", 2, *CONDITIONS, *options,
            "--trainer.logger", json.dumps(loggers), "--trainer.default_root_dir", root, cwd=root,
        )  # fmt: skip
    return folder


@pytest.mark.parametrize("run", STEPS)
def test_tensorboard_holds_what_the_page_names(runs, run):
    assert_as_documented(read_tensorboard(runs / run / "board"), run)
    options = tensorboard_options(runs / run / "board")
    assert options["model"] == f"{run}Module"
    assert options["data.batch_size"] == 4
    assert options["trainer.strategy"] == "auto"


@pytest.mark.parametrize("run", STEPS)
def test_weights_and_biases_holds_what_the_page_names(runs, run):
    log, config = read_wandb(runs / run / "wandb")
    assert_as_documented(log, run)
    assert config["model.optimizer.lr"] == (2e-3 if run == "SFT" else 1e-4)


@pytest.mark.parametrize("run", STEPS)
def test_csv_holds_what_the_page_names(runs, run):
    assert_as_documented(read_csv(runs / run / "csv"), run)
    assert "data.batch_size: 4" in next((runs / run / "csv").rglob("hparams.yaml")).read_text()


def test_mlflow_holds_what_the_page_names(runs):
    log, parameters = read_mlflow(f"sqlite:///{runs}/GRPO/m.db")
    assert_as_documented(log, "GRPO")
    assert parameters["model.group_size"] == "2"


def test_a_step_carries_what_was_measured_at_it(runs):
    """The learning rate is the one that the step was taken with; a shown group's rewards are those of its batch."""
    [metrics] = (runs / "GRPO" / "csv").rglob("metrics.csv")
    with metrics.open() as file:
        rows = {int(row["step"]): row for row in csv.DictReader(file) if row["train/lr"]}
    for step, row in rows.items():
        assert float(row["train/lr"]) == pytest.approx(1e-4 * min(1.0, (step + 1) / 5))
        assert float(row["train/grad_norm"]) >= 0
        with (metrics.parent / "media/completions/tokens_each.csv").open() as file:
            lengths = [float(each["value"]) for each in csv.DictReader(file) if int(each["step"]) == step]
        assert len(lengths) == float(row["train/samples"]) * 2
        assert sum(lengths) / len(lengths) == pytest.approx(float(row["completions/tokens"]))
    with (metrics.parent / "media/rollouts/0.csv").open() as file:
        shown = list(csv.DictReader(file))
    assert len(shown) == 2 * len(STEPS["GRPO"]["shown"])
    assert {"question", "answer", "total", "advantage", "tokens", "completion"} <= set(shown[0])


def test_an_unknown_logger_is_named_with_what_it_lacks(tmp_path):
    class OtherLogger(DummyLogger):
        pass

    trainer = pl.Trainer(logger=[OtherLogger(), CSVLogger(tmp_path)], accelerator="cpu", enable_checkpointing=False)
    with pytest.warns(UserWarning, match="OtherLogger get scalars and options alone: no tables") as caught:
        RunLog(trainer)
    assert len(caught) == 1
    assert "CSVLogger get" not in str(caught[0].message)


def test_a_table_keeps_markup_of_texts_and_unbroken_names():
    """TensorBoard broke the names of columns beside a long text into single letters."""
    text = "<think>a | *b* `c`\n# d</think>\n<script>alert(1)</script>"
    shown = markdown(Table({"question": "Which_one_?"}, ("cut off", "total", "completion"), [("no", -0.5, text)]))
    assert "<script>" not in shown
    assert "<think>" not in shown
    rows = [line for line in shown.splitlines() if line.startswith("| ")]
    assert len(rows) == 2
    assert {row.count("|") for row in rows} == {4}
    assert "cut&nbsp;off" in rows[0]
    assert "&#8209;0.50" in rows[1]
    assert "a &#124; &#42;b&#42;" in shown


def test_frames_are_laid_out_in_reading_order():
    frames = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 3, 2, 5)
    sheet = contact_sheet(frames)
    assert sheet.shape == (3, 4, 20)
    assert sheet[0, ::2, ::5].tolist() == [[0, 1, 2, 3], [4, 5, 0, 0]]
    assert contact_sheet(frames[:1]).shape == (3, 2, 5)
    many = torch.arange(100, dtype=torch.uint8).view(100, 1, 1, 1).expand(100, 3, 1, 1)
    assert contact_sheet(many)[0].flatten().tolist()[::15] == [0, 99]


def test_options_are_named_as_on_the_command_line():
    config = {
        "model": {"class_path": "a.b.GRPOModule", "init_args": {"loss": {"beta": 0.1}, "vllm": None, "betas": [1, 2]}},
        "trainer": {"devices": 2, "callbacks": [{"class_path": "x"}], "strategy": "auto"},
        "data": {"batch_size": 4, "num_workers": 3},
        "ckpt_path": None,
    }
    assert flat_options(config) == {
        "model": "GRPOModule", "model.loss.beta": 0.1, "model.betas": "[1, 2]", "trainer.devices": 2,
        "trainer.strategy": "auto", "data.batch_size": 4,
    }  # fmt: skip
