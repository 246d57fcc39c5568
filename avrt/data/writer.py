"""Writing shards: recipe items decoded once and packed into WebDataset tars with indexes and a manifest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import webdataset

from avrt.data.manifest import MANIFEST, UNTYPED, Manifest, sha256, write_whole
from avrt.data.media import Clip, ClipSpec, decode_audio, decode_still, decode_video, to_flac, to_jpeg
from avrt.data.sample import Modality, Sample
from avrt.data.shards import index_path, index_tar
from avrt.errors import AvrtError, BadSampleError


@dataclass(frozen=True)
class SourceItem:
    """A question with the media files that it is about, as a recipe finds them.

    Attributes:
        sample: The question; its `media` is filled in from what could be decoded.
        files: For each modality the file to take it from. Sound of a video needs no entry of its own.
    """

    sample: Sample
    files: Mapping[Modality, Path]


def load_clip(item: SourceItem, spec: ClipSpec) -> Clip:
    """Decode every file of an item into one clip.

    Raises:
        BadSampleError: If nothing of the media that the item names can be used.
    """
    clip = Clip()
    if (path := item.files.get(Modality.VIDEO)) is not None:
        clip = decode_video(path, spec)
    if (path := item.files.get(Modality.IMAGE)) is not None:
        clip.image = decode_still(path, spec)
        clip.info.setdefault("height", clip.image.shape[-2])
        clip.info.setdefault("width", clip.image.shape[-1])
    if (path := item.files.get(Modality.AUDIO)) is not None:
        try:
            clip.audio = decode_audio(path, spec)
        except BadSampleError as error:
            if clip.frames is None and clip.image is None:
                raise
            clip.info.setdefault("notes", []).append(error.what)
    return clip


def clip_media(clip: Clip) -> tuple[Modality, ...]:
    """Which modalities a clip really carries."""
    present = {Modality.VIDEO: clip.frames, Modality.IMAGE: clip.image, Modality.AUDIO: clip.audio}
    return tuple(m for m, data in present.items() if data is not None)


class ShardWriter:
    """Write samples into tars of at most `samples_per_shard` each; a context manager.

    Tars and indexes appear under their final names only when complete. The bytes depend on the samples alone.

    Args:
        folder: Where to; created if missing, and it must not hold a manifest already.
        spec: Recorded in the manifest.
        recipe: Recorded in the manifest.
        samples_per_shard: Size of a shard.

    Raises:
        AvrtError: If the folder already holds shards.
    """

    def __init__(
        self, folder: Path, spec: ClipSpec, recipe: Mapping[str, Any] | None = None, samples_per_shard: int = 256
    ) -> None:
        if (folder / MANIFEST).exists():
            raise AvrtError("already holds shards", where=folder, remedy="choose another --out or delete it")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.manifest = Manifest(recipe=dict(recipe or {}), spec=asdict(spec))
        self._limit = samples_per_shard
        self._pending: list[dict[str, Any]] = []
        self._seen: set[str] = set()

    def __enter__(self) -> ShardWriter:
        """Start writing."""
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        """Close the last shard and write the manifest, unless an error is on its way out."""
        if failed is None:
            self._flush()
            self.manifest.save(self.folder)

    def write(self, sample: Sample, clip: Clip, original: Path | None = None) -> None:
        """Add one sample.

        Args:
            sample: The record; its `media` is replaced by what the clip carries.
            clip: Decoded media.
            original: A media file to keep beside the decoded form.

        Raises:
            BadSampleError: If the id was written before.
        """
        if sample.id in self._seen:
            raise BadSampleError("sample id occurs twice", where=sample.id)
        members: dict[str, Any] = {"__key__": f"{self.manifest.samples + len(self._pending):08d}"}
        if clip.frames is not None:
            members.update({f"{i}.jpg": to_jpeg(frame) for i, frame in enumerate(clip.frames)})
        if clip.image is not None:
            members["image.jpg"] = to_jpeg(clip.image)
        if clip.audio is not None:
            members["flac"] = to_flac(clip.audio)
        info = {"timestamps": clip.timestamps, "seconds_per_frame": clip.seconds_per_frame, **clip.info}
        members["clip.json"] = json.dumps(info, sort_keys=True).encode()
        media = clip_media(clip)
        members["json"] = replace(sample, media=media).to_json()
        if original is not None:
            members[f"original{original.suffix.lower()}"] = original.read_bytes()
        self._seen.add(sample.id)
        self._pending.append(members)
        counts = self.manifest.counts
        for m in media:
            counts[str(m)] = counts.get(str(m), 0) + 1
        kinds = self.manifest.question_types
        kind = sample.question_type or UNTYPED
        kinds[kind] = kinds.get(kind, 0) + 1
        if clip.info.get("notes"):
            self.manifest.notes[sample.id] = list(clip.info["notes"])
        if len(self._pending) >= self._limit:
            self._flush()

    def skip(self, name: str, reason: str) -> None:
        """Record that a sample or file was left out, and why."""
        self.manifest.skipped[name] = reason

    def _flush(self) -> None:
        if not self._pending:
            return
        path = self.folder / f"shard-{len(self.manifest.shards):06d}.tar"
        partial = path.with_suffix(".tar.partial")
        with partial.open("wb") as stream, webdataset.TarWriter(stream, encoder=False, mtime=0) as tar:
            for members in self._pending:
                tar.write(members)
        partial.replace(path)
        index = index_tar(path)
        write_whole(index_path(path), json.dumps(index).encode())
        self.manifest.shards.append(
            {"file": path.name, "samples": len(index), "bytes": path.stat().st_size, "sha256": sha256(path)}
        )
        self._pending = []


def write_shards(
    items: Iterable[SourceItem | BadSampleError],
    folder: Path,
    spec: ClipSpec,
    *,
    recipe: Mapping[str, Any] | None = None,
    samples_per_shard: int = 256,
    keep_original: bool = False,
) -> Manifest:
    """Decode items and write them to shards; what cannot be used is counted and named in the manifest.

    Args:
        items: What a recipe yields; an error in place of an item stands for a sample that the recipe could not read.
        folder: Where to.
        spec: What to take from each clip.
        recipe: Recorded in the manifest.
        samples_per_shard: Size of a shard.
        keep_original: Store the source video, or else image or sound, beside its decoded form.

    Raises:
        AvrtError: If the folder already holds shards.
    """
    last_file: tuple[Mapping[Modality, Path], Clip] | None = None
    with ShardWriter(folder, spec, recipe, samples_per_shard) as writer:
        for item in items:
            try:
                if isinstance(item, BadSampleError):
                    raise item
                if last_file is None or last_file[0] != item.files:
                    last_file = (item.files, load_clip(item, spec))
                source = next((item.files[m] for m in Modality if m in item.files), None)
                writer.write(item.sample, last_file[1], source if keep_original else None)
            except BadSampleError as error:
                unnamed = f"item {len(writer.manifest.skipped)}"
                name = item.sample.id if isinstance(item, SourceItem) else item.where or unnamed
                writer.skip(name, str(error))
    return writer.manifest
