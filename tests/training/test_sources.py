"""Training for real on a mixture of a folder and a remote folder, with modality dropout; all of it is counted."""

import json

from tests.data.web import Weather, serving
from tests.training.runs import SMALL, fit


def test_a_mixture_with_dropout_counts_what_it_trains_on(world, tmp_path):
    weather = Weather(cut=0.02)
    with serving(world / "val", weather) as address:
        sources = [
            {"shards": str(world / "train"), "weight": 0.5, "name": "near"},
            {"shards": address, "weight": 2.0, "name": "far"},
        ]
        steps = fit(
            "sft", world, tmp_path, *SMALL, "--data.train", json.dumps(sources), "--data.batch_size", 5,
            "--data.dropout.audio", 0.3, "--data.dropout.vision", 0.2, "--data.cache", tmp_path / "cache",
            "--data.shard_window", 2, "--trainer.devices", 2, "--trainer.max_steps", 6,
        )  # fmt: skip
    per_epoch = {"near": 24, "far": 16}  # half of 48, twice 8: four steps of ten samples
    for name, count in per_epoch.items():
        counts = [steps[step][f"data/{name}"] for step in range(6)]
        assert counts == sorted(counts)
        assert counts[3] == count
    assert [sum(steps[step][f"data/{name}"] for name in per_epoch) for step in range(6)] == [10, 20, 30, 40, 50, 60]
    lost = {sense: sum(steps[step][f"data/dropped_{sense}"] for step in range(6)) for sense in ("audio", "vision")}
    assert 5 <= lost["audio"] <= 32
    assert 2 <= lost["vision"] <= 26
    assert all(values["train/skipped_samples"] == 0 for values in steps.values())
