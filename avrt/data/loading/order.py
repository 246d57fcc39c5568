"""The order of training samples: seeded, mixed from several sources by weight, optionally from easy to hard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from avrt.data.parts import Parts

_SLOTS = 1 << 20  # tells the seeds of the mixing from those of the sources


@dataclass(frozen=True)
class Source:
    """The size and weight of one shard folder in a mixture.

    Attributes:
        shards: Number of samples in each of its shards.
        weight: How often an epoch holds each of its samples on average.
    """

    shards: Sequence[int]
    weight: float = 1.0

    @property
    def samples(self) -> int:
        """Number of samples."""
        return sum(self.shards)

    @property
    def per_epoch(self) -> int:
        """How many of its samples every epoch holds."""
        return max(1, round(self.samples * self.weight))


@dataclass(frozen=True)
class SampleOrder:
    """The order of every epoch's samples, as indices that count through all samples, source after source.

    A source's samples come in endless rounds, and each round holds every sample once. An epoch goes on where the last
    one stopped and takes as many samples as the weight says: with weight 1 every sample exactly once, with weight 0.25
    every sample once in four epochs. Then the sources are mixed at random, while each keeps its own order.

    Attributes:
        sources: The sources of the mixture.
        seed: Seed of everything random.
        shuffle: Shuffle each round; otherwise samples come in the order of the shards.
        shard_window: Shuffle the shards, and samples only within so many neighbouring shards, so that few shards are in
            use at a time; 0 shuffles all samples.
        levels: Difficulty of each sample; an epoch begins with level 0, the easiest. Empty for no such order.
        leveled_epochs: How many epochs are ordered by difficulty.
    """

    sources: tuple[Source, ...]
    seed: int = 0
    shuffle: bool = True
    shard_window: int = 0
    levels: tuple[int, ...] = ()
    leveled_epochs: int = 0

    def __len__(self) -> int:
        """Samples in an epoch."""
        return sum(source.per_epoch for source in self.sources)

    def epoch(self, epoch: int) -> np.ndarray:
        """(samples,) the order of an epoch."""
        parts = [self._part(number, epoch) for number in range(len(self.sources))]
        order = parts[0]
        if len(parts) > 1:
            slots = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
            if self.shuffle:
                slots = np.random.default_rng([self.seed, epoch, _SLOTS]).permutation(slots)
            order = np.empty(len(slots), dtype=np.int64)
            for number, part in enumerate(parts):
                order[slots == number] = part
        if self.levels and epoch < self.leveled_epochs:
            order = order[np.argsort(np.asarray(self.levels)[order], kind="stable")]
        return order

    def taken(self, epoch: int, consumed: int) -> list[int]:
        """How many samples of each source are taken in all once so much of an epoch is consumed."""
        now = self._numbers.count(self.epoch(epoch)[:consumed])
        return [source.per_epoch * epoch + count for source, count in zip(self.sources, now, strict=True)]

    @cached_property
    def _numbers(self) -> Parts:
        return Parts([source.samples for source in self.sources])

    def _part(self, number: int, epoch: int) -> np.ndarray:
        """The samples of one source in an epoch."""
        source = self.sources[number]
        start = epoch * source.per_epoch
        stop = start + source.per_epoch
        rounds = range(start // source.samples, -(-stop // source.samples))
        endless = np.concatenate([self._round(number, r) for r in rounds])
        offset = start - rounds.start * source.samples
        return endless[offset : offset + source.per_epoch] + self._numbers.start(number)

    def _round(self, number: int, turn: int) -> np.ndarray:
        """(samples,) one round of a source: each sample once."""
        source = self.sources[number]
        if not self.shuffle:
            return np.arange(source.samples)
        rng = np.random.default_rng([self.seed, turn] if number == 0 else [self.seed, turn, number])
        if not self.shard_window:
            return rng.permutation(source.samples)
        firsts = np.cumsum([0, *source.shards])
        shards = rng.permutation(len(source.shards))
        windows = [shards[i : i + self.shard_window] for i in range(0, len(shards), self.shard_window)]
        return np.concatenate(
            [rng.permutation(np.concatenate([np.arange(firsts[s], firsts[s + 1]) for s in w])) for w in windows]
        )
