"""TMRoPE positions and placeholder expansion against transformers, and by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from avrt.data.inputs.batch import OmniBatch
from avrt.data.media.clip import Clip
from avrt.models.qwen2_5_omni.positions import (
    ClipLayout,
    SpecialTokens,
    audio_token_count,
    expand_prompt,
)
from avrt.models.teacher_forcing import continued_positions

IDS = SpecialTokens(image=101, video=102, audio=103, audio_bos=104, audio_eos=105)
FLOAT32_SECONDS = 9.28  # of 16 frames: steps of two frames at multiples of 29 positions, but for rounding

LAYOUTS = [
    pytest.param(8, 10.0, 250, False, id="video+audio"),
    pytest.param(8, 10.0, 250, True, id="interleaved"),
    pytest.param(8, 2.0, 50, True, id="short"),
    pytest.param(8, 30.0, 250, True, id="sound-ends-first"),
    pytest.param(8, 10.0, 37, True, id="short-sound"),
    pytest.param(2, 10.0, 250, True, id="one-grid-step"),
    pytest.param(8, 3.3, 250, True, id="picture-ends-first"),
    pytest.param(8, 10.0, 0, True, id="no-sound"),
    pytest.param(8, 7.77, 111, False, id="odd-length"),
    pytest.param(16, FLOAT32_SECONDS, 250, True, id="float32-decides"),
]


def prompt_tokens(nano, video=True, audio=True):
    parts = [{"type": "video"}] * video + [{"type": "audio"}] * audio + [{"type": "text", "text": "what is it?"}]
    text = nano.inputs.processor.apply_chat_template(
        [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=False
    )
    return nano.inputs.processor.tokenizer.encode(text)


def test_the_clock_is_that_of_float32():
    """At these lengths float64 would put a step one position away from where the released model was trained."""
    per_grid = 2 * FLOAT32_SECONDS / 16
    exact = [int(step * per_grid * 25) for step in range(8)]
    trained = [int(np.float32(step) * np.float32(per_grid) * np.float32(25)) for step in range(8)]
    assert trained != exact
    _, positions = expand_prompt([IDS.video], ClipLayout((8, 2, 2), per_grid), IDS)
    assert positions[0].tolist() == trained


def test_each_medium_by_hand():
    """Words before and after; a picture of 2 x 3 tokens; sound; video of two steps of one second, 25 positions."""
    picture = ClipLayout(image_grid=(1, 4, 6))
    tokens, positions = expand_prompt([7, 8, IDS.image, 9], picture, IDS)
    assert tokens.tolist() == [7, 8, *[IDS.image] * 6, 9]
    assert positions.tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5],
        [0, 1, 2, 2, 2, 3, 3, 3, 5],
        [0, 1, 2, 3, 4, 2, 3, 4, 5],
    ]
    tokens, positions = expand_prompt([7, IDS.audio, 9], ClipLayout(audio_tokens=3), IDS)
    assert tokens.tolist() == [7, *[IDS.audio] * 3, 9]
    assert positions.tolist() == [[0, 1, 2, 3, 4]] * 3
    tokens, positions = expand_prompt([7, IDS.video, 9], ClipLayout(video_grid=(2, 2, 4)), IDS)
    assert tokens.tolist() == [7, *[IDS.video] * 4, 9]
    assert positions.tolist() == [[0, 1, 1, 26, 26, 27], [0, 1, 1, 1, 1, 27], [0, 1, 2, 1, 2, 27]]


def test_sound_stays_behind_the_picture_unless_it_is_interleaved():
    """Whether it is has to be said; its own placeholder is then one that nothing fills."""
    layout = ClipLayout(video_grid=(2, 2, 2), audio_tokens=2)
    tokens, _ = expand_prompt([IDS.video, IDS.audio], layout, IDS)
    assert tokens.tolist() == [IDS.video] * 2 + [IDS.audio] * 2
    tokens, positions = expand_prompt([5, IDS.video, 6], replace(layout, audio_in_video=True), IDS)
    assert tokens.tolist() == [5, IDS.audio_bos, *[IDS.video] * 2, *[IDS.audio] * 2, IDS.audio_eos, 6]
    # the begin mark shares the place of what stands before the picture, the end mark that of what follows it
    assert positions[0].tolist() == [0, 0, 1, 26, 1, 2, 27, 27]


def test_interleaving_alternates_stretches_by_time():
    """Stretches of 50 positions: picture steps at 0, 40, 80, 120 and 60 sound tokens."""
    layout = ClipLayout((4, 2, 2), 1.6, None, 60, True)
    tokens, positions = expand_prompt([IDS.video], layout, IDS)
    v, a = IDS.video, IDS.audio
    assert tokens.tolist() == [IDS.audio_bos, v, v, *[a] * 50, v, *[a] * 10, v, IDS.audio_eos]
    assert positions[0].tolist() == [-1, 0, 40, *range(50), 80, *range(50, 60), 120, 121]


def test_a_stretch_has_whole_positions():
    """Half a second are 12.5 positions of 40 ms: 12, as transformers rounds."""
    ids = replace(IDS, seconds_per_chunk=0.5)
    tokens, positions = expand_prompt([ids.video], ClipLayout((2, 2, 2), 0.5, None, 14, True), ids)
    v, a = ids.video, ids.audio
    assert tokens.tolist() == [ids.audio_bos, v, *[a] * 12, v, a, a, ids.audio_eos]
    assert positions[0].tolist() == [-1, 0, *range(12), 12, 12, 13, 14]


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 6, 7, 8, 100, 1000])
def test_sound_tokens_are_those_of_the_tower(nano, frames):
    _, expected = nano.model.model.audio_tower._get_feat_extract_output_lengths(torch.tensor([frames]))
    assert audio_token_count(frames) == int(expected)


@pytest.mark.parametrize("kind", ["video", "image", "audio"])
def test_any_placeholder_without_media_is_refused(kind):
    others = {"video": ClipLayout(image_grid=(1, 2, 2), audio_tokens=4),
              "image": ClipLayout(video_grid=(1, 2, 2), audio_tokens=4),
              "audio": ClipLayout(video_grid=(1, 2, 2), image_grid=(1, 2, 2))}  # fmt: skip
    with pytest.raises(ValueError, match=f"token {getattr(IDS, kind)}\\)"):
        expand_prompt([1, getattr(IDS, kind)], others[kind], IDS)


def test_an_answer_begins_after_the_largest_position_of_any_axis():
    prompt = torch.tensor([[0, 1, 1], [0, 1, 9], [0, 4, 1]])
    batch = OmniBatch([], [], [prompt], [], torch.ones(1, dtype=torch.bool), [])
    assert batch.position_ends == [10]
    assert continued_positions(10, 3, prompt.device).tolist() == [[10, 11, 12]] * 3
    assert continued_positions(10, 0, prompt.device).shape == (3, 0)


@pytest.mark.parametrize(("frames", "seconds", "sound", "interleaved"), LAYOUTS)
def test_positions_equal_those_of_transformers(nano, frames, seconds, sound, interleaved):
    grid, per_grid = (frames // 2, 4, 6), 2 * seconds / frames
    layout = ClipLayout(grid, per_grid, None, sound, interleaved)
    tokens, positions = expand_prompt(prompt_tokens(nano, audio=sound > 0 and not interleaved), layout, nano.inputs.ids)
    expected, deltas = nano.model.get_rope_index(
        tokens[None],
        None,
        torch.tensor([grid]),
        torch.ones(1, len(tokens)),
        interleaved and sound > 0,
        torch.tensor([sound * 4]) if sound else None,
        torch.tensor([per_grid]),
    )
    assert torch.equal(expected[:, 0], positions)
    # and an answer goes on where transformers' generation would
    following = continued_positions(int(positions.max()) + 1, 2, positions.device)[0].tolist()
    assert following == [len(tokens) + int(deltas), len(tokens) + int(deltas) + 1]


@pytest.mark.parametrize("seconds", [2.0, 10.0, 30.0])
def test_interleaved_tokens_equal_those_of_the_processor(nano, seconds):
    sound = min(250, int(25 * seconds))
    stock = nano.inputs.processor.replace_video_with_audio_token(
        {"video_grid_thw": torch.tensor([[4, 4, 6]]), "video_second_per_grid": [2 * seconds / 8]},
        0,
        {"num_audio_tokens": [sound]},
        0,
        position_id_per_seconds=25,
        seconds_per_chunk=2.0,
    )
    layout = ClipLayout((4, 4, 6), 2 * seconds / 8, None, sound, True)
    tokens, _ = expand_prompt(prompt_tokens(nano, audio=False), layout, nano.inputs.ids)
    assert nano.inputs.processor.tokenizer.decode(tokens).count(stock) == 1


def test_sound_and_picture_of_the_same_second_share_a_temporal_position(nano):
    """Eight frames over ten seconds are 0.8 fps: one step of two frames is 2.5 s, or 62.5 positions of 40 ms."""
    layout = ClipLayout((4, 4, 6), 2.5, None, 250, True)
    tokens, positions = expand_prompt(prompt_tokens(nano, audio=False), layout, nano.inputs.ids)
    video = positions[0][tokens == nano.inputs.ids.video].unique().tolist()
    sound = positions[0][tokens == nano.inputs.ids.audio].tolist()
    first = sound[0]
    assert [time - first for time in video] == [0, 62, 125, 187]
    assert [time - first for time in sound] == list(range(250))  # 25 per second, so second s is at 25 * s
    for step, seconds in enumerate((0.0, 2.5, 5.0, 7.5)):
        assert abs((video[step] - first) / 25 - seconds) < 0.04


def test_a_dropped_frame_rate_would_show(nano):
    """The processor's silent default of 2 fps puts the last step at 3 s instead of 7.5 s."""
    right, wrong = (
        expand_prompt(prompt_tokens(nano), ClipLayout((4, 4, 6), spg, None, 250, False), nano.inputs.ids)[1]
        for spg in (2.5, 1.0)
    )
    assert not torch.equal(right, wrong)


def test_placeholder_without_media_is_refused(nano):
    with pytest.raises(ValueError, match="placeholder"):
        expand_prompt(prompt_tokens(nano), ClipLayout(), nano.inputs.ids)


def test_text_positions_are_plain(nano):
    tokens, positions = expand_prompt(prompt_tokens(nano, False, False), ClipLayout(), nano.inputs.ids)
    assert torch.equal(positions, torch.arange(len(tokens)).expand(3, -1))


def test_clip_spacing_reaches_the_positions(builder):
    """The true spacing of the frames is carried with the clip, not assumed."""
    from tests.conftest import make_sample

    frames = torch.zeros(8, 3, 56, 56, dtype=torch.uint8)
    spans = []
    for spacing in (0.25, 1.25):
        clip = Clip(frames=frames, timestamps=(0.0,) * 8, seconds_per_frame=spacing)
        row = builder.row(make_sample(media=("video",)), clip)
        video = row.prompt_positions[0][0][row.prompt_ids[0] == builder.inputs.ids.video]
        spans.append(int(video.max() - video.min()))
    assert spans == [int(3 * 0.5 * 25), int(3 * 2.5 * 25)]
