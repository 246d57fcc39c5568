"""The LightningDataModule: shard folders for fitting, validation, test and prediction, or one clip to ask about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from avrt.data.conversion import SourceItem, load_clip
from avrt.data.inputs import InputBuilder, OmniBatch, PromptOptions
from avrt.data.media import ClipSpec
from avrt.data.members import clip_media
from avrt.data.plans import BlockPlan, EpochPlan, Plan
from avrt.data.sample import Modality, Sample
from avrt.data.shards import ShardSet
from avrt.data.stream import BatchStream, SampleSource
from avrt.data.swap import SwappedSounds
from avrt.errors import AvrtError

_PICTURES = {".jpg", ".jpeg", ".png", ".webp"}
_SOUNDS = {".wav", ".flac", ".mp3", ".ogg", ".m4a"}


@dataclass(frozen=True)
class Ask:
    """One question about one media file, for `avrt predict`.

    Attributes:
        clip: A video, picture or sound file.
        question: The question.
        choices: 2 to 26 options.
        spec: What is taken from the clip.
    """

    clip: Path
    question: str
    choices: list[str]
    spec: ClipSpec = field(default_factory=ClipSpec)


class OneBatch:
    """A loader of a single batch; a list would be taken for several loaders.

    Args:
        batch: The batch.
    """

    def __init__(self, batch: OmniBatch) -> None:
        self._batch = batch

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[OmniBatch]:
        yield self._batch


class AVDataModule(pl.LightningDataModule):
    """Batches from shard folders.

    Model inputs need the student's processor: it is taken from the trainer's module, which has `student` (with
    `processor` and `ids`), `needs_traces`, and `answered()`, which tells the test samples that need no answer any more.

    Args:
        train: Shards to train on.
        val: Shards to validate on.
        test: Shards to test on.
        predict: Shards to answer; or give `ask`.
        ask: One question about one file, to answer with `avrt predict`.
        batch_size: Samples per rank and optimizer step; the module splits them into micro-batches.
        eval_batch_size: Samples per rank and step in validation, test and prediction.
        num_workers: Processes per rank that decode ahead.
        seed: Seed of the order of training samples.
        shuffle: Whether training samples are shuffled anew each epoch.
        shuffle_sound: In evaluation, give each question the sound of another clip.
        prompt: How samples are put to the student.
    """

    def __init__(
        self,
        train: Path | None = None,
        val: Path | None = None,
        test: Path | None = None,
        predict: Path | None = None,
        ask: Ask | None = None,
        batch_size: int = 8,
        eval_batch_size: int = 16,
        num_workers: int = 2,
        seed: int = 0,
        shuffle: bool = True,
        shuffle_sound: bool = False,
        prompt: PromptOptions | None = None,
    ) -> None:
        super().__init__()
        self.folders = {"train": train, "val": val, "test": test, "predict": predict}
        self.ask = ask
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.shuffle = shuffle
        self.shuffle_sound = shuffle_sound
        self.prompt = prompt or PromptOptions()
        self._shards: dict[str, ShardSet] = {}

    def setup(self, stage: str) -> None:
        """Open the shard folders that a stage needs.

        Raises:
            AvrtError: If one is not given or holds no shards.
        """
        needed = {"fit": ["train", "val"], "validate": ["val"], "test": ["test"], "predict": ["predict"]}[stage]
        for split in needed:
            folder = self.folders[split]
            if folder is not None:
                self._shards[split] = ShardSet(folder)
            elif split != "val" or stage == "validate":
                if split == "predict" and self.ask is not None:
                    continue
                raise AvrtError("no shards given", where=f"data.{split}", remedy=f"add --data.{split} DIR")

    def question_types(self, split: str) -> list[str]:
        """The question types of a split, sorted."""
        return sorted(self._shards[split].manifest.question_types) if split in self._shards else []

    def train_steps(self) -> int:
        """Training steps per epoch."""
        return self._plan("train").steps

    def train_dataloader(self) -> BatchStream:
        """The training batches; resumable."""
        return self._stream("train")

    def val_dataloader(self) -> BatchStream | list[OmniBatch]:
        """The validation batches, in order; none if no folder is given."""
        return self._stream("val") if "val" in self._shards else []

    def test_dataloader(self) -> BatchStream:
        """The test batches, in order."""
        return self._stream("test")

    def predict_dataloader(self) -> BatchStream | OneBatch:
        """The batches to answer: a shard folder's, or the one question of `ask`."""
        if self.ask is None:
            return self._stream("predict")
        return OneBatch(self._asked(self.ask))

    def shards(self, split: str) -> ShardSet:
        """The opened shards of a split."""
        return self._shards[split]

    def _plan(self, split: str) -> Plan:
        assert self.trainer is not None
        samples, world_size = len(self._shards[split]), self.trainer.world_size
        if split == "train":
            return EpochPlan(samples, self.batch_size, world_size, self.seed, self.shuffle)
        module: Any = self.trainer.lightning_module
        done = module.answered() if split == "test" else ()
        return BlockPlan(samples, self.eval_batch_size, world_size, frozenset(done))

    def _stream(self, split: str) -> BatchStream:
        assert self.trainer is not None
        source: SampleSource = self._shards[split]
        if self.shuffle_sound and split != "train":
            source = SwappedSounds(self._shards[split], self.seed)
        builder, plan = self._builder(split), self._plan(split)
        return BatchStream(source, plan, self.trainer.global_rank, builder, num_workers=self.num_workers)

    def _builder(self, split: str) -> InputBuilder:
        assert self.trainer is not None
        module: Any = self.trainer.lightning_module
        targets = split in ("train", "val") and module.needs_traces
        return InputBuilder(module.student.processor, module.student.ids, self.prompt, targets=targets)

    def _asked(self, ask: Ask) -> OmniBatch:
        if not ask.clip.is_file():
            raise AvrtError("no such file", where=ask.clip, remedy="set data.ask.clip to a video, picture or sound")
        suffix = ask.clip.suffix.lower()
        kind = Modality.IMAGE if suffix in _PICTURES else Modality.AUDIO if suffix in _SOUNDS else Modality.VIDEO
        draft = Sample(id=ask.clip.name, question=ask.question, choices=tuple(ask.choices), answer=None)
        clip = load_clip(SourceItem(draft, {kind: ask.clip}), ask.spec)
        sample = Sample(
            id=draft.id, question=draft.question, choices=draft.choices, answer=None, media=clip_media(clip)
        )
        assert self.trainer is not None
        builder = self._builder("predict")
        return builder.row(sample, clip) if self.trainer.is_global_zero else builder.filler()
