"""The commands of the demo and what each needs, as a plan that runs like that of a study."""

from __future__ import annotations

from pathlib import Path

from avrt.data.shards.manifest import MANIFEST
from avrt.evaluation.predictions import PREDICTIONS
from avrt.study.stages import Plan, Stage

SFT = ("--config", "sft.yaml", "--config", "nano/sft.yaml")
GRPO = ("--config", "grpo.yaml", "--config", "nano/grpo.yaml")
TRACES = ("--config", "traces.yaml", "--config", "nano/traces.yaml")
# About 1,200 traces: smaller steps, more often.
FEW_TRACES = (
    *("--data.batch_size", "16", "--model.micro_batch_size", "16"),
    *("--trainer.max_epochs", "6", "--trainer.check_val_every_n_epoch", "6"),
)
# Training questions come without reference traces: those that the student learns from are made by the teachers. A
# quarter of the questions can be told by either sense; of the others, teachers who must guess get few right.
QUESTIONS = ("--traces", "none", "--redundant", "0.5", "--both", "0.5", "--questions_per_clip", "8")
_LEAVES = {
    "shards": MANIFEST,
    "traces": "shards/train",
    "fit": "checkpoints",
    "export": "config.json",
    "test": PREDICTIONS,
}


def demo_plan(out: Path, clips: int, source: str = "nano") -> Plan:
    """The demo's commands, in an order that runs one by one too.

    Args:
        out: The demo's folder.
        clips: Number of training clips.
        source: The nano preset that is trained.
    """
    made, raw = Plan(), out / "data" / "clips"

    def stage(name: str, command: tuple[str, ...], needs: tuple[str, ...] = (), *, alone: bool = False) -> str:
        folder, goes_on = out / name, command[0] in ("fit", "traces")
        beside = (raw / folder.name,) if command[0] == "shards" else ()
        leaves = folder / _LEAVES[command[0]]
        made.stages[name] = Stage(name, folder, command, needs, leaves, command[0], name, name, goes_on, beside, alone)
        return name

    def shards(split: str, number: int, *options: str) -> str:
        to = ("--root", str(raw), "--out", str(out / "data" / split))
        command = ("shards", "nano_world", *to, "--split", split, "--clips", str(number))
        return stage(f"data/{split}", (*command, *options))

    def fit(name: str, needs: tuple[str, ...], *options: str, alone: bool = True) -> str:
        run = ("--trainer.default_root_dir", str(out / name), "--ckpt_path", "last_or_new")
        return stage(name, ("fit", *options, *run), needs, alone=alone)

    def export(name: str) -> str:
        command = ("export", "--ckpt_path", str(out / name / "run"), "--out", str(out / name / "model"))
        return stage(f"{name}/model", command, (f"{name}/run",))

    def evaluate(name: str, model: str, *needs: str) -> str:
        options = ("--data.test", str(out / test), "--trainer.logger", "false", "--model.student.source", model)
        folder = ("--trainer.default_root_dir", str(out / "eval" / name))
        return stage(f"eval/{name}", ("test", *SFT, *options, *folder), (test, *needs))

    train = shards("train", clips, *QUESTIONS)
    val = shards("val", max(4, clips // 12))
    test = shards("test", max(4, clips // 5))
    untrained = ("--model.student.source", source)
    questions, checked = ("--data.train", str(out / train)), ("--data.val", str(out / val))

    traces = stage(
        "traces", ("traces", "run", *TRACES, "--data", str(out / train), "--out", str(out / "traces")), (train,)
    )
    # One step, while the teachers answer: DeepSpeed compiles its optimizer at its first use.
    once = ("--data.train", str(out / val), "--trainer.max_steps", "1", "--trainer.limit_val_batches", "0")
    tried = fit("sft/tried", (val,), *SFT, *FEW_TRACES, *untrained, *once, "--trainer.logger", "false", alone=False)
    evaluate("base", source)
    traced = ("--data.train", str(out / "traces" / "shards" / "train"))
    fit("sft/run", (traces, val, tried), *SFT, *FEW_TRACES, *traced, *checked, *untrained)
    sft = export("sft")
    evaluate("sft", str(out / sft), sft)
    fit("grpo/run", (train, val, sft), *GRPO, *questions, *checked, "--model.student.source", str(out / sft))
    grpo = export("grpo")
    evaluate("grpo", str(out / grpo), grpo)
    return made
