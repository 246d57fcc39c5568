"""Training on several shard folders at once, with weights, and from easy to hard."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from avrt.data.loading.order import SampleOrder, Source
from avrt.data.sample import Sample
from avrt.data.shards.reader import ShardSet
from avrt.data.shards.remote import is_remote
from avrt.errors import AvrtError, BadSampleError, NothingUsableError


@dataclass(frozen=True)
class MixtureSource:
    """One shard folder of a mixture.

    Attributes:
        shards: Its folder or address.
        weight: How often an epoch holds each of its samples: 2 is twice, 0.25 every sample once in four epochs.
        name: What TensorBoard calls it; by default the folder's last part.
    """

    shards: str
    weight: float = 1.0
    name: str | None = None

    def __post_init__(self) -> None:
        """Refuse weights that take nothing."""
        if not self.weight > 0:
            raise ValueError(f"data.train: weight {self.weight} of {self.shards}, needs more than 0")

    @property
    def label(self) -> str:
        """Its name."""
        return self.name or re.split(r"[/\\]", self.shards.rstrip("/"))[-1]


@dataclass(frozen=True)
class Curriculum:
    """From easy to hard.

    Attributes:
        epochs: How many epochs begin with the easy samples; later ones are shuffled as usual.
        levels: Values of a sample's `difficulty`, which `avrt traces` writes, from easy to hard. Samples with another
            one, or none, come last.
    """

    epochs: int = 0
    levels: list[str] = field(default_factory=lambda: ["easy", "medium", "hard"])


class Mixture:
    """The samples of several shard sets, one set after the other.

    Args:
        sources: Weights and names.
        sets: The opened sets, in the same order.

    Raises:
        AvrtError: If one is empty, or two have the same name.
    """

    def __init__(self, sources: Sequence[MixtureSource], sets: Sequence[ShardSet]) -> None:
        self.sources = sources
        self._sets = sets
        self._ends = np.cumsum([len(shards) for shards in sets])
        labels = [source.label for source in sources]
        for source, shards in zip(sources, sets, strict=True):
            if not len(shards):
                raise NothingUsableError(
                    "holds no samples", where=source.shards, remedy="set data.train to other shards"
                )
            if labels.count(source.label) > 1:
                raise AvrtError(f"two sources are called {source.label}", where="data.train", remedy="give them names")

    def __len__(self) -> int:
        """Number of samples of all sources."""
        return int(self._ends[-1])

    def read(self, index: int) -> dict[str, Any]:
        """The raw members of one sample; see `ShardSet.read`."""
        shards, place = self._locate(index)
        return shards.read(place)

    def name(self, index: int) -> str:
        """What one sample goes by in messages; see `ShardSet.name`."""
        shards, place = self._locate(index)
        return shards.name(place)

    def announce(self, index: int) -> None:
        """Say that a sample will be read before long; see `ShardSet.announce`."""
        shards, place = self._locate(index)
        shards.announce(place)

    def lacking(self, reason: Callable[[Sample], str | None]) -> dict[str, str]:
        """Id -> reason of each sample that `reason` has one for; of local shards, since remote ones would be copied."""
        found: dict[str, str] = {}
        for source, shards in zip(self.sources, self._sets, strict=True):
            for i in range(0 if is_remote(source.shards) else len(shards)):
                try:
                    sample = shards.sample(i)
                except BadSampleError:
                    continue  # it is named when it is read
                if why := reason(sample):
                    found[sample.id] = why
        return found

    def order(self, seed: int, shuffle: bool, shard_window: int, curriculum: Curriculum) -> SampleOrder:
        """The order in which it is trained on.

        Raises:
            AvrtError: If a curriculum is asked for and no sample has one of its levels.
        """
        sources = tuple(
            Source(tuple(shards.shard_sizes), source.weight)
            for source, shards in zip(self.sources, self._sets, strict=True)
        )
        levels: tuple[int, ...] = ()
        if curriculum.epochs:
            levels = tuple(_level(sample, curriculum.levels) for shards in self._sets for sample in shards.samples())
            if all(level == len(curriculum.levels) for level in levels):
                raise AvrtError(
                    f"no sample has a difficulty among {curriculum.levels}",
                    where="data.curriculum",
                    remedy="label the shards with: avrt traces run --label_all true",
                )
        return SampleOrder(sources, seed, shuffle, shard_window, levels, curriculum.epochs)

    def _locate(self, index: int) -> tuple[ShardSet, int]:
        number = int(np.searchsorted(self._ends, index, side="right"))
        return self._sets[number], index - int(self._ends[number]) + len(self._sets[number])


def _level(sample: Sample, levels: Sequence[str]) -> int:
    difficulty = sample.metadata.get("difficulty")
    return levels.index(difficulty) if difficulty in levels else len(levels)
