"""Seconds of a GRPO or SFT step on a named card, by arithmetic alone; every assumption stands in `Card` or `Assumed`.

A phase that computes takes the longer of two times: its operations over the share of the card's peak that such a phase
reaches, and the launching of its kernels one by one, which bounds small micro-batches. Decoding takes, per token, the
longer of reading weights and caches from memory and of launching. What crosses PCIe or the links between cards takes
its bytes over their rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from avrt.models.cards import Card
from avrt.models.memory_estimate.shape import FLOAT32, Shape


@dataclass(frozen=True)
class Assumed:
    """Shares of what a data sheet promises, and the costs that no data sheet has.

    `matmul`, `towers`, `bandwidth`, `pinned`, `pageable`, `kernel` and the passes were read off one H200 (docs/gpu.md).
    The others are guesses.

    Attributes:
        matmul: Share of peak operations in scoring, update and prefill.
        towers: The same in the towers, whose matrices are narrower.
        bandwidth: Share of memory bandwidth, in decoding and in the optimizer.
        pinned: Share of the host link that copies from pinned memory reach.
        pageable: The same from pageable memory.
        links: Share of the links between cards.
        network: Bytes per second, device and direction between nodes: 400 Gb/s each, as a DGX H100 has.
        kernel: Seconds to launch one kernel where no graph is replayed.
        kernels: Kernels of a decoder layer's forward pass.
        backward_passes: Forward passes whose launching takes as long as that of a forward and a backward pass.
        checkpointed_passes: The same where activations are computed again.
        host_bandwidth: Bytes per second from the host's memory, all ranks together.
        own_memory: Bytes of CUDA's context, libraries and NCCL, outside PyTorch's account.
        answer: Tokens of a completion on average, where nothing else is said (AVRT's answers).
        longest: Tokens of a batch's longest completion, over the average.
    """

    matmul: float = 0.5
    towers: float = 0.18
    bandwidth: float = 0.2
    pinned: float = 0.8
    pageable: float = 0.28
    links: float = 0.6
    network: float = 50e9
    kernel: float = 26e-6
    kernels: int = 56
    backward_passes: float = 3
    checkpointed_passes: float = 6
    host_bandwidth: float = 200e9
    own_memory: float = 1.5e9
    answer: int = 165
    longest: float = 1.5


ASSUMED = Assumed()


@dataclass(frozen=True)
class Work:
    """One rank's work in a step.

    Attributes:
        prompts: Tokens of each prompt.
        group_size: G; 1 in fine-tuning.
        answer: Tokens of a completion on average.
        longest: Tokens of the longest one, until which a batch decodes.
        trained: Parameters that are trained.
        encoding: Operations of the towers.
        micro_batch_size: Groups per forward and backward pass.
        samples: Whether completions are sampled; otherwise they are given.
        recorded: Whether decoding replays a graph instead of launching kernels.
        reference: Whether a reference scores too.
        moved: Bytes of the reference that come from the host's page-locked memory each step.
        gathered: Bytes of weights that ZeRO-3 gathers for one pass over the model; 0 elsewhere.
        gathers_each_token: Whether it does so for every token that is decoded, instead of once.
        ranks: Number of devices.
        nodes: Number of machines that they are in.
        stage: ZeRO stage.
        offload: Whether the optimizer is on the host.
        pinned: Whether its memory is pinned.
        accumulates_on_host: Whether each backward pass moves gradients to the host, and but the first has them back.
    """

    prompts: Sequence[int]
    group_size: int
    answer: int
    longest: int
    trained: int
    encoding: int
    micro_batch_size: int
    samples: bool
    recorded: bool
    reference: bool
    moved: float
    gathered: float
    gathers_each_token: bool
    ranks: int
    nodes: int
    stage: int
    offload: bool
    pinned: bool
    accumulates_on_host: bool


def seconds_per_phase(shape: Shape, card: Card, work: Work, assumed: Assumed = ASSUMED) -> dict[str, float]:
    """Seconds of `encode`, `rollout`, `reference`, `update` and `optimizer`; what a step does not have is left out."""
    compute = card.operations * assumed.matmul
    count, rows = len(work.prompts), len(work.prompts) * work.group_size
    passes = -(-count // work.micro_batch_size)
    links = _link_rate(card, work, assumed)
    gathering = work.gathered / links  # one pass over the model under ZeRO-3
    launching = passes * assumed.kernel * assumed.kernels * shape.layers
    seconds = {"encode": work.encoding / (card.operations * assumed.towers)}
    if work.samples:
        prefill = _forward_operations(shape, work.prompts, 0, 0) + 2 * shape.hidden * shape.vocabulary * count
        seconds["rollout"] = prefill / compute + work.longest * token_seconds(shape, card, work, assumed)
        seconds["rollout"] += gathering * (work.longest if work.gathers_each_token else 1)
    scored = _forward_operations(shape, work.prompts, work.group_size, work.answer)
    logits = 2 * shape.hidden * shape.vocabulary * rows * work.answer
    if work.reference:
        moved = work.moved / (card.host * assumed.pinned)
        seconds["reference"] = max((scored + logits) / compute, launching) + moved + passes * gathering
    # Backward costs twice the forward pass, or once where the weights are frozen; layers under checkpointing, and the
    # logits always, are computed once more.
    backward = 1 if shape.frozen else 2
    operations = scored * (1 + backward + shape.checkpointing) + logits * (2 + backward)
    # Each backward pass reduces the gradients of all ranks; behind its own computing unless that is shorter.
    reducing = passes * work.trained * shape.bytes * (work.ranks - 1) / work.ranks / links
    gathers = passes * gathering * (2 + shape.checkpointing)
    launched = launching * (assumed.checkpointed_passes if shape.checkpointing else assumed.backward_passes)
    seconds["update"] = max(operations / compute, launched, reducing) + gathers
    if work.accumulates_on_host:
        share = work.trained * shape.bytes / work.ranks
        seconds["update"] += share * (2 * passes - 1) / _host_rate(card, work, assumed)
    seconds["optimizer"] = _optimizer_seconds(shape, card, work, assumed)
    return seconds


def token_seconds(shape: Shape, card: Card, work: Work, assumed: Assumed = ASSUMED) -> float:
    """Seconds of one decoding step of all rows."""
    rows = len(work.prompts) * work.group_size
    layers = sum(kind.layers * kind.layer_weights_read(rows) for kind in shape.each)
    weights = (layers + shape.hidden * shape.vocabulary) * shape.bytes
    caches = (sum(work.prompts) + rows * work.longest / 2) * shape.cache_bytes  # own caches are half full on average
    drawn = 10 * rows * shape.vocabulary * FLOAT32  # softmax, cumulative sum and search read and write the logits
    reading = (weights + caches + drawn) / (card.bandwidth * assumed.bandwidth)
    launching = 0.0 if work.recorded else assumed.kernel * assumed.kernels * shape.layers
    return max(reading, launching)


def _forward_operations(shape: Shape, prompts: Sequence[int], group_size: int, answer: int) -> float:
    """Operations of the layers over packed rows: two per weight and token, and attention's two products."""
    own = max(0, answer - 1)
    tokens = sum(prompts) + len(prompts) * group_size * own
    linear = 2.0 * sum(kind.layers * kind.layer_weights for kind in shape.each) * tokens
    products = 0.0
    for kind in shape.each:
        pairs = sum(_pairs(p, kind.window) + group_size * own * _seen(p, own, kind.window) for p in prompts)
        products += 4.0 * kind.layers * kind.query * pairs
    return linear + products


def _pairs(tokens: int, window: int | None) -> float:
    """Pairs of a sequence's tokens of which one sees the other."""
    return tokens * tokens / 2 if window is None or tokens <= window else window * (tokens - window / 2)


def _seen(prompt: int, own: int, window: int | None) -> float:
    """How many tokens one of a completion sees on average."""
    return prompt + own / 2 if window is None else min(prompt + own / 2, window)


def _optimizer_seconds(shape: Shape, card: Card, work: Work, assumed: Assumed) -> float:
    """AdamW over one rank's share of the parameters, and sharing the updated weights.

    It reads gradient, master weight and two moments, and writes the latter three and the weight.
    """
    share = work.trained / (work.ranks if work.stage else 1)
    touched = share * (7 * FLOAT32 + shape.bytes)
    shared = work.trained * shape.bytes * (work.ranks - 1) / work.ranks / _link_rate(card, work, assumed)
    if not work.offload:
        return touched / (card.bandwidth * assumed.bandwidth) + shared
    crossing = share * (FLOAT32 + shape.bytes) / _host_rate(card, work, assumed)
    return crossing + touched / (assumed.host_bandwidth / work.ranks) + shared


def _link_rate(card: Card, work: Work, assumed: Assumed) -> float:
    """Bytes per second between ranks; the slowest link on the way counts."""
    return assumed.links * (card.link if work.nodes == 1 else min(card.link, assumed.network))


def _host_rate(card: Card, work: Work, assumed: Assumed) -> float:
    """Bytes per second to or from the host's memory."""
    return card.host * (assumed.pinned if work.pinned else assumed.pageable)
