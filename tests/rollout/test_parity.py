"""The parity check passes on a healthy student and catches each planted fault."""

import torch

from avrt.data.inputs.preprocessor import Preprocessor, PromptOptions
from avrt.data.media.clip import Clip
from avrt.models.scoring import Prompts, response_states
from avrt.policy.parity import check_parity
from avrt.rollout.sampling import SamplingOptions
from tests.conftest import make_sample

OPTIONS = SamplingOptions(max_new_tokens=12)
TOLERANCE = 1e-3


def failed(student, batch, options=OPTIONS, **changes):
    return [c.name for c in check_parity(student, batch, options, 2, TOLERANCE, **changes) if not c.passed]


def test_every_kind_of_media_agrees(nano, builder, batch):
    clip = batch.clips[0]
    media = [(("video", "audio"), clip), (("image", "audio"), Clip(image=clip.frames[2], audio=clip.audio[:16_000])),
             (("audio",), Clip(audio=clip.audio)), ((), Clip())]  # fmt: skip
    mixed = builder.collate([builder.row(make_sample(str(i), media=m), c) for i, (m, c) in enumerate(media)])
    checks = check_parity(nano, mixed, OPTIONS, 2, TOLERANCE)
    assert len(checks) == 4
    assert all(check.passed for check in checks), checks


def test_scoring_without_mrope_is_caught(nano, batch):
    def plain_positions(text, prompts, tokens):
        positions = [torch.arange(len(p)).expand(3, -1) for p in prompts.token_ids]
        return response_states(text, Prompts(prompts.token_ids, positions, prompts.features), tokens)

    assert failed(nano, batch, score=plain_positions) == [
        "sampling / scoring log-probabilities", "scoring / transformers log-probabilities",
    ]  # fmt: skip


def test_a_dropped_frame_rate_is_caught(nano, builder, batch):
    """Positions built for the processor's silent 2 fps, while the clip says otherwise."""
    rows = []
    for sample, clip in zip(batch.samples, batch.clips, strict=True):
        assumed = Clip(clip.frames, clip.timestamps, 0.5, audio=clip.audio)
        row = builder.row(sample, assumed)
        row.clips = [clip]
        rows.append(row)
    found = failed(nano, builder.collate(rows))
    assert "prompt positions / transformers" in found
    assert "scoring / transformers log-probabilities" in found


def test_audio_in_video_lost_in_scoring_is_caught(nano, batch):
    apart = Preprocessor(nano.processor, nano.ids, PromptOptions(audio_in_video=False))
    lost = apart.collate([apart.row(s, c) for s, c in zip(batch.samples, batch.clips, strict=True)])

    def score(text, prompts, tokens):
        return response_states(text, Prompts(lost.prompt_ids, lost.prompt_positions, prompts.features), tokens)

    assert "sampling / scoring log-probabilities" in failed(nano, batch, score=score)


def test_truncated_sampling_scored_as_full_is_caught(nano, batch):
    assert failed(nano, batch, SamplingOptions(max_new_tokens=12, top_p=0.9)) == [
        "sampling / scoring log-probabilities"
    ]


def test_a_failure_says_where(nano, batch):
    checks = check_parity(nano, batch, SamplingOptions(max_new_tokens=12, top_p=0.5), 2, TOLERANCE)
    [check] = [c for c in checks if not c.passed]
    assert batch.samples[0].id.split("-")[0] in check.where
    assert "token" in check.where
    assert check.difference > TOLERANCE
