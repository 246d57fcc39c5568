"""A real vLLM engine gets weights each way byte by byte, and one that is killed samples the same when started again."""

import copy
import os
import signal

import pytest
import torch

from avrt.data.inputs.batch import collate
from avrt.data.media.clip import Clip
from avrt.policy.vllm.supply import WeightSupply
from avrt.rollout.sampling import SamplingOptions
from benchmarks.receiver.vllm import checksum
from tests.conftest import make_sample
from tests.policy.test_vllm_engine import apart, engine, pytestmark  # noqa: F401 - a fixture, and when to skip

FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


def changed(student, seed):
    """A student whose decoder has moved."""
    student = copy.deepcopy(student)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in student.decoder.language_model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return student


def expected(student):
    """SHA-256 of what vLLM's own parameters have to be: it keeps some of ours one below the other."""
    ours = {n.replace("thinker.", "language_model.", 1): tensor for n, tensor in student.released_weights()}
    found = {}
    for name in [*ours]:
        whole = name
        for fused, parts in FUSED.items():
            if f".{parts[0]}." in name:
                whole = name.replace(f".{parts[0]}.", f".{fused}.")
                ours[whole] = torch.cat([ours[name.replace(f".{parts[0]}.", f".{part}.")] for part in parts])
            elif any(f".{part}." in name for part in parts):
                whole = ""
        if whole:
            found[whole] = checksum(ours[whole])
    return found


def test_weights_arrive_each_way_and_a_killed_engine_samples_the_same(nano, batch, builder, engine):  # noqa: F811
    clip = batch.clips[0]
    media = [(("audio",), Clip(audio=clip.audio)), ((), Clip())]
    mixed = collate([builder.row(make_sample(str(i), media=m), c) for i, (m, c) in enumerate(media)])
    options, seeds = SamplingOptions(max_new_tokens=48), list(range(8))
    by_way = {}
    for seed, way in ((0, "shared_memory"), (1, "socket"), (1, "shared_memory")):
        student = changed(nano, seed)
        engine.supply = WeightSupply(way)
        answers = by_way[way] = engine.generate(student, student.encode(mixed), options, seeds, 4)
        assert engine.supply.way == way
        print(f"{way}: {engine.metrics()}, apart {apart(student, mixed, answers).max():.1e}")
        assert apart(student, mixed, answers).max() < 1e-5
        theirs, ours = engine.checksums(), expected(student)
        # On a CPU it repacks the large matrices for its own use and leaves nothing in their place.
        kept = {name for name in ours if theirs[name] != checksum(torch.empty(0))}
        assert len(kept) > 10
        assert {name: theirs[name] for name in kept} == {name: ours[name] for name in kept}
    for one, other in zip(by_way["socket"], answers, strict=True):
        assert one.token_ids.equal(other.token_ids)
        assert one.logprobs.equal(other.logprobs)
    # Killed in mid-rollout, and the policy goes on meanwhile: what was asked is answered as it would have been.
    pending = engine.begin(student, student.encode(mixed), options, seeds, 4)
    with torch.no_grad():
        for parameter in student.decoder.language_model.parameters():
            parameter.mul_(1.5)
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.warns(UserWarning, match="the vLLM engine has gone .ended by SIGKILL.: it is started again"):
        again = engine.finish(pending)
    assert engine.restarts == 1
    for one, other in zip(answers, again, strict=True):
        assert one.token_ids.equal(other.token_ids)
        assert torch.allclose(one.logprobs, other.logprobs, atol=1e-6)
