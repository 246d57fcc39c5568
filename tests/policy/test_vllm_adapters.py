"""A real vLLM engine samples for students with adapters, on plain and on 4-bit weights, and follows each update.

`make server` sets up its environment; without it these tests are skipped.
"""

import pytest
import torch

from avrt.algorithms.grpo import GRPOOptions, grpo_step
from avrt.algorithms.optimizer import PlainOptimizer
from avrt.data.inputs.batch import collate
from avrt.data.media.clip import Clip
from avrt.errors import AvrtError
from avrt.objectives.rewards import ExtraReward, RewardOptions, RewardSum, register
from avrt.policy.policy import load_policy
from avrt.policy.reference import Reference
from avrt.policy.student_options import LoraOptions, StudentOptions
from avrt.policy.vllm.engine import VLLMEngine
from avrt.policy.vllm.options import VLLMOptions
from avrt.policy.vllm.readback import ReadBack
from avrt.rollout.sampling import SamplingOptions
from tests.conftest import make_sample
from tests.policy.test_plain_weights import student_with_adapters
from tests.policy.test_vllm_engine import PYTHON, QUIET, SETTINGS

pytest.importorskip("peft")
pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-server here: `make server` sets it up"),
]
STEPS = 20


@register("few_letters")
def few_letters(response, sample, clip):
    """Something that even an untrained student can do more or less of."""
    return -len(response.text) / 100


@pytest.fixture(scope="module")
def engine():
    """One for all students here: what differs between them is pushed."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUIET.items():
            patch.setenv(name, value)
        engine = VLLMEngine(VLLMOptions(python=str(PYTHON), settings=SETTINGS))
        engine.start(load_policy(StudentOptions("nano", dtype="float32", lora=LoraOptions(rank=4))))
        yield engine
        engine.close()


class Compared:
    """The engine, with each of its answers scored by the policy that is to have given it."""

    def __init__(self, engine):
        self.engine, self.apart, self.from_base, self.tensors = engine, [], [], 0

    def generate(self, policy, prompts, *rest):
        answers = self.engine.generate(policy, prompts, *rest)
        recorded, tokens = torch.cat([a.logprobs for a in answers]), [a.token_ids for a in answers]
        with torch.no_grad():
            self.apart.append(float((recorded - policy.logprobs(prompts, tokens).logprobs).abs().max()))
            with policy.without_adapters():
                self.from_base.append(float((recorded - policy.logprobs(prompts, tokens).logprobs).abs().max()))
        return answers


@pytest.mark.parametrize("quantize", [None, "nf4"])
def test_grpo_with_adapters_samples_from_what_it_trains(quantize, batch, builder, engine):
    """Twenty steps; sound alone, frames alone and text alone, where vLLM's positions are the student's."""
    if quantize is not None:
        pytest.importorskip("bitsandbytes")
    clip = batch.clips[0]
    frames = Clip(frames=clip.frames, seconds_per_frame=clip.seconds_per_frame)
    media = [(("audio",), Clip(audio=clip.audio)), (("video",), frames), ((), Clip())]
    questions = collate([builder.row(make_sample(str(i), media=m), c) for i, (m, c) in enumerate(media)])
    with torch.random.fork_rng():
        torch.manual_seed(0)  # for the adapters' own
        options = StudentOptions("nano", dtype="float32", lora=LoraOptions(rank=4), quantize=quantize)
        student = load_policy(options).train()
    student.engine = compared = Compared(engine)
    optimizer = PlainOptimizer(torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=5e-3))
    options = GRPOOptions(group_size=4, sampling=SamplingOptions(max_new_tokens=16), micro_batch_size=3)
    reference, rewards = Reference(student), RewardSum(RewardOptions(extra=[ExtraReward("few_letters")]))
    for step in range(STEPS):
        grpo_step(student, reference, questions, optimizer, rewards, options, seed=(0, step))
    moved, worst = compared.from_base[-1], max(compared.apart)
    print(f"{quantize or 'plain'}: engine and trainer at most {worst:.1e} apart in {STEPS} steps; base {moved:.1e}")
    assert len(compared.apart) == STEPS
    assert worst < 1e-5
    assert moved > 0.05, "the adapters have hardly moved: stale weights would not have been seen"


def test_what_the_engine_holds_is_what_was_pushed_and_stale_weights_are_seen(engine):
    student = student_with_adapters()
    engine.push(student)
    read_back = ReadBack()
    assert len(list(read_back.watch(student.released_weights(everything=False)))) > 0
    assert read_back.check(engine._process) == 0
    with torch.no_grad():
        student.decoder.language_model.layers[-1].mlp.gate_proj.lora_B["default"].weight[3] += 1e-3
    for _ in read_back.watch(student.released_weights(everything=False)):
        pass
    with pytest.raises(AvrtError, match=r"multiplies by other weights .*layers\.\d+\.mlp\.gate_proj\.weight differs"):
        read_back.check(engine._process)


def test_the_engine_encodes_clips_by_the_towers_as_they_are(batch, builder, engine):
    """Adapters on towers and projectors change between two rollouts of the same clips, which it might have cached."""
    clip = batch.clips[0]
    frames = Clip(frames=clip.frames, seconds_per_frame=clip.seconds_per_frame)
    media = [(("audio",), Clip(audio=clip.audio)), (("video",), frames)]
    questions = collate([builder.row(make_sample(str(i), media=m), c) for i, (m, c) in enumerate(media)])
    lora = LoraOptions(rank=4, modules=("decoder", "projector", "towers"))
    student = load_policy(StudentOptions("nano", dtype="float32", lora=lora))
    student.engine = compared = Compared(engine)
    adapters = [p for name, p in student.named_parameters() if "lora_B" in name and "language_model" not in name]
    generator, sampling = torch.Generator().manual_seed(0), SamplingOptions(max_new_tokens=16)
    for scale in (0.2, 0.4, 0.0):  # at last as they were, for other tests
        with torch.no_grad():
            for parameter in adapters:
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
        student.generate(student.encode(questions), sampling, seeds=list(range(4)), group_size=2)
    read_back = ReadBack()
    engine.supply.push(engine._process, student, read_back)
    assert read_back.check(engine._process) == 0  # of the decoder, whatever comes after it
    print(f"engine and trainer at most {max(compared.apart):.1e} apart; base {compared.from_base}")
    assert max(compared.apart) < 2e-5
    assert min(compared.from_base[:2]) > 0.01, "the towers have hardly moved: stale ones would not have been seen"
