"""A real vLLM engine samples for students of each family that train, by adapters or whole, and follows each update.

`make server` sets up its environment; without it these tests are skipped.
"""

import pytest
import torch

from avrt.algorithms.grpo import GRPOOptions, grpo_step
from avrt.algorithms.optimizer import PlainOptimizer
from avrt.data.inputs.batch import collate
from avrt.data.inputs.preprocessor import Preprocessor
from avrt.data.inputs.prompt_options import PromptOptions
from avrt.data.media.clip import Clip
from avrt.errors import AvrtError
from avrt.models.families import FAMILIES
from avrt.objectives.rewards import ExtraReward, RewardOptions, RewardSum, register
from avrt.policy.policy import load_policy
from avrt.policy.reference import Reference
from avrt.policy.student_options import LoraOptions, StudentOptions
from avrt.policy.vllm.engine import VLLMEngine
from avrt.policy.vllm.options import VLLMOptions
from avrt.policy.vllm.readback import ReadBack
from avrt.rollout.sampling import SamplingOptions
from tests.conftest import make_sample
from tests.policy.test_vllm_engine import PYTHON, QUIET, SETTINGS

pytest.importorskip("peft")
pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-server here: `make server` sets it up"),
]
NANO = [family.nano for family in FAMILIES]


@register("few_letters")
def few_letters(response, sample, clip):
    """Something that even an untrained student can do more or less of."""
    return -len(response.text) / 100


@pytest.fixture(scope="module", params=NANO)
def started(request):
    """A family's preset, and one engine for all its students here: what differs between them is pushed."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUIET.items():
            patch.setenv(name, value)
        engine = VLLMEngine(VLLMOptions(python=str(PYTHON), settings=SETTINGS))
        engine.start(load_policy(StudentOptions(request.param, dtype="float32", lora=LoraOptions(rank=4))))
        yield request.param, engine
        engine.close()


class Compared:
    """The engine, with each of its answers scored by the policy that is to have given it."""

    def __init__(self, engine, base=None):
        self.engine, self.base, self.apart, self.from_base = engine, base, [], []

    def generate(self, policy, prompts, *rest):
        answers = self.engine.generate(policy, prompts, *rest)
        recorded, tokens = torch.cat([a.logprobs for a in answers]), [a.token_ids for a in answers]
        with torch.no_grad():
            self.apart.append(float((recorded - policy.logprobs(prompts, tokens).logprobs).abs().max()))
            base = self.base or policy
            with base.without_adapters():
                self.from_base.append(float((recorded - base.logprobs(prompts, tokens).logprobs).abs().max()))
        return answers


def prompts_of(student, clip):
    """Sound, frames, both (sound within them where a family has that), and text."""
    frames = Clip(frames=clip.frames, seconds_per_frame=clip.seconds_per_frame)
    media = [(("audio",), Clip(audio=clip.audio)), (("video",), frames), (("video", "audio"), clip), ((), Clip())]
    builder = Preprocessor(student.inputs, PromptOptions(audio_in_video=student.inputs.interleaves), targets=True)
    return collate([builder.row(make_sample(str(i), media=m), c) for i, (m, c) in enumerate(media)])


@pytest.mark.parametrize("trained", ["adapters", "adapters on 4 bits", "all weights"])  # these last, they stay changed
def test_grpo_samples_from_what_it_trains(trained, started, batch):
    """Twenty steps of the first family's adapters, five elsewhere."""
    source, engine = started
    quantize = "nf4" if trained == "adapters on 4 bits" else None
    if quantize is not None:
        pytest.importorskip("bitsandbytes")
    steps = 20 if source == "nano" and trained != "all weights" else 5
    with torch.random.fork_rng():
        torch.manual_seed(0)  # for the adapters' own
        lora = None if trained == "all weights" else LoraOptions(rank=4)
        student = load_policy(StudentOptions(source, dtype="float32", lora=lora, quantize=quantize)).train()
    base = load_policy(StudentOptions(source, dtype="float32")) if lora is None else None
    student.engine = compared = Compared(engine, base)
    rate = 1e-3 if lora is None else 5e-3
    optimizer = PlainOptimizer(torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=rate))
    options = GRPOOptions(group_size=4, sampling=SamplingOptions(max_new_tokens=16), micro_batch_size=3)
    reference, rewards = Reference(student), RewardSum(RewardOptions(extra=[ExtraReward("few_letters")]))
    questions = prompts_of(student, batch.clips[0])
    for step in range(steps):
        grpo_step(student, reference, questions, optimizer, rewards, options, seed=(0, step))
    moved, worst = compared.from_base[-1], max(compared.apart)
    print(f"{source}, {trained}: engine and trainer at most {worst:.1e} apart in {steps} steps; base {moved:.1e}")
    assert len(compared.apart) == steps
    assert worst < 1e-5
    assert moved > 0.05, "the weights have hardly moved: stale ones would not have been seen"
    engine.push(student)
    read_back = ReadBack()
    for _ in read_back.watch(
        student.released_weights(), tuple(prefix for prefix, _ in student.family.released_parts(student.decoder))
    ):
        pass
    assert read_back.check(engine._process) == 0


def test_what_the_engine_holds_is_what_was_pushed_and_stale_weights_are_seen(started):
    source, engine = started
    student = load_policy(StudentOptions(source, dtype="float32"))
    engine.push(student)
    read_back = ReadBack()
    assert len(list(read_back.watch(student.released_weights()))) > 0
    assert read_back.check(engine._process) == 0
    projection = student.decoder.language_model.layers[-1].self_attn.o_proj
    with torch.no_grad():
        projection.weight[3] += 1e-3
    for _ in read_back.watch(student.released_weights()):
        pass
    with pytest.raises(AvrtError, match=r"multiplies by other weights .*\.\d+\.self_attn\.o_proj\.weight differs"):
        read_back.check(engine._process)


def test_the_engine_encodes_clips_by_the_towers_as_they_are(batch, started):
    """Adapters on towers and projectors change between two rollouts of the same clips, which it might have cached."""
    source, engine = started
    lora = LoraOptions(rank=4, modules=("decoder", "projector", "towers"))
    student = load_policy(StudentOptions(source, dtype="float32", lora=lora))
    questions = prompts_of(student, batch.clips[0])
    student.engine = compared = Compared(engine)
    adapters = [p for name, p in student.named_parameters() if "lora_B" in name and "language_model" not in name]
    generator, sampling = torch.Generator().manual_seed(0), SamplingOptions(max_new_tokens=16)
    for scale in (0.2, 0.4, 0.0):  # at last as they were, for other tests
        with torch.no_grad():
            for parameter in adapters:
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
        student.generate(student.encode(questions), sampling, seeds=list(range(8)), group_size=2)
    read_back = ReadBack()
    engine.supply.push(engine._process, student, read_back)
    assert read_back.check(engine._process) == 0  # of the decoder, whatever comes after it
    print(f"{source}, towers: engine and trainer at most {max(compared.apart):.1e} apart; base {compared.from_base}")
    assert max(compared.apart) < 2e-5
    assert min(compared.from_base[:2]) > 0.01, "the towers have hardly moved: stale ones would not have been seen"
