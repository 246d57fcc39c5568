"""vLLM in the native engine's place in evaluation: the same answers, by the trained weights, and the result says who.

The worker is the real one, in a process of its own; the package vLLM in it is a stand-in (`tests/policy/stand_in`) that
computes as the native engine does, so that greedy answers have to be equal.
"""

import dataclasses

import lightning.pytorch as pl
import pytest

from avrt.data.loading.datamodule import AVDataModule
from avrt.errors import AvrtError
from avrt.evaluation.protocol import differences, fingerprint
from avrt.evaluation.result import Result
from avrt.policy.student_options import StudentOptions
from avrt.policy.vllm.engine import VLLMEngine
from avrt.policy.vllm.options import VLLMOptions
from avrt.rollout.sampling import SamplingOptions
from avrt.training.benchmark_module import BenchmarkModule
from avrt.training.sft_module import SFTModule
from tests.conftest import WARM, avrt
from tests.policy.standing_in import VERSION, stand_in
from tests.training.runs import SMALL, fit
from tests.training.test_benchmark import ask


@pytest.fixture
def vllm(tmp_path, monkeypatch):
    return stand_in(tmp_path, monkeypatch, WARM.python)


def test_a_benchmark_by_vllm_has_the_native_answers_and_says_who_gave_them(world, tmp_path, vllm):
    by_vllm = ("--model.vllm.python", vllm.python, "--model.vllm.settings", '{"seed": 3, "max_num_seqs": 4}')
    ask(world, tmp_path / "runs" / "native")
    ask(world, tmp_path / "runs" / "vllm", *by_vllm)
    assert vllm.names() == ["start", "load", "sample", "sample", "sample"]  # weights once for all batches
    assert vllm.calls()[0]["settings"]["max_num_seqs"] == 4
    assert vllm.gone()
    files = [tmp_path / "runs" / name / "predictions.jsonl" for name in ("native", "vllm")]
    assert files[0].read_bytes() == files[1].read_bytes()
    native, other = (Result.load(file.with_name("result.json")) for file in files)
    assert (native.engine, other.engine) == ("native", f"vllm {VERSION}")
    assert (native.environment["decoding"], other.environment["decoding"]) == ("dynamic", None)
    assert {name: new for name, (_, new) in differences(native.protocol, other.protocol).items()} == {
        "engine.name": "vllm", "engine.version": VERSION, "engine.settings.seed": 3
    }  # fmt: skip
    # Answers of the two are not mixed in one folder, and figures of the two are not compared.
    mixed = ask(world, tmp_path / "runs" / "vllm", check=False)
    assert mixed.returncode == 2
    assert "another protocol; engine.name was 'vllm', now 'native'" in mixed.stderr
    avrt("report", tmp_path / "runs", "--out", tmp_path / "report")
    report = (tmp_path / "report" / "report.md").read_text()
    assert f"answered by vllm {VERSION} / nano_world / av | engine.name | native | vllm" in report
    assert "Not compared: 1 pair of runs of one benchmark and mask that differ in protocol" in report


def test_sampling_settings_go_through(world, tmp_path, vllm):
    ask(
        world, tmp_path / "run", "--model.vllm.python", vllm.python, "--model.benchmark.samples", 2,
        "--model.generation.temperature", 0.7, "--model.generation.top_k", 5, "--model.generation.top_p", 0.9,
        "--data.eval_batch_size", 8,
    )  # fmt: skip
    [sample] = [call for call in vllm.calls() if call["call"] == "sample"]
    assert sample["prompts"] == 16
    given = {name: sample["first"][name] for name in ("temperature", "top_k", "top_p", "max_tokens")}
    assert given == {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "max_tokens": 12}


def test_a_trained_student_answers_by_its_trained_weights(world, tmp_path, vllm):
    small = (*SMALL, "--data.batch_size", 4, "--data.val", world / "val", "--model.generation.max_new_tokens", 8)
    settings = ("--model.vllm.python", vllm.python, "--model.vllm_in_validation", "true")
    fit(
        "sft", world, tmp_path / "run", *small, *settings, "--trainer.max_steps", 2, "--model.optimizer.lr", 3e-3,
        "--model.optimizer.warmup_steps", 1, "--trainer.val_check_interval", 1, "--trainer.num_sanity_val_steps", 0,
    )  # fmt: skip
    names = vllm.names()
    assert names.count("start") == 1
    assert names.count("load") >= 2  # weights anew for each validation
    assert "sample" in names
    assert vllm.gone()
    question = ("--config", "sft.yaml", "--config", "nano/sft.yaml", *small, "--data.predict", world / "test")
    answers = []
    for name, extra in (("native", ()), ("vllm", settings[:2]), ("untrained", None)):
        where = ("--ckpt_path", tmp_path / "run") if extra is not None else ()
        avrt("predict", *question, *where, *(extra or ()), "--trainer.default_root_dir", tmp_path / name,
             "--trainer.logger", "false")  # fmt: skip
        answers.append((tmp_path / name / "predictions.jsonl").read_bytes())
    assert answers[0] == answers[1]
    assert answers[0] != answers[2]


def run(world, folder, vllm, **settings):
    module = BenchmarkModule(
        StudentOptions("nano", dtype="float32"), generation=SamplingOptions(max_new_tokens=4, temperature=0.0),
        vllm=VLLMOptions(python=str(vllm.python)), **settings,
    )  # fmt: skip
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, default_root_dir=folder
    )
    return module, lambda: trainer.test(module, datamodule=AVDataModule(test=str(world / "test"), num_workers=0))


def test_the_engine_ends_with_a_run_that_fails(world, tmp_path, vllm, monkeypatch):
    monkeypatch.setenv("STAND_IN_FAILS", "sample")
    module, test = run(world, tmp_path / "run", vllm)
    with pytest.raises(AvrtError, match="vLLM engine: sample: RuntimeError: told to fail") as caught:
        test()
    assert "\n" not in str(caught.value)
    assert module.vllm is None
    assert module.policy.engine is None
    assert vllm.gone()


def test_an_engine_that_does_not_start_ends_too(world, tmp_path, vllm, monkeypatch):
    monkeypatch.setenv("STAND_IN_FAILS", "start")
    module, test = run(world, tmp_path / "run", vllm)
    with pytest.raises(AvrtError, match="vLLM engine: start: RuntimeError: told to fail"):
        test()
    assert module.vllm is None
    assert vllm.gone()


def test_without_an_answer_to_ask_for_training_starts_none(world, tmp_path, vllm):
    fit(
        "sft", world, tmp_path / "run", *SMALL, "--data.batch_size", 4, "--model.vllm.python", vllm.python,
        "--trainer.max_steps", 1, "--data.val", world / "val", "--model.generation.max_new_tokens", 4,
    )  # fmt: skip
    assert vllm.calls() == []


def test_validation_between_rollouts_is_native_unless_asked_for(world, tmp_path, vllm):
    fit(
        "grpo", world, tmp_path / "run", *SMALL, "--data.batch_size", 2, "--model.group_size", 2,
        "--model.rollout.max_new_tokens", 4, "--model.vllm.python", vllm.python, "--trainer.max_steps", 2,
        "--data.val", world / "val", "--model.generation.max_new_tokens", 4, "--trainer.val_check_interval", 1,
        "--trainer.num_sanity_val_steps", 0,
    )  # fmt: skip
    assert vllm.names() == ["start", *["load", "sample"] * 2]  # two rollouts and nothing else
    assert vllm.gone()


# ---- what cannot work


def test_prompts_without_clips_are_refused(nano, batch, vllm):
    prompts = dataclasses.replace(nano.encode(batch), clips=[])
    with pytest.raises(AvrtError, match="0 clips for 4 prompts, and vLLM prepares clips by itself"):
        VLLMEngine(VLLMOptions(python=str(vllm.python))).generate(nano, prompts, SamplingOptions(), range(4), 1)


def test_validation_by_an_engine_that_is_not_set_is_refused():
    with pytest.raises(AvrtError, match=r"model\.vllm_in_validation: there is no engine"):
        SFTModule(vllm_in_validation=True)


# ---- the protocol's field


def test_results_of_earlier_versions_count_as_the_native_engines():
    earlier, native = {"samples": 1}, {"samples": 1, "engine.name": "native"}
    by_vllm = {"samples": 1, "engine.name": "vllm", "engine.version": "0.32.0"}
    assert differences(earlier, native) == {}
    assert fingerprint(earlier) == fingerprint(native) != fingerprint(by_vllm)
    assert differences(earlier, by_vllm)["engine.name"] == ("native", "vllm")
