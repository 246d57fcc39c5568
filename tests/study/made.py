"""A small study's folder for tests, written by the code that writes real results and logs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from avrt.data.sample import LETTERS
from avrt.study.claims import (
    CellSpec,
    ClaimSpec,
    ColumnSpec,
    ExtraTableSpec,
    Figure3Spec,
    PowerSpec,
    ReportSpec,
    RowSpec,
    SensitivitySpec,
    TablesSpec,
)
from tests.conftest import make_sample
from tests.evaluation.made import make_run

SEEDS, CLIPS = (0, 1, 2), 60
SKILL = {"base": 0.4, "sft": 0.6, "sft_rl": 0.75, "twin": 0.75, "lr_low": 0.45}
"""Share of questions that a student answers rightly with both senses."""
ALONE = {"av": 0.0, "a": 0.2, "v": 0.15}
"""What is lost under a mask."""


def questions():
    """Four questions about each clip, in an order of difficulties that runs through all clips."""
    return [
        make_sample(
            f"test-0-{clip:06d}-{q}", choices=("a ball", "a box", "a star", "a ring"), answer=(clip + q) % 4,
            metadata={"clip": f"test-0-{clip:06d}"},
        )
        for clip in range(CLIPS) for q in range(4)
    ]  # fmt: skip


def answered(skill, rng):
    """Answers right with probability `skill`; every tenth one is not in the asked form."""

    def answer(i, sample):
        right = rng.random() < skill
        others = [letter for letter in LETTERS[:4] if letter != sample.answer_letter]
        letter = sample.answer_letter if right else str(rng.choice(others))
        text = f"<think>It is shown and heard.</think><answer>{letter}</answer>"
        return f"Well. {text}" if i % 10 == 9 else text

    return answer


def make_cell(out: Path, student, seed, mask, answer, benchmark="stills", samples=None):
    """One cell of a study."""
    folder = out / "benchmarks" / student / f"seed-{seed}" / benchmark / mask
    make_run(
        folder, "some label", answer, samples=samples or questions(), mask=mask, name=benchmark, parameters=4_000_000
    )


def make_study(out: Path) -> ReportSpec:
    """A study whose truth is `SKILL`, with logs of one training."""
    for place, student in enumerate(SKILL):
        for seed in SEEDS:
            for column, mask in enumerate(ALONE):
                rng = np.random.default_rng([place, seed, column])
                skill = SKILL[student] + rng.normal(0, 0.01) - ALONE[mask]
                make_cell(out, student, seed, mask, answered(skill, rng))
    for seed in SEEDS:
        with SummaryWriter(str(out / "students" / "sft_rl" / f"seed-{seed}" / "run" / "log")) as log:
            for step in range(100):
                log.add_scalar("rewards/total/mean", 1 + step / 100 + seed / 10, step)
                log.add_scalar("policy/kl", step / 1000, step)
                log.add_scalar("train/loss", 0.0, step)
    labels = [{"id": s.id, "difficulty": ("easy", "medium", "hard")[i % 3]} for i, s in enumerate(questions())]
    (out / "traces" / "stills").mkdir(parents=True)
    (out / "traces" / "stills" / "difficulty.jsonl").write_text("\n".join(map(json.dumps, labels)))
    return spec()


def spec(**changes) -> ReportSpec:
    """The study's declaration."""
    easy, hard = {"difficulty": "easy"}, {"difficulty": "hard"}
    declared = ReportSpec(
        title="A small study",
        seeds=list(SEEDS),
        claims=[
            claim("rl", "sft_rl", "sft", published=4.2),
            claim("sft", "sft", "base"),
            claim("twins", "sft_rl", "twin", published=1.0),
            claim("turned", "base", "sft_rl", published=6.1),
            claim("senses", CellSpec("sft_rl"), CellSpec("sft_rl", "a"), published=14.4),
            claim("easy", CellSpec("sft_rl", group=easy), CellSpec("base", group=easy)),
            claim("levels", CellSpec("base", group=easy), CellSpec("base", group=hard)),
        ],
        difficulty={"stills": "traces/stills"},
        tables=TablesSpec(
            stand_in={"omnibench": "stills"},
            shown=["table4", "table7", "table8"],
            extra=[ExtraTableSpec("Twins", [ColumnSpec("AV", "stills")], [RowSpec("the twin", "twin")])],
        ),
        sensitivity=SensitivitySpec(
            "stills", {"lr": {"1e-5": "lr_low", "1e-4": "sft_rl"}, "G": {"2": "twin", "4": "sft_rl"}}
        ),
        curves=["sft_rl"],
        figure3=Figure3Spec("stills", "sft_rl"),
        power=PowerSpec(),
    )  # fmt: skip
    return dataclasses.replace(declared, **changes)


def claim(name, first, second, published=None):
    """A claim about `stills`; a student's name stands for all questions with both senses."""
    first, second = (CellSpec(c) if isinstance(c, str) else c for c in (first, second))
    return ClaimSpec(name, "Table 4", f"{name}: first over second", "stills", first, second, published, "another world")
