"""The memory forecast against numbers worked by hand and against what a process really takes."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from avrt.commands.phases import advice, shape_of
from avrt.commands.plan_settings import count_parameters
from avrt.models.decoder import TokenInputs
from avrt.models.memory_estimate import Partitioning, Shape, checkpoint_bytes, expected_bytes, held_bytes
from avrt.models.memory_estimate.activations import buffer_bytes, kept_bytes
from avrt.models.qwen2_5_omni.family import QwenOmni
from avrt.models.qwen2_5_omni.released_sizes import released_config
from avrt.objectives.token_scores import CHUNK_TOKENS
from avrt.policy.policy import load_policy
from avrt.policy.student_options import LoraOptions, StudentOptions
from avrt.rollout.static import PROMPT_MULTIPLE
from tests.pretended.phases import measured_bytes

SHAPE = Shape(
    hidden=10, intermediate=30, layers=3, heads=2, query=10, key_value=4, vocabulary=100, bytes=2, checkpointing=False
)
SAVING = replace(SHAPE, checkpointing=True)
NORM = 10 * (4 + 2 * 2)  # bytes of a token that a norm keeps: its input in float32, that normalized, its output


def test_forecast_by_hand():
    """One prompt of 6 tokens, 2 answers of 2: a row of 6 + 2 * 1 tokens, 4 of them scored."""
    found = expected_bytes(SHAPE, [6], 2, 2)
    cache, logits = 2 * 3 * 4 * 2, 2 * 100 * (2 + 8 + 16)  # a token's keys and values; drawing two tokens
    joined = 2 * 2 * 4 * 2
    assert found["rollout"] == (6 + 2 * 2) * cache + joined + logits
    assert expected_bytes(SHAPE, [6], 2, 2, room=8)["rollout"] == (8 + 2 * 2) * cache + logits  # fixed buffers
    assert found["reference"] == 4 * 100 * 12 + 4 * 10 * 2  # more than the layer's 8 * (40 + 90 + 10) * 2 + 320
    keys = 2 * (6 * 3 + 2) * 4 * 2  # of the prompt, and of the prompt again before each answer
    layer = 8 * (2 * NORM + 2 * 10 * 2 + 2 * 4 + 4 * 30 * 2) + keys
    ending = 8 * NORM + 4 * 10 * 2
    logits = 5 * 4 * 100 * 4 + 2 * 4 * 10 * 2
    assert found["update"] == 3 * layer + 8 * 2 * 5 * 2 + ending + logits
    # Logits and layers are differentiated one after the other: the wider of the two, not their sum.
    kept = 3 * 8 * 10 * 2 + 8 * 2 * 5 * 2
    moving = 8 * (60 + 20) * 2
    assert expected_bytes(SAVING, [6], 2, 2)["update"] == kept + max(ending + logits, layer + moving)


def test_a_second_chunk_waits_with_the_projections_gradient():
    """Peak of the logits, in a shape so flat that nothing else counts."""
    flat = replace(SAVING, layers=1, vocabulary=100_000)
    one, two = (expected_bytes(flat, [6], 1, answer)["update"] for answer in (CHUNK_TOKENS, 2 * CHUNK_TOKENS))
    more_row = CHUNK_TOKENS * (10 * 2 + 10 * 2 + NORM + 10 * 2 + 2 * 10 * 2)
    assert two - one == 100_000 * 10 * 2 + more_row


def test_frozen_weights_keep_less():
    frozen = replace(SHAPE, frozen=True)
    assert kept_bytes(SHAPE, [6], 2, 2) - kept_bytes(frozen, [6], 2, 2) == 8 * (3 * 2 + 1) * 10 * 2  # 7 norms' weights
    dropping = replace(frozen, adapter_dropout=True)
    own_inputs = (5 * 10 + 10 + 30) * 3 - (2 * 10 + 30) * 2
    assert kept_bytes(dropping, [6], 2, 2) - kept_bytes(frozen, [6], 2, 2) == 3 * 8 * own_inputs


def test_a_router_loss_keeps_all_layers_logits_and_their_softmax_recomputed_or_not():
    shape = replace(SHAPE, experts=128, experts_per_token=8)
    for kind in (shape, replace(shape, checkpointing=not shape.checkpointing)):
        more = kept_bytes(replace(kind, balanced=True), [100, 60], 2, 11) - kept_bytes(kind, [100, 60], 2, 11)
        assert more == kind.layers * (160 + 2 * 2 * 10) * 128 * (kind.bytes + 4)


def test_terms_grow_as_they_should():
    """Sums over prompts, and no more than proportionally in anything."""
    for shape in (SHAPE, SAVING):
        for phase, single in expected_bytes(shape, [50], 4, 20).items():
            double = expected_bytes(shape, [50, 50], 4, 20)[phase]
            assert single < double <= 2 * single, phase
            assert single < expected_bytes(shape, [100], 4, 20)[phase] + 1, phase
    assert buffer_bytes(SHAPE, 2, 50, 4, 20) == 2 * (50 + 4 * 20) * 2 * 3 * 4 * 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("lora", [None, LoraOptions(rank=1), LoraOptions(rank=1, dropout=0.1)])
@pytest.mark.parametrize("source", ["nano", "nano-qwen3-omni"])
def test_what_layers_keep_is_what_autograd_saves(source, lora, dtype):
    """A nano student's own layers, with every saved tensor counted once."""
    if lora is not None:
        pytest.importorskip("peft")
    student = load_policy(StudentOptions(source=source, dtype=dtype, lora=lora))
    student.train()
    decoder, element = student.decoder, getattr(torch, dtype).itemsize
    prompt, batch = 40, 1
    weights = {p.untyped_storage().data_ptr() for p in student.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    embeddings = torch.randn(batch, prompt, 128, dtype=getattr(torch, dtype), requires_grad=True)
    positions = torch.arange(prompt).expand(3, batch, -1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        decoder.hidden_states(TokenInputs(embeddings), positions, None)
    # Nothing is scored here: without the one state that would be.
    shape = shape_of(student)
    expected = kept_bytes(shape, [prompt], 1, 1) - 128 * element
    if shape.adapter_dropout:  # the CPU remembers in the model's type what came through, a GPU in one byte
        dropped = 3 * 128 + 128 if shape.experts else 5 * 128 + 128 + shape.intermediate
        expected += shape.layers * prompt * dropped * (element - 1)
    assert sum(saved.values()) == pytest.approx(expected, rel=0.05)


def test_held_under_zero():
    """1000 trained parameters and 500 others in bfloat16 on 4 ranks."""
    how = Partitioning(stage=2, ranks=4, offload_optimizer=True, bucket=10)
    stage2 = held_bytes(1000, 500, 2, how)
    assert (stage2.weights, stage2.reference, stage2.gradients, stage2.optimizer) == (3000, 2000, 1000, 0)
    assert stage2.host == 3000 + 1000 + 500  # master weights and moments, their gradient, rounded weights
    assert stage2.backward == 2 * 10 * 2
    here = held_bytes(1000, 500, 2, replace(how, offload_optimizer=False), largest=100)
    assert (here.optimizer, here.host, here.step) == (3000, 0, 1000)
    assert here.backward == 2 * 10 * 2 + 100 * 2  # a gradient larger than a bucket is reduced where it is
    stage1 = held_bytes(1000, 500, 2, replace(how, stage=1))
    assert (stage1.gradients, stage1.optimizer, stage1.backward) == (4000, 0, 2 * 10 * 4 + 1000)
    three = Partitioning(stage=3, ranks=4, reference="partitioned", bucket=10)
    stage3 = held_bytes(1000, 500, 2, three)
    assert (stage3.weights, stage3.reference, stage3.gradients, stage3.optimizer) == (750, 500, 1000, 3000)
    assert stage3.gathered == 3000
    assert held_bytes(1000, 500, 2, replace(three, offload_optimizer=True)).host == 3000 + 1000 + 1000
    assert held_bytes(1000, 500, 2, replace(how, reference="none")).reference == 0
    away = held_bytes(1000, 500, 2, replace(how, reference="host"))
    assert (away.reference, away.host_reference) == (0, 2048)  # page-locked memory comes in powers of two
    plain = held_bytes(1000, 500, 4, Partitioning(stage=0, accumulate=4, reference="none"))
    assert (plain.weights, plain.gradients, plain.optimizer) == (6000, 4000, 8000)


def test_checkpoints_on_disk():
    assert checkpoint_bytes(1000, 500, 2, stage=2) == 1000 * (2 + 12)
    # Files of the nano student's first step in float32, as a run left them: model and optimizer states.
    for stage, files in ((2, (4_037_093, 12_028_344)), (3, (41_869, 12_023_224))):
        assert checkpoint_bytes(1_001_600, 369_856, 4, stage) == pytest.approx(sum(files), rel=0.01)


SETTINGS = [
    ("3B", [1999], 4, 165, True),
    ("3B", [1999], 16, 165, True),
    ("3B", [1999], 16, 512, True),
    ("3B", [2000] * 4, 4, 165, True),
    ("3B", [2000, 1800, 2100, 1500], 8, 250, True),
    ("3B", [2000] * 8, 1, 172, True),
    ("3B", [1999], 4, 165, False),
    ("3B", [1999], 16, 512, False),
    ("3B", [1200, 800], 8, 768, False),
    ("7B", [1999], 4, 165, True),
    ("7B", [3000] * 2, 4, 1024, True),
    ("7B", [1200], 8, 512, False),
]


@pytest.mark.parametrize(("size", "prompts", "group_size", "answer", "checkpointing"), SETTINGS)
def test_forecast_agrees_with_the_pretended_device(size, prompts, group_size, answer, checkpointing):
    """Full-size students through the project's own code, with every storage counted."""
    measured = measured_bytes(size, prompts, group_size, answer, checkpointing=checkpointing)
    decoder = QwenOmni().empty_model(released_config(size))
    shape = Shape.of(decoder.config.text_config, 2, checkpointing=checkpointing)
    room = -(-max(prompts) // PROMPT_MULTIPLE) * PROMPT_MULTIPLE
    expected = expected_bytes(shape, prompts, group_size, answer, room=room)
    assert {phase: expected[phase] / measured[phase] for phase in measured} == pytest.approx(
        dict.fromkeys(measured, 1.0), rel=0.1
    )


@pytest.mark.parametrize(
    ("forecast", "fixed", "checkpointing", "told"),
    [
        (10e9, 10e9, False, "6.2 times as large"),
        (10e9, 75e9, False, "stage 3"),
        (90e9, 10e9, False, "gradient_checkpointing true"),
        (90e9, 10e9, True, "micro_batch_size"),
    ],
)
def test_advice(forecast, fixed, checkpointing, told):
    phases = {"rollout": 1e9, "reference": 1e9, "update": forecast}
    assert told in advice(phases, fixed, 80e9, checkpointing=checkpointing)[-1]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_forecast_and_measurement_agree_within_a_factor_of_two(checkpointing):
    """In a process of its own, whose memory nothing else has stretched."""
    script = (
        "import sys; sys.path.insert(0, 'benchmarks')\n"
        "import torch; torch.set_num_threads(1)\n"
        "from dataclasses import replace\nfrom measuring import scaled_student, make_batch\n"
        "from avrt.commands.phases import run_phases\n"
        "from avrt.policy.policy import Policy\nmade = scaled_student(8)\n"
        # The forecast is for completions that have nothing in common; those of this student begin alike.
        "type(made.decoder).reads_trees = False\n"
        f"options = replace(made.options, gradient_checkpointing={checkpointing})\n"
        "student = Policy(made.family, made.model, made.inputs.processor, options)\n"
        "for phase in run_phases(student, make_batch(student, 700), 4, 100):\n"
        "    print(phase.name, phase.measured, phase.expected)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root)
    found = {name: (int(m), int(e)) for name, m, e in (line.split() for line in done.stdout.splitlines()[-3:])}
    measured, expected = found["update"]
    assert 0.5 < measured / expected < 2, found


def test_held_in_4_bits(nano):
    """Counted of a real 4-bit student: packed weights with their scales, and the rest as it is."""
    pytest.importorskip("bitsandbytes")
    student = load_policy(StudentOptions("nano", dtype="float32", lora=LoraOptions(rank=4), quantize="nf4"))
    held = sum(p.nbytes for p in student.parameters())
    layers = [m for m in student.modules() if hasattr(m, "dequantized")]
    held += sum(layer.weight.quant_state.absmax.nbytes for layer in layers)
    numbers = count_parameters(nano.family, nano.model, nano.decoder, student.options)
    how = Partitioning(stage=2, reference="none")
    expected = held_bytes(
        numbers.trained, numbers.towers + numbers.decoder, 4, how, quantized=numbers.quantized,
        largest_quantized=numbers.largest_quantized,
    )  # fmt: skip
    assert expected.weights == held
    assert expected.gathered == 4 * max(layer.in_features * layer.out_features for layer in layers)
