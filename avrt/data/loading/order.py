"""The order of training samples: seeded, mixed from several sources by weight; on request from easy to hard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

_SLOTS = 1 << 20  # keeps the seeds of the mixing apart from those of the sources


@dataclass(frozen=True)
class Source:
    """One of the sets that samples come from, as the order sees it.

    Attributes:
        shards: Number of samples in each of its shards.
        weight: How often an epoch holds each of its samples on average.
    """

    shards: Sequence[int]
    weight: float = 1.0

    @property
    def samples(self) -> int:
        """Its samples."""
        return sum(self.shards)

    @property
    def per_epoch(self) -> int:
        """Its share of an epoch, the same in every epoch."""
        return max(1, round(self.samples * self.weight))


@dataclass(frozen=True)
class SampleOrder:
    """Global indices of every epoch's samples; source after source, they count through all samples.

    A source's samples come in endless rounds, each of which holds every sample once. An epoch takes as many as its
    weight says from where the last epoch stopped: with weight 1 every sample exactly once, with weight 0.25 every
    sample once in four epochs. The sources' samples are then mixed at random, each source keeping its own order.

    Attributes:
        sources: What is mixed.
        seed: Decides everything random.
        shuffle: Shuffle each round; otherwise samples come as they were written.
        shard_window: Shuffle the shards, and their samples only within so many neighbouring shards, so that few shards
            are in use at a time; 0 shuffles all samples.
        levels: Difficulty of each sample, 0 the easiest; an epoch begins with those. Empty for no such order.
        leveled_epochs: How many epochs are ordered so.
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
        """(samples,) the epoch's global order."""
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

    def taken(self, epoch: int, position: int) -> list[int]:
        """How many samples of each source have been taken up to a position in an epoch, from the first epoch on."""
        done = [source.per_epoch * epoch for source in self.sources]
        now = np.bincount(
            np.searchsorted(self._ends, self.epoch(epoch)[:position], side="right"), minlength=len(self.sources)
        )
        return [before + int(count) for before, count in zip(done, now, strict=True)]

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum([source.samples for source in self.sources])

    def _part(self, number: int, epoch: int) -> np.ndarray:
        """What an epoch takes of one source."""
        source = self.sources[number]
        start = epoch * source.per_epoch
        stop = start + source.per_epoch
        rounds = range(start // source.samples, -(-stop // source.samples))
        endless = np.concatenate([self._round(number, r) for r in rounds])
        offset = start - rounds.start * source.samples
        return endless[offset : offset + source.per_epoch] + int(self._ends[number]) - source.samples

    def _round(self, number: int, turn: int) -> np.ndarray:
        """(samples,) one source's samples, each once."""
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
