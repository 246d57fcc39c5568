"""Shuffled sound: each sample with the sound of another clip, to see what a student makes of sound not its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from avrt.data.shards.reader import ShardSet
from avrt.errors import BadSampleError

SOUND = "flac"


class ShuffledAudio:
    """Samples of a shard set with the sound of another one in place of their own.

    The donor is the next in a seeded order whose sound differs: questions about one clip share its sound. A sample
    without sound stays as it is.

    Args:
        shards: The samples.
        seed: Seed of the order.
    """

    def __init__(self, shards: ShardSet, seed: int = 0) -> None:
        self._shards = shards
        self._order = np.random.default_rng([seed, len(shards)]).permutation(len(shards))
        self._place = np.argsort(self._order)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._shards)

    def name(self, index: int) -> str:
        """What one sample goes by; see `ShardSet.name`."""
        return self._shards.name(index)

    def read(self, index: int) -> dict[str, Any]:
        """The raw members of one sample; see `ShardSet.read`.

        Raises:
            BadSampleError: If no other sound is to be had.
        """
        raw = self._shards.read(index)
        if SOUND in raw:
            raw[SOUND] = self._foreign(index, raw[SOUND])
        return raw

    def announce(self, index: int) -> None:
        """Say that a sample will be read before long; the donor of its sound comes unannounced."""
        self._shards.announce(index)

    def _foreign(self, index: int, own: bytes) -> bytes:
        count = len(self._shards)
        for step in range(1, count):
            donor = int(self._order[(self._place[index] + step) % count])
            sound: bytes | None = self._shards.read(donor, (SOUND,)).get(SOUND)
            if sound is not None and sound != own:
                return sound
        raise BadSampleError("no other clip has sound to swap with", where=self._shards.name(index))
