"""A small part of the run over mutated rows; see `fuzz_rows`."""

from tests.recipes.fuzz_rows import run


def test_mutated_rows_are_all_counted(tmp_path):
    outcomes = run(tmp_path, 210, seed=1)
    assert outcomes["used"] + outcomes["left out"] == 210
    assert outcomes["used"] > 40
    assert outcomes["left out"] > 40
    assert outcomes["of them with a note"] > 0
