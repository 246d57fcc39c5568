"""The commands of the demo, in order: the paper in miniature, and the study of its Table 4."""

from __future__ import annotations

import json
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
RUNS = {"RL only": "rl_only", "SFT + RL": "grpo"}


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


def stages(out: Path, clips: int, source: str = "nano", *, study: bool = False) -> list[Stage]:
    """The demo's commands in order.

    Args:
        out: The demo's folder.
        clips: Number of training clips.
        source: The nano preset that is trained.
        study: The paper's Table 4 in miniature instead: base, RL only, SFT and SFT + RL under every mask, and a report.
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

    if not study:
        return [
            *plan,
            traces,
            evaluate("base"),
            *train("sft", "SFT", *sft, *untrained),
            evaluate("sft"),
            *train("grpo", "GRPO", *grpo(models["sft"])),
            evaluate("grpo"),
        ]
    # A student of random weights would never be rewarded, so that RL alone has something to begin with: the base has
    # seen a few reference traces of other clips, as a released model has been taught to answer.
    primer = ("shards", "nano_world", "--root", raw, "--out", str(data / "primer"), "--clips", "60", "--seed", "1")
    base = str(out / "base" / "model")
    few = ("--data.batch_size", "16", "--model.micro_batch_size", "16", "--trainer.max_epochs", "10")
    primed = ("--data.train", str(data / "primer"), "--trainer.limit_val_batches", "0")
    students = {
        "base": base, "rl_only": str(out / "rl_only" / "model"), "sft": models["sft"], "sft_rl": models["grpo"]
    }  # fmt: skip
    benchmark = {"config": ["avqa.yaml", "nano/benchmark.yaml"], "shards": str(data / "test")}
    return [
        *plan,
        Stage("data/primer", "clips and shards for the base", primer),
        traces,
        *train("base", "base", *SFT, *few, *primed, *untrained),
        *train("sft", "SFT", *sft, "--model.student.source", base),
        *train("grpo", "SFT + RL", *grpo(models["sft"])),
        *train("rl_only", "RL only", *grpo(base)),
        Stage(
            "benchmarks",
            "every student with every mask",
            (
                *("benchmark", "--out", str(out / "benchmarks"), "--jobs", "2"),
                *("--students", json.dumps(students), "--benchmarks", json.dumps({"nano_world": benchmark})),
                *("--masks", json.dumps(["av", "a", "v", "text", "shuffled"])),
            ),
            resumes=True,
        ),
        Stage(
            "report",
            "report",
            (
                *("report", str(out / "benchmarks"), "--out", str(out / "report")),
                *("--stand_in", json.dumps({"omnibench": "nano_world"})),
                *("--training", json.dumps({n: str(out / f / "run") for n, f in RUNS.items()})),
            ),
        ),
    ]
