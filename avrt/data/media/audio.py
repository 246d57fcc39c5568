"""Decoding the sound of a file: 16 kHz mono, aligned with the pictures of its clip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.audio.resampler import AudioResampler
from torch import Tensor
from torchaudio.functional import resample

from avrt.data.media.clip import MIN_AUDIO_SECONDS, SAMPLE_RATE, ClipSpec
from avrt.data.media.containers import announced_end, decoded, open_media, prepare
from avrt.data.shards.manifest import AUDIO_CUT
from avrt.errors import BadSampleError

_GAP_SECONDS = 0.05
_EARLY_SECONDS = 0.1
_CANCELLED = 0.25
"""If the mean has a smaller share of the power that unrelated channels would give, the channels cancel each other."""
_SHORT_SECONDS = 0.5
_LOOK_AHEAD_SECONDS = 0.1
_MAX_RATE = 768_000
_RATE_STEP = 25
"""Sample rates are rounded to multiples of this, since the resampler's filter is huge for odd ratios of rates."""


def decode_audio(path: Path, spec: ClipSpec, start: float | None = None, notes: list[str] | None = None) -> Tensor:
    """Decode a file's sound, or its first seconds, as the mean of its channels (the loudest one if they cancel).

    Args:
        path: Any container or audio file.
        spec: How many seconds are taken.
        start: When the clip begins on the file's clock, in seconds; by default when the sound begins.
        notes: Gets a note for each repair, and one if the sound is cut.

    Returns:
        (S,) float32 at 16 kHz. Silence precedes sound that begins after `start` and fills gaps, so that pictures and
        sound stay aligned.

    Raises:
        BadSampleError: If there is no sound, or less than 0.1 s of it.
    """
    notes = [] if notes is None else notes
    wanted = spec.audio_limit
    with open_media(path) as container:
        streams = container.streams.audio
        if not streams:
            raise BadSampleError("no audio stream", where=path)
        stream: Any = container.streams.best("audio") or streams[0]
        if stream.codec_context is None:
            raise BadSampleError("its sound is of an unknown kind", where=path)
        if len(streams) > 1:
            notes.append(f"{len(streams)} audio streams, number {streams.index(stream) + 1} used")
        collected = _Collected(wanted + _LOOK_AHEAD_SECONDS)
        prepare(stream)
        damaged: list[int] = []
        for frame in decoded(container, stream, damaged):
            if not collected.add(frame, start):
                break
        announced = announced_end(container, stream)
    if damaged:
        notes.append(f"{len(damaged)} damaged packets of sound skipped")
    native = collected.mono()
    notes.extend(collected.notes)
    begins = collected.first if start is None else start
    missing = min(announced - begins, wanted) - collected.seconds
    if collected.pieces and missing > _SHORT_SECONDS:
        notes.append(f"sound ends {missing:.1f} s before the file says")
    if collected.pieces and -collected.delay > _EARLY_SECONDS:
        notes.append(f"the first {min(-collected.delay, collected.length):.1f} s of sound left out: no picture yet")
    if collected.pieces and collected.delay >= wanted:
        notes.append(f"sound begins {collected.delay:.1f} s after the pictures: silence alone is taken")
    if collected.seconds > wanted + _LOOK_AHEAD_SECONDS:
        whole = announced - begins
        total = f"of {whole:.1f}" if whole > collected.seconds else "of more"
        notes.append(f"{AUDIO_CUT} at {wanted:g} s {total}")
    sound = collected.at_16_khz(native)[: round(wanted * SAMPLE_RATE)]
    if len(sound) < MIN_AUDIO_SECONDS * SAMPLE_RATE:
        raise BadSampleError(f"only {len(sound) / SAMPLE_RATE:.2f} s of sound", where=path)
    return sound.contiguous()


class _Collected:
    """Decoded sound at its own rate, up to the seconds that are wanted."""

    def __init__(self, wanted: float) -> None:
        self.wanted = wanted
        self.pieces: list[np.ndarray] = []
        self.notes: list[str] = []
        self.rate = self.taken_for = 0
        self.delay = 0.0
        self._have = 0
        self._first: float | None = None
        self._layout = ""
        self._silence = 0.0
        self._to_float: AudioResampler | None = None

    @property
    def seconds(self) -> float:
        """Seconds from the clip's beginning to the end of the sound."""
        return self._have / self.rate + self.delay if self.rate else 0.0

    @property
    def length(self) -> float:
        """Seconds of sound."""
        return self._have / self.rate if self.rate else 0.0

    @property
    def first(self) -> float:
        """When the sound begins on the file's clock."""
        return self._first or 0.0

    def add(self, frame: av.AudioFrame, start: float | None) -> bool:
        """Add a frame; returns whether more are wanted."""
        if not self.rate:
            if not 0 < frame.sample_rate <= _MAX_RATE:
                return False
            self.rate, self._first = frame.sample_rate, frame.time
            self.taken_for = max(_RATE_STEP, round(self.rate / _RATE_STEP) * _RATE_STEP)
            if self.taken_for != self.rate:
                self.notes.append(f"a sample rate of {self.rate} Hz is taken for {self.taken_for} Hz")
            if start is not None and frame.time is not None:
                self.delay = frame.time - start
        if frame.sample_rate != self.rate:
            self.notes.append(f"the sample rate changes after {self.seconds:.1f} s, where the sound is cut")
            return False
        if self._to_float is None or frame.layout.name != self._layout:
            # only to float: FFmpeg's own mix to mono is 3 dB louder than the mean of the channels
            self._to_float = AudioResampler(format="fltp", layout=frame.layout, rate=self.rate)
            self._layout = frame.layout.name
        self._fill_gap(frame)
        for planes in self._to_float.resample(frame):
            channels: Any = planes.to_ndarray()
            if not np.isfinite(channels).all():
                channels = np.nan_to_num(channels, nan=0.0, posinf=1.0, neginf=-1.0)
                if "values that are no numbers became silence" not in self.notes:
                    self.notes.append("values that are no numbers became silence")
            self.pieces.append(channels)
            self._have += channels.shape[1]
        return self.seconds <= self.wanted

    def _fill_gap(self, frame: av.AudioFrame) -> None:
        """Add silence if a frame begins later than the sound so far ends."""
        if frame.time is None or self._first is None or not self._have:
            return
        gap = min(frame.time - self._first - self._have / self.rate, self.wanted)
        if gap > _GAP_SECONDS:
            channels = self.pieces[-1].shape[0] if self.pieces else 1
            self.pieces.append(np.zeros((channels, round(gap * self.rate)), np.float32))
            self._have += self.pieces[-1].shape[1]
            self._silence += gap
            self.notes[:] = [note for note in self.notes if not note.startswith("gaps")]
            self.notes.append(f"gaps of {self._silence:.1f} s filled with silence")

    def mono(self) -> np.ndarray:
        """(S,) float32: the mean of all channels, or the loudest one where they cancel each other."""
        if not self.pieces:
            return np.zeros(0, np.float32)
        mean = np.concatenate([piece.mean(axis=0) for piece in self.pieces]).astype(np.float32, copy=False)
        count = self.pieces[0].shape[0]
        if count == 1 or any(piece.shape[0] != count for piece in self.pieces):
            return mean
        powers = sum(np.square(piece, dtype=np.float64).sum(axis=1) for piece in self.pieces)
        if np.square(mean, dtype=np.float64).sum() >= _CANCELLED * np.sum(powers) / count**2:
            return mean
        loudest = int(np.argmax(powers))
        self.notes.append(f"its channels cancel each other: channel {loudest + 1} of {count} is used")
        return np.concatenate([piece[loudest] for piece in self.pieces]).astype(np.float32, copy=False)

    def at_16_khz(self, mono: np.ndarray) -> Tensor:
        """(S,) float32 at 16 kHz; late sound is preceded by silence, early sound is cut."""
        if not self.pieces:
            return torch.zeros(0)
        native = torch.from_numpy(mono)
        skip = round(max(0.0, -self.delay) * self.rate)
        sound = resample(native[skip:], self.taken_for, SAMPLE_RATE) if len(native) > skip else native[:0]
        late = min(max(0.0, self.delay), self.wanted)
        return torch.cat([torch.zeros(round(late * SAMPLE_RATE)), sound])
