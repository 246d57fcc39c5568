"""What Gemma 4 is given equals what its own processor makes."""

import pytest
import torch

from avrt.data.inputs.preprocessor import Preprocessor
from avrt.data.inputs.prompt_options import PromptOptions
from avrt.data.media.clip import Clip
from avrt.data.sample import Modality
from avrt.models.gemma4.media_inputs import time_stamp
from tests.conftest import make_sample
from tests.models.gemma4.conftest import forms, make_video


def by_processor(gemma, builder, media, clip):
    """One prompt by the processor itself, told the frames' times as it takes them from a container."""
    text = builder._prompt(make_sample(media=media), Shown(media), None)
    told = {}
    if clip.frames is not None:
        numbers = [round(seconds * 1000) for seconds in clip.timestamps]
        seen = {"fps": 1000, "frames_indices": numbers, "total_num_frames": numbers[-1] + 1}
        told = {"videos": [clip.frames], "video_metadata": [seen], "do_sample_frames": False}
    return gemma.inputs.processor(
        text=text,
        images=None if clip.image is None else [clip.image],
        audio=None if clip.audio is None else [clip.audio.numpy()],
        add_special_tokens=False, do_resize=False, return_tensors="pt", **told,
    )  # fmt: skip


class Shown:
    """A layout of these media."""

    interleaved = False

    def __init__(self, media):
        self.media = tuple(Modality(m) for m in media)


@pytest.mark.parametrize("media", forms(), ids="+".join)
def test_inputs_equal_the_processors(gemma, media):
    builder, clip = Preprocessor(gemma.inputs, PromptOptions()), forms()[media]
    row, stock = builder.row(make_sample(media=media), clip), by_processor(gemma, builder, media, clip)
    assert row.prompt_ids[0].tolist() == stock["input_ids"][0].tolist()
    assert torch.equal(row.prompt_positions[0], torch.arange(len(row.prompt_ids[0])).expand(3, -1))
    if clip.pictures is not None:
        kind = ("pixel_values_videos", "video") if clip.frames is not None else ("pixel_values", "image")
        pixels, places = stock[kind[0]], stock[f"{kind[1]}_position_ids"]
        real = places[..., 0] >= 0
        assert row.pixels.dtype == torch.uint8
        # of stills the processor multiplies by a rounded 1/255
        assert torch.allclose(row.pixel_values, pixels[real], rtol=2e-7, atol=0)
        frames, rows, columns = row.grids[0].tolist()
        assert (frames, rows * columns) == (len(pixels), int(real[0].sum()))
        assert places[0, real[0]].amax(0).tolist() == [columns - 1, rows - 1]
    if clip.audio is not None:
        heard = stock["input_features_mask"][0]
        assert torch.equal(row.mel[0].T, stock["input_features"][0, heard])


@pytest.mark.parametrize("samples", [1600, 15_999, 16_001, 480_000, 500_000])
def test_sound_of_any_length_equals_the_processors(gemma, samples):
    """Beyond 30 s it is cut, as the processor cuts it."""
    sound = torch.randn(samples, generator=torch.Generator().manual_seed(0)) * 0.1
    row = Preprocessor(gemma.inputs, PromptOptions()).row(make_sample(media=("audio",)), Clip(audio=sound))
    stock = gemma.inputs.processor(text="<|audio|>", audio=[sound.numpy()], return_tensors="pt")
    assert len(row.audio_places[0]) == int((stock["input_ids"] == gemma.inputs.placeholders[1][0]).sum())
    assert row.mel.shape[-1] == (min(samples, 480_000) - 1) // 160


def test_frames_carry_their_true_times(gemma):
    clip = make_video(200.0, 4)
    clip.timestamps = (0.0, 59.99, 60.0, 150.5)
    row = Preprocessor(gemma.inputs, PromptOptions()).row(make_sample(media=("video", "audio")), clip)
    text = gemma.inputs.tokenizer.decode(row.prompt_ids[0])
    assert [text.split(" <|image>")[i][-5:] for i in range(4)] == ["00:00", "00:59", "01:00", "02:30"]
    assert time_stamp(6000.0) == "100:00"


def test_sound_within_video_follows_the_frames(gemma):
    clip, sample = make_video(4.0, 4), make_sample(media=("video", "audio"))
    clip.audio = torch.zeros(16_000)
    asked, plain = (
        Preprocessor(gemma.inputs, PromptOptions(audio_in_video=within)).row(sample, clip) for within in (True, False)
    )
    assert asked.prompt_ids[0].tolist() == plain.prompt_ids[0].tolist()


def test_prompts_that_do_not_fit_their_clip_are_refused(gemma):
    row = Preprocessor(gemma.inputs, PromptOptions()).row(make_sample(), Clip())
    layout = gemma.inputs.add(row, Clip(), audio_in_video=False)
    with pytest.raises(ValueError, match="placeholder"):
        gemma.inputs.tokenize("look: <|video|>", layout)
    with pytest.raises(ValueError, match="multiples of 28"):
        gemma.inputs.patches(torch.zeros(1, 3, 56, 60, dtype=torch.uint8))
