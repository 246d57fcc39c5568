"""What SFT and GRPO share: the student, its optimizer, micro-batched updates, and evaluation by greedy answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from avrt.data.inputs.preprocessor import OmniBatch
from avrt.data.loading.datamodule import AVDataModule
from avrt.data.sample import Sample
from avrt.errors import AvrtError
from avrt.models.scoring import Prompts
from avrt.objectives.rewards import RewardOptions, RewardSum
from avrt.objectives.token_scores import chunk_count
from avrt.policy.policy import Policy, StudentOptions, load_policy
from avrt.rollout.native import Completion, generate
from avrt.rollout.sampling import SamplingOptions, completion_seed
from avrt.rollout.static import StaticDecoder
from avrt.training.answers import AnswerBook
from avrt.training.resume import place_loops
from avrt.training.strategy import OmniDeepSpeedStrategy

MicroBatch = TypeVar("MicroBatch")


@dataclass(frozen=True)
class OptimizerOptions:
    """AdamW with a cosine schedule; the defaults are the paper's.

    Attributes:
        lr: Peak learning rate.
        betas: Decay rates of the moments.
        eps: Added to the denominator.
        weight_decay: Decoupled weight decay.
        warmup_steps: Optimizer steps of linear warm-up.
        final_lr_share: Share of the peak that the cosine ends at.
    """

    lr: float = 2e-6
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    warmup_steps: int = 100
    final_lr_share: float = 0.0

    def schedule(self, total_steps: int) -> Callable[[int], float]:
        """Factor on the learning rate at each optimizer step."""

        def factor(step: int) -> float:
            if step < self.warmup_steps:
                return (step + 1) / self.warmup_steps
            progress = (step - self.warmup_steps) / max(1, total_steps - self.warmup_steps)
            cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
            return self.final_lr_share + (1 - self.final_lr_share) * cosine

        return factor


class StudentModule(pl.LightningModule):
    """Base of the training modules.

    A batch of the loader is one optimizer step's worth of samples on one rank; it is split into micro-batches
    here, so that every token of the step can be weighed alike whatever the number of micro-batches and ranks.

    Args:
        student: Which student.
        optimizer: Optimizer and schedule.
        micro_batch_size: Samples per forward and backward pass.
        generation: How answers are generated in validation, test and prediction; greedy by default.
        rewards: The rewards, also reported in evaluation.
    """

    needs_traces = False
    needs_answers = False
    num_iterations = 1
    share_prefix = True
    student: Policy

    def __init__(
        self,
        student: StudentOptions,
        optimizer: OptimizerOptions,
        micro_batch_size: int,
        generation: SamplingOptions,
        rewards: RewardOptions,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # checkpoints lack the frozen parameters; `on_load_checkpoint` checks the others
        self.student_options = student
        self.optimizer_options = optimizer
        self.micro_batch_size = micro_batch_size
        self.generation = generation
        self.rewards = RewardSum(rewards)
        self._decoders: dict[str, StaticDecoder] = {}

    # ---- set-up

    def setup(self, stage: str) -> None:
        """Load the student, once."""
        if not hasattr(self, "student"):
            self.student = load_policy(self.student_options)
        self._check_context()
        if stage == "fit" and self.student_options.attention == "flex" and self.device.type == "cpu":
            raise AvrtError(
                "FlexAttention cannot be trained on a CPU",
                where="model.student.attention",
                remedy="sdpa gives the same numbers",
            )
        self.book = AnswerBook(self.datamodule.question_types("test" if stage == "test" else "val"), self.rewards)

    def max_completion_length(self) -> int:
        """The longest answer in tokens that this module may make or be shown."""
        return max(self.generation.max_new_tokens, self.datamodule.prompt.max_response_tokens)

    def prompt_limit(self) -> int:
        """The longest prompt in tokens: what the data module says, or what the longest answer leaves of the context."""
        context = self.student.thinker.config.text_config.max_position_embeddings
        told = self.datamodule.prompt.max_prompt_tokens
        return context - self.max_completion_length() if told is None else told

    def _check_context(self) -> None:
        context = self.student.thinker.config.text_config.max_position_embeddings
        answer = self.max_completion_length()
        prompt = max(1, self.prompt_limit())
        if answer >= context:
            raise AvrtError(
                f"answers of {answer} tokens leave no room for a prompt in the model's context of {context}",
                where="max_new_tokens or data.prompt.max_response_tokens",
                remedy="lower it",
            )
        if prompt + answer > context:
            raise AvrtError(
                f"prompts of {prompt} and answers of {answer} tokens exceed the model's context of {context}",
                where="data.prompt.max_prompt_tokens",
                remedy="lower it; longer prompts are then left out and counted",
            )

    @property
    def datamodule(self) -> AVDataModule:
        """The data module of the trainer.

        Raises:
            AvrtError: If the trainer was given something else.
        """
        datamodule = getattr(self.trainer, "datamodule", None)
        if not isinstance(datamodule, AVDataModule):
            raise AvrtError("needs an AVDataModule", where="trainer.fit(datamodule=...)")
        return datamodule

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW over what is trainable, where the strategy wants it, with linear warm-up and cosine decay."""
        options = self.optimizer_options
        settings: dict[str, Any] = {
            "lr": options.lr, "betas": options.betas, "eps": options.eps, "weight_decay": options.weight_decay
        }  # fmt: skip
        parameters = [p for p in self.parameters() if p.requires_grad]
        strategy = self.trainer.strategy
        make = strategy.optimizer if isinstance(strategy, OmniDeepSpeedStrategy) else torch.optim.AdamW
        optimizer = make(parameters, **settings)
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, options.schedule(self._total_steps()))]

    def _steps_per_epoch(self) -> int:
        steps, limit = self.datamodule.train_plan.steps, self.trainer.limit_train_batches
        return min(steps, limit) if isinstance(limit, int) else int(steps * (1.0 if limit is None else limit))

    def _total_steps(self) -> int:
        epochs = self.trainer.max_epochs if self.trainer.max_epochs and self.trainer.max_epochs > 0 else 1
        total = self._steps_per_epoch() * epochs * self.num_iterations
        return min(total, self.trainer.max_steps) if self.trainer.max_steps > 0 else total

    def teardown(self, stage: str) -> None:
        """Write what the feature cache still holds in memory."""
        if self.student.cache is not None:
            self.student.cache.flush()

    # ---- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record what is needed to put the trained parameters back into a student."""
        checkpoint["student"] = asdict(replace(self.student_options, feature_cache=None))
        checkpoint["trained"] = self._trained_names()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of a student of another shape, and count its progress in this run's steps.

        Raises:
            AvrtError: If it lacks parameters that this student trains.
        """
        missing = set(self._trained_names()) - set(checkpoint.get("trained", ()))
        if missing:
            raise AvrtError(
                f"lacks {len(missing)} trained parameters, e.g. {min(missing)}",
                where="checkpoint",
                remedy="set model.student as in the run that made it",
            )
        if self.trainer.state.fn == TrainerFn.FITTING:
            self.datamodule.train_state = place_loops(checkpoint, self.datamodule.train_plan, self._steps_per_epoch())

    def _trained_names(self) -> list[str]:
        return [name for name, p in self.student.named_parameters() if p.requires_grad]

    # ---- steps

    @property
    def zero3(self) -> bool:
        """Whether parameters are partitioned, so that every forward pass is a collective."""
        strategy = self.trainer.strategy
        return isinstance(strategy, OmniDeepSpeedStrategy) and strategy.zero_stage_3

    def prompts(self, batch: OmniBatch) -> Prompts:
        """Encode a batch's clips, once, beside its prompts."""
        features = self.student.encode(batch, always=self.zero3)
        if (cache := self.student.cache) is not None and self.trainer.training:
            self.log("train/cached_features", cache.hits / max(1, cache.hits + cache.misses))
        return Prompts(batch.prompt_ids, batch.prompt_positions, features)

    def update(self, micro_batches: Sequence[MicroBatch], loss: Callable[[MicroBatch], Tensor]) -> None:
        """One optimizer step over micro-batches.

        Args:
            micro_batches: As many on every rank.
            loss: A micro-batch's share of the step's global loss, before averaging over ranks. It is multiplied by the
                number of ranks here, because gradients are averaged over them.
        """
        strategy, optimizer = self.trainer.strategy, self.optimizers()
        assert not isinstance(optimizer, list)
        engine = strategy.deepspeed_engine if isinstance(strategy, OmniDeepSpeedStrategy) else None
        if engine is None:
            optimizer.zero_grad()
        for i, micro_batch in enumerate(micro_batches):
            if engine is not None:
                engine.set_gradient_accumulation_boundary(i + 1 == len(micro_batches))
                # The engine's own forward pass would tell its optimizer that a new pass begins. Our passes do not go
                # through it, and without being told ZeRO-3 keeps the last micro-batch's gradients alone.
                engine.optimizer.clear_backward_seen_flag()
            self.manual_backward(loss(micro_batch) * self.trainer.world_size)
        optimizer.step()
        schedule = self.lr_schedulers()
        assert isinstance(schedule, torch.optim.lr_scheduler.LambdaLR)
        schedule.step()

    def micro_rows(self, count: int) -> list[list[int]]:
        """Row numbers of each micro-batch of `count` rows."""
        size = self.micro_batch_size
        return [list(range(i, min(i + size, count))) for i in range(0, count, size)]

    def sums(self, values: dict[str, Tensor | float]) -> dict[str, float]:
        """Sum scalars over all ranks, in one collective."""
        stacked = torch.tensor([float(v) for v in values.values()], dtype=torch.float64, device=self.device)
        reduced = self.trainer.strategy.reduce(stacked, reduce_op="sum")
        return dict(zip(values, reduced.tolist(), strict=True))

    def projection_chunks(self, tokens: int) -> int:
        """Chunks of the vocabulary projection; under ZeRO-3 the same number on every rank."""
        count = chunk_count(tokens)
        if not self.zero3:
            return count
        largest = torch.tensor(count, device=self.device)
        torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
        return int(largest)

    def fewest(self, count: int) -> int:
        """The smallest of the ranks' counts."""
        if self.trainer.world_size == 1:
            return count
        smallest = torch.tensor(count, device=self.device)
        torch.distributed.all_reduce(smallest, op=torch.distributed.ReduceOp.MIN)
        return int(smallest)

    def any_rank_running(self, running: bool) -> bool:
        """Whether any rank still decodes."""
        flag = torch.tensor(int(running), device=self.device)
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
        return bool(flag)

    def sample_answers(
        self, prompts: Prompts, samples: Sequence[Sample], options: SamplingOptions, group_size: int, *seed: int
    ) -> list[Completion]:
        """Generate answers with seeds that depend on `seed`, the sample and the answer's number alone."""
        seeds = [completion_seed(*seed, sample.id, g) for sample in samples for g in range(group_size)]
        was_training = self.student.training
        self.student.eval()  # with gradient checkpointing, layers in training mode would not use the cache
        try:
            return generate(
                self.student.text,
                prompts,
                options,
                eos_token_id=self.student.processor.tokenizer.eos_token_id,
                seeds=seeds,
                group_size=group_size,
                share_prefix=self.share_prefix,
                decoder=self._decoder(options),
                any_rank_running=self.any_rank_running if self.zero3 else None,
            )
        finally:
            self.student.train(was_training)

    def _decoder(self, options: SamplingOptions) -> StaticDecoder | None:
        if options.decoding == "growing":
            return None
        if not (self.share_prefix and self.student.text.supports_packing):
            raise AvrtError(
                f"{options.decoding} decoding needs shared prompts",
                where="decoding",
                remedy="set model.share_prefix: true and model.student.attention: sdpa, or decoding: growing",
            )
        if self.zero3 and options.decoding == "compiled":
            raise AvrtError(
                "a compiled step cannot gather the weights that ZeRO-3 scatters",
                where="decoding",
                remedy="use stage 2, or decoding: static",
            )
        if options.decoding not in self._decoders:
            self._decoders[options.decoding] = StaticDecoder(compiled=options.decoding == "compiled")
        return self._decoders[options.decoding]

    def decode(self, completion: Completion) -> str:
        """A completion's text without special tokens."""
        return str(self.student.processor.tokenizer.decode(completion.token_ids, skip_special_tokens=True))

    # ---- evaluation

    def answered(self) -> Collection[int]:
        """Positions of the test samples that were answered in an earlier run."""
        return ()

    def answer(self, batch: OmniBatch) -> list[dict[str, Any]]:
        """Answer each valid row; returns one JSON-able record per question."""
        completions = self.sample_answers(self.prompts(batch), batch.samples, self.generation, 1, 0)
        return [
            self.book.add(sample, self.decode(completion), finished=completion.finished)
            for sample, completion, valid in zip(batch.samples, completions, batch.valid.tolist(), strict=True)
            if valid
        ]

    def validation_step(self, batch: OmniBatch, batch_idx: int) -> None:
        """Answer greedily and count."""
        self.answer(batch)

    def test_step(self, batch: OmniBatch, batch_idx: int) -> None:
        """Answer greedily and count."""
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
