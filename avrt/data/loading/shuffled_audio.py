"""Shuffled audio: each sample gets the sound of another clip, to measure whether a student listens."""

from __future__ import annotations

from typing import Any

import numpy as np

from avrt.data.shards.reader import ShardSet
from avrt.errors import BadSampleError

SOUND = "flac"


class ShuffledAudio:
    """The samples of a shard set, each with the sound of another sample.

    The donor is the next sample in a seeded order whose sound differs, since questions about one clip share its sound.
    A sample without sound stays as it is.

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
        """The name of one sample in messages: its shard and key."""
        return self._shards.name(index)

    def read(self, index: int) -> dict[str, Any]:
        """The raw members of one sample, as `ShardSet.read` returns them, with the sound of its donor.

        Raises:
            BadSampleError: If no other sample has another sound.
        """
        raw = self._shards.read(index)
        if SOUND in raw:
            raw[SOUND] = self._foreign(index, raw[SOUND])
        return raw

    def prefetch(self, index: int) -> None:
        """Start to copy the shard of a sample, but not that of its donor."""
        self._shards.prefetch(index)

    def _foreign(self, index: int, own: bytes) -> bytes:
        """The sound of a sample's donor."""
        count = len(self._shards)
        for step in range(1, count):
            donor = int(self._order[(self._place[index] + step) % count])
            sound: bytes | None = self._shards.read(donor, (SOUND,)).get(SOUND)
            if sound is not None and sound != own:
                return sound
        raise BadSampleError("no other sample has a different sound", where=self._shards.name(index))
