"""What is shown of single samples: a group of completions with their rewards, or what a sample is trained towards."""

from __future__ import annotations

from avrt.algorithms.groups import Rollout
from avrt.data.inputs.batch import OmniBatch
from avrt.data.sample import Sample
from avrt.policy.policy import Policy
from avrt.training.run_log.run_log import RunLog
from avrt.training.run_log.writer import Table


def rollout_table(rollout: Rollout, row: int) -> Table:
    """One question of a rollout, and its group: rewards, advantage, length and text of each completion."""
    size = rollout.advantages.shape[1]
    names = list(rollout.rewards)
    rewards = {name: rollout.rewards[name][row].tolist() for name in names}
    advantages = rollout.advantages[row].tolist()
    rows = []
    for g in range(size):
        completion = rollout.completions[row * size + g]
        rows.append((
            *(rewards[name][g] for name in names), advantages[g], len(completion.token_ids),
            "yes" if completion.finished else "cut off", rollout.texts[row * size + g],
        ))  # fmt: skip
    columns = (*names, "advantage", "tokens", "finished", "completion")
    return Table(_about(rollout.batch.samples[row]), columns, rows)


def target_table(batch: OmniBatch, row: int, policy: Policy) -> Table:
    """One sample of fine-tuning: its question, and the target."""
    ids = batch.completion_ids[row]
    return Table(_about(batch.samples[row]), ("tokens", "target"), [(len(ids), policy.decode(ids))])


def show_clip(log: RunLog, tag: str, batch: OmniBatch, row: int) -> None:
    """Write the frames and the sound that a sample was asked about."""
    clip = batch.clips[row]
    if clip.pictures is not None:
        log.pictures(f"{tag}/frames", clip.pictures)
    if clip.audio is not None:
        log.sound(f"{tag}/sound", clip.audio)


def _about(sample: Sample) -> dict[str, str]:
    choices = "; ".join(f"({letter}) {choice}" for letter, choice in zip(sample.letters, sample.choices, strict=True))
    return {
        "sample": sample.id,
        "question": sample.question,
        "choices": choices,
        "answer": sample.answer_letter or "not known",
    }
