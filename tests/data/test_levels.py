"""How loud a file's sound is heard: numbers that are none, channels, damage, sound that ends before the pictures."""

import av
import numpy as np
import pytest
import soundfile

from avrt.data.media.audio import decode_audio
from avrt.data.media.clip import ClipSpec, FrameBudget
from avrt.data.media.decode import decode_video
from avrt.data.sample import Modality
from avrt.data.shards.conversion import load_clip
from tests.data.test_seen import _film, _steps

SPEC = ClipSpec(budget=FrameBudget(56 * 56, 112 * 112))
TONE = 0.5 * np.sin(np.arange(32_000) / 6)


def _written(path, *channels):
    soundfile.write(path, np.stack(channels, 1), 16_000, subtype="FLOAT")
    return path


@pytest.mark.parametrize(("value", "heard"), [(np.inf, 1.0), (-np.inf, -1.0), (np.nan, 0.0)])
def test_numbers_without_end_are_full_scale_and_no_numbers_are_silence(tmp_path, value, heard):
    notes = []
    sound = decode_audio(_written(tmp_path / "a.wav", np.full(32_000, value)), SPEC, notes=notes)
    assert sound.unique().tolist() == [heard]
    assert notes == ["values that are no numbers became silence"]


@pytest.mark.parametrize(("share", "cancels"), [(0.0, False), (-0.45, False), (-0.55, True), (-1.0, True)])
def test_channels_cancel_with_less_than_a_quarter_of_their_power_left(tmp_path, share, cancels):
    """Of x and s x the mean has (1 + s)^2 / 4 of the power of x; unrelated channels would leave (1 + s^2) / 4.

    So they cancel where (1 + s)^2 / (1 + s^2) is below a quarter: at s = -0.45 it is 0.25, at -0.55 0.16.
    """
    notes = []
    sound = decode_audio(_written(tmp_path / "a.wav", TONE, share * TONE), SPEC, notes=notes).numpy()
    assert bool(notes) == cancels
    assert sound == pytest.approx(TONE if cancels else (1 + share) / 2 * TONE, abs=1e-4)


def test_damaged_packets_of_sound_are_counted(tmp_path):
    path = tmp_path / "a.mka"
    with av.open(str(path), "w") as out:
        track = out.add_stream("flac", rate=16_000, layout="mono")
        for start in range(0, 64_000, 4_096):
            piece = (9_000 * np.sin(np.arange(start, start + 4_096) / 6)).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(piece[None], "s16", "mono")
            frame.sample_rate, frame.pts = 16_000, start
            out.mux(track.encode(frame))
        out.mux(track.encode(None))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 60] = bytes(60)
    path.write_bytes(data)
    notes = []
    decode_audio(path, SPEC, notes=notes)
    assert any(note.endswith("damaged packets of sound skipped") for note in notes), notes


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_sound_that_ends_before_the_first_picture_is_none(tmp_path, rate):
    _film(tmp_path / "a.mkv", seconds=(3.0, 5.0), sound=_steps(2)[:, : 2 * rate], rate=rate)
    clip = decode_video(tmp_path / "a.mkv", SPEC)
    assert clip.audio is None
    assert any("only 0.00 s of sound" in note for note in clip.info["notes"])
    assert load_clip({Modality.VIDEO: tmp_path / "a.mkv"}, SPEC).audio is None
