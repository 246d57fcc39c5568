"""Encode once: features reused and scattered equal the stock model's own forward pass."""

from dataclasses import replace
from itertools import accumulate

import pytest
import torch

from avrt.data.inputs.batch import collate
from avrt.data.media.clip import Clip
from avrt.models.decoder import TokenInputs
from avrt.models.encoded_prompts import ClipFeatures, EncodedPrompts
from avrt.models.qwen2_5_omni import towers as features_module
from avrt.models.qwen2_5_omni.towers import encode_clips
from avrt.models.qwen_omni import towers as shared_towers
from avrt.models.qwen_omni.towers import portions
from avrt.models.teacher_forcing import completion_states
from avrt.policy.policy import load_policy
from avrt.policy.saving import export_policy
from avrt.policy.student_options import StudentOptions
from tests.conftest import make_sample, stock_media


def test_reused_features_equal_a_plain_forward_pass(nano, batch):
    features = nano.encode(batch).features
    prompts = EncodedPrompts.of(batch, features)
    states = completion_states(nano.decoder, prompts, batch.completion_ids)
    for i in range(len(batch)):
        ids = torch.cat([batch.prompt_ids[i], batch.completion_ids[i]])[None]
        hidden = nano.model.model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **stock_media(batch, i),
        ).last_hidden_state[0]
        expected = hidden[len(batch.prompt_ids[i]) - 1 : -1]
        assert torch.allclose(states.hidden_states[states.completion_index == i], expected, atol=2e-5)


def test_rows_of_mixed_media_equal_rows_alone(nano, builder, batch):
    """Audio only, picture with sound, and text in one batch; each row as if it were by itself."""
    clip = batch.clips[0]
    media = [Clip(audio=clip.audio), Clip(image=clip.frames[0], audio=clip.audio[:20_000]), Clip(), clip]
    names = [("audio",), ("image", "audio"), (), ("video", "audio")]
    rows = [builder.row(make_sample(str(i), media=m), c) for i, (m, c) in enumerate(zip(names, media, strict=True))]
    mixed = collate(rows)
    together = nano.encode(mixed).features
    for i, row in enumerate(rows):
        alone = nano.encode(row).features
        for a, b in ((together.vision[i], alone.vision[0]), (together.audio[i], alone.audio[0])):
            assert (a is None) == (b is None)
            assert a is None or torch.allclose(a, b, atol=1e-5)
    prompts = EncodedPrompts.of(mixed, together)
    states = completion_states(nano.decoder, prompts, mixed.completion_ids)
    for i, row in enumerate(rows):
        alone = nano.encode(row)
        expected = completion_states(nano.decoder, alone, row.completion_ids)
        assert torch.allclose(states.hidden_states[states.completion_index == i], expected.hidden_states, atol=2e-5)


def test_portions_of_patches_by_hand():
    assert portions([4, 4, 4, 20, 1], 8) == [slice(0, 2), slice(2, 3), slice(3, 4), slice(4, 5)]
    assert portions([4, 4, 4, 20, 1], None) == [slice(0, 5)]
    assert portions([20], 8) == [slice(0, 1)]
    assert portions([4, 5], 9) == [slice(0, 2)]


def test_many_patches_are_encoded_in_portions(nano, batch, monkeypatch):
    """The same features, in as many calls as it takes; one call where ranks have to keep in step."""
    whole = nano.encode(batch).features
    sizes = batch.grids.prod(-1).tolist()
    calls = []
    run = features_module.encode_pictures
    monkeypatch.setattr(
        features_module,
        "encode_pictures",
        lambda visual, pixels, grids: calls.append(len(pixels)) or run(visual, pixels, grids),
    )
    monkeypatch.setattr(shared_towers, "PATCHES_AT_ONCE", 2 * sizes[0])
    parts = encode_clips(nano.model, batch)
    assert calls == [2 * sizes[0]] * 2
    for one, other in zip(whole.vision, parts.vision, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    encode_clips(nano.model, batch, run_on_empty=True)
    assert calls[2:] == [sum(sizes)]


def test_features_follow_picture_and_sound(nano, batch):
    features = nano.encode(batch).features
    for rows in (features.vision, features.audio):
        assert not torch.allclose(rows[0][:10], rows[1][:10], atol=1e-3)


def test_towers_and_text_model_have_one_type(nano, batch, tmp_path):
    """Also where the files hold another: a tower left in it would give features that the text model cannot take."""
    export_policy(nano, tmp_path / "model")  # float32
    student = load_policy(StudentOptions(source=str(tmp_path / "model"), dtype="bfloat16"))
    assert {p.dtype for p in student.model.parameters()} == {torch.bfloat16}
    features = student.encode(batch).features
    exact = nano.encode(batch).features
    for ours, theirs in zip([*features.vision, *features.audio], [*exact.vision, *exact.audio], strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours.float() - theirs).norm() < 0.05 * theirs.norm()


def test_towers_run_on_a_minimal_input_where_every_rank_must_take_part(nano, builder):
    calls = []
    hooks = [
        tower.register_forward_hook(lambda *_: calls.append(1))
        for tower in (nano.model.model.visual, nano.model.model.audio_tower)
    ]
    try:
        row = builder.row(make_sample(), Clip())
        nothing = encode_clips(nano.model, row, run_on_empty=False)
        assert not calls
        encode_clips(nano.model, row, run_on_empty=True)
        assert len(calls) == 2
        assert nothing.vision == nothing.audio == [None]
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("packed", [True, False])
def test_placeholders_in_an_answer_are_plain_tokens(nano, batch, packed):
    """From the first token on; the states are those of the text model on the tokens' own embeddings."""
    features = nano.encode(batch).features
    prompts = EncodedPrompts.of(batch, features).rows([0])
    strange = torch.tensor([nano.inputs.ids.video, nano.inputs.ids.audio, nano.inputs.ids.image, 5, 7])
    with torch.no_grad():
        states = completion_states(nano.decoder, prompts, [strange], packed=packed)
        ids, length = batch.prompt_ids[0], len(batch.prompt_ids[0])
        table = nano.decoder.language_model.embed_tokens
        embedded = torch.cat([table(ids), table(strange)])
        embedded[:length][ids == nano.inputs.ids.video] = features.vision[0]
        embedded[:length][ids == nano.inputs.ids.audio] = features.audio[0]
        following = int(batch.prompt_positions[0].max()) + 1
        places = torch.cat([batch.prompt_positions[0], torch.arange(following, following + 5).expand(3, -1)], dim=1)
        expected = nano.decoder.hidden_states(
            TokenInputs(embedded[None]), places[:, None], torch.ones(1, length + 5, dtype=torch.long)
        )[0]
    assert torch.allclose(states.hidden_states, expected[length - 1 : length + 4], atol=2e-5)
    assert states.targets.tolist() == strange.tolist()
    assert states.completion_index.tolist() == [0] * 5


def test_wrong_number_of_placeholders_is_an_error(nano, batch):
    prompts = nano.encode(batch).rows([0])
    bare = replace(prompts, vision_places=[prompts.vision_places[0][:0]])
    with pytest.raises(RuntimeError, match="0 placeholders for"):
        nano.decoder.embed(batch.prompt_ids[0][None], bare, [0])


def test_towers_in_bfloat16_take_float32_inputs(batch):
    """A feature extractor makes float32, whatever the towers are; the features have the towers' type."""
    student = load_policy(StudentOptions(source="nano", dtype="bfloat16"))
    features = student.encode(batch).features
    for rows in (features.vision, features.audio):
        assert {part.dtype for part in rows if part is not None} == {torch.bfloat16}
        assert all(torch.isfinite(part).all() and part.float().std() > 0 for part in rows if part is not None)


def test_another_number_of_features_than_placeholders_is_an_error(nano, batch):
    prompts = nano.encode(batch)
    features = prompts.features
    cut = ClipFeatures([features.vision[0][:-1], *features.vision[1:]], features.audio)
    starts = [0, *accumulate(prompts.lengths)][:-1]
    with pytest.raises(RuntimeError, match="placeholders for"):
        nano.decoder.embed(torch.cat(batch.prompt_ids)[None], replace(prompts, features=cut), starts)
