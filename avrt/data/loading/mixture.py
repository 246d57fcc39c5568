"""Training on several shard folders at once: weights, and a curriculum from easy to hard."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from avrt.data.loading.order import SampleOrder, Source
from avrt.data.parts import Parts
from avrt.data.sample import Sample
from avrt.data.shards.reader import ShardSet
from avrt.errors import AvrtError, BadSampleError, NothingUsableError
from avrt.remote.stores import is_remote


@dataclass(frozen=True)
class MixtureSource:
    """One shard folder of a mixture.

    Attributes:
        shards: Its folder or address.
        weight: How often an epoch holds each of its samples: 2 is twice, 0.25 is once in four epochs.
        name: Its name in TensorBoard; by default the last part of the folder.
    """

    shards: str
    weight: float = 1.0
    name: str | None = None

    def __post_init__(self) -> None:
        """Refuse weights that take no sample."""
        if not self.weight > 0:
            raise ValueError(f"data.train: weight {self.weight} of {self.shards}, needs more than 0")

    @property
    def label(self) -> str:
        """Its name in TensorBoard."""
        return self.name or re.split(r"[/\\]", self.shards.rstrip("/"))[-1]


@dataclass(frozen=True)
class Curriculum:
    """Training from easy to hard.

    Attributes:
        epochs: How many epochs begin with the easy samples; later epochs are shuffled as usual.
        levels: Values of a sample's `difficulty`, which `avrt traces` writes, from easy to hard. Samples with another
            value or none come last.
    """

    epochs: int = 0
    levels: list[str] = field(default_factory=lambda: ["easy", "medium", "hard"])


class Mixture:
    """The samples of several shard sets, one set after the other.

    Args:
        sources: Weights and names.
        sets: The opened shard sets, in the same order.

    Raises:
        AvrtError: If a set is empty, or two sources have the same name.
    """

    def __init__(self, sources: Sequence[MixtureSource], sets: Sequence[ShardSet]) -> None:
        self.sources = sources
        self.sets = sets
        self._numbers = Parts([len(shards) for shards in sets])
        labels = [source.label for source in sources]
        for source, shards in zip(sources, sets, strict=True):
            if not len(shards):
                raise NothingUsableError(
                    "holds no samples", where=source.shards, remedy="set data.train to other shards"
                )
            if labels.count(source.label) > 1:
                raise AvrtError(f"two sources are called {source.label}", where="data.train", remedy="give each a name")

    def __len__(self) -> int:
        """Number of samples of all sources."""
        return len(self._numbers)

    def read(self, index: int) -> dict[str, Any]:
        """The raw members of one sample, as `ShardSet.read` returns them."""
        shards, place = self._locate(index)
        return shards.read(place)

    def name(self, index: int) -> str:
        """The name of one sample in messages: its shard and key."""
        shards, place = self._locate(index)
        return shards.name(place)

    def prefetch(self, index: int) -> None:
        """Start to copy the shard of a sample, if it is remote, since the sample will be read soon."""
        shards, place = self._locate(index)
        shards.prefetch(place)

    def lacking(self, reason: Callable[[Sample], str | None]) -> dict[str, str]:
        """Id -> reason of each sample for which `reason` returns one; samples of remote shards are not checked."""
        found: dict[str, str] = {}
        for source, shards in zip(self.sources, self.sets, strict=True):
            for i in range(0 if is_remote(source.shards) else len(shards)):
                try:
                    sample = shards.sample(i)
                except BadSampleError:
                    continue  # reported when the sample is read
                if why := reason(sample):
                    found[sample.id] = why
        return found

    def order(self, seed: int, shuffle: bool, shard_window: int, curriculum: Curriculum) -> SampleOrder:
        """The order of its samples in training; the arguments are those of the data module.

        Raises:
            AvrtError: If there is a curriculum and no sample has one of its levels.
        """
        sources = tuple(
            Source(tuple(shards.shard_sizes), source.weight)
            for source, shards in zip(self.sources, self.sets, strict=True)
        )
        levels: tuple[int, ...] = ()
        if curriculum.epochs:
            levels = tuple(_level(sample, curriculum.levels) for shards in self.sets for sample in shards.samples())
            if all(level == len(curriculum.levels) for level in levels):
                raise AvrtError(
                    f"no sample has a difficulty among {curriculum.levels}",
                    where="data.curriculum",
                    remedy="label the shards with: avrt traces run --label_all true",
                )
        return SampleOrder(sources, seed, shuffle, shard_window, levels, curriculum.epochs)

    def _locate(self, index: int) -> tuple[ShardSet, int]:
        number, place = self._numbers.locate(index)
        return self.sets[number], place


def _level(sample: Sample, levels: Sequence[str]) -> int:
    difficulty = sample.metadata.get("difficulty")
    return levels.index(difficulty) if difficulty in levels else len(levels)
