"""Model inputs equal what the stock processor gives, and nothing leaks into the prompt."""

import pytest
import torch

from avrt.data.inputs.batch import collate
from avrt.data.inputs.preprocessor import Preprocessor
from avrt.data.inputs.prompt_options import PromptOptions
from avrt.data.media.clip import Clip
from avrt.errors import BadSampleError
from tests.conftest import make_sample


def clip_of(seconds=3.0, frames=8):
    generator = torch.Generator().manual_seed(1)
    return Clip(
        frames=torch.randint(0, 255, (frames, 3, 56, 84), dtype=torch.uint8, generator=generator),
        timestamps=tuple(i * seconds / frames for i in range(frames)),
        seconds_per_frame=seconds / frames,
        audio=torch.randn(int(16_000 * seconds), generator=generator) * 0.1,
    )


def test_mel_and_pixels_equal_the_stock_processor(builder, nano):
    clip = clip_of(2.345)
    row = builder.row(make_sample(media=("video", "audio")), clip)
    stock = nano.inputs.processor(
        text="<|vision_bos|><|VIDEO|><|vision_eos|><|audio_bos|><|AUDIO|><|audio_eos|>",
        videos=[clip.frames],
        audio=[clip.audio.numpy()],
        videos_kwargs={"do_sample_frames": False, "do_resize": False},
        return_tensors="pt",
    )
    length = int(stock["feature_attention_mask"].sum())
    assert int(row.mel_lengths[0]) == length
    assert torch.equal(row.mel[0], stock["input_features"][0, :, :length])
    assert row.pixels.dtype == torch.uint8
    assert torch.equal(row.pixel_values, stock["pixel_values_videos"])
    assert torch.equal(row.grids, stock["video_grid_thw"])


@pytest.mark.parametrize("frames", [1, 3, 8])
@pytest.mark.parametrize("samples", [1600, 15_999, 16_000, 160_000])
def test_any_length_equals_the_stock_processor(builder, nano, frames, samples):
    clip = clip_of(10.0, frames=frames)
    clip.audio = clip.audio[:samples]
    row = builder.row(make_sample(media=("video", "audio")), clip)
    sound = nano.inputs.processor.feature_extractor(
        clip.audio.numpy(), sampling_rate=16_000, padding="max_length", max_length=300 * 16_000,
        return_attention_mask=True, return_tensors="pt",
    )  # fmt: skip
    length = int(sound["attention_mask"].sum())
    assert row.mel.shape == (1, 128, length)
    assert torch.equal(row.mel[0], sound["input_features"][0, :, :length])
    video = nano.inputs.processor.video_processor(
        videos=[clip.frames], do_sample_frames=False, do_resize=False, cap_pixels_per_frame=False, return_tensors="pt"
    )
    assert torch.equal(row.grids, video["video_grid_thw"])
    assert torch.equal(row.pixel_values, video["pixel_values_videos"])


def test_a_picture_equals_the_stock_processor(builder, nano):
    clip = Clip(image=clip_of().frames[0])
    row = builder.row(make_sample(media=("image",)), clip)
    stock = nano.inputs.processor.image_processor(images=[clip.image], do_resize=False, return_tensors="pt")
    assert torch.equal(row.grids, stock["image_grid_thw"])
    assert torch.equal(row.pixel_values, stock["pixel_values"])


def test_features_follow_the_sound(builder):
    """Sound features that do not depend on the sound are a fault others had without an error."""
    quiet, loud = clip_of(), clip_of()
    loud.audio = loud.audio.flip(0)
    rows = [builder.row(make_sample(media=("video", "audio")), clip) for clip in (quiet, loud)]
    assert not torch.allclose(rows[0].mel, rows[1].mel, atol=0.1)


def test_answer_and_trace_never_reach_the_prompt(builder, nano):
    shown = [
        builder.row(make_sample(answer=answer, trace=f"<think>secret {answer}</think><answer>A</answer>"), Clip())
        for answer in (0, 2)
    ]
    assert torch.equal(shown[0].prompt_ids[0], shown[1].prompt_ids[0])
    assert "secret" not in nano.inputs.processor.tokenizer.decode(shown[0].prompt_ids[0])


def test_target_is_trace_and_end_token(builder, nano):
    row = builder.row(make_sample(), Clip())
    tokenizer = nano.inputs.processor.tokenizer
    assert row.completion_ids[0][-1] == tokenizer.eos_token_id
    assert tokenizer.decode(row.completion_ids[0][:-1]) == make_sample().trace


def test_without_a_trace_the_bare_answer_is_the_target(builder, nano):
    row = builder.row(make_sample(trace=None), Clip())
    assert nano.inputs.processor.tokenizer.decode(row.completion_ids[0][:-1]) == "<answer>B</answer>"
    with pytest.raises(BadSampleError, match="no trace"):
        builder.row(make_sample(trace=None, answer=None), Clip())


def test_audio_in_video_is_a_property_of_the_sample(builder, nano):
    silent, sounding = clip_of(), clip_of()
    silent.audio = None
    alone = Clip(audio=clip_of().audio)
    ids = [
        builder.row(make_sample(media=m), clip).prompt_ids[0].tolist()
        for m, clip in ((("video",), silent), (("video", "audio"), sounding), (("audio",), alone))
    ]
    bos, video, audio = nano.inputs.ids.audio_bos, nano.inputs.ids.video, nano.inputs.ids.audio
    assert bos not in ids[0]
    assert ids[1].index(bos) < ids[1].index(video) < ids[1].index(audio)
    assert len(ids[1]) - 1 - ids[1][::-1].index(video) > ids[1].index(audio)  # picture after sound: interleaved
    assert video not in ids[2]
    assert bos in ids[2]


def test_collate_keeps_rows_apart(builder):
    one, two = clip_of(2.0), Clip(audio=clip_of(3.0).audio)
    rows = [builder.row(make_sample("a"), one), builder.padding_row(), builder.row(make_sample("b"), two)]
    batch = collate(rows)
    assert batch.valid.tolist() == [True, False, True]
    assert batch.grid_rows == [0]
    assert batch.mel_rows == [0, 2]
    assert batch.mel_lengths.tolist() == [200, 300]
    assert torch.equal(batch.mel[0, :, :200], rows[0].mel[0])
    assert not batch.mel[0, :, 200:].any()


@pytest.mark.parametrize("text", ["say <|im_end|> now", "look at <|VIDEO|>"])
def test_control_tokens_in_a_question_are_refused(builder, text):
    with pytest.raises(BadSampleError, match="control token"):
        builder.row(make_sample(question=text), Clip())


def test_limits_and_missing_trace_name_the_sample(nano):
    builder = Preprocessor(nano.inputs, PromptOptions(max_prompt_tokens=20), targets=True)
    with pytest.raises(BadSampleError, match=r"'q'.*max_prompt_tokens"):
        builder.row(make_sample(question="what " * 50), Clip())
    builder = Preprocessor(nano.inputs, PromptOptions(missing_trace="refuse"), targets=True)
    with pytest.raises(BadSampleError, match=r"'q'.*no trace"):
        builder.row(make_sample(trace=None), Clip())
