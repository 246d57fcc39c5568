"""Evaluation by answers: one record per question, metrics over all ranks, and the predictions file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from avrt.data.media.clip import Clip
from avrt.data.sample import Sample
from avrt.distributed import gather_objects
from avrt.metrics import AnswerMetrics
from avrt.objectives.rewards import RewardSum
from avrt.response import parse_response
from avrt.text import to_json
from avrt.training.checkpoints import is_trial

PREDICTIONS = "predictions.jsonl"


class AnswerBook:
    """Collects the answers of one rank in one evaluation.

    Args:
        question_types: The types reported separately.
        rewards: The rewards, reported beside accuracy.
    """

    def __init__(self, question_types: Sequence[str], rewards: RewardSum) -> None:
        self._metrics = AnswerMetrics(question_types)
        self._rewards = rewards
        self._records: list[dict[str, Any]] = []

    def add(self, sample: Sample, clip: Clip, text: str, *, finished: bool) -> dict[str, Any]:
        """Judge one answer, count it where the right one is known, and keep its record.

        Args:
            sample: The question.
            clip: What it is about.
            text: The answer without special tokens.
            finished: Whether it ended by itself.

        Returns:
            The record, which can be written as JSON.
        """
        response = parse_response(text, sample.letters, several=sample.several)
        record: dict[str, Any] = {
            "id": sample.id,
            "question": sample.question,
            "choices": list(sample.choices),
            "question_type": sample.question_type,
            "response": text,
            "choice": response.letter,
            "answer": sample.answer_letter,
            "correct": None,
            "well_formed": response.well_formed,
            "cut_off": not finished,
            "rewards": None,
        }
        if sample.answer is not None:
            record["correct"] = response.letter == sample.answer_letter
            record["rewards"] = self._rewards(text, sample, clip)
            self._metrics.update(
                sample.question_type,
                correct=record["correct"],
                well_formed=response.well_formed,
                parsed=response.letter is not None,
                reward=record["rewards"]["total"],
            )
        self._records.append(record)
        return record

    def results(self, device: torch.device) -> dict[str, float]:
        """The metrics over all ranks; see `AnswerMetrics.compute`. Starts a new count."""
        self._metrics.to(device)
        results = self._metrics.compute()
        self._metrics.reset()
        return results

    def forget(self) -> None:
        """Drop the records that were kept."""
        self._records = []

    def write(self, trainer: pl.Trainer) -> Path:
        """Gather every rank's records and write them in order of their ids; starts a new collection.

        Returns:
            The file, in the run's log folder.
        """
        gathered = gather_objects(self._records)
        self._records = []
        path = Path(trainer.log_dir or trainer.default_root_dir) / PREDICTIONS
        if trainer.is_global_zero and not is_trial(trainer):
            path.parent.mkdir(parents=True, exist_ok=True)
            records = sorted((record for part in gathered for record in part), key=lambda record: str(record["id"]))
            path.write_bytes("".join(to_json(record) + "\n" for record in records).encode())
        return path
