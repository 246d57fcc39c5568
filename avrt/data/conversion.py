"""Converting a dataset: what a recipe finds is decoded once and packed into shards; what cannot be used is named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from avrt.data.manifest import Manifest
from avrt.data.media import Clip, ClipSpec, decode_audio, decode_still, decode_video
from avrt.data.members import clip_media, encode_clip
from avrt.data.sample import Modality, Sample
from avrt.data.writer import ShardWriter
from avrt.errors import BadSampleError


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
        BadSampleError: If a file is missing, or nothing of the media that the item names can be used.
    """
    for file in item.files.values():
        if not file.is_file():
            raise BadSampleError(f"media file is missing: {file.name}", where=item.sample.id)
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
    last_file: tuple[Mapping[Modality, Path], Clip, dict[str, bytes]] | None = None
    with ShardWriter(folder, asdict(spec), recipe, samples_per_shard) as writer:
        for item in items:
            try:
                if isinstance(item, BadSampleError):
                    raise item
                if last_file is None or last_file[0] != item.files:
                    clip = load_clip(item, spec)
                    last_file = (item.files, clip, encode_clip(clip))  # several questions about it usually follow
                _, clip, members = last_file
                original = _original(item) if keep_original else {}
                sample = replace(item.sample, media=clip_media(clip))
                writer.write(sample, {**members, **original}, clip.info.get("notes", ()))
            except BadSampleError as error:
                unnamed = f"item {len(writer.manifest.skipped)}"
                name = item.sample.id if isinstance(item, SourceItem) else item.where or unnamed
                writer.skip(name, str(error))
    return writer.manifest


def _original(item: SourceItem) -> dict[str, bytes]:
    source = next((item.files[m] for m in Modality if m in item.files), None)
    return {} if source is None else {f"original{source.suffix.lower()}": source.read_bytes()}
