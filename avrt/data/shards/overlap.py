"""Which clips two shard sets share: by the name of their video, by frames, and by sound.

Frames are compared by perceptual hashes (the signs of a small picture's lowest DCT coefficients), sounds by the robust
audio hashing of Haitsma and Kalker (ISMIR 2002): 32-bit words, whose bits are the signs of how the energy differences
of neighbouring bands change over time. Both survive another size, bit rate or codec.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avrt.data.media.clip import SAMPLE_RATE, Clip
from avrt.data.shards.members import decode_members
from avrt.data.shards.reader import ShardSet
from avrt.errors import BadSampleError

SIDE, KEPT = 32, 8
MAX_FRAME_BITS = 6
"""Frames whose hashes differ in more of their 64 bits are different frames."""
MIN_FRAMES = 0.25
FLAT = 4.0
"""Frames whose grey levels deviate less have one colour, and are not compared."""

WINDOW, HOP, BANDS = 4096, 512, 33
LOWEST, HIGHEST = 300.0, 2000.0
MIN_WORDS = 64
"""Shorter common sounds, in hops of 32 ms, do not count."""
MAX_BIT_ERRORS = 0.30
MIN_VOTES = 2
MAX_POSTINGS = 2_000
_QUIET = 1e-3

_NAMES = ("video_name", "video_id", "youtube_id", "url")
_YOUTUBE = re.compile(r"(?:^|v=|youtu\.be/|/)([\w-]{11})(?:_\d+)?(?:$|[?&.])")


@dataclass
class Fingerprints:
    """Fingerprints of the clips of a shard set; questions about one clip share an entry.

    Attributes:
        samples: Every sample's id.
        clips: For each distinct clip the ids of its samples.
        videos: For each clip the name of the video that it was cut from, or None.
        hashes: (H,) uint64, perceptual hashes of frames with more than one colour.
        hash_clips: (H,) clip of each hash.
        words: For each clip (T,) uint32, a word for every 32 ms of sound.
    """

    samples: list[str] = field(default_factory=list)
    clips: list[list[str]] = field(default_factory=list)
    videos: list[str | None] = field(default_factory=list)
    hashes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    hash_clips: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    words: list[np.ndarray] = field(default_factory=list)


@dataclass(frozen=True)
class Overlap:
    """A test sample whose clip is in the training set.

    Attributes:
        train: A training sample about the clip.
        test: The test sample.
        by: What is equal: `video`, `frames`, `audio`.
    """

    train: str
    test: str
    by: tuple[str, ...]


def fingerprints(shards: ShardSet, progress: Callable[[int], None] = lambda _: None) -> Fingerprints:
    """Fingerprint every clip of a shard set; samples that cannot be read are skipped."""
    found = Fingerprints()
    known: dict[bytes, int] = {}
    hashes: list[np.ndarray] = []
    owners: list[int] = []
    for index in range(len(shards)):
        try:
            raw = shards.read(index)
        except BadSampleError:
            continue
        key = hashlib.blake2b(
            b"".join(raw[name] for name in sorted(raw) if name.endswith(("jpg", "flac"))), digest_size=16
        ).digest()
        try:
            sample, clip = decode_members(raw)
        except BadSampleError:
            continue
        found.samples.append(sample.id)
        if key not in known or not sample.media:
            known[key] = len(found.clips)
            found.clips.append([])
            found.videos.append(video_of(sample.metadata))
            found.words.append(sound_words(clip.audio))
            looks = frame_hashes(clip)
            hashes.append(looks)
            owners += [known[key]] * len(looks)
        found.clips[known[key]].append(sample.id)
        progress(index + 1)
    if hashes:
        found.hashes, found.hash_clips = np.concatenate(hashes), np.asarray(owners, np.int64)
    return found


def find_overlap(train: Fingerprints, test: Fingerprints) -> list[Overlap]:
    """Every test sample with each training clip that is the same, in the order of the test samples."""
    reasons: dict[tuple[int, int], list[str]] = {}
    for name, pairs in (
        ("video", _same_video(train, test)),
        ("frames", _same_frames(train, test)),
        ("audio", _same_sound(train, test)),
    ):
        for pair in sorted(pairs):
            reasons.setdefault(pair, []).append(name)
    return [
        Overlap(train.clips[ours][0], sample, tuple(by))
        for (theirs, ours), by in sorted(reasons.items())
        for sample in test.clips[theirs]
    ]


def video_of(metadata: Mapping[str, Any]) -> str | None:
    """The dataset's name of the video that a clip was cut from; for YouTube names and addresses the id."""
    for name in _NAMES:
        value = metadata.get(name)
        if isinstance(value, str) and value:
            found = _YOUTUBE.search(value)
            return found[1] if found else value
    return None


def frame_hashes(clip: Clip) -> np.ndarray:
    """(F,) uint64, one for each frame or picture that has more than one colour."""
    if clip.pictures is None:
        return np.zeros(0, np.uint64)
    grey = clip.pictures.float().mean(dim=1, keepdim=True)
    grey = grey[grey.flatten(1).std(dim=1) > FLAT]
    small = torch.nn.functional.interpolate(grey, (SIDE, SIDE), mode="bilinear", antialias=True)[:, 0]
    basis = _cosines()
    lowest = (basis @ small @ basis.T).flatten(1)
    lowest[:, 0] = 0.0  # the mean brightness does not count
    bits = (lowest > lowest.median(dim=1, keepdim=True).values).numpy()
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0] if len(bits) else np.zeros(0, np.uint64)


def sound_words(audio: Tensor | None) -> np.ndarray:
    """(T,) uint32, a word every 32 ms; silence gives zeros."""
    if audio is None or len(audio) < 2 * WINDOW:
        return np.zeros(0, np.uint32)
    spectrum = torch.stft(audio, WINDOW, HOP, window=torch.hann_window(WINDOW), center=False, return_complex=True)
    edges = torch.logspace(np.log10(LOWEST), np.log10(HIGHEST), BANDS + 1) * WINDOW / SAMPLE_RATE
    power = spectrum.abs().square()
    cumulated = torch.cat([torch.zeros(1, power.shape[1]), power.cumsum(0)]).double()
    energy = cumulated[edges[1:].round().long()] - cumulated[edges[:-1].round().long()]
    slope = energy[:-1] - energy[1:]
    bits = np.ascontiguousarray((slope[:, 1:] - slope[:, :-1] > 0).numpy().T)
    words = np.packbits(bits, axis=1).view(np.uint32)[:, 0].copy()
    loud = audio.unfold(0, WINDOW, HOP).square().mean(1).sqrt().numpy()[1:] > _QUIET
    words[~loud[: len(words)]] = 0
    return words


def _cosines() -> Tensor:
    k, n = torch.arange(KEPT)[:, None], torch.arange(SIDE)[None]
    return torch.cos(torch.pi * (n + 0.5) * k / SIDE)


def _same_video(train: Fingerprints, test: Fingerprints) -> set[tuple[int, int]]:
    """Pairs of a test and a training clip that were cut from one video."""
    by_name: dict[str, list[int]] = {}
    for clip, video in enumerate(train.videos):
        if video is not None:
            by_name.setdefault(video, []).append(clip)
    return {
        (theirs, ours)
        for theirs, video in enumerate(test.videos)
        if video is not None
        for ours in by_name.get(video, ())
    }


def _same_frames(train: Fingerprints, test: Fingerprints) -> set[tuple[int, int]]:
    """Pairs of a test and a training clip that share enough frames."""
    if not len(train.hashes) or not len(test.hashes):
        return set()
    pairs: set[tuple[int, int]] = set()
    for clip in np.unique(test.hash_clips):
        mine = test.hashes[test.hash_clips == clip]
        near = np.bitwise_count(mine[:, None] ^ train.hashes[None]) <= MAX_FRAME_BITS
        needed = 1 if len(mine) == 1 else max(2, round(MIN_FRAMES * len(mine)))
        columns = np.flatnonzero(near.any(axis=0))
        for other in np.unique(train.hash_clips[columns]):
            matched = near[:, columns[train.hash_clips[columns] == other]].any(axis=1).sum()
            if matched >= needed:
                pairs.add((int(clip), int(other)))
    return pairs


def _same_sound(train: Fingerprints, test: Fingerprints) -> set[tuple[int, int]]:
    """Pairs of a test and a training clip whose sounds agree at some shift that several words vote for."""
    if not train.words:
        return set()
    words = np.concatenate(train.words)
    clips = np.repeat(np.arange(len(train.words)), [len(w) for w in train.words])
    times = np.concatenate([np.arange(len(w)) for w in train.words])
    order = np.argsort(words, kind="stable")
    sorted_words = words[order]
    pairs: set[tuple[int, int]] = set()
    for theirs, mine in enumerate(test.words):
        firsts = np.searchsorted(sorted_words, mine, side="left")
        lasts = np.searchsorted(sorted_words, mine, side="right")
        votes: dict[tuple[int, int], int] = {}
        for time, (first, last) in enumerate(zip(firsts, lasts, strict=True)):
            if mine[time] == 0 or last - first > MAX_POSTINGS:
                continue  # silence, or a word that is too frequent
            for place in order[first:last]:
                guess = (int(clips[place]), int(times[place]) - time)
                votes[guess] = votes.get(guess, 0) + 1
        for (ours, shift), count in votes.items():
            if count >= MIN_VOTES and (theirs, ours) not in pairs and _agree(mine, train.words[ours], shift):
                pairs.add((theirs, ours))
    return pairs


def _agree(mine: np.ndarray, other: np.ndarray, shift: int) -> bool:
    """Whether two sounds, the second shifted by `shift` words, differ in few enough bits of their overlap."""
    start = max(0, -shift)
    stop = min(len(mine), len(other) - shift)
    if stop - start < MIN_WORDS:
        return False
    a, b = mine[start:stop], other[start + shift : stop + shift]
    heard = (a != 0) & (b != 0)
    if heard.sum() < MIN_WORDS:
        return False
    return float(np.bitwise_count(a[heard] ^ b[heard]).mean()) / 32 <= MAX_BIT_ERRORS
