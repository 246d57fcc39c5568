"""The commands of the demo, in order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SFT = ("--config", "sft.yaml", "--config", "nano/sft.yaml")
# About 1,200 traces: smaller steps, more often.
FEW_TRACES = (
    *("--data.batch_size", "16", "--model.micro_batch_size", "16"),
    *("--trainer.max_epochs", "6", "--trainer.check_val_every_n_epoch", "6"),
)
TRACES = ("--config", "traces.yaml", "--config", "nano/traces.yaml")
GRPO = ("--config", "grpo.yaml", "--config", "nano/grpo.yaml")


@dataclass(frozen=True)
class Stage:
    """One command of the demo.

    Attributes:
        name: Name of the folder below the demo's that it fills.
        title: What is printed.
        command: Arguments of `avrt`.
        resumes: Whether it goes on by itself where it was interrupted.
    """

    name: str
    title: str
    command: tuple[str, ...]
    resumes: bool = False


def stages(out: Path, clips: int, source: str = "nano") -> list[Stage]:
    """The demo's commands in order.

    Args:
        out: The demo's folder.
        clips: Number of training clips.
        source: The nano preset that is trained.
    """
    data, raw = out / "data", str(out / "data" / "clips")
    # Training questions come without reference traces: those that the student learns from are made by the teachers.
    # A quarter of the questions can be told by either sense; of the others, teachers who must guess get few right.
    missing_trace = {"train": ("--traces", "none", "--redundant", "0.5", "--both", "0.5", "--questions_per_clip", "8")}
    sizes = {"train": clips, "val": max(4, clips // 12), "test": max(4, clips // 5)}
    plan = [
        Stage(
            f"data/{split}",
            f"clips and shards, {split}",
            (
                *("shards", "nano_world", "--root", raw, "--out", str(data / split), "--split", split),
                *("--clips", str(n), *missing_trace.get(split, ())),
            ),
        )
        for split, n in sizes.items()
    ]
    questions, val = str(data / "train"), ("--data.val", str(data / "val"))
    traced = str(out / "traces" / "shards" / "train")
    models = {"base": source, "sft": str(out / "sft" / "model"), "grpo": str(out / "grpo" / "model")}

    def train(name: str, title: str, *command: str) -> list[Stage]:
        run = ("--trainer.default_root_dir", str(out / name / "run"))
        return [Stage(f"{name}/run", title, ("fit", *command, *run)), export(name)]

    def evaluate(name: str) -> Stage:
        folder = out / "eval" / name
        options = (
            "--data.test",
            str(data / "test"),
            "--trainer.logger",
            "false",
            "--model.student.source",
            models[name],
        )
        return Stage(
            f"eval/{name}", f"evaluate {name}", ("test", *SFT, *options, "--trainer.default_root_dir", str(folder))
        )

    def export(name: str) -> Stage:
        return Stage(
            f"{name}/model",
            f"export {name}",
            ("export", "--ckpt_path", str(out / name / "run"), "--out", str(out / name / "model")),
        )

    traces = Stage(
        "traces",
        "traces by two teachers",
        ("traces", "run", *TRACES, "--data", questions, "--out", str(out / "traces")),
        resumes=True,
    )
    sft = (*SFT, *FEW_TRACES, "--data.train", traced, *val)
    untrained = ("--model.student.source", source)

    def grpo(begun_from: str) -> tuple[str, ...]:
        return (*GRPO, "--data.train", questions, *val, "--model.student.source", begun_from)

    return [
        *plan,
        traces,
        evaluate("base"),
        *train("sft", "SFT", *sft, *untrained),
        evaluate("sft"),
        *train("grpo", "GRPO", *grpo(models["sft"])),
        evaluate("grpo"),
    ]
