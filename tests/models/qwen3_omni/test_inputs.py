"""Qwen3-Omni's tokens, pixels and log-mel are its processor's, and positions those of transformers' rope index."""

import logging

import numpy as np
import pytest
import torch
from transformers.models.qwen3_omni_moe.processing_qwen3_omni_moe import _get_feat_extract_output_lengths

from avrt.data.inputs.preprocessor import Preprocessor
from avrt.data.inputs.prompt_options import PromptOptions
from avrt.data.media.clip import Clip
from avrt.models.qwen3_omni.positions import ClipLayout, SpecialTokens, audio_token_count, expand_prompt
from tests.conftest import make_sample

IDS = SpecialTokens(image=101, video=102, audio=103, audio_bos=104, audio_eos=105)
FORMS = {
    "interleaved": ("video", "audio"),
    "apart": ("video", "audio"),
    "picture and sound": ("image", "audio"),
    "sound": ("audio",),
    "video": ("video",),
    "text": (),
}


def shown(clip, form):
    still = clip.frames[2] if form.startswith("picture") else None
    frames = "video" in FORMS[form]
    return Clip(
        frames=clip.frames if frames else None,
        timestamps=clip.timestamps if frames else (),
        seconds_per_frame=clip.seconds_per_frame if frames else None,
        image=still,
        audio=clip.audio if "audio" in FORMS[form] else None,
    )


@pytest.mark.parametrize("form", FORMS)
def test_everything_equals_the_processor_and_the_rope_index(qwen3, clip, form, caplog):
    clip, processor = shown(clip, form), qwen3.inputs.processor
    interleaved = form == "interleaved"
    row = Preprocessor(qwen3.inputs, PromptOptions(audio_in_video=interleaved)).row(
        make_sample(media=FORMS[form]), clip
    )
    placeholders = {"video": processor.video_token, "image": processor.image_token, "audio": processor.audio_token}
    folded, kinds = [], {processor.tokenizer.convert_tokens_to_ids(text): text for text in placeholders.values()}
    bounds = (qwen3.inputs.ids.audio_bos, qwen3.inputs.ids.audio_eos, qwen3.inputs.ids.audio)
    for token in row.prompt_ids[0].tolist():
        if not (interleaved and token in bounds) and (token not in kinds or not folded or folded[-1] != token):
            folded.append(token)
    media = {
        "videos": None if clip.frames is None else [clip.frames],
        "images": None if clip.image is None else [clip.image],
        "audio": None if clip.audio is None else [clip.audio.numpy()],
    }
    with caplog.at_level(logging.ERROR):
        stock = processor(
            text=processor.tokenizer.decode(folded),
            **{name: value for name, value in media.items() if value is not None},
            videos_kwargs={"do_sample_frames": False, "do_resize": False, "fps": 1 / (clip.seconds_per_frame or 1)},
            images_kwargs={"do_resize": False},
            load_audio_from_video=interleaved,
            audio_from_video_indices=[0] if interleaved else None,
            return_tensors="pt",
        )
    assert row.prompt_ids[0].tolist() == stock["input_ids"][0].tolist()
    pixels = "pixel_values_videos" if clip.frames is not None else "pixel_values"
    assert (row.pixels is None) == (pixels not in stock)
    assert row.pixels is None or torch.equal(row.pixel_values, stock[pixels])
    assert (row.mel is None) == ("input_features" not in stock)
    if row.mel is not None:
        assert int(stock["feature_attention_mask"].sum()) == int(row.mel_lengths[0])
        assert torch.equal(row.mel, stock["input_features"])
    ids = row.prompt_ids[0][None]
    expected, deltas = qwen3.model.get_rope_index(
        ids, stock.get("image_grid_thw"), stock.get("video_grid_thw"), torch.ones_like(ids), interleaved,
        stock["feature_attention_mask"].sum(-1) if row.mel is not None else None,
        stock.get("video_second_per_grid"),
    )  # fmt: skip
    assert row.prompt_positions[0].dtype == torch.float32
    assert torch.equal(row.prompt_positions[0], expected[:, 0])
    assert row.position_ends == [ids.shape[1] + float(deltas)]


def test_interleaving_by_hand():
    """Two steps of 1.6 s, at 0 and 20.8 positions; 24 sound tokens; marks of the sound have positions of their own."""
    tokens, positions = expand_prompt([7, IDS.video, 9, 9], ClipLayout((2, 2, 4), 1.6, None, 24, True), IDS)
    v, a = IDS.video, IDS.audio
    assert tokens.tolist() == [7, IDS.audio_bos, v, v, *[a] * 21, v, v, a, a, a, IDS.audio_eos, 9, 9]
    time = [0, 1, 2, 2, *range(2, 23), 22.8, 22.8, 23, 24, 25, 26, 27, 28]
    assert positions[0].tolist() == pytest.approx(time)
    assert positions[2].tolist()[2:4] == [2, 3]


SPACING = 1.85
"""Seconds between frames at which the tenth step is at 481 positions, in float64 a little later, in float32 exactly."""


def test_a_step_on_a_sound_token_but_for_rounding(qwen3):
    """The processor has the sound first, `get_rope_index` the picture: here each has its own position."""
    seconds, processor = 2 / (1 / SPACING), qwen3.inputs.processor
    assert 10 * seconds * 13 > 481
    assert np.float32(10) * np.float32(seconds) * np.float32(13) <= 481
    tokens, positions = expand_prompt([7] * 9 + [IDS.video, 9], ClipLayout((12, 2, 2), seconds, None, 500, True), IDS)
    audio, video = (positions[0][tokens == token] for token in (IDS.audio, IDS.video))
    assert audio.tolist() == [10 + i for i in range(500)]
    assert video.tolist() == pytest.approx([10 + k * 48.1 for k in range(12)], abs=1e-4)
    stock = processor.replace_video_with_audio_token(
        {"video_grid_thw": torch.tensor([[12, 2, 2]]), "video_second_per_grid": [seconds]},
        0, {"num_audio_tokens": [500]}, 0, load_audio_from_video=True, position_id_per_seconds=13.0,
    )  # fmt: skip
    kinds = {processor.video_token: IDS.video, processor.audio_token: IDS.audio}
    order = [kinds[text] for text in processor.tokenizer.tokenize(stock) if text in kinds]
    assert order == [token for token in tokens.tolist() if token in kinds.values()]


def test_stock_positions_are_in_step_with_the_tokens(qwen3):
    """Where `get_rope_index` orders otherwise than the processor, the parity check compares token by token."""
    clip = Clip(
        frames=torch.zeros(24, 3, 28, 28, dtype=torch.uint8),
        timestamps=tuple(SPACING * i for i in range(24)),
        seconds_per_frame=SPACING,
        audio=torch.zeros(39 * 16_000),
    )
    row = Preprocessor(qwen3.inputs, PromptOptions(audio_in_video=True)).row(
        make_sample(media=("video", "audio")), clip
    )
    ids, seconds = row.prompt_ids[0][None], torch.tensor([2 * SPACING])
    found, _ = qwen3.model.get_rope_index(ids, None, row.grids, torch.ones_like(ids), True, row.mel_lengths, seconds)
    apart = (found[:, 0] != row.prompt_positions[0]).any(0).nonzero()[:, 0].tolist()
    assert len(apart) == 2
    assert apart[1] == apart[0] + 1
    again = qwen3.family.stock_positions(qwen3.model, qwen3.inputs.processor, row, 0)
    assert torch.equal(again, row.prompt_positions[0])


@pytest.mark.parametrize("frames", [1, 3, 8, 50, 99, 100, 101, 199, 370, 30_000])
def test_sound_tokens_are_those_of_the_processor(frames):
    assert audio_token_count(frames) == int(_get_feat_extract_output_lengths(torch.tensor(frames)))


@pytest.mark.parametrize("samples", [160, 200, 1600, 15_999, 16_000])
def test_sound_of_any_length_equals_the_processor(qwen3, samples):
    sound = torch.randn(samples, generator=torch.Generator().manual_seed(0)) * 0.1
    mel = qwen3.inputs.log_mel(sound)
    if samples <= 200:  # the processor cannot mirror so little
        assert mel.shape == (128, 1)
        return
    stock = qwen3.inputs.processor.feature_extractor(
        sound.numpy(), sampling_rate=16_000, padding=True, truncation=False, return_tensors="pt"
    )
    assert torch.equal(mel, stock["input_features"][0])


@pytest.mark.parametrize("kind", ["video", "image", "audio"])
def test_any_placeholder_without_media_is_refused(kind):
    with pytest.raises(ValueError, match=f"token {getattr(IDS, kind)}\\)"):
        expand_prompt([1, getattr(IDS, kind)], ClipLayout(), IDS)
