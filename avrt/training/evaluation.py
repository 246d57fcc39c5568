"""Evaluation by answers: what every module does in validation, test and prediction."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from avrt.data.inputs.batch import OmniBatch
from avrt.data.loading.datamodule import AVDataModule, BatchRequirements
from avrt.errors import AvrtError
from avrt.objectives.rewards import RewardOptions, RewardSum
from avrt.policy.options import StudentOptions
from avrt.policy.policy import Policy, load_policy
from avrt.rollout.sampling import SamplingOptions, completion_seeds
from avrt.training.answers import AnswerBook
from avrt.training.connect import ConnectData
from avrt.training.strategy import OmniDeepSpeedStrategy


class EvaluationModule(pl.LightningModule):
    """Holds the policy, and asks it questions.

    Args:
        student: Which student.
        generation: How completions are generated in validation, test and prediction.
        rewards: The rewards, reported beside accuracy.
    """

    needs_traces = False
    needs_answers = False
    policy: Policy

    def __init__(self, student: StudentOptions, generation: SamplingOptions, rewards: RewardOptions) -> None:
        super().__init__()
        self.student_options = student
        self.generation = generation
        self.rewards = RewardSum(rewards)
        self.question_types: list[str] = []
        self.max_target_tokens = 0
        self.told_prompt_tokens: int | None = None

    # ---- set-up

    def configure_callbacks(self) -> list[pl.Callback]:
        """The callback that connects this module with its data."""
        return [ConnectData()]

    def load(self) -> None:
        """Load the policy, once."""
        if not hasattr(self, "policy"):
            self.policy = load_policy(self.student_options)
        strategy = self.trainer.strategy
        self.policy.is_partitioned = isinstance(strategy, OmniDeepSpeedStrategy) and strategy.zero_stage_3

    def connect_data(self, data: AVDataModule, stage: str) -> None:
        """Take from the data module what this module has to know, before `setup`."""
        self.question_types = data.question_types("test" if stage == "test" else "val")
        self.max_target_tokens = data.prompt.max_response_tokens
        self.told_prompt_tokens = data.prompt.max_prompt_tokens

    def requirements(self) -> BatchRequirements:
        """What the data module has to know of this module."""
        return BatchRequirements(
            self.policy.inputs, self.prompt_limit(), traces=self.needs_traces, answers=self.needs_answers
        )

    def setup(self, stage: str) -> None:
        """Begin to collect answers."""
        self.book = AnswerBook(self.question_types, self.rewards)

    def max_completion_length(self) -> int:
        """The longest completion in tokens that this module may make or be given."""
        return max(self.generation.max_new_tokens, self.max_target_tokens)

    def prompt_limit(self) -> int:
        """The longest prompt in tokens: what the data module says, or what completions leave of the context.

        Raises:
            AvrtError: If prompts and completions do not fit into the model's context.
        """
        context, completion = self.policy.context_length, self.max_completion_length()
        told = self.told_prompt_tokens
        if completion >= context:
            raise AvrtError(
                f"completions of {completion} tokens leave no room for a prompt in the model's context of {context}",
                where="max_new_tokens or data.prompt.max_response_tokens",
                remedy="lower it",
            )
        if told is not None and told + completion > context:
            raise AvrtError(
                f"prompts of {told} and completions of {completion} tokens exceed the model's context of {context}",
                where="data.prompt.max_prompt_tokens",
                remedy="lower it; longer prompts are then left out and counted",
            )
        return context - completion if told is None else told

    # ---- steps

    def answer(self, batch: OmniBatch) -> list[dict[str, Any]]:
        """Answer each valid row; returns one JSON-able record per question."""
        seeds = completion_seeds((sample.id for sample in batch.samples), 1, 1, 0)
        completions = self.policy.generate(self.policy.encode(batch), self.generation, seeds=seeds)
        return [
            self.book.add(sample, clip, self.policy.decode(completion.token_ids), finished=completion.finished)
            for sample, clip, completion, valid in zip(
                batch.samples, batch.clips, completions, batch.valid.tolist(), strict=True
            )
            if valid
        ]

    def validation_step(self, batch: OmniBatch, batch_idx: int) -> None:
        """Answer and count."""
        self.answer(batch)

    def test_step(self, batch: OmniBatch, batch_idx: int) -> None:
        """Answer and count."""
        self.answer(batch)

    def predict_step(self, batch: OmniBatch, batch_idx: int) -> list[dict[str, Any]]:
        """Answer."""
        return self.answer(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics."""
        self._log_results("val")
        self.book.forget()

    def on_test_epoch_end(self) -> None:
        """Log the test metrics and write the predictions."""
        self._log_results("test")
        self.prediction_file = self.book.write(self.trainer)

    def on_predict_epoch_end(self) -> None:
        """Write the predictions."""
        self.prediction_file = self.book.write(self.trainer)

    def _log_results(self, prefix: str) -> None:
        for name, value in self.book.results(self.device).items():
            self.log(f"{prefix}/{name}", value, prog_bar=name in ("accuracy", "format"))
