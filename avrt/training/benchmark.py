"""Benchmarks under `avrt test`: every question of a shard set asked once, journaled, scored, with its protocol."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler

from avrt.data.inputs.batch import OmniBatch
from avrt.data.loading.datamodule import AVDataModule, BatchRequirements
from avrt.data.shards.reader import ShardSet
from avrt.distributed import all_reduce_sum
from avrt.errors import AvrtError, BadSampleError, NothingUsableError
from avrt.evaluation.benchmark import BenchmarkOptions
from avrt.evaluation.protocol import NANO_WORLD, flatten, mask_name
from avrt.evaluation.records import PREDICTIONS, Journal, Prediction
from avrt.evaluation.result import Result, figures
from avrt.models.feature_cache import weights_hash
from avrt.objectives.rewards import RewardOptions
from avrt.policy.options import StudentOptions
from avrt.rollout.sampling import SamplingOptions, completion_seeds
from avrt.training.evaluation import EvaluationModule
from avrt.training.strategy import use_cpu
from avrt.training.trained_policy import policy_from_checkpoint

PACKAGES = ("avrt", "torch", "transformers", "lightning")


class BenchmarkModule(EvaluationModule):
    """Ask a student every question of a benchmark.

    Answers are journaled batch by batch in the run's folder (`trainer.default_root_dir`), so that a killed run goes on
    where it was; `predictions.jsonl` and `result.json` are written when every question has its answer.

    Args:
        student: Which student; with `--ckpt_path` the checkpoint says so itself.
        benchmark: What is asked, and how it is scored.
        label: What the student goes by in results and tables.
        generation: How answers are generated; greedy by default.
        rewards: Rewards, whose mean is logged beside accuracy.
        seed: Seed of answers that are drawn.
    """

    def __init__(
        self,
        student: StudentOptions = StudentOptions(),
        benchmark: BenchmarkOptions = BenchmarkOptions(),
        label: str = "student",
        generation: SamplingOptions = SamplingOptions(temperature=0.0, max_new_tokens=1024),
        rewards: RewardOptions = RewardOptions(),
        seed: int = 0,
    ) -> None:
        super().__init__(student, generation, rewards)
        if benchmark.samples > 1 and generation.temperature == 0:
            raise AvrtError(
                "several answers per question would all be the same at temperature 0",
                where="model.generation.temperature",
                remedy="set it to 1.0, or model.benchmark.samples to 1",
            )
        self.benchmark = benchmark
        self.label = label
        self.seed = seed
        self.checkpoint: Path | None = None
        self.config_text = ""
        self._asked = 0

    def load(self) -> None:
        """Load the policy: from the checkpoint that was given, or from its source."""
        if self.trainer.strategy.root_device.type == "cpu":
            use_cpu()
        if self.checkpoint is not None and not hasattr(self, "policy"):
            self.policy = policy_from_checkpoint(self.checkpoint)
        super().load()

    def connect_data(self, data: AVDataModule, stage: str) -> None:
        """Take the questions, and open the journal of their answers.

        Raises:
            AvrtError: If the stage is not `test`, or the folder holds answers given under another protocol.
        """
        super().connect_data(data, stage)
        if stage != "test":
            raise AvrtError("a benchmark can only be tested", where=f"avrt {stage}", remedy="use: avrt test")
        self.data, shards = data, data.shards("test")
        self.protocol = self._protocol(shards)
        self.journal = Journal(self.folder, self.protocol)
        self._answered = self.journal.answered()
        if self._answered:
            rank_zero_info(f"{len(self._answered)} of {len(shards)} questions are answered already")
        # Other ranks must not take what this one is about to write for answers of an earlier run.
        self.trainer.strategy.barrier("journal")

    def requirements(self) -> BatchRequirements:
        """Also which questions are answered already."""
        return replace(super().requirements(), answered=self._answered.keys())

    def setup(self, stage: str) -> None:
        """Begin to count time."""
        super().setup(stage)
        self._begun = time.perf_counter()

    @property
    def folder(self) -> Path:
        """Where everything is written."""
        return Path(self.trainer.default_root_dir)

    def max_completion_length(self) -> int:
        """The longest answer; traces are never read."""
        return self.generation.max_new_tokens

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """None: nothing is trained."""
        return None

    def test_step(self, batch: OmniBatch, batch_idx: int) -> None:
        """Answer a batch and journal the answers, also those of samples that could not be read."""
        count, shards = self.benchmark.samples, self.data.shards("test")
        seeds = completion_seeds((sample.id for sample in batch.samples), count, self.seed)
        prompts = self.policy.encode(batch)
        completions = self.policy.generate(prompts, self.generation, seeds=seeds, group_size=count)
        predictions = []
        for row, (position, valid) in enumerate(zip(batch.indices, batch.valid.tolist(), strict=True)):
            if position < 0 or position in self._answered:
                continue
            if not valid:
                predictions.append(_failed(shards, position, batch.skipped[shards.name(position)]))
                continue
            own = completions[row * count : (row + 1) * count]
            texts = tuple(self.policy.decode(completion.token_ids) for completion in own)
            finished = tuple(completion.finished for completion in own)
            predictions.append(Prediction.of(shards.sample(position), position, responses=texts, finished=finished))
            self.book.add(batch.samples[row], batch.clips[row], texts[0], finished=finished[0])
        if predictions:
            self.journal.add(predictions)
        self._asked += len(predictions)

    def on_test_epoch_end(self) -> None:
        """Merge all answers, score them and write the result."""
        seconds = time.perf_counter() - self._begun
        asked = all_reduce_sum({"asked": float(self._asked)}, self.device)["asked"]
        self.book.forget()
        self.prediction_file = self.folder / PREDICTIONS
        problem: str | None = None
        if self.trainer.is_global_zero:
            predictions = self.journal.merge(len(self.data.shards("test")))
            problem = nothing_to_score(predictions)
            if problem is None:
                self.result = self._result(predictions, seconds, asked)
                self.result.save(self.folder)
        # Every rank has to end where one does.
        if problem := self.trainer.strategy.broadcast(problem):
            raise NothingUsableError(
                problem, where=self.folder / PREDICTIONS, remedy="mend the shards and choose another folder"
            )
        if not self.trainer.is_global_zero:
            self.result = Result.load(self.folder / "result.json")
        headline = self.benchmark.rule
        for name, scored in self.result.scores.items():
            if scored["count"]:
                self.log(f"test/{name}/accuracy", scored["accuracy"], prog_bar=name == headline)
                self.log(f"test/{name}/unparsable", scored["unparsable_share"])

    def _result(self, predictions: list[Prediction], seconds: float, asked: float) -> Result:
        manifest = self.data.shards("test").manifest
        found = figures(predictions, self.benchmark, self.protocol, mask_name(self.protocol))
        found["counts"]["left_out_of_shards"] = len(manifest.skipped)
        found["counts"]["audio_cut"] = manifest.audio_cut
        if manifest.recipe.get("name") == NANO_WORLD and not found["benchmark"].startswith("nano"):
            rank_zero_info(f"questions of {NANO_WORLD} go by that name, not by {found['benchmark']}")
            found["benchmark"] = NANO_WORLD
        for difference in found["unfit"]:
            rank_zero_info(f"the shards do not fit {self.benchmark.protocol}'s way of asking: {difference}")
        environment = {
            "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
            "processes": self.trainer.world_size,
            "device": str(self.device.type),
            "batch_size": self.data.eval_batch_size,
            "source": str(self.checkpoint or self.student_options.source),
            "parameters": sum(p.numel() for p in self.policy.model.parameters()),
            "shards": str(self.data.folders["test"]),
            "asked": asked,
            "seconds": round(seconds, 3),
        }
        return Result(student=self.label, environment=environment, config=self.config_text, **found)

    def _protocol(self, shards: ShardSet) -> dict[str, Any]:
        """Everything that decides the score, and nothing else: no paths, speeds or numbers of processes."""
        prompt = asdict(self.data.prompt)
        for name in ("missing_trace", "max_response_tokens"):
            del prompt[name]  # of no concern without targets
        sampling = asdict(self.generation)
        del sampling["decoding"]  # the answers are the same
        options = asdict(self.policy.options)
        thinker = self.policy.model
        return flatten(
            {
                "prompt": prompt,
                "shuffle_audio": self.data.shuffle_audio,
                # what is stored for teachers beside a clip is never asked about
                "clips": {name: value for name, value in shards.manifest.spec.items() if name != "teacher_budget"},
                "sampling": sampling,
                "samples": self.benchmark.samples,
                "seed": self.seed if self.generation.temperature else 0,
                "shuffle_seed": self.data.seed if self.data.shuffle_audio else 0,
                "scorers": self.benchmark.scorers,
                "headline": self.benchmark.rule,
                "student": {
                    "weights": weights_hash(thinker),
                    "dtype": options["dtype"],
                    "attention": options["attention"],
                },
                "data": {"samples": len(shards), "media": _kinds(shards), "manifest": shards.digest[:16]},
            }
        )


def _kinds(shards: ShardSet) -> list[str]:
    """What the clips of some shards carry."""
    return sorted(kind for kind, count in shards.manifest.counts.items() if count)


def nothing_to_score(predictions: Sequence[Prediction]) -> str | None:
    """Why no figure can be had from predictions, or None."""
    known = [p for p in predictions if p.answer is not None]
    if not known:
        return f"none of the {len(predictions)} questions has a known answer, so nothing can be scored"
    if all(p.error is not None for p in known):
        return f"none of the {len(known)} questions could be asked; {known[0].id}: {known[0].error}"
    return None


def _failed(shards: ShardSet, position: int, reason: str) -> Prediction:
    try:
        return Prediction.of(shards.sample(position), position, error=reason)
    except BadSampleError:
        # Not even the record can be read: it counts as a question that was answered wrong.
        return Prediction(shards.name(position), "", ("", ""), "A", position=position, error=reason)
