"""The parity check passes on a healthy student and catches each planted fault."""

from dataclasses import replace

import pytest
import torch

from avrt.data.inputs.batch import collate
from avrt.data.inputs.preprocessor import Preprocessor
from avrt.data.inputs.prompt_options import PromptOptions
from avrt.data.media.clip import Clip
from avrt.policy.parity import check_parity
from avrt.policy.policy import load_policy
from avrt.policy.student_options import StudentOptions
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
    mixed = collate([builder.row(make_sample(str(i), media=m), c) for i, (m, c) in enumerate(media)])
    checks = check_parity(nano, mixed, OPTIONS, 2, TOLERANCE)
    assert len(checks) == 4
    assert all(check.passed for check in checks), checks


class Faulty:
    """Scores as the policy does, but with other prompt positions."""

    def __init__(self, policy, positions):
        self.policy, self.positions = policy, positions

    def logprobs(self, prompts, completions):
        return self.policy.logprobs(replace(prompts, **self.positions(prompts)), completions)


def test_scoring_without_mrope_is_caught(nano, batch):
    def plain_positions(prompts):
        return {"positions": [torch.arange(len(p)).expand(3, -1) for p in prompts.token_ids]}

    assert failed(nano, batch, scorer=Faulty(nano, plain_positions)) == [
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
    found = failed(nano, collate(rows))
    assert "prompt positions / transformers" in found
    assert "scoring / transformers log-probabilities" in found


def test_audio_in_video_lost_in_scoring_is_caught(nano, batch):
    apart = Preprocessor(nano.inputs, PromptOptions(audio_in_video=False))
    lost = collate([apart.row(s, c) for s, c in zip(batch.samples, batch.clips, strict=True)])
    scorer = Faulty(nano, lambda prompts: {"token_ids": lost.prompt_ids, "positions": lost.prompt_positions})
    assert "sampling / scoring log-probabilities" in failed(nano, batch, scorer=scorer)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("share_prefix", [True, False])
def test_paths_agree_whether_or_not_attention_can_pack(batch, attention, share_prefix):
    policy = load_policy(StudentOptions(source="nano", dtype="float32", attention=attention))
    policy.share_prefix = share_prefix
    assert policy.decoder.supports_packing == (attention == "sdpa")
    assert failed(policy, batch) == []


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
