"""A real vLLM engine samples for a student: prompts, answers and log-probabilities agree, and pushed weights arrive.

`make server` sets up its environment; without it these tests are skipped.
"""

import copy
import json
import subprocess
from pathlib import Path

import pytest
import torch

from avrt.data.inputs.batch import collate
from avrt.data.media.clip import Clip
from avrt.errors import AvrtError
from avrt.evaluation.predictions import read_predictions
from avrt.evaluation.result import Result
from avrt.policy.vllm.engine import VLLMEngine
from avrt.policy.vllm.options import VLLMOptions
from avrt.policy.vllm.process import WORKER
from avrt.rollout.sampling import SamplingOptions
from tests.conftest import avrt, make_sample
from tests.training.runs import SMALL, fit
from tests.training.test_benchmark import ask

PYTHON = Path(__file__).parents[2] / ".venv-server" / "bin" / "python"
pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-server here: `make server` sets it up"),
]
QUIET = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
SETTINGS = {"enforce_eager": True, "max_model_len": 2048, "max_num_seqs": 16, "max_num_batched_tokens": 32768}


@pytest.fixture
def engine(nano, monkeypatch):
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    engine = VLLMEngine(VLLMOptions(python=str(PYTHON), settings=SETTINGS))
    engine.start(nano)
    yield engine
    engine.close()


def apart(nano, batch, answers):
    """(R,) how far each answer's recorded log-probabilities are from the student's own, at most."""
    with torch.no_grad():
        scored = nano.logprobs(nano.encode(batch), [a.token_ids for a in answers]).logprobs
    differences = (torch.cat([a.logprobs for a in answers]) - scored).abs()
    return torch.stack([part.max() for part in differences.split([len(a.token_ids) for a in answers])])


def test_answers_are_the_students_own_and_follow_its_weights(nano, batch, builder, engine):
    clip = batch.clips[0]
    media = [
        (("video",), Clip(frames=clip.frames, seconds_per_frame=clip.seconds_per_frame)),
        (("image", "audio"), Clip(image=clip.frames[2], audio=clip.audio[:16_000])),
        (("audio",), Clip(audio=clip.audio)),
        ((), Clip()),
        (("video", "audio"), clip),
    ]
    mixed = collate([builder.row(make_sample(str(i), media=m), c) for i, (m, c) in enumerate(media)])
    options, seeds = SamplingOptions(max_new_tokens=24), list(range(10))

    def check(answers):
        worst = apart(nano, mixed, answers)
        print(f"vLLM {engine.version}: {worst.max():.1e}")
        assert worst.max() < 1e-5

    first = engine.generate(nano, nano.encode(mixed), options, seeds, 2)
    assert len(first) == 10
    check(first)
    student = copy.deepcopy(nano)
    with torch.no_grad():
        for parameter in student.decoder.language_model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    assert apart(student, mixed, first).max() > 0.5
    second = engine.generate(student, student.encode(mixed), options, seeds, 2)
    assert apart(student, mixed, second).max() < 1e-5, "the engine does not follow the weights"


@pytest.mark.parametrize(
    ("source", "place"),
    [("nano", "beside"), ("nano", "elsewhere"), ("nano-qwen3-omni", "beside"), ("nano-gemma4", "beside")],
)
def test_grpo_learns_from_answers_of_vllm(nano, world, tmp_path, monkeypatch, source, place):
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    where = ("--model.vllm.python", PYTHON)
    worker = None
    if place == "elsewhere":
        worker = subprocess.Popen([PYTHON, WORKER, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True)
        address = next(line for line in worker.stdout if line.startswith("listening on ")).split()[-1]
        where = ("--model.vllm.addresses", json.dumps([address]))
    try:
        steps = fit(
            "grpo", world, tmp_path, *SMALL, *where, "--model.vllm.settings", json.dumps(SETTINGS),
            "--model.student.source", source,
            "--data.batch_size", 4, "--model.group_size", 2, "--model.rollout.max_new_tokens", 16,
            "--model.loss.importance_sampling_cap", 2.0,
            "--model.optimizer.lr", 1e-2, "--model.optimizer.warmup_steps", 1,
            "--trainer.max_steps", 3,
        )  # fmt: skip
        if worker is not None:
            with pytest.raises(AvrtError, match="start it again for another model"):
                VLLMEngine(VLLMOptions(addresses=[address], model="another")).start(nano)
    finally:
        if worker is not None:
            worker.kill()
    assert len(steps) == 3
    # with stale weights it would be far more
    assert all(0 < s["policy/sampler_mismatch"] < 1e-5 for s in steps.values())


def test_a_benchmark_asked_by_vllm_names_it_and_agrees_with_the_native_answers(world, tmp_path, monkeypatch):
    """Sound lies within video; a near tie may still fall the other way."""
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    ask(world, tmp_path / "native")
    ask(world, tmp_path / "vllm", "--model.vllm.python", PYTHON, "--model.vllm.settings", json.dumps(SETTINGS))
    native, other = (Result.load(tmp_path / name / "result.json") for name in ("native", "vllm"))
    assert (native.engine, other.protocol["engine.name"]) == ("native", "vllm")
    assert other.protocol["engine.version"][0].isdigit()
    answers = [read_predictions(tmp_path / name / "predictions.jsonl") for name in ("native", "vllm")]
    assert sum(a.responses == b.responses for a, b in zip(*answers, strict=True)) >= 7


def test_doctor_compares_what_vllm_records_with_scoring(world, monkeypatch):
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    done = avrt(
        "doctor", "--config", "grpo.yaml", "--config", "nano/grpo.yaml", "--data.train", world / "train",
        "--model.vllm.python", PYTHON, "--model.vllm.settings", json.dumps(SETTINGS),
    )  # fmt: skip
    assert "vLLM / scoring" in done.stdout
    assert "vLLM weights" in done.stdout
    assert done.stdout.count("PASS") == 6
