"""A small fuzz run of replies; `python -m tests.traces.fuzz_replies` makes larger ones."""

import pytest

from tests.traces.fuzz_replies import fuzz


def test_mutated_replies_lose_no_sample_and_do_not_crash(tmp_path):
    pytest.importorskip("pyarrow")
    found = fuzz(tmp_path, samples=60, seed=7, shown=2, filter_="none")
    assert found.mutated > 80
    assert found.outcomes.total() == 60
    assert found.outcomes["kept"] > 5
    assert found.outcomes["failed"] > 5
