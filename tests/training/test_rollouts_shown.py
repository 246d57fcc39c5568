"""Sampled answers reach TensorBoard wherever it stands among the loggers, and a run without it says so."""

import lightning.pytorch as pl
import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from avrt.policy.student_options import StudentOptions
from avrt.training.callbacks import ShowRollouts
from avrt.training.grpo_module import GRPOModule
from tests.conftest import avrt
from tests.training.runs import SMALL

LOGGERS = "lightning.pytorch.loggers"


def test_a_group_is_shown_with_its_frames_and_sound(world, tmp_path):
    loggers = [f'{{"class_path": "{LOGGERS}.{kind}", "init_args": {{"save_dir": "{tmp_path}"}}}}'
               for kind in ("CSVLogger", "TensorBoardLogger")]  # fmt: skip
    done = avrt(
        "fit", "--config", "grpo.yaml", "--config", "nano/grpo.yaml", "--data.train", world / "train", *SMALL,
        "--data.batch_size", 4, "--model.group_size", 2, "--model.rollout.max_new_tokens", 5, "--trainer.max_steps", 1,
        "--trainer.logger", f"[{', '.join(loggers)}]", "--trainer.default_root_dir", tmp_path,
    )  # fmt: skip
    assert "cannot hold sampled completions" not in done.stderr
    [events] = tmp_path.rglob("events.out.tfevents.*")
    board = EventAccumulator(str(events))
    board.Reload()
    tags = board.Tags()
    assert "rollouts/0/text_summary" in tags["tensors"]
    assert {"rollouts/0/frames", "rollouts/1/frames"} <= set(tags["images"])
    assert "rollouts/0/sound" in tags["audio"]
    [shown] = board.Tensors("rollouts/0/text_summary")
    lines = shown.tensor_proto.string_val[0].decode().splitlines()
    assert sum(line.startswith("| ") for line in lines) == 3  # a heading, and two answers


@pytest.mark.parametrize(("board", "told"), [(False, True), (True, False)])
def test_a_run_that_cannot_show_them_says_so(tmp_path, recwarn, board, told):
    loggers = [CSVLogger(tmp_path), *([TensorBoardLogger(tmp_path)] if board else [])]
    trainer = pl.Trainer(logger=loggers, accelerator="cpu", enable_checkpointing=False)
    ShowRollouts().on_train_start(trainer, GRPOModule(StudentOptions(source="nano")))
    assert any("CSVLogger cannot hold sampled completions" in str(w.message) for w in recwarn) == told
