"""Converting a dataset: the clips that a recipe finds are decoded once and packed into shards.

Worker processes decode clips, and this process writes them in the recipe's order, so that the shards are the same bytes
for any number of workers. Samples that cannot be used are named in the manifest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from avrt.data.media.audio import decode_audio
from avrt.data.media.clip import Clip, ClipSpec
from avrt.data.media.decode import decode_for_teachers, decode_still, decode_video
from avrt.data.media.isolation import IsolatedPool, Limits
from avrt.data.sample import Modality
from avrt.data.shards.manifest import Manifest
from avrt.data.shards.members import clip_media, encode_clip
from avrt.data.shards.slices import Slice, numbered
from avrt.data.shards.source import SourceItem
from avrt.data.shards.writer import ShardWriter
from avrt.errors import BadSampleError

__all__ = ["RUN_LENGTH", "EncodedClip", "SourceItem", "load_clip", "write_shards"]
RUN_LENGTH = 64
"""Most questions about one clip that are converted together, which bounds the memory."""


@dataclass(frozen=True)
class EncodedClip:
    """A clip ready to be written.

    Attributes:
        media: The modalities that it carries.
        members: Its members, from `encode_clip`.
        notes: What was repaired.
    """

    media: tuple[Modality, ...]
    members: Mapping[str, bytes]
    notes: tuple[str, ...]


@dataclass
class _Run:
    """Neighbouring items about the same files, and the errors among them in their places."""

    files: Mapping[Modality, Path]
    spec: ClipSpec
    items: list[SourceItem | BadSampleError] = field(default_factory=list)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the questions, which a worker process does not need."""
        return {"files": dict(self.files), "spec": self.spec, "items": []}


def load_clip(files: Mapping[Modality, Path], spec: ClipSpec) -> Clip:
    """Decode every file of an item into one clip.

    Raises:
        BadSampleError: If a file is missing, or none of the media can be used.
    """
    for file in files.values():
        if not file.is_file():
            raise BadSampleError(f"media file is missing: {file.name}")
    try:
        return _load(files, spec)
    except (BadSampleError, MemoryError):
        raise
    except Exception as error:  # the libraries that read files raise anything if one is damaged
        if "can't allocate memory" in str(error):
            raise MemoryError(str(error)) from None
        raise BadSampleError(f"cannot be decoded: {error or type(error).__name__}", remedy="it is damaged") from None


def _load(files: Mapping[Modality, Path], spec: ClipSpec) -> Clip:
    """Decode video, picture and sound; a sound that cannot be used costs only itself if there are pictures."""
    clip = Clip()
    if (path := files.get(Modality.VIDEO)) is not None:
        clip = decode_video(path, spec)
    notes: list[str] = clip.info.setdefault("notes", [])
    if (path := files.get(Modality.IMAGE)) is not None:
        clip.image = decode_still(path, spec, notes)
        if clip.frames is None:
            clip.for_teachers = decode_for_teachers(path, spec, clip.image)
        clip.info.setdefault("height", clip.image.shape[-2])
        clip.info.setdefault("width", clip.image.shape[-1])
    if (path := files.get(Modality.AUDIO)) is not None:
        try:
            clip.audio = decode_audio(path, spec, notes=notes)
        except BadSampleError as error:
            if clip.pictures is None:
                raise
            notes.append(error.what)
    return clip


def write_shards(
    items: Iterable[SourceItem | BadSampleError],
    folder: Path,
    spec: ClipSpec,
    *,
    recipe: Mapping[str, Any] | None = None,
    samples_per_shard: int = 256,
    part: Slice | None = None,
    keep_original: bool = False,
    workers: int = 0,
    limits: Limits | None = None,
    resume: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Manifest:
    """Decode items and write them to shards; items that cannot be used are named in the manifest.

    Args:
        items: What a recipe yields; an error stands for a row that the recipe could not use.
        folder: Folder of the shards.
        spec: What is taken from each clip.
        recipe: Recorded in the manifest.
        samples_per_shard: Size of a shard.
        part: Take only this part of the items, to be merged with the others by `avrt.data.shards.merging`.
        keep_original: Also store the source file: the video, or else the picture or the sound.
        workers: Processes that decode; 0 decodes in this process, which a hostile file can hang or crash.
        limits: Limits on each clip in a worker process.
        resume: Continue an earlier call with the same arguments that was stopped.
        progress: Called with the number of items that are done, those of earlier calls included.

    Raises:
        AvrtError: If the folder holds shards, or unfinished shards that were begun with other arguments.
    """
    with ExitStack() as stack:
        origin = {**(recipe or {}), **({} if part is None else part.record())}
        if keep_original:
            origin["keep_original"] = True
        if part is not None:
            items = part.take(items)
        writer = stack.enter_context(ShardWriter(folder, spec.to_record(), origin, samples_per_shard, resume=resume))
        runs = _runs(islice(items, writer.consumed, None), spec)
        if workers:
            pool = stack.enter_context(IsolatedPool(_encode, workers, limits or Limits()))
            encoded = pool.map(runs)
        else:
            encoded = ((run, _encode_here(run)) for run in runs)
        for run, clip in encoded:
            for item in run.items:
                _write(writer, item, clip, keep_original, part)
            if progress is not None:
                progress(writer.consumed)
    return writer.manifest


def _runs(items: Iterable[SourceItem | BadSampleError], spec: ClipSpec) -> Iterator[_Run]:
    """Group neighbouring items about the same files."""
    run = _Run({}, spec)
    for item in items:
        if isinstance(item, SourceItem) and run.items and (item.files != run.files or len(run.items) >= RUN_LENGTH):
            yield run
            run = _Run(item.files, spec)
        elif isinstance(item, SourceItem) and not run.items:
            run = _Run(item.files, spec)
        run.items.append(item)
    if run.items:
        yield run


def _encode(run: _Run) -> EncodedClip:
    clip = load_clip(run.files, run.spec)
    return EncodedClip(clip_media(clip), encode_clip(clip), tuple(clip.info.get("notes", ())))


def _encode_here(run: _Run) -> EncodedClip | BadSampleError:
    try:
        return _encode(run)
    except BadSampleError as error:
        return error


def _write(
    writer: ShardWriter,
    item: SourceItem | BadSampleError,
    clip: EncodedClip | BadSampleError,
    keep_original: bool,
    part: Slice | None,
) -> None:
    """Write one item with its clip, or record why it is left out."""
    number = writer.consumed + (0 if part is None else part.first)
    try:
        if isinstance(item, BadSampleError):
            raise item
        if isinstance(clip, BadSampleError):
            raise BadSampleError(clip.what, where=clip.where or item.sample.id, remedy=clip.remedy)
        original = _original(item) if keep_original else {}
        writer.write(replace(item.sample, media=clip.media), {**clip.members, **original}, (*item.notes, *clip.notes))
    except BadSampleError as error:
        name = item.sample.id if isinstance(item, SourceItem) else item.where or f"item {number}"
        writer.skip(name if part is None else numbered(name, number), str(error))


def _original(item: SourceItem) -> dict[str, bytes]:
    source = next((item.files[m] for m in Modality if m in item.files), None)
    return {} if source is None else {f"original{source.suffix.lower()}": source.read_bytes()}
