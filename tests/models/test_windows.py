"""Sliding windows in packed rows: against one dense attention per sequence, by all the ways that compute it."""

import pytest
import torch

from avrt.models.flex import flex_packed_attention
from avrt.models.packing import pack_groups, packed_attention
from tests.models.varlen_on_cpu import varlen_on_cpu

PROMPTS, COMPLETIONS = [9, 4, 12, 1], [[3, 7, 0], [2, 2, 1], [5, 0, 0], [0, 0, 4]]


@pytest.mark.parametrize("window", [1, 2, 5, 10, 100])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("way", ["by group", "fused", "flex"])
def test_tokens_see_their_window_of_prompt_and_completion(window, count, way):
    generator = torch.Generator().manual_seed(0)
    completions = [lengths[-count:] for lengths in COMPLETIONS]
    row = pack_groups(PROMPTS, completions, torch.device("cpu"))
    total = sum(group.length for group in row.groups)
    query, key, value = (torch.randn(1, heads, total, 16, generator=generator) for heads in (4, 2, 2))
    if way == "fused":
        with varlen_on_cpu():
            found = packed_attention(query, key, value, row, 0.3, window)
    else:
        found = (flex_packed_attention if way == "flex" else packed_attention)(query, key, value, row, 0.3, window)
    for group in row.groups:
        at = group.start + group.prompt
        for length in (0, *group.completions):
            places = [*range(group.start, group.start + group.prompt), *range(at, at + length)]
            q, k, v = (t[0][:, places].double() for t in (query, key, value))
            scores = q @ k.repeat_interleave(2, 0).transpose(1, 2) * 0.3
            steps = torch.arange(len(places))
            apart = steps[:, None] - steps
            scores = scores.masked_fill((apart < 0) | (apart >= window), -torch.inf)
            expected = (scores.softmax(-1) @ v.repeat_interleave(2, 0)).transpose(0, 1)
            own = places[group.prompt :] or places
            assert (found[0, own] - expected[-len(own) :]).abs().max() < 1e-5
            at += length
