"""Adapters on towers and projectors, in each family: gradients, the reference, GRPO, exports, and what is refused."""

import shutil

import pytest
import torch
from torch.utils._pytree import tree_leaves

from avrt.algorithms.groups import Group
from avrt.algorithms.grpo import GRPOOptions, grpo_step
from avrt.algorithms.optimizer import PlainOptimizer
from avrt.data.inputs.batch import collate
from avrt.data.inputs.preprocessor import Preprocessor
from avrt.data.inputs.prompt_options import PromptOptions
from avrt.data.media.clip import Clip
from avrt.errors import AvrtError
from avrt.models.feature_cache import FeatureCacheOptions
from avrt.models.tower_inputs import inputs_of, media_batch
from avrt.objectives.rewards import RewardOptions, RewardSum
from avrt.policy.adapters import adapted_names
from avrt.policy.policy import load_policy
from avrt.policy.reference import Reference
from avrt.policy.saving import export_adapters, export_policy
from avrt.policy.student_options import LoraOptions
from avrt.rollout.completion import Completion
from avrt.rollout.sampling import SamplingOptions
from tests.algorithms.test_grpo import BREVITY
from tests.conftest import make_sample
from tests.families.conftest import NANO, forms_of, nano_options
from tests.families.test_paths import SIZES, drawn
from tests.training.runs import SMALL, fit, fit_and_kill

pytest.importorskip("peft")
EVERYWHERE = ("decoder", "projector", "towers")
ENCODERS = ("projector", "towers")


def adapted(source, *, moved=True, modules=EVERYWHERE, **changes):
    """A student whose adapters have been trained a little."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        student = load_policy(nano_options(source, lora=LoraOptions(rank=4, modules=modules), **changes))
        with torch.no_grad():
            for name, parameter in student.named_parameters():
                if moved and "lora_B" in name:
                    parameter.normal_(0, 0.1)
    return student


def trained(student):
    return {name: parameter for name, parameter in student.named_parameters() if parameter.requires_grad}


def gradients(student, loss):
    student.zero_grad(set_to_none=True)
    loss.backward()
    return {name: parameter.grad for name, parameter in trained(student).items()}


def logprobs(student, prompts, completions):
    with torch.no_grad():
        return student.logprobs(prompts, completions).logprobs


@pytest.mark.parametrize("source", NANO)
def test_gradients_are_those_of_a_plain_forward_pass(source, clip):
    """Also with layers that are recomputed; and each adapter has a gradient where its tower has nothing to read."""
    student = adapted(source)
    forms = forms_of(student, clip)
    batch, [completion] = forms.rows["video and sound"], drawn(student, [0], (9,))
    plain = student.family.stock_logprobs(student.model, student.inputs.processor, batch, 0, completion)
    expected = gradients(student, plain.sum())
    assert all(gradient is not None and gradient.any() for gradient in expected.values())
    recomputed = adapted(source, gradient_checkpointing=True)
    for policy in (student, recomputed):
        policy.train()
        found = gradients(policy, policy.logprobs(policy.encode(batch), [completion]).logprobs.sum())
        assert found.keys() == expected.keys()
        for name, gradient in found.items():
            assert torch.allclose(gradient, expected[name], atol=2e-5 * float(expected[name].abs().max())), name
    for form in ("text", "sound"):
        found = gradients(student, student.logprobs(student.encode(forms.rows[form]), [completion]).logprobs.sum())
        assert all(gradient is not None for gradient in found.values())


@pytest.mark.parametrize("modules", [EVERYWHERE, ("projector",)])
@pytest.mark.parametrize("source", NANO)
def test_forward_and_backward_go_the_same_way_whatever_a_row_holds(source, modules, clip):
    """ZeRO-3 gathers weights where modules begin, and before gradients reach what they gave: ranks go together."""
    student = adapted(source, modules=modules)
    forms, completion = forms_of(student, clip), drawn(student, [0], (9,))
    way: list[tuple[str, str]] = []
    for name, module in student.model.named_modules():

        def enter(_module, _inputs, name=name):
            way.append(("forward", name))

        def leave(_module, _inputs, output, name=name):
            for place, tensor in enumerate(tree_leaves(output)):
                if isinstance(tensor, torch.Tensor) and tensor.requires_grad:
                    tensor.register_hook(lambda _, at=f"{name}[{place}]": way.append(("backward", at)))

        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)
    ways = {}
    for form in ("video and sound", "sound", "text"):
        way.clear()
        gradients(student, student.logprobs(student.encode(forms.rows[form]), completion).logprobs.sum())
        ways[form] = list(way)
    assert {direction for direction, _ in ways["text"]} == {"forward", "backward"}
    assert ways["text"] == ways["sound"] == ways["video and sound"]


@pytest.mark.parametrize("source", NANO)
def test_a_short_sound_is_the_same_beside_a_longer_one_in_every_pass(source):
    """Half a second beside three, as it is alone: where it is learned from, scored, and where ranks keep in step."""
    student = adapted(source)
    builder = Preprocessor(student.inputs, PromptOptions(), targets=True)
    sound = torch.randn(48_000, generator=torch.Generator().manual_seed(5)) * 0.1
    both = collate(
        [
            builder.row(make_sample(str(samples), media=("audio",)), Clip(audio=sound[:samples]))
            for samples in (8_000, 48_000)
        ]
    )
    completions = drawn(student, [0, 1], (5,))
    prompts = student.encode(both)
    alone = torch.cat([logprobs(student, prompts.rows([row]), [completions[row]]) for row in (0, 1)])
    assert torch.allclose(logprobs(student, prompts, completions), alone, atol=5e-6)
    assert torch.allclose(student.logprobs(prompts, completions).logprobs, alone, atol=5e-6)
    with torch.no_grad():
        apart = [
            student.family.encode_clips(student.model, media_batch([row], torch.device("cpu")), run_on_empty=False)
            for row in prompts.tower_inputs
        ]
        together = student.family.encode_clips(student.model, both, run_on_empty=True)
    for row, features in enumerate(together.audio):
        assert torch.allclose(features, apart[row].audio[0], atol=5e-6)


@pytest.mark.parametrize("source", NANO)
def test_they_are_where_they_are_asked_for_and_that_alone_is_in_training_mode(source):
    plain = load_policy(nano_options(source))
    for modules in (ENCODERS, ("projector",), ("decoder",)):
        student = adapted(source, modules=modules).train()
        names = [name.partition(".lora_A")[0] for name in trained(student) if "lora_A" in name]
        assert names == [f"model.{name}" for name in adapted_names(plain.model, plain.family, modules)]
        assert all(student.get_submodule(f"{name}.lora_dropout").training for name in names)
        assert all(("language_model" in name) == (modules == ("decoder",)) for name in names)
        for tower in student.family.towers(student.model):
            assert tower.training == ("towers" in modules)
        student.eval()
        assert not any(module.training for module in student.modules())


@pytest.mark.parametrize("source", NANO)
def test_inputs_survive_being_taken_apart(source, clip):
    student = load_policy(nano_options(source))
    batch = forms_of(student, clip).together
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(0)).tolist()
    rows = inputs_of(batch)
    with torch.no_grad():
        again = student.family.encode_clips(
            student.model, media_batch([rows[i] for i in order], batch.valid.device), run_on_empty=False
        )
    expected = student.encode(batch).features
    for kind in ("vision", "audio"):
        for place, row in enumerate(order):
            one, other = getattr(again, kind)[place], getattr(expected, kind)[row]
            assert (one is None) == (other is None)
            assert one is None or torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("source", NANO)
def test_grpo_moves_them_and_not_the_reference(source, clip):
    student = adapted(source, moved=False)
    forms = forms_of(student, clip)
    batch = collate([forms.rows[form] for form in ("video and sound", "sound", "text")])
    reference, completions = Reference(student), drawn(student, batch)
    prompts = student.encode(batch)
    at_first = logprobs(reference, prompts, completions)
    before = {name: parameter.detach().clone() for name, parameter in trained(student).items()}
    optimizer = PlainOptimizer(torch.optim.AdamW(trained(student).values(), lr=3e-2))
    options = GRPOOptions(group_size=3, sampling=SamplingOptions(max_new_tokens=6))
    rewards = RewardSum(RewardOptions(extra=[BREVITY]))
    student.train()
    for step in range(3):
        told = grpo_step(student, reference, batch, optimizer, rewards, options, seed=(0, step))
        assert float(told.metrics["mismatch"]) / 9 < 1e-5  # sampled and scored by the same features
    assert not [n for n, p in trained(student).items() if "lora_B" in n and torch.equal(p, before[n])]
    assert torch.equal(logprobs(reference, prompts, completions), at_first)
    assert (logprobs(student, prompts, completions) - at_first).abs().max() > 1e-2


@pytest.mark.parametrize("source", NANO)
def test_a_group_that_waits_is_learned_from_with_the_features_of_then(source, clip, tmp_path):
    student = adapted(source)
    forms = forms_of(student, clip)
    batch = collate([forms.rows["video and sound"], forms.rows["sound"]])
    drawn_ones = [Completion(tokens, torch.zeros(len(tokens)), True) for tokens in drawn(student, [0])]
    group = Group(student.encode(batch).rows([0]), drawn_ones, torch.zeros(len(SIZES)), True)
    torch.save(group.to_plain(), tmp_path / "group.pt")
    again = Group.from_plain(torch.load(tmp_path / "group.pt", weights_only=True), batch.valid.device)
    tokens = [completion.token_ids for completion in again.completions]
    earlier = logprobs(student, group.prompt, tokens)
    with torch.no_grad():
        for name, parameter in trained(student).items():
            if "lora_B" in name and "language_model" not in name:
                parameter.add_(0.1)
    now = logprobs(student, student.encode(batch).rows([0]), tokens)
    assert torch.equal(logprobs(student, again.prompt, tokens), now)
    assert (now - earlier).abs().max() > 1e-2


@pytest.mark.parametrize("source", NANO)
def test_an_export_is_the_policy(source, clip, tmp_path):
    student = adapted(source)
    batch = forms_of(student, clip).rows["video and sound"]
    completions = drawn(student, batch)
    expected = logprobs(student, student.encode(batch), completions)
    export_policy(student, tmp_path / "model")
    export_adapters(student, tmp_path / "adapters")
    import peft

    loaded, plain = load_policy(nano_options(str(tmp_path / "model"))), load_policy(nano_options(source))
    assert (logprobs(plain, plain.encode(batch), completions) - expected).abs().max() > 1e-2
    peft.PeftModel.from_pretrained(plain.model, str(tmp_path / "adapters"))
    for policy in (loaded, plain):
        assert torch.allclose(logprobs(policy, policy.encode(batch), completions), expected, atol=2e-5)


@pytest.mark.parametrize("source", NANO)
def test_another_engine_is_given_merged_towers(source, clip):
    """Every changed weight has the name and value that the plain model in the released layout has."""
    student, plain = adapted(source), load_policy(nano_options(source))
    given = dict(student.released_weights(everything=False))
    places = {
        prefix + name: parameter
        for prefix, part in [*plain.family.released_parts(plain.decoder), *plain.family.released_encoders(plain.model)]
        for name, parameter in part.named_parameters()
    }
    with torch.no_grad():
        for name, tensor in given.items():
            places[name].copy_(tensor)
    batch = forms_of(student, clip).rows["video and sound"]
    completions = drawn(student, batch)
    expected = logprobs(student, student.encode(batch), completions)
    assert torch.allclose(logprobs(plain, plain.encode(batch), completions), expected, atol=2e-5)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"feature_cache": FeatureCacheOptions("kept")}, r"model.student.feature_cache: features change .* on towers"),
        ({"quantize": "nf4"}, r"model.student.lora.modules: 4-bit weights need adapters"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(changes, named):
    with pytest.raises(AvrtError, match=named):
        nano_options("nano", lora=LoraOptions(modules=("towers",)), **changes).check()
    with pytest.raises(AvrtError, match="names nothing"):
        nano_options("nano", lora=LoraOptions(modules=())).check()


COMPARED = ("train/loss", "policy/kl", "policy/entropy", "completions/tokens", "train/grad_norm")


def test_a_killed_run_of_two_ranks_goes_on_as_one_process(world, tmp_path):
    """Under ZeRO-3; one of the ranks has rows without pictures or sound where the other has some."""
    options = (
        *SMALL, "--model.student.lora.rank", 4, "--model.student.lora.modules", "[decoder,projector,towers]",
        "--model.group_size", 2, "--model.rollout.max_new_tokens", 12, "--model.optimizer.lr", 2e-3,
        "--data.dropout.vision", 0.3, "--data.dropout.audio", 0.3,
        "--model.rewards.extra", '[{"function": "tests.algorithms.test_grpo.brevity", "weight": 1.0}]',
    )  # fmt: skip
    steps = ("--trainer.max_steps", 8)
    expected = fit("grpo", world, tmp_path / "alone", *options, "--data.batch_size", 4, *steps)
    ranks = (
        "--trainer.devices", 2, "--trainer.strategy.stage", 3, "--data.batch_size", 2,
        "--checkpoint.every_n_train_steps", 4, "--trainer.callbacks+=tests.training.recording.ScatterAll",
    )  # fmt: skip
    run = tmp_path / "two"  # where the log of the other run is not below it
    fit_and_kill("grpo", world, run, *options, *ranks, *steps)
    shutil.rmtree(run / "lightning_logs")
    found = fit("grpo", world, run, *options, *ranks, *steps, "--ckpt_path", "last")
    assert min(found) > 0, "the resumed run began anew"
    assert max(found) == 7
    for step, values in found.items():
        print(step, {name: (expected[step][name], values[name]) for name in COMPARED})
        for name in COMPARED:
            assert values[name] == pytest.approx(expected[step][name], rel=1e-4, abs=1e-5), (step, name)
        assert values["train/grad_norm"] > 0.01
    assert {expected[step]["data/dropped_audio"] for step in expected} != {0}
