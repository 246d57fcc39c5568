"""Thousands of spoilt media files: none hangs or ends the run, and each has an outcome."""

from tests.conftest import make_clip
from tests.data.fuzz import run, sound_files

FILES = 2_000


def test_spoilt_files_cost_themselves_alone(tmp_path):
    sources = sound_files(make_clip(tmp_path / "source.mp4", size=(160, 96)), tmp_path / "zoo")
    assert len(sources) > 25
    outcomes = run(sources, FILES, workers=2)
    assert outcomes.total() == FILES
    assert min(outcomes["used"], outcomes["repaired"], outcomes["refused"]) > FILES / 20
    assert not [outcome for outcome in outcomes if "unforeseen" in outcome or "took longer" in outcome]
