"""The evaluation module: asks the questions of a split in validation, `avrt test` and `avrt predict`."""

from __future__ import annotations

from collections.abc import Container, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from avrt.data.inputs.batch import OmniBatch
from avrt.data.inputs.prompt_options import PromptOptions, for_family
from avrt.data.loading.datamodule import AVDataModule, BatchRequirements
from avrt.data.shards.reader import ShardSet
from avrt.errors import AvrtError
from avrt.evaluation.predictions import Prediction, PredictionWriter
from avrt.evaluation.runner import answer
from avrt.metrics import AnswerMetrics
from avrt.objectives.rewards import RewardOptions, RewardSum
from avrt.policy.policy import Policy, load_policy
from avrt.policy.student_options import StudentOptions
from avrt.policy.vllm.engine import VLLMEngine, start_engine
from avrt.policy.vllm.options import VLLMOptions
from avrt.rollout.sampling import SamplingOptions
from avrt.training.checkpoints import is_trial
from avrt.training.connect import ConnectData
from avrt.training.loaded_types import LoadedTypes
from avrt.training.on_cpu import keep_freed_memory, limit_threads, threads_wanted
from avrt.training.strategy import OmniDeepSpeedStrategy
from avrt.training.trained_policy import put_trained

SPLITS = {"fit": "val", "validate": "val", "test": "test", "predict": "predict"}
"""Stage of the trainer -> the split that its evaluation asks."""


def refuse_scattered(student: StudentOptions) -> None:
    """Refuse a student that ZeRO-3 cannot scatter.

    Raises:
        AvrtError: If it has weights in 4 bits.
    """
    if student.quantize is not None:
        raise AvrtError(
            "ZeRO-3 cannot scatter 4-bit weights",
            where="model.student.quantize",
            remedy="set --trainer.strategy.stage 2, or leave it out",
        )


class EvaluationModule(pl.LightningModule):
    """Asks a student the questions of a split, logs metrics and writes `predictions.jsonl`.

    Args:
        student: Which student.
        generation: How answers are generated.
        rewards: Rewards reported beside accuracy; None for none.
        vllm: Let vLLM answer instead of the native engine.

    Attributes:
        policy: The student, from `load` on.
        shards: The shards of the split; None where there are none (no validation data, or `data.ask`).
        prompt_options: How samples become prompts.
        question_types: The split's question types, whose accuracy is reported separately.
        vllm: The vLLM engine, while a stage runs that needs it.
        vllm_in_validation: Whether it answers in validation while training too.
        checkpoint: A training run's, whose trained parameters are put over those of the student's source.
    """

    needs_traces = False
    needs_answers = False
    vllm_in_validation = False
    checkpoint: Path | None = None
    policy: Policy
    shards: ShardSet | None
    prompt_options: PromptOptions
    question_types: list[str]
    writer: PredictionWriter

    def __init__(
        self,
        student: StudentOptions,
        generation: SamplingOptions,
        rewards: RewardOptions | None = None,
        vllm: VLLMOptions | None = None,
    ) -> None:
        super().__init__()
        student.check()
        self._threads = threads_wanted()
        self.strict_loading = False  # checkpoints lack the frozen parameters; `on_load_checkpoint` checks the others
        self.student_options = student
        self.generation = generation
        self.rewards = None if rewards is None else RewardSum(rewards)
        self.vllm_options = vllm
        self.vllm: VLLMEngine | None = None

    # ---- set-up

    def configure_callbacks(self) -> list[pl.Callback]:
        """The callback that connects this module with its data module, unless the trainer has it already."""
        has_it = any(isinstance(callback, ConnectData) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]
        return [] if has_it else [ConnectData()]

    def check_stage(self, stage: str) -> None:
        """Refuse a stage that this module does not have, before anything is loaded."""

    def load(self) -> None:
        """Load the policy, once."""
        strategy = self.trainer.strategy
        scattered = isinstance(strategy, OmniDeepSpeedStrategy) and strategy.zero_stage_3
        if scattered:
            refuse_scattered(self.student_options)
        if not hasattr(self, "policy"):
            self.policy = load_policy(self.student_options)
            if self.checkpoint is not None:
                put_trained(self.policy, self.checkpoint)
        if strategy.root_device.type == "cpu":
            size = sum(getattr(p, "ds_numel", p.numel()) for p in self.parameters())  # stage 3 has taken some apart
            limit_threads(self._threads, self.trainer.num_devices, size)
            keep_freed_memory()
        self.policy.is_partitioned = scattered
        self.policy.whole_weights = None
        self.policy.gather = None
        if isinstance(strategy, OmniDeepSpeedStrategy) and strategy.zero_stage_3:
            strategy.gather_whole(self.policy.model, self.policy.family.leaf_modules(self.policy.model))
            self.policy.gather = strategy.gathered_to_read
            decoder = self.policy.decoder
            if strategy.gather_for_generation:
                self.policy.whole_weights = partial(strategy.whole_weights, (decoder.language_model, decoder.lm_head))

    def needs_engine(self, stage: str) -> bool:
        """Whether vLLM samples anything in a stage, where `vllm` is set."""
        return stage != "fit" or self.vllm_in_validation

    def start_engine(self, stage: str) -> None:
        """Start vLLM where the stage needs it, once; called after `load`, before any question is asked.

        Raises:
            AvrtError: If it cannot be started, or not for this student.
        """
        if self.vllm_options is not None and self.vllm is None and self.needs_engine(stage):
            self.vllm = start_engine(self.policy, self.vllm_options, self.trainer.global_rank)
            rank_zero_info(f"vLLM {self.vllm.version} is ready")

    def close_engine(self) -> None:
        """End vLLM, if it runs; also when a run fails."""
        if self.vllm is not None:
            self.policy.engine = None
            self.vllm.close()
            self.vllm = None

    def connect_data(self, data: AVDataModule, stage: str) -> None:
        """Take from the data module what evaluation needs to know; called after `load` and before `setup`."""
        split = SPLITS[stage]
        self.shards = None if data.folders[split] is None else data.shards(split)
        self.question_types = data.question_types(split)
        wanted = data.prompt
        data.prompt = self.prompt_options = for_family(wanted, interleaves=self.policy.inputs.interleaves)
        if data.prompt != wanted:
            name = self.policy.family.name
            rank_zero_info(
                f"{name} has no sound inside video: it follows the frames (data.prompt.audio_in_video: false)"
            )
        self.policy.prompt_room = data.prompt.max_prompt_tokens

    def requirements(self) -> BatchRequirements:
        """What the data module needs to know of this module."""
        return BatchRequirements(
            self.policy.inputs, self.prompt_limit(), traces=self.needs_traces, answers=self.needs_answers
        )

    def setup(self, stage: str) -> None:
        """Prepare to count answers and to write predictions."""
        # In a tuple, because the metrics are not part of the model: neither DeepSpeed nor checkpoints may touch them.
        self._metrics = (AnswerMetrics(self.question_types, with_reward=self.rewards is not None),)
        if stage in ("test", "predict"):
            self.writer = self.open_writer()
        self._loaded = LoadedTypes(self)

    def check_types(self) -> None:
        """Refuse a precision plugin or strategy that has rounded what was loaded; see `LoadedTypes`."""
        self._loaded.check(self, self.trainer, self.policy.options.dtype)

    def on_fit_start(self) -> None:
        """Check what the strategy has made of the student."""
        self.check_types()

    def on_validation_start(self) -> None:
        """Check what the strategy has made of the student."""
        self.check_types()

    def on_test_start(self) -> None:
        """Check what the strategy has made of the student."""
        self.check_types()

    def on_predict_start(self) -> None:
        """Check what the strategy has made of the student."""
        self.check_types()

    def open_writer(self) -> PredictionWriter:
        """The writer of `predictions.jsonl`, in the run's log folder."""
        return PredictionWriter(Path(self.trainer.log_dir or self.trainer.default_root_dir))

    def max_completion_length(self) -> int:
        """The longest completion in tokens that is generated or trained on."""
        return max(self.generation.max_new_tokens, self.prompt_options.max_response_tokens)

    def prompt_limit(self) -> int:
        """The longest prompt in tokens: `max_prompt_tokens`, else what the longest completion leaves of the context.

        Raises:
            AvrtError: If prompts and completions do not fit into the model's context.
        """
        context, completion = self.policy.context_length, self.max_completion_length()
        limit = self.prompt_options.max_prompt_tokens
        if completion >= context:
            raise AvrtError(
                f"completions of {completion} tokens leave no room for a prompt in the model's context of {context}",
                where="max_new_tokens or data.prompt.max_response_tokens",
                remedy="lower it",
            )
        if limit is not None and limit + completion > context:
            raise AvrtError(
                f"prompts of {limit} and completions of {completion} tokens exceed the model's context of {context}",
                where="data.prompt.max_prompt_tokens",
                remedy="lower it; longer prompts are then left out and counted",
            )
        return context - completion if limit is None else limit

    def teardown(self, stage: str) -> None:
        """End vLLM, and write what the feature cache still holds in memory."""
        self.close_engine()
        if self.policy.cache is not None:
            self.policy.cache.flush()

    # ---- checkpoints

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that lacks parameters of this student, by their names.

        Raises:
            AvrtError: If it lacks any that are trained.
        """
        missing = set(self._trained_names()) - set(checkpoint.get("trained", ()))
        if missing:
            raise AvrtError(
                f"lacks {len(missing)} trained parameters, e.g. {min(missing)}",
                where="checkpoint",
                remedy="set model.student as in the run that made it; a run of an earlier avrt cannot be resumed",
            )

    def _trained_names(self) -> list[str]:
        return [name for name, p in self.policy.named_parameters() if p.requires_grad]

    # ---- evaluation

    def begin_answers(self) -> None:
        """Let vLLM answer from now on, with the weights as they are, where it is to."""
        fitting = self.trainer.state.fn == TrainerFn.FITTING
        if self.vllm is not None and (self.vllm_in_validation or not fitting):
            self.vllm.hold(self.policy)
            self.policy.engine = self.vllm

    def end_answers(self) -> None:
        """The split's questions have been asked."""
        if self.policy.engine is not None and self.vllm is not None:
            self.policy.engine = None
            self.vllm.release()

    def on_validation_epoch_start(self) -> None:
        """Choose who answers."""
        self.begin_answers()

    def on_test_epoch_start(self) -> None:
        """Choose who answers."""
        self.begin_answers()

    def on_predict_epoch_start(self) -> None:
        """Choose who answers."""
        self.begin_answers()

    def answer(self, batch: OmniBatch) -> list[Prediction]:
        """Ask each question of a batch once."""
        return answer(self.policy, batch, self.generation, shards=self.shards, rewards=self.rewards)

    def validation_step(self, batch: OmniBatch, batch_idx: int) -> None:
        """Ask the questions and count the answers."""
        self._count(self.answer(batch))

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics."""
        self.end_answers()
        self._log_metrics("val")

    def test_step(self, batch: OmniBatch, batch_idx: int) -> None:
        """Ask the questions, count the answers and keep the predictions."""
        predictions = self.answer(batch)
        self._count(predictions)
        self.writer.add(predictions)

    def on_test_epoch_end(self) -> None:
        """Log the test metrics and write the predictions."""
        self.end_answers()
        self._log_metrics("test")
        self._write()

    def predict_step(self, batch: OmniBatch, batch_idx: int) -> list[dict[str, Any]]:
        """Ask the questions and keep the predictions; returns their records, because Lightning rebuilds dataclasses."""
        predictions = self.answer(batch)
        self.writer.add(predictions)
        return [prediction.to_record() for prediction in predictions]

    def on_predict_epoch_end(self) -> None:
        """Write the predictions."""
        self.end_answers()
        self._write()

    def _write(self) -> None:
        """Write the predictions of all ranks; a trial run writes nothing."""
        predictions = self.writer.gather()
        if self.trainer.is_global_zero and not is_trial(self.trainer):
            self.writer.write(predictions)

    def _count(self, predictions: list[Prediction]) -> None:
        """Count the first answer to each question whose right answer is known."""
        for prediction in predictions:
            response = prediction.response
            if response is not None and prediction.correct is not None:
                self._metrics[0].update(
                    prediction.question_type,
                    correct=prediction.correct,
                    well_formed=response.well_formed,
                    parsed=response.letter is not None,
                    reward=prediction.rewards["total"] if prediction.rewards else 0.0,
                )

    def _log_metrics(self, prefix: str) -> None:
        """Log the metrics over all ranks, and start a new count."""
        metrics = self._metrics[0].to(self.device)
        values = {f"{prefix}/{name}": value for name, value in metrics.compute().items()}
        self.log_values(values, on_bar=(f"{prefix}/accuracy", f"{prefix}/format"))
        metrics.reset()

    def log_values(self, values: Mapping[str, float], *, on_bar: Container[str] = ()) -> None:
        """Log scalars; those in `on_bar` stand on the progress bar too."""
        for name, value in values.items():
            self.log(name, value, prog_bar=name in on_bar)
