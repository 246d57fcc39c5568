"""Peak memory of a step's phases; `tests/models/test_memory_estimate.py` compares the forecast with it."""

import pytest

from tests.pretended.phases import bytes_kept_by_sampling, measured_bytes

GB = 10**9
CACHED_TOKEN = 36 * 2 * 2 * 128 * 2
"""Bytes of a token in the 3B's caches: keys and values of 36 layers, 2 heads, 128 wide, in bf16."""


def test_memory_grows_with_what_it_should():
    small, large = (measured_bytes("3B", [1999], group, 165, checkpointing=True) for group in (4, 16))
    plain = measured_bytes("3B", [1999], 4, 165, checkpointing=False)
    print(small, large, plain)
    assert small["update"] == pytest.approx(2.4 * GB, rel=0.05)
    assert large["update"] == pytest.approx(4.1 * GB, rel=0.05)
    assert plain["update"] > 5 * small["update"]
    assert {name: plain[name] for name in ("rollout", "reference")} == pytest.approx(
        {name: small[name] for name in ("rollout", "reference")}, rel=0.01
    )


def test_caches_by_hand():
    """4 completions of 512 more tokens each."""
    few, many = (measured_bytes("3B", [1999], 4, answer, checkpointing=True)["rollout"] for answer in (512, 1024))
    assert many - few == pytest.approx(4 * 512 * CACHED_TOKEN, rel=0.05)


def test_what_sampling_keeps_by_hand():
    """Rooms of 2,048 for the prompt and of 512 for each completion, and what one step makes of 4 rows of logits."""
    kept = bytes_kept_by_sampling("3B", [1999], 4, 512)
    buffers = (2048 + 4 * 512) * CACHED_TOKEN
    assert buffers < kept < buffers + 4 * 151_936 * 40
