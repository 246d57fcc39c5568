"""Features of clips kept on disk across epochs and runs: the towers are frozen, so they need not run twice on a clip.

Files are safetensors, read through a memory map. A folder belongs to one set of tower weights, and never exceeds its
size: what does not fit any more is encoded again each time. Processes may share a folder; each writes files of its own.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from avrt.data.inputs.batch import OmniBatch
from avrt.data.media.clip import Clip
from avrt.models.encoded_prompts import ClipFeatures

FILE_BYTES = 64 * 2**20
KINDS = ("vision", "audio")


@dataclass(frozen=True)
class FeatureCacheOptions:
    """Where and how much to keep.

    Attributes:
        folder: A folder below which one is made for each set of tower weights.
        gigabytes: Most that all files of that one may take.
    """

    folder: str
    gigabytes: float = 50.0


class FeatureCache:
    """Features by clip.

    Args:
        options: Where and how much.
        towers: Hash of the towers' weights and type; see `weights_hash`.
    """

    def __init__(self, options: FeatureCacheOptions, towers: str) -> None:
        self._folder = Path(options.folder) / towers
        self._folder.mkdir(parents=True, exist_ok=True)
        self._limit = options.gigabytes * 1e9
        self._known: dict[str, Any] = {}
        self._pending: dict[str, Tensor] = {}
        self._used = 0
        self.hits = 0
        self.misses = 0
        for path in sorted(self._folder.glob("*.safetensors")):
            self._take_up(path)

    def __len__(self) -> int:
        """Number of tensors that can be had without the towers."""
        return len(self._known) + len(self._pending)

    def encode(self, batch: OmniBatch, run: Callable[[OmniBatch], ClipFeatures]) -> ClipFeatures:
        """Features of a batch, by running the towers on rows that are not known only.

        Args:
            batch: Inputs.
            run: Runs the towers; called once, whether or not any row is left for it.
        """
        wanted = {(kind, row): clip_key(batch.clips[row], kind) for kind, rows in _media(batch) for row in rows}
        found = {place: self._read(key, batch.valid.device) for place, key in wanted.items()}
        missing = {row for (_, row), tensor in found.items() if tensor is None}
        fresh = run(without_media(batch, keep=missing))
        for (kind, row), key in wanted.items():
            if found[kind, row] is None:
                found[kind, row] = getattr(fresh, kind)[row]
                self._add(key, getattr(fresh, kind)[row])
                self.misses += 1
            else:
                self.hits += 1
        each = {kind: [found.get((kind, row)) for row in range(len(batch))] for kind in KINDS}
        return ClipFeatures(each["vision"], each["audio"])

    def flush(self) -> None:
        """Write what is still in memory."""
        if not self._pending:
            return
        path = self._folder / f"{uuid.uuid4().hex}.safetensors"
        partial = path.with_suffix(".partial")
        save_file(self._pending, partial)
        partial.rename(path)
        self._pending = {}
        self._take_up(path)

    def _read(self, key: str, device: torch.device) -> Tensor | None:
        if key in self._pending:
            return self._pending[key].to(device)
        if (file := self._known.get(key)) is None:
            return None
        tensor: Tensor = file.get_tensor(key)
        return tensor.to(device)

    def _add(self, key: str, tensor: Tensor) -> None:
        size = tensor.numel() * tensor.element_size()
        waiting = sum(t.numel() * t.element_size() for t in self._pending.values())
        if key in self._pending or self._used + waiting + size > self._limit:
            return
        self._pending[key] = tensor.detach().to("cpu").contiguous().clone()
        if waiting + size >= FILE_BYTES:
            self.flush()

    def _take_up(self, path: Path) -> None:
        try:
            file: Any = safe_open(path, framework="pt")
        except (SafetensorError, OSError):
            path.unlink(missing_ok=True)  # damaged: its clips are encoded again
            return
        self._used += path.stat().st_size
        self._known.update(dict.fromkeys(file.keys(), file))


class KeptFeatures:
    """Features in memory, of clips that are kept there, for as long as they are; a GPU has no room for them."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Clip, tuple[Tensor | None, Tensor | None]] = WeakKeyDictionary()

    def encode(self, batch: OmniBatch, run: Callable[[OmniBatch], ClipFeatures]) -> ClipFeatures:
        """Features of a batch, by encoding each clip that is not known once.

        Args:
            batch: Inputs.
            run: Encodes clips; called once, whether or not any row is left for it.
        """
        if batch.valid.device.type != "cpu" or not any(clip.kept for clip in batch.clips):
            return run(batch)
        fresh_rows, first = set(), dict[int, int]()  # the first row of each new clip
        for row, clip in enumerate(batch.clips):
            if clip not in self._known and first.setdefault(id(clip), row) == row:
                fresh_rows.add(row)
        fresh = run(without_media(batch, keep=fresh_rows))
        for row in fresh_rows:
            if batch.clips[row].kept:
                both = fresh.vision[row], fresh.audio[row]
                vision, audio = (None if tokens is None else tokens.clone() for tokens in both)  # not the whole batch's
                self._known[batch.clips[row]] = vision, audio
        found = [
            self._known.get(clip) or (fresh.vision[at := first[id(clip)]], fresh.audio[at]) for clip in batch.clips
        ]
        return ClipFeatures([vision for vision, _ in found], [audio for _, audio in found])


def _media(batch: OmniBatch) -> Iterable[tuple[str, list[int]]]:
    return (("vision", batch.grid_rows), ("audio", batch.mel_rows))


def clip_key(clip: Clip, kind: str) -> str:
    """What names the features of a clip's pictures (`vision`) or sound (`audio`): a hash of what the tower sees."""
    whole = hashlib.blake2b(digest_size=16)
    for tensor in (clip.frames, clip.image) if kind == "vision" else (clip.audio,):
        if tensor is not None:
            whole.update(str(tuple(tensor.shape)).encode())
            whole.update(tensor.contiguous().numpy().tobytes())
    return f"{kind}/{whole.hexdigest()}"


def weights_hash(*modules: torch.nn.Module) -> str:
    """A hash of the weights and types of some modules."""
    whole = hashlib.blake2b(digest_size=12)
    for module in modules:
        for name, tensor in module.state_dict().items():
            whole.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
            whole.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return whole.hexdigest()


def without_media(batch: OmniBatch, keep: set[int]) -> OmniBatch:
    """A batch whose rows, but for some, have no pictures and sounds for the towers."""
    cut = batch.to(batch.valid.device)
    if batch.pixels is not None and batch.grids is not None:
        pieces = torch.split(batch.pixels, batch.grids.prod(-1).tolist())
        chosen = [i for i, row in enumerate(batch.grid_rows) if row in keep]
        cut.pixels = torch.cat([pieces[i] for i in chosen]) if chosen else None
        cut.grids = batch.grids[chosen] if chosen else None
        cut.grid_rows = [batch.grid_rows[i] for i in chosen]
    if batch.mel is not None and batch.mel_lengths is not None:
        chosen = [i for i, row in enumerate(batch.mel_rows) if row in keep]
        cut.mel = batch.mel[chosen] if chosen else None
        cut.mel_lengths = batch.mel_lengths[chosen] if chosen else None
        cut.mel_rows = [batch.mel_rows[i] for i in chosen]
    return cut
