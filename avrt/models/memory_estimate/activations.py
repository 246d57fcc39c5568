"""Bytes beside the weights that rollout, reference and update take, counted tensor by tensor.

Counted are the tensors that exist at the moment when most do, in the order in which the code makes and frees them: the
decoder layers of transformers 5.23 (experts as `grouped_mm` runs them), `score_tokens`, `generate` and PyTorch's
formulas of the backward pass.
What is smaller than a thousandth is left out: masks, positions, indices, biases.

Shape letters: B prompts of P tokens, G completions of R tokens each, H width, V vocabulary, N = B G R scored tokens,
T tokens of a packed row (each prompt once; of a completion all tokens but the last, which predicts nothing).
"""

from __future__ import annotations

from collections.abc import Sequence

from avrt.models.memory_estimate.shape import FLOAT32, FLOAT64, Shape
from avrt.objectives.token_scores import chunk_count


def expected_bytes(
    shape: Shape, prompts: Sequence[int], group_size: int, answer: int, *, room: int | None = None
) -> dict[str, int]:
    """Bytes beside the weights that each phase takes for some prompts with their groups, all answers of one length.

    Args:
        shape: The model's shape.
        prompts: Tokens of each prompt.
        group_size: G.
        answer: Tokens of each answer, R.
        room: Tokens of a prompt that fixed decoding buffers have room for; None for caches that grow.

    Returns:
        `rollout`, `reference` and `update`, each by itself.
    """
    return {
        "rollout": rollout_bytes(shape, prompts, group_size, answer, room=room),
        "reference": scoring_bytes(shape, prompts, group_size, answer),
        "update": update_bytes(shape, prompts, group_size, answer),
    }


# ---- rollout


def rollout_bytes(
    shape: Shape, prompts: Sequence[int], group_size: int, answer: int, *, room: int | None = None
) -> int:
    """Bytes of prefilling some prompts and of decoding their groups to the end, fixed buffers included."""
    rows = len(prompts) * group_size
    prefill = prefill_bytes(shape, prompts) + rows * shape.vocabulary * shape.bytes
    if room is not None:
        # The buffers are there before the prompts are run; what comes out is copied into them and dropped.
        buffers = buffer_bytes(shape, len(prompts), room, group_size, answer)
        return buffers + max(prefill, decoding_bytes(shape, rows, room + answer))
    # The prompts' caches as a rectangle, and each row's own.
    cached = (len(prompts) * max(prompts) + rows * answer) * shape.cache_bytes
    # a layer's grown keys are joined from the old ones and a token: both exist for a moment
    joined = rows * answer * shape.key_value * shape.bytes
    return max(prefill, cached + joined + decoding_bytes(shape, rows, max(prompts) + answer))


def prefill_bytes(shape: Shape, prompts: Sequence[int]) -> int:
    """Bytes of running some prompts, with the caches that come out."""
    return sum(prompts) * (shape.cache_bytes + _passing(shape))


def decoding_bytes(shape: Shape, rows: int, context: int) -> int:
    """Bytes of one token of each row beside the caches, which have `context` tokens for each.

    Drawing, or attention; per row and head the latter's scores of prompt and own tokens, both joined, their softmax in
    float32, and that rounded. A fused kernel makes no scores.
    """
    return max(drawing_bytes(shape, rows), rows * shape.heads * context * (3 * shape.bytes + FLOAT32))


def drawing_bytes(shape: Shape, rows: int) -> int:
    """Bytes of drawing one token for each of some rows.

    The logits, in the model's type and in float32; their log-softmax in float32; the cumulative distribution in
    float64, beside the probabilities that it sums.
    """
    return rows * shape.vocabulary * (shape.bytes + 2 * FLOAT32 + 2 * FLOAT64)


def buffer_bytes(shape: Shape, count: int, longest_prompt: int, group_size: int, longest_answer: int) -> int:
    """Bytes of decoding buffers of fixed size: room for `count` prompts, and for their groups' completions.

    Under `decoding: static` and `compiled` they stay allocated from step to step.
    """
    return count * (longest_prompt + group_size * longest_answer) * shape.cache_bytes


# ---- scoring


def scoring_bytes(shape: Shape, prompts: Sequence[int], group_size: int, answer: int) -> int:
    """Bytes of scoring without gradients, as the reference does: a layer's tensors, or a chunk's logits."""
    row = _row_tokens(prompts, group_size, answer)
    scored = len(prompts) * group_size * answer
    attended = _attended_tokens(prompts, group_size, answer) * 2 * shape.key_value * shape.bytes
    layer = row * (_passing(shape) + _beside(shape, kept=False)) + attended
    # in float32: logits less their logsumexp, the probabilities, the logits; or their products for the entropy
    logits = 3 * _chunk_tokens(scored) * shape.vocabulary * FLOAT32
    return max(layer, logits + scored * shape.hidden * shape.bytes)


def update_bytes(shape: Shape, prompts: Sequence[int], group_size: int, answer: int) -> int:
    """Bytes of a forward and backward pass: what is kept, and what the backward pass makes at its widest moment."""
    row = _row_tokens(prompts, group_size, answer)
    scored = len(prompts) * group_size * answer
    kept, ending = kept_bytes(shape, prompts, group_size, answer), _ending(shape, row, scored)
    one_layer = max(_layer_bytes(kind, prompts, group_size, answer) for kind in shape.each)
    # At the MLP's product: gradients of the product and of its two factors, less the product itself, which is gone; and
    # gradients of the residual and of the layer's output.
    # With experts also the gradients of what each gave, weighted and not.
    moving = row * (2 * shape.intermediate + 2 * shape.hidden + 2 * shape.copied) * shape.bytes
    layers = kept - ending + (one_layer if shape.checkpointing else 0) + moving
    # The embeddings' gradient is as large as they are; all layers are done by then.
    embeddings = 0 if shape.frozen else (shape.vocabulary + 2 * row) * shape.hidden * shape.bytes
    # A tied weight's gradient from the projection waits for that from the embeddings.
    waiting = shape.vocabulary * shape.hidden * shape.bytes if shape.tied and not shape.frozen else 0
    return max(kept + _logits_backward(shape, scored), layers + waiting, embeddings + waiting)


def kept_bytes(shape: Shape, prompts: Sequence[int], group_size: int, answer: int) -> int:
    """Bytes that a forward pass keeps for its backward pass."""
    row = _row_tokens(prompts, group_size, answer)
    scored = len(prompts) * group_size * answer
    if shape.checkpointing:
        layers = shape.layers * row * shape.hidden * shape.bytes  # their inputs
    else:
        layers = sum(kind.layers * _layer_bytes(kind, prompts, group_size, answer) for kind in shape.each)
    # cosines and sines, one pair for all layers whose heads are of one width
    rotation = 2 * row * sum({kind.head_width for kind in shape.each}) * shape.bytes
    # routers' logits of all layers, and their softmax in float32 for the loss, recomputed or not
    routing = shape.layers * row * shape.experts * (shape.bytes + FLOAT32) if shape.balanced else 0
    return layers + rotation + routing + row * _beside(shape, kept=True) + _ending(shape, row, scored)


def _layer_bytes(shape: Shape, prompts: Sequence[int], group_size: int, answer: int) -> int:
    """Bytes that one decoder layer keeps for its backward pass."""
    size = shape.bytes
    # Each norm: its input in float32, and that normalized, for its weight's gradient.
    norm = _norm_bytes(shape)
    # Queries, output (also the output projection's input), logsumexp in float32. Rotating keeps nothing of its own.
    attention = 2 * shape.query * size + shape.heads * FLOAT32
    own = 0 if shape.shares else shape.key_value
    if shape.norms_heads:  # of queries and keys what a norm keeps
        attention += (shape.query + own) * norm
    if shape.wide_norms:  # of values, without a weight
        attention += own * FLOAT32
    # Gate before and after its activation, and up. Of experts also what each gave, for its share's gradient, and the
    # router's probabilities in float32.
    mlp = (3 * shape.intermediate + shape.copied) * size + shape.experts * FLOAT32
    if shape.beside:  # gate before and after its activation, and as the inputs of two maps product and hidden states
        mlp += (2 * shape.beside + (0 if shape.frozen else shape.beside + shape.hidden)) * size
    # Inputs of linear maps, for their weights' gradients: the norms' outputs, the MLP's product. Where adapters drop
    # some of it out, each of seven has its own, and which elements came through.
    inputs = (2 * shape.hidden + shape.copied + shape.intermediate) * size
    if shape.experts and shape.frozen:  # adapters are on attention alone
        inputs = shape.hidden * size
        if shape.adapter_dropout:
            inputs = (3 * shape.hidden + shape.query) * (size + 1)
    elif shape.adapter_dropout:
        inputs = (5 * shape.hidden + shape.query + shape.intermediate) * (size + 1)
    tokens = _attended_tokens(prompts, group_size, answer)
    if shape.shares and tokens == _row_tokens(prompts, group_size, answer):
        tokens = 0  # nothing is copied: they are the other layer's
    keys_and_values = 2 * tokens * shape.key_value * size
    norms = shape.norms * shape.hidden * norm
    return _row_tokens(prompts, group_size, answer) * (norms + attention + mlp + inputs) + keys_and_values


def _norm_bytes(shape: Shape) -> int:
    """Bytes that a norm keeps of each number: its input in float32, and normalized for the gradient of its weight."""
    normalized = FLOAT32 if shape.wide_norms else shape.bytes
    return FLOAT32 + (0 if shape.frozen else normalized)


def _beside(shape: Shape, *, kept: bool) -> int:
    """Bytes per token of what all layers read beside the hidden states: that, and what norm and map behind it keep."""
    if not shape.beside:
        return 0
    each = shape.bytes + (_norm_bytes(shape) if kept else 0)
    return shape.layers * shape.beside * each + (shape.hidden * shape.bytes if kept and not shape.frozen else 0)


def _ending(shape: Shape, row: int, scored: int) -> int:
    """Bytes kept behind the layers: by the last norm, and the states that are scored."""
    norm = shape.hidden * (_norm_bytes(shape) + shape.bytes)
    return row * norm + scored * shape.hidden * shape.bytes


def _logits_backward(shape: Shape, scored: int) -> int:
    """Bytes of the backward pass through a chunk's logits at its widest.

    In float32: the logits; the gradient of the chosen ones; and logsumexp's gradient by PyTorch's formula,
    grad * (logits - logsumexp).exp(), whose three tensors exist together. The projection's gradient waits from chunk to
    chunk for the last one, because they share its weight.
    """
    tokens = _chunk_tokens(scored)
    head = 0 if shape.frozen else shape.vocabulary * shape.hidden * shape.bytes
    waiting = head if chunk_count(scored) > 1 else 0
    wide = 5 * tokens * shape.vocabulary * FLOAT32
    if shape.capped:
        wide += tokens * shape.vocabulary * shape.bytes  # the tangent, for its own gradient
    projection = tokens * shape.vocabulary * shape.bytes + head
    states = 2 * scored * shape.hidden * shape.bytes  # gradients: of a chunk's states among zeros, and their sum
    return max(wide, projection) + waiting + states


def _passing(shape: Shape) -> int:
    """Bytes per token of a layer that keeps nothing.

    At the MLP's product: the embeddings, the layer's input, what attention added to it, that normalized; the gate's
    activation, up and product. With experts beside the tokens' copies for them; or at the end these, what each gave,
    that weighted, and that in the tokens' order.
    """
    mlp = max(shape.copied + 3 * shape.intermediate, 4 * shape.copied)
    return (4 * shape.hidden + mlp) * shape.bytes + 2 * shape.head_width * shape.bytes


def _row_tokens(prompts: Sequence[int], group_size: int, answer: int) -> int:
    """T."""
    return sum(prompts) + len(prompts) * group_size * max(0, answer - 1)


def _attended_tokens(prompts: Sequence[int], group_size: int, answer: int) -> int:
    """Tokens whose keys and values a layer's one attention call reads.

    Prompts as sequences of their own, and a copy of them in front of each completion; a single completion is simply
    the rest of its prompt's sequence.
    """
    if group_size == 1:
        return _row_tokens(prompts, group_size, answer)
    return sum(prompts) * (group_size + 1) + len(prompts) * group_size * max(0, answer - 1)


def _chunk_tokens(scored: int) -> int:
    """Tokens whose logits are computed at a time."""
    return -(-scored // chunk_count(scored))
