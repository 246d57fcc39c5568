"""Padding by hand, and that nothing is made on another device than the inputs'."""

import pytest
import torch

from avrt.models.packing import pack_groups
from avrt.models.teacher_forcing import completion_states, pad_positions, pad_rows


def test_rows_are_padded_on_the_side_that_is_asked_for():
    rows = [torch.tensor([5, 6, 7]), torch.tensor([8]), torch.tensor([9, 9])]
    ids, mask = pad_rows(rows)
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0], [9, 9, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    ids, mask = pad_rows(rows, left=True)
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8], [0, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1], [0, 1, 1]]
    places = [torch.tensor([[1, 2], [3, 4], [5, 6]]), torch.tensor([[7], [8], [9]])]
    assert pad_positions(places).tolist() == [[[1, 2], [7, 0]], [[3, 4], [8, 0]], [[5, 6], [9, 0]]]
    assert pad_positions(places, left=True).tolist() == [[[1, 2], [0, 7]], [[3, 4], [0, 8]], [[5, 6], [0, 9]]]


@pytest.mark.parametrize("packed", [True, False])
def test_everything_is_made_where_the_inputs_are(nano, batch, packed):
    """What names no device lands on one without data here, as it would stay on the CPU when the inputs are on a GPU."""
    prompts = nano.encode(batch)
    with torch.no_grad():
        expected = completion_states(nano.decoder, prompts, batch.completion_ids, packed=packed)
        with torch.device("meta"):
            states = completion_states(nano.decoder, prompts, batch.completion_ids, packed=packed)
            layout = pack_groups([3, 2], [[1, 2], [0, 0]], torch.device("cpu"))
    assert torch.equal(states.hidden_states, expected.hidden_states)
    made = [layout.key_index, layout.sequences.query_ends, layout.sequences.key_ends]
    made += [t for r in layout.rectangles if r is not None for t in (r.gather, r.scatter)]
    made.append(layout.mask(2, 5, 3))
    assert {tensor.device.type for tensor in made} == {"cpu"}
