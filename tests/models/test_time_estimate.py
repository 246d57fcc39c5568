"""Seconds by arithmetic, against the same arithmetic by hand for a card of round numbers."""

from dataclasses import replace

import pytest

from avrt.errors import AvrtError
from avrt.models.cards import CARDS, Card, find_card
from avrt.models.memory_estimate import Shape
from avrt.models.time_estimate import Assumed, Work, seconds_per_phase, token_seconds

SHAPE = Shape(
    hidden=100, intermediate=300, layers=4, heads=2, query=100, key_value=50, vocabulary=1000, bytes=2,
    checkpointing=False,
)  # fmt: skip
CARD = Card("round", memory=1e9, operations=1e9, bandwidth=1e6, host=1e5, link=1e7)
PLAIN = Assumed(matmul=1, towers=1, bandwidth=1, pinned=1, pageable=0.5, links=1, kernel=1e-6, kernels=10)
SLOW_LAUNCH = replace(PLAIN, kernel=1)
WORK = Work(
    prompts=(20, 20), group_size=3, answer=5, longest=10, trained=1000, encoding=int(2e9), micro_batch_size=1,
    samples=True, recorded=True, reference=True, moved=0, gathered=0,
    gathers_each_token=False, ranks=1, nodes=1, stage=2, offload=False, pinned=False,
    accumulates_on_host=False,
)  # fmt: skip
LAYER = 100 * (200 + 100) + 3 * 100 * 300


def test_phases_by_hand():
    found = seconds_per_phase(SHAPE, CARD, WORK, PLAIN)
    assert found["encode"] == 2
    tokens, pairs = 40 + 6 * 4, 2 * (200 + 3 * 4 * (20 + 2))
    layers = 2 * 4 * LAYER * tokens + 4 * 4 * 100 * pairs
    logits = 2 * 100 * 1000 * 6 * 5
    assert found["reference"] == pytest.approx((layers + logits) / 1e9)
    assert found["update"] == pytest.approx((3 * layers + 4 * logits) / 1e9)
    weights, caches = (4 * LAYER + 100_000) * 2, (40 + 6 * 5) * 2 * 4 * 50 * 2
    per_token = (weights + caches + 10 * 6 * 1000 * 4) / 1e6
    prefill = 2 * 4 * LAYER * 40 + 4 * 4 * 100 * 400 + 2 * 100 * 1000 * 2
    assert found["rollout"] == pytest.approx(prefill / 1e9 + 10 * per_token)
    assert found["optimizer"] == pytest.approx(1000 * 30 / 1e6)


def test_what_else_takes_time():
    """Each setting against the same without it."""
    base = seconds_per_phase(SHAPE, CARD, WORK, PLAIN)

    def more(phase: str, shape: Shape = SHAPE, **changes: object) -> float:
        return seconds_per_phase(shape, CARD, replace(WORK, **changes), PLAIN)[phase] - base[phase]

    assert more("update", replace(SHAPE, checkpointing=True)) > 0
    assert more("reference", moved=2e5) == pytest.approx(2)
    assert more("reference", gathered=1e6) == pytest.approx(2 * 0.1)  # two micro-batches
    assert more("rollout", gathered=1e6) == pytest.approx(0.1)
    assert more("rollout", gathered=1e6, gathers_each_token=True) == pytest.approx(10 * 0.1)
    assert more("update", accumulates_on_host=True) == pytest.approx(2000 * 3 / 0.5e5)
    offloaded = 1000 * 6 / 0.5e5 + 1000 * 30 / PLAIN.host_bandwidth
    assert more("optimizer", offload=True) == pytest.approx(offloaded - base["optimizer"])
    assert more("optimizer", offload=True, pinned=True) < more("optimizer", offload=True)
    assert token_seconds(SHAPE, CARD, WORK, replace(PLAIN, bandwidth=1e9)) < 1e-6
    assert token_seconds(SHAPE, CARD, replace(WORK, recorded=False), SLOW_LAUNCH) == pytest.approx(4 * 10)
    slow = seconds_per_phase(SHAPE, CARD, WORK, SLOW_LAUNCH)  # two micro-batches of four layers of ten kernels
    assert (slow["reference"], slow["update"]) == (pytest.approx(80), pytest.approx(240))
    assert seconds_per_phase(replace(SHAPE, checkpointing=True), CARD, WORK, SLOW_LAUNCH)["update"] == pytest.approx(
        480
    )
    several = replace(WORK, ranks=4, trained=int(1e8), gathered=1e6)
    by_links, over_network = (
        seconds_per_phase(SHAPE, CARD, replace(several, nodes=nodes), replace(PLAIN, network=1e6)) for nodes in (1, 2)
    )
    for phase in ("reference", "update", "optimizer"):  # the network is ten times slower than the links
        waited = [seconds[phase] - seconds_per_phase(SHAPE, replace(CARD, link=1e30), several, PLAIN)[phase]
                  for seconds in (by_links, over_network)]  # fmt: skip
        assert waited[1] > 5 * waited[0] > 0
    assert "rollout" not in seconds_per_phase(SHAPE, CARD, replace(WORK, samples=False), PLAIN)


def test_cards_go_by_their_names():
    assert find_card("rtx4090") is CARDS["RTX4090"]
    assert find_card("A100 80GB") is CARDS["A100-80GB"]
    with pytest.raises(AvrtError, match="H100, H100-PCIe, H200"):
        find_card("GTX285")
