"""Decoding over shared prompts against one dense attention per row, in float64."""

from dataclasses import replace

import pytest
import torch

from avrt.models.prefix import SharedPrefix, shared_prefix_attention


def caches(count=3, groups=2, length=5, width=4, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    keys, values = ([torch.randn(count, groups, length, width, generator=generator).to(dtype) for _ in range(2)]
                    for _ in range(2))  # fmt: skip
    mask = torch.tensor([[False, True, True, True, True], [True] * 5, [False, False, False, True, True]])
    return SharedPrefix(keys, values, mask[:count], (0, 1))


def dense(layer, query, key, value, prompts, owners, scale, own=None):
    """Every row by itself: its prompt's real keys and its own, one softmax."""
    rows = []
    for row, owner in enumerate(owners):
        real = prompts.mask[owner]
        kept = slice(None) if own is None else own[row]
        for head in range(query.shape[1]):
            group = head // (query.shape[1] // key.shape[1])
            keys = torch.cat([prompts.keys[layer][owner, group][real], key[row, group][kept]]).double()
            values = torch.cat([prompts.values[layer][owner, group][real], value[row, group][kept]]).double()
            rows.append(((query[row, head, 0].double() * scale) @ keys.T).softmax(-1) @ values)
    return torch.stack(rows).view(len(owners), 1, query.shape[1], -1)


OWNERS = [
    pytest.param([0, 0, 1, 1, 2, 2], id="even"),
    pytest.param([0, 1, 1, 1, 2, 2], id="uneven"),
    pytest.param([0, 2, 2], id="one prompt without rows"),
    pytest.param([1, 1], id="one prompt"),
    pytest.param([0, 1, 2], id="one row each"),
]


@pytest.mark.parametrize("owners", OWNERS)
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_each_row_attends_to_its_prompt_and_to_itself(owners, layer, dtype, bound):
    generator = torch.Generator().manual_seed(2)
    everything = caches(dtype=dtype)
    prompts = everything.for_rows(owners)
    query = torch.randn(len(owners), 4, 1, 4, generator=generator).to(dtype)
    key, value = (torch.randn(len(owners), 2, 3, 4, generator=generator).to(dtype) for _ in range(2))
    steps = torch.arange(3)
    for own in (None, steps < 2, steps <= torch.arange(len(owners))[:, None]):  # the last: other tokens in each row
        own = None if own is None else own.expand(len(owners), -1)
        held = replace(prompts, own=own)
        actual = shared_prefix_attention(layer, query, key, value, held, 0.7)
        expected = dense(layer, query, key, value, everything, owners, 0.7, own)
        assert actual.dtype == dtype
        assert (actual.double() - expected).abs().max() < bound


def test_half_precision_rounds_weights_and_result_alone():
    """Scores of 30 would be a tenth off in bfloat16, and so would be their weights."""
    generator = torch.Generator().manual_seed(3)
    everything, owners = caches(length=5, width=64, dtype=torch.bfloat16), [0, 1, 2]
    prompts = everything.for_rows(owners)
    query, key, value = (
        torch.randn(3, heads, count, 64, generator=generator).bfloat16() for heads, count in ((4, 1), (2, 3), (2, 3))
    )
    for scale in (1.0, 0.7):
        found = shared_prefix_attention(0, query, key, value, prompts, scale)
        expected = dense(0, query, key, value, everything, owners, scale)
        assert (found.double() - expected).abs().max() < 0.012, scale


def test_rows_are_laid_out_by_prompt_and_back():
    prompts = caches().for_rows([0, 1, 1, 1, 2, 2])
    assert prompts.slots.tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 0]
    assert prompts.places.tolist() == [0, 3, 4, 5, 6, 7]
    rows = torch.arange(6) * 10
    assert prompts.by_prompt(rows).tolist() == [[0, 0, 0], [10, 20, 30], [40, 50, 0]]
    assert prompts.by_row(prompts.by_prompt(rows)).tolist() == rows.tolist()
    even = prompts.for_rows([0, 0, 1, 1, 2, 2])
    assert even.slots is None
    assert even.places is None
    assert even.by_prompt(rows).tolist() == [[0, 10], [20, 30], [40, 50]]
    assert even.by_row(even.by_prompt(rows)).tolist() == rows.tolist()


def test_prompts_that_no_row_reads_are_dropped_and_all_others_are_not_copied():
    everything = caches()
    fewer = everything.for_rows([0, 2])
    assert [len(t) for t in (*fewer.keys, *fewer.values, fewer.mask)] == [2] * 5
    assert torch.equal(fewer.keys[1], everything.keys[1][[0, 2]])
    assert torch.equal(fewer.values[0], everything.values[0][[0, 2]])
    assert torch.equal(fewer.mask, everything.mask[[0, 2]])
    same = everything.for_rows([0, 1, 2])
    assert same.keys[0] is everything.keys[0]


@pytest.mark.parametrize("owners", OWNERS)
@pytest.mark.parametrize("window", [2, 3, 5, 20])
def test_a_window_hides_what_lies_further_back(owners, window):
    """In prompt and completion alike, and where rows have drawn different numbers of tokens."""
    generator = torch.Generator().manual_seed(3)
    real = torch.arange(5) < torch.tensor([[2], [5], [4]])
    everything = replace(caches(), mask=real, cache_of_layer=(0, 1, 0))
    prompts = everything.for_rows(owners)
    query = torch.randn(len(owners), 4, 1, 4, generator=generator)
    key, value = (torch.randn(len(owners), 2, 3, 4, generator=generator) for _ in range(2))
    for own in (None, (torch.arange(3) <= torch.arange(len(owners))[:, None] % 3)):
        held = replace(prompts, own=own)
        actual = shared_prefix_attention(2, query, key, value, held, 0.7, window)
        for row, owner in enumerate(owners):
            drawn = 3 if own is None else int(own[row].sum())
            alone = [
                torch.cat([whole[0][owner][:, : int(real[owner].sum())], mine[row, :, :drawn]], 1)[:, -window:]
                for whole, mine in ((everything.keys, key), (everything.values, value))
            ]
            keys, values = (t.repeat_interleave(2, 0).double() for t in alone)
            weights = (query[row].double() * 0.7 @ keys.transpose(1, 2)).softmax(-1)
            assert (actual[row, 0] - (weights @ values)[:, 0]).abs().max() < 1e-5
