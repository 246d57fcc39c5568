"""The plan counts layers that differ: against what autograd saves, and numbers worked by hand."""

from dataclasses import replace

import pytest
import torch

from avrt.commands.phases import shape_of
from avrt.commands.plan_settings import count_parameters
from avrt.data.media.clip import ClipSpec, FrameBudget
from avrt.data.media.student_frames import STUDENTS
from avrt.models.families import find_config
from avrt.models.gemma4.media_inputs import audio_token_count
from avrt.models.gemma4.towers import PATCHES_AT_ONCE
from avrt.models.memory_estimate import Partitioning, held_bytes
from avrt.models.memory_estimate.activations import kept_bytes, update_bytes
from avrt.models.memory_estimate.decoder_shape import shape_of_decoder
from avrt.policy.policy import load_policy
from avrt.policy.student_options import LoraOptions, StudentOptions


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("lora", [None, LoraOptions(rank=1)])
def test_what_layers_keep_is_what_autograd_saves(lora, dtype):
    student = load_policy(StudentOptions(source="nano-gemma4", dtype=dtype, lora=lora)).train()
    decoder, prompt = student.decoder, 40
    weights = {p.untyped_storage().data_ptr() for p in student.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    inputs = decoder.embed_completion(torch.randint(20, 800, (1, prompt)))
    inputs = replace(inputs, embeddings=inputs.embeddings.detach().requires_grad_())
    positions = torch.arange(prompt).expand(3, 1, -1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        decoder.hidden_states(inputs, positions, None)
    expected = kept_bytes(shape_of(student), [prompt], 1, 1) - 128 * getattr(torch, dtype).itemsize
    assert sum(saved.values()) == pytest.approx(expected, rel=0.05)


def test_e2b_by_hand():
    """35 layers of which 15 have keys; every fifth sees everything and has heads of 512; the others' MLP is double."""
    family, config, _ = find_config("google/gemma-4-E2B-it")
    model = family.empty_model(config)
    decoder = family.decoder(model)
    shape = shape_of_decoder(decoder, 2, checkpointing=True)
    assert shape.cache_bytes == 2 * (12 * 256 + 3 * 512) * 2
    assert sum(kind.layers for kind in shape.each) == 35
    linear = 1536 * (
        28 * 2 * 2048 + 7 * 2 * 4096  # queries and outputs of eight heads
        + 2 * (12 * 256 + 3 * 512)  # keys and values
        + 3 * (15 * 6144 + 20 * 12288) + 35 * 2 * 256
    )  # fmt: skip
    assert sum(kind.layers * kind.layer_weights for kind in shape.each) == linear
    numbers = count_parameters(family, model, decoder, StudentOptions(source="google/gemma-4-E2B-it"))
    table = 262_144 * 35 * 256
    assert numbers.decoder - numbers.trained == table
    assert numbers.trained == pytest.approx(linear + 262_144 * 1536 + 1536 * 35 * 256, rel=1e-3)
    assert numbers.largest == 262_144 * 1536
    assert numbers.largest_of_all == table
    size, how = 2, Partitioning(stage=3, ranks=8)
    frozen = numbers.decoder + numbers.towers - numbers.trained
    held = held_bytes(numbers.trained, frozen, size, how, largest_of_all=numbers.largest_of_all)
    assert held.gathered == table * size  # more than the weights that ZeRO-3 keeps at a time
    encoding = [cost(model, 40_000, 0, size) for cost in (family.encoding_cost, family.scattered_encoding_cost)]
    assert encoding[1].working == pytest.approx(encoding[0].working * 40_000 * 9 / PATCHES_AT_ONCE, rel=1e-3)
    vision, audio = family.typical_clip
    height, width = STUDENTS["gemma4"].spec_for(ClipSpec()).size(360, 640, FrameBudget(1, 70 * 48**2))
    assert (vision, audio) == (8 * height * width // 48**2, audio_token_count(10 * 100))
    untied = replace(shape, tied=False)
    assert update_bytes(shape, [900], 8, 160) - update_bytes(untied, [900], 8, 160) <= 262_144 * 1536 * 2
