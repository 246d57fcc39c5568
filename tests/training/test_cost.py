"""What one GRPO step runs: each tower once per clip, one prefill, one scoring pass each for policy and reference."""

import json
import os
from collections import Counter

import lightning.pytorch as pl

from tests.training.runs import SMALL, fit

COUNTS = "AVRT_TEST_COUNTS"


class PassCounter(pl.Callback):
    """Counts forward passes by what they are for, and writes them down step by step."""

    def on_fit_start(self, trainer, module):
        self.counts = Counter()
        student = module.policy.model.model
        towers = {"vision": student.visual, "audio": student.audio_tower}
        for name, tower in towers.items():
            tower.register_forward_hook(lambda *_, name=name: self.counts.update([name]))
        texts = {"policy": student.language_model, "reference": module.reference.language_model}
        for name, text in texts.items():
            text.register_forward_hook(lambda *seen, name=name: self.count(name, seen[2]), with_kwargs=True)

    def count(self, name, arguments):
        length = arguments["inputs_embeds"].shape[1]
        kind = "scoring" if arguments["past_key_values"] is None else "prefill" if length > 1 else "decoding"
        self.counts[f"{name} {kind}"] += 1

    def on_train_batch_end(self, trainer, module, *_):
        with open(os.environ[COUNTS], "a") as file:
            file.write(json.dumps(self.counts) + "\n")
        self.counts.clear()


def test_nothing_is_encoded_read_or_scored_twice(world, tmp_path, monkeypatch):
    monkeypatch.setenv(COUNTS, str(tmp_path / "counts"))
    fit(
        "grpo", world, tmp_path, *SMALL, "--data.batch_size", 4, "--model.group_size", 4,
        "--model.rollout.max_new_tokens", 5, "--trainer.max_steps", 3, "--trainer.limit_val_batches", 0,
        "--trainer.callbacks+", "tests.training.test_cost.PassCounter",
    )  # fmt: skip
    steps = [json.loads(line) for line in (tmp_path / "counts").read_text().splitlines()]
    # 4 questions are one micro-batch; old log-probabilities are those of the update's own pass, since it is on-policy
    expected = {"vision": 1, "audio": 1, "policy prefill": 1, "policy decoding": 4, "policy scoring": 1,
                "reference scoring": 1}  # fmt: skip
    assert steps == [expected] * 3
