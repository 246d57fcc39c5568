"""`avrt doctor` as users run it: healthy, biased, and pointed at nothing."""

from tests.conftest import avrt

CONFIG = ("--config", "grpo.yaml", "--config", "nano/grpo.yaml")


def test_healthy_configuration(world):
    done = avrt("doctor", *CONFIG, "--data.train", world / "train", "--samples", 2)
    assert done.stdout.count("PASS") == 4
    assert "torch" in done.stdout


def test_an_attention_that_cannot_pack_passes_too(world):
    done = avrt("doctor", *CONFIG, "--data.train", world / "train", "--model.student.attention", "eager")
    assert done.stdout.count("PASS") == 4


def test_truncated_sampling_ends_with_status_1(world):
    done = avrt(
        "doctor", *CONFIG, "--data.train", world / "train", "--model.rollout.top_p", 0.9, "--samples=1", check=False
    )
    assert done.returncode == 1
    assert "FAIL" in done.stdout
    assert "biased" in done.stdout


def test_other_configurations_are_refused():
    done = avrt("doctor", "--config", "sft.yaml", "--config", "nano/sft.yaml", check=False)
    assert done.returncode == 2
    assert "grpo.yaml" in done.stderr
    done = avrt("doctor", *CONFIG, check=False)
    assert "data.train" in done.stderr
