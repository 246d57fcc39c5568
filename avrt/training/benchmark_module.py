"""Benchmarks under `avrt test`: every question of a shard set asked once, journaled and scored by its protocol."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from avrt.data.inputs.batch import OmniBatch
from avrt.data.loading.datamodule import AVDataModule, BatchRequirements
from avrt.data.shards.reader import ShardSet
from avrt.distributed import all_reduce_sum, gather_objects
from avrt.errors import AvrtError, NothingUsableError
from avrt.evaluation.benchmark_options import BenchmarkOptions
from avrt.evaluation.predictions import Prediction, PredictionWriter
from avrt.evaluation.protocol import NANO_WORLD, NATIVE, VLLM, flatten, mask_name
from avrt.evaluation.result import Result, result_fields
from avrt.evaluation.runner import answer
from avrt.models.feature_cache import weights_hash
from avrt.policy.student_options import StudentOptions
from avrt.policy.vllm.options import VLLMOptions
from avrt.rollout.sampling import SamplingOptions
from avrt.training.evaluation_module import EvaluationModule
from avrt.training.nodes import OnNodes
from avrt.training.trained_policy import policy_from_checkpoint

SETTINGS_OF_SPEED = frozenset(
    ("gpu_memory_utilization", "kv_cache_memory_bytes", "max_model_len", "max_num_seqs", "max_num_batched_tokens",
     "enforce_eager", "swap_space", "cpu_offload_gb", "disable_log_stats", "limit_mm_per_prompt", "load_format")
)  # fmt: skip
"""Settings of vLLM for memory and speed, which a run may change and still be the same."""
PACKAGES = ("avrt", "torch", "transformers", "lightning")


class BenchmarkModule(EvaluationModule):
    """Ask a student every question of a benchmark.

    Answers are journaled batch by batch in the run's folder (`trainer.default_root_dir`), so that a killed run can be
    resumed. `predictions.jsonl` and `result.json` are written when every question has its answer.

    Args:
        student: Which student; with `--ckpt_path` the checkpoint decides.
        benchmark: The benchmark and how it is scored.
        label: The student's label in results and tables.
        generation: How answers are generated; greedy by default.
        seed: Seed of sampled answers.
        vllm: Let vLLM answer instead of the native engine; the result says so.
    """

    shards: ShardSet

    def __init__(
        self,
        student: StudentOptions = StudentOptions(),
        benchmark: BenchmarkOptions = BenchmarkOptions(),
        label: str = "student",
        generation: SamplingOptions = SamplingOptions(temperature=0.0, max_new_tokens=1024),
        seed: int = 0,
        vllm: VLLMOptions | None = None,
    ) -> None:
        super().__init__(student, generation, vllm=vllm)
        if benchmark.samples > 1 and generation.temperature == 0:
            raise AvrtError(
                "several answers per question would all be the same at temperature 0",
                where="model.generation.temperature",
                remedy="set it to 1.0, or model.benchmark.samples to 1",
            )
        self.benchmark = benchmark
        self.label = label
        self.seed = seed
        self.config_text = ""
        self._asked = 0

    # ---- set-up

    def check_stage(self, stage: str) -> None:
        """Refuse every stage but `test`.

        Raises:
            AvrtError: If it is another one.
        """
        if stage != "test":
            raise AvrtError("a benchmark can only be tested", where=f"avrt {stage}", remedy="use: avrt test")

    def load(self) -> None:
        """Load the policy from the given checkpoint, or from its source."""
        if self.checkpoint is not None and not hasattr(self, "policy"):
            self.policy = policy_from_checkpoint(self.checkpoint)
        super().load()

    def connect_data(self, data: AVDataModule, stage: str) -> None:
        """Take also what the protocol and the result record of the data, and open the journal.

        Raises:
            AvrtError: If the folder holds answers under another protocol.
        """
        super().connect_data(data, stage)
        self._batch_size = data.eval_batch_size
        self._shards_location = str(data.folders["test"])
        self._shuffle_audio, self._shuffle_seed = data.shuffle_audio, data.seed
        self.protocol = self._protocol()
        self._journal = PredictionWriter(self.folder, self.protocol)
        self._answered = self._journal.answered() | answered_elsewhere(self._journal, self.trainer.strategy)
        if self._answered:
            rank_zero_info(f"{len(self._answered)} of {len(self.shards)} questions are answered already")
        # No rank may take the answers that another one is about to write for those of an earlier run.
        self.trainer.strategy.barrier("journal")

    def requirements(self) -> BatchRequirements:
        """Also which questions are answered already."""
        return replace(super().requirements(), answered=self._answered.keys())

    def setup(self, stage: str) -> None:
        """Start the clock too."""
        super().setup(stage)
        self._started = time.perf_counter()

    def open_writer(self) -> PredictionWriter:
        """The writer with the journal."""
        return self._journal

    @property
    def folder(self) -> Path:
        """The output folder."""
        return Path(self.trainer.default_root_dir)

    def max_completion_length(self) -> int:
        """The longest answer in tokens; there are no target completions."""
        return self.generation.max_new_tokens

    # ---- evaluation

    def test_step(self, batch: OmniBatch, batch_idx: int) -> None:
        """Ask the questions of a batch and journal the predictions, also those of samples that could not be read."""
        predictions = answer(
            self.policy,
            batch,
            self.generation,
            samples=self.benchmark.samples,
            seed=(self.seed,),
            shards=self.shards,
        )
        new = [prediction for prediction in predictions if prediction.index not in self._answered]
        self.writer.add(new)
        self._asked += len(new)

    def on_test_epoch_end(self) -> None:
        """Merge the journals of all ranks, score the predictions and write the result."""
        self.end_answers()
        seconds = time.perf_counter() - self._started
        asked = all_reduce_sum({"asked": float(self._asked)}, self.device)["asked"]
        problem: str | None = None
        result: Result | None = None
        elsewhere = answered_elsewhere(self._journal, self.trainer.strategy)
        if self.trainer.is_global_zero:
            predictions = self.writer.merge(len(self.shards), elsewhere)
            self.writer.write(predictions)
            problem = nothing_to_score(predictions)
            if problem is None:
                result = self._result(predictions, seconds, asked)
                result.save(self.folder)
        # All ranks have to stop if one does.
        if problem := self.trainer.strategy.broadcast(problem):
            raise NothingUsableError(
                problem, where=self.writer.path, remedy="repair the shards and choose another folder"
            )
        result = self.trainer.strategy.broadcast(result)
        assert result is not None
        self.result = result
        for name, score in self.result.scores.items():
            if score["count"]:
                self.log(f"test/{name}/accuracy", score["accuracy"], prog_bar=name == self.result.headline)
                self.log(f"test/{name}/unparsable", score["unparsable_share"])

    def _result(self, predictions: list[Prediction], seconds: float, asked: float) -> Result:
        """The result of all predictions."""
        manifest = self.shards.manifest
        fields = result_fields(predictions, self.benchmark, self.protocol, mask_name(self.protocol))
        fields["counts"]["left_out_of_shards"] = len(manifest.skipped)
        fields["counts"]["audio_cut"] = manifest.audio_cut
        if manifest.recipe.get("name") == NANO_WORLD and not fields["benchmark"].startswith("nano"):
            rank_zero_info(f"these are questions of {NANO_WORLD}: the result has that name, not {fields['benchmark']}")
            fields["benchmark"] = NANO_WORLD
        for mismatch in fields["shard_mismatches"]:
            rank_zero_info(f"the shards do not match the protocol {self.benchmark.protocol}: {mismatch}")
        environment = {
            "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
            "processes": self.trainer.world_size,
            "device": str(self.device.type),
            "batch_size": self._batch_size,
            "decoding": self.policy.decoding_of(self.generation) if self.vllm is None else None,
            "source": str(self.checkpoint or self.student_options.source),
            "parameters": sum(p.numel() for p in self.policy.model.parameters()),
            "shards": self._shards_location,
            "asked": asked,
            "seconds": round(seconds, 3),
        }
        return Result(student=self.label, environment=environment, config=self.config_text, **fields)

    def _protocol(self) -> dict[str, Any]:
        """Everything that decides the score, and nothing else: no paths, speeds or numbers of processes."""
        prompt = asdict(self.prompt_options)
        for name in ("missing_trace", "max_response_tokens"):
            del prompt[name]  # only matter for targets
        sampling = asdict(self.generation)
        for name in ("decoding", "prompts_at_once"):
            del sampling[name]  # the answers are the same
        options, manifest = self.policy.options, self.shards.manifest
        return flatten(
            {
                "prompt": prompt,
                "shuffle_audio": self._shuffle_audio,
                # what the shards store for teachers is not part of the questions
                "clips": {name: value for name, value in manifest.spec.items() if name != "teacher_budget"},
                "sampling": sampling,
                "samples": self.benchmark.samples,
                "engine": self._engine(),
                "seed": self.seed if self.generation.temperature else 0,
                "shuffle_seed": self._shuffle_seed if self._shuffle_audio else 0,
                "scorers": self.benchmark.scorers,
                "headline": self.benchmark.headline_scorer,
                "student": {
                    "weights": weights_hash(self.policy.model),
                    "dtype": options.dtype,
                    "attention": options.attention,
                },
                "data": {
                    "samples": len(self.shards),
                    "media": sorted(kind for kind, count in manifest.counts.items() if count),
                    "manifest": self.shards.digest[:16],
                },
            }
        )

    def _engine(self) -> dict[str, Any]:
        """Which engine answers, with what of its settings may change an answer."""
        if self.vllm is None or self.vllm_options is None:
            return {"name": NATIVE}
        settings = {k: v for k, v in self.vllm_options.settings.items() if k not in SETTINGS_OF_SPEED}
        return {"name": VLLM, "version": self.vllm.version, "settings": settings}


def answered_elsewhere(journal: PredictionWriter, strategy: Any) -> dict[int, Prediction]:
    """What the journals of all nodes hold, where these do not share a folder; every rank has to call it.

    Args:
        journal: The journal of this node.
        strategy: Lightning's strategy.
    """
    if not isinstance(strategy, OnNodes) or strategy.files_are_shared:
        return {}
    each = gather_objects(journal.answered() if strategy.keeps_files else {})
    return {index: prediction for part in each for index, prediction in part.items()}


def nothing_to_score(predictions: Sequence[Prediction]) -> str | None:
    """Why predictions cannot be scored, or None if they can."""
    known = [p for p in predictions if p.answer is not None]
    if not known:
        return f"none of the {len(predictions)} questions has a known answer, so nothing can be scored"
    if all(p.error is not None for p in known):
        return f"none of the {len(known)} questions could be asked; {known[0].id}: {known[0].error}"
    return None
