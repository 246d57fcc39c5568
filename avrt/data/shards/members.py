"""The members of a sample in a shard: numbered JPEG frames, `image.jpg`, `flac`, `clip.json`, and the record `json`.

If teachers get pictures of another size, these are further members, `teacher.0.jpg`, ... or `teacher.image.jpg`, which
no student reads.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from math import isfinite
from typing import Any

import torch

from avrt.data.media.clip import Clip
from avrt.data.media.codecs import from_flac, from_jpeg, to_flac, to_jpeg
from avrt.data.sample import Modality, Sample
from avrt.data.shards.reader import FOR_TEACHERS
from avrt.errors import BadSampleError


def clip_media(clip: Clip) -> tuple[Modality, ...]:
    """Which modalities a clip carries."""
    present = {Modality.VIDEO: clip.frames, Modality.IMAGE: clip.image, Modality.AUDIO: clip.audio}
    return tuple(m for m, data in present.items() if data is not None)


def encode_clip(clip: Clip) -> dict[str, bytes]:
    """The members of a clip: all members of a sample but its record (`json`)."""
    members: dict[str, bytes] = {}
    if clip.frames is not None:
        members.update({f"{i}.jpg": to_jpeg(frame) for i, frame in enumerate(clip.frames)})
    if clip.image is not None:
        members["image.jpg"] = to_jpeg(clip.image)
    if clip.for_teachers is not None:
        names = ["image"] if clip.frames is None else [str(i) for i in range(len(clip.frames))]
        pictures = zip(names, clip.for_teachers, strict=True)
        members.update({f"{FOR_TEACHERS}{name}.jpg": to_jpeg(picture) for name, picture in pictures})
    if clip.audio is not None:
        members["flac"] = to_flac(clip.audio)
    info = {"timestamps": clip.timestamps, "seconds_per_frame": clip.seconds_per_frame, **clip.info}
    members["clip.json"] = json.dumps(info, sort_keys=True).encode()
    return members


def decode_record(raw: Mapping[str, Any]) -> Sample:
    """The record of a sample, from its raw members.

    Raises:
        BadSampleError: If it is missing or damaged; the message names shard and sample.
    """
    with _named(raw):
        return Sample.from_json(raw["json"])


def decode_members(raw: Mapping[str, Any]) -> tuple[Sample, Clip]:
    """Turn the raw members of one sample into its record and clip.

    Raises:
        BadSampleError: If a member is missing or damaged; the message names shard and sample.
    """
    with _named(raw):
        sample = Sample.from_json(raw["json"])
        return sample, decode_clip(raw, sample.media)


@contextlib.contextmanager
def _named(raw: Mapping[str, Any]) -> Iterator[None]:
    """Have errors in a sample name it and its shard."""
    where = f"{raw.get('__url__', 'shard')}, sample {raw.get('__key__')}"
    try:
        yield
    except BadSampleError as error:
        raise BadSampleError(str(error), where=where) from None
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError, RecursionError) as error:
        raise BadSampleError(f"damaged: {error!r}", where=where) from None


def decode_clip(members: Mapping[str, bytes], media: Collection[Modality]) -> Clip:
    """A clip from its members.

    Args:
        members: As `encode_clip` makes them.
        media: Which modalities to decode.

    Raises:
        BadSampleError: If a picture or sound is damaged.
        KeyError: If a member is missing.
    """
    info = json.loads(members["clip.json"])
    times, spacing = info.pop("timestamps"), info.pop("seconds_per_frame")
    if not all(isinstance(number, (int, float)) and isfinite(number) for number in [*times, spacing or 0.0]):
        raise BadSampleError("'timestamps' or 'seconds_per_frame' of clip.json is not a finite number")
    if spacing is not None and spacing <= 0:
        raise BadSampleError(f"'seconds_per_frame' of clip.json is {spacing}, needs more than 0")
    clip = Clip(timestamps=tuple(times), seconds_per_frame=spacing)
    clip.info = info
    if Modality.VIDEO in media:
        clip.frames = torch.stack([from_jpeg(members[f"{i}.jpg"]) for i in range(len(clip.timestamps))])
    if Modality.IMAGE in media:
        clip.image = from_jpeg(members["image.jpg"])
    if Modality.AUDIO in media:
        clip.audio = from_flac(members["flac"])
    return clip
