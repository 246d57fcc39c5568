"""What a process keeps in memory of what it has read: rows for later epochs, clips for their other questions.

Nothing that was kept is let go again: once the room is full, further samples are read and prepared each time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from avrt.data.inputs.batch import OmniBatch
from avrt.data.inputs.preprocessor import ClipInputs
from avrt.data.sample import Modality


class KeptSamples:
    """Rows by their sample's index, and the inputs of clips by what their members hold.

    Args:
        gigabytes: Most that both may take.
    """

    def __init__(self, gigabytes: float) -> None:
        self._room = gigabytes * 1e9
        self._rows: dict[int, OmniBatch] = {}
        self._clips: dict[bytes, ClipInputs] = {}

    def row(self, index: int) -> OmniBatch | None:
        """The row of a sample, if it is kept."""
        return self._rows.get(index)

    def clip(self, key: bytes) -> ClipInputs | None:
        """The inputs of a clip, if they are kept."""
        return self._clips.get(key)

    def keep_clip(self, key: bytes, inputs: ClipInputs) -> None:
        """Keep the inputs of a clip, if there is room."""
        if self._takes(inputs.clip, *inputs.fields.values()):
            inputs.clip.kept = True
            self._clips[key] = inputs

    def keep_row(self, index: int, row: OmniBatch) -> None:
        """Keep a row whose clip is kept, if there is room."""
        own = (row.prompt_ids, row.prompt_positions, row.completion_ids, row.vision_places, row.audio_places)
        if row.clips[0].kept and self._takes(*(tensor for tensors in own for tensor in tensors)):
            self._rows[index] = row

    def _takes(self, *things: Any) -> bool:
        """Take up the room that some things need, if there is as much."""
        tensors = [part for thing in things for part in ([thing] if isinstance(thing, Tensor) else _parts(thing))]
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor))
        if size > self._room:
            return False
        self._room -= size
        return True


def _parts(thing: Any) -> list[Any]:
    """What the fields of a clip hold."""
    return list(vars(thing).values()) if hasattr(thing, "__dict__") else []


def members_key(members: Mapping[str, Any], media: Collection[Modality]) -> bytes:
    """What two samples have in common that have the same clip: a hash of all members but the record.

    Args:
        members: The raw members.
        media: Which of the clip's media the record names.
    """
    whole = hashlib.blake2b(" ".join(sorted(media)).encode(), digest_size=16)
    for name in sorted(members):
        if isinstance(data := members[name], bytes) and name != "json":
            whole.update(f"{name}:{len(data)}:".encode() + data)
    return whole.digest()
