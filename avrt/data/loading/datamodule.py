"""The LightningDataModule: shard folders for fitting, validation, test and prediction, or one clip to ask about."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_warn

from avrt.data.inputs.batch import OmniBatch
from avrt.data.inputs.media_inputs import MediaInputs
from avrt.data.inputs.preprocessor import Preprocessor
from avrt.data.inputs.prompt_options import PromptOptions, missing_target
from avrt.data.loading.dropout import ModalityDropout
from avrt.data.loading.mixture import Curriculum, Mixture, MixtureSource
from avrt.data.loading.plans import BlockPlan, EpochPlan
from avrt.data.loading.shuffled_audio import ShuffledAudio
from avrt.data.loading.stream import BatchStream, SampleSource, check_temporary_folder
from avrt.data.media.clip import ClipSpec
from avrt.data.media.student_frames import fitting
from avrt.data.sample import Modality, Sample
from avrt.data.shards.conversion import load_clip
from avrt.data.shards.manifest import check_patch_size
from avrt.data.shards.members import clip_media
from avrt.data.shards.reader import ShardSet
from avrt.errors import AvrtError, NothingUsableError

Location = str | Path
NAMED = 10
"""How many unusable samples a message names."""


@dataclass(frozen=True)
class Ask:
    """One question about one media file, for `avrt predict`.

    Attributes:
        clip: A video, picture or sound file.
        question: The question.
        choices: 2 to 26 options.
        spec: What is taken from the clip; all of its sound by default. Sizes are in pixels for tokens of `patch_size`;
            for a student with other tokens they become what as many of its own have, by its family's rule.
    """

    clip: Path
    question: str
    choices: list[str]
    spec: ClipSpec = field(default_factory=lambda: ClipSpec(audio_seconds=None))


@dataclass(frozen=True)
class BatchRequirements:
    """What batches are made for.

    Attributes:
        inputs: How the model's family prepares media and tokens.
        max_prompt_tokens: Longer prompts are refused as bad samples.
        traces: Whether training and validation samples are fine-tuned on, so that each needs a target.
        answers: Whether training samples are rewarded, so that each needs its right answer.
        answered: Places of the test samples that need no answer any more.
    """

    inputs: MediaInputs
    max_prompt_tokens: int
    traces: bool = False
    answers: bool = False
    answered: Collection[int] = ()


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

    What batches are made for is told by `connect`, after `setup` and before the first loader; under the modules of
    `avrt.training` a callback does that.

    Args:
        train: Shards to train on: a folder, an address (`https://...`, `s3://...`), or several of them with weights.
        val: Shards to validate on; a folder or an address, like the following.
        test: Shards to test on.
        predict: Shards to answer; or give `ask`.
        ask: One question about one file, to answer with `avrt predict`.
        batch_size: Samples per rank and optimizer step; the module splits them into micro-batches.
        eval_batch_size: Samples per rank and step in validation, test and prediction.
        num_workers: Processes per rank that decode ahead.
        seed: Seed of the order of training samples.
        shuffle: Whether training samples are shuffled anew each epoch.
        shuffle_audio: In evaluation, give each question the sound of another clip.
        shard_window: Shuffle shards, and samples only within so many neighbouring shards, so that few shards are in use
            at a time; 0 shuffles all samples.
        dropout: Take sound or pictures from training samples at random.
        curriculum: Begin epochs with easy samples.
        cache: Where copies of remote shards are kept; by default in the user's cache folder.
        cache_gigabytes: How much to keep of each remote folder; 0 for everything. Needs a `shard_window`.
        fetch_ahead: Remote shards are copied while a rank still has so many samples to read before they are needed; 0
            copies each when its first sample is read.
        keep_gigabytes: How much of what was read and prepared training and evaluation each keep in memory, for later
            epochs and for other questions about the same clip; on a CPU the towers need not run twice on a clip then
            either, and their features come on top. For `num_workers: 0`: workers keep nothing. Nor is anything kept
            with `dropout`, which changes clips anew each epoch.
        prompt: How samples are put to the student.
    """

    def __init__(
        self,
        train: list[MixtureSource] | Location | None = None,
        val: Location | None = None,
        test: Location | None = None,
        predict: Location | None = None,
        ask: Ask | None = None,
        batch_size: int = 8,
        eval_batch_size: int = 16,
        num_workers: int = 2,
        seed: int = 0,
        shuffle: bool = True,
        shuffle_audio: bool = False,
        shard_window: int = 0,
        dropout: ModalityDropout | None = None,
        curriculum: Curriculum | None = None,
        cache: Path | None = None,
        cache_gigabytes: float = 0.0,
        fetch_ahead: int = 256,
        keep_gigabytes: float = 0.0,
        prompt: PromptOptions | None = None,
    ) -> None:
        super().__init__()
        if keep_gigabytes < 0:
            raise AvrtError(f"is {keep_gigabytes:g}", where="data.keep_gigabytes", remedy="set 0 or more")
        self.sources = train if isinstance(train, list) else [MixtureSource(str(train))] if train else []
        self.folders = {"val": val, "test": test, "predict": predict}
        self.ask = ask
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.shuffle = shuffle
        self.shuffle_audio = shuffle_audio
        self.shard_window = shard_window
        self.dropout = dropout
        self.curriculum = curriculum or Curriculum()
        self.cache = cache
        self.cache_gigabytes = cache_gigabytes
        self.fetch_ahead = fetch_ahead
        self.keep_gigabytes = keep_gigabytes
        self.prompt = prompt or PromptOptions()
        self.mixture: Mixture | None = None
        self.train_state: dict[str, int] | None = None  # where a resumed run's training data go on
        self._shards: dict[str, ShardSet] = {}
        self._requirements: BatchRequirements | None = None
        self._train_plan: EpochPlan | None = None

    def setup(self, stage: str) -> None:
        """Open the shard folders that a stage needs.

        Raises:
            AvrtError: If one is not given or holds no shards, or worker processes cannot hand over batches here.
        """
        if self.num_workers and self.ask is None:
            check_temporary_folder()
        if stage == "fit":
            if not self.sources:
                raise AvrtError("no shards given", where="data.train", remedy="add --data.train DIR")
            self.mixture = Mixture(self.sources, [self.open(source.shards) for source in self.sources])
        split = {"fit": "val", "validate": "val", "test": "test", "predict": "predict"}[stage]
        location = self.folders[split]
        if location is not None:
            self._shards[split] = self.open(location)
            if not len(self._shards[split]):
                raise NothingUsableError("holds no samples", where=location, remedy=f"set data.{split} to other shards")
        elif stage != "fit" and not (split == "predict" and self.ask is not None):
            raise AvrtError("no shards given", where=f"data.{split}", remedy=f"add --data.{split} DIR")

    def check_training_samples(self, *, traces: bool, answers: bool) -> None:
        """Name the training samples that lack what a run needs, before it begins; they are left out of their batches.

        Args:
            traces: Whether they are fine-tuned on.
            answers: Whether their completions are rewarded.

        Raises:
            NothingUsableError: If every sample lacks it.
        """
        assert self.mixture is not None
        lacking = self.mixture.lacking(lambda s: missing_target(s, self.prompt, traces=traces, answers=answers))
        if not lacking:
            return
        why, count = next(iter(lacking.values())), len(self.mixture)
        if len(lacking) == count:
            raise NothingUsableError(f"none of the {count} samples can be trained on: {why}", where="data.train")
        names = ", ".join(list(lacking)[:NAMED]) + (", ..." if len(lacking) > NAMED else "")
        rank_zero_warn(f"{len(lacking)} of {count} training samples are left out, the first {why}: {names}")

    def connect(self, requirements: BatchRequirements) -> None:
        """Tell what batches are made for.

        Raises:
            AvrtError: If pictures were resized for another model family.
        """
        self._requirements = requirements
        trained_on = [] if self.mixture is None else self.mixture.sets
        for shards in [*trained_on, *self._shards.values()]:
            check_patch_size(shards.manifest, requirements.inputs.patch_factor, shards.folder)

    @property
    def requirements(self) -> BatchRequirements:
        """What batches are made for.

        Raises:
            AvrtError: If nobody has told.
        """
        if self._requirements is None:
            raise AvrtError("does not know its model", where="AVDataModule", remedy="call connect() first")
        return self._requirements

    def open(self, location: Location) -> ShardSet:
        """Open a shard folder or address."""
        return ShardSet(location, self.cache, self.cache_gigabytes)

    def digests(self) -> dict[str, str]:
        """Option -> checksum of the shards that it names, of all that are open."""
        trained_on = [] if self.mixture is None else [shards.digest for shards in self.mixture.sets]
        evaluated = {f"data.{split}": shards.digest for split, shards in self._shards.items()}
        return evaluated | ({"data.train": " ".join(trained_on)} if trained_on else {})

    def question_types(self, split: str) -> list[str]:
        """The question types of a split, sorted."""
        return sorted(self._shards[split].manifest.question_types) if split in self._shards else []

    @property
    def train_plan(self) -> EpochPlan:
        """Which training sample goes where."""
        assert self.trainer is not None
        assert self.mixture is not None
        if self._train_plan is None:
            order = self.mixture.order(self.seed, self.shuffle, self.shard_window, self.curriculum)
            self._train_plan = EpochPlan(order, self.batch_size, self.trainer.world_size)
        return self._train_plan

    def train_dataloader(self) -> BatchStream:
        """The training batches; resumable."""
        assert self.trainer is not None
        assert self.mixture is not None
        rank, preprocessor = self.trainer.global_rank, self._preprocessor("train")
        stream = BatchStream(
            self.mixture, self.train_plan, rank, preprocessor, self.num_workers, self.dropout, self.fetch_ahead,
            self.keep_gigabytes,
        )  # fmt: skip
        if self.train_state is not None:
            stream.load_state_dict(self.train_state)
        return stream

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

    def _stream(self, split: str) -> BatchStream:
        assert self.trainer is not None
        shards = self._shards[split]
        source: SampleSource = ShuffledAudio(shards, self.seed) if self.shuffle_audio else shards
        done = self.requirements.answered if split == "test" else ()
        plan = BlockPlan(len(shards), self.eval_batch_size, self.trainer.world_size, frozenset(done))
        rank, preprocessor = self.trainer.global_rank, self._preprocessor(split)
        return BatchStream(
            source, plan, rank, preprocessor, self.num_workers, None, self.fetch_ahead, self.keep_gigabytes
        )

    def _preprocessor(self, split: str) -> Preprocessor:
        needed = self.requirements
        options = replace(self.prompt, max_prompt_tokens=needed.max_prompt_tokens)
        targets, answers = split in ("train", "val") and needed.traces, split == "train" and needed.answers
        return Preprocessor(needed.inputs, options, targets=targets, answers=answers)

    def _asked(self, ask: Ask) -> OmniBatch:
        if not ask.clip.is_file():
            raise AvrtError("no such file", where=ask.clip, remedy="set data.ask.clip to a video, picture or sound")
        spec = fitting(ask.spec, self.requirements.inputs.patch_factor)
        clip = load_clip({Modality.named(ask.clip.name): ask.clip}, spec)
        sample = Sample(
            id=ask.clip.name, question=ask.question, choices=tuple(ask.choices), answer=None, media=clip_media(clip)
        )
        assert self.trainer is not None
        preprocessor = self._preprocessor("predict")
        return preprocessor.row(sample, clip) if self.trainer.is_global_zero else preprocessor.padding_row()
