"""An engine samples the next batch while the policy learns from the one before: same steps, and resumed exactly.

The worker is the real one, in a process of its own that serves every run of this file; the package vLLM in it is the
stand-in of `tests/policy/stand_in`.
"""

import copy
import io
import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field

import lightning.pytorch as pl
import pytest
import torch

from avrt.algorithms.grpo import GRPOOptions
from avrt.algorithms.rollout_ahead import RolloutAhead
from avrt.data.inputs.prompt_options import PromptOptions
from avrt.data.loading.datamodule import AVDataModule
from avrt.errors import AvrtError
from avrt.objectives.policy_loss import PolicyLoss
from avrt.objectives.rewards import ExtraReward, RewardOptions
from avrt.policy.policy import load_policy
from avrt.policy.saving import export_policy
from avrt.policy.student_options import StudentOptions
from avrt.policy.vllm.options import VLLMOptions
from avrt.policy.vllm.process import WORKER
from avrt.rollout.completion import Completion
from avrt.rollout.sampling import SamplingOptions
from avrt.training.checkpoints import RunCheckpoint, complete_checkpoints
from avrt.training.grpo_module import GRPOModule
from avrt.training.optimizers import OptimizerOptions
from tests.policy.standing_in import StandIn, stand_in
from tests.policy.test_vllm_engine import PYTHON, QUIET, SETTINGS
from tests.training.runs import SMALL, fit, fit_and_kill, logged

STUDENT = StudentOptions("nano", dtype="float32")
PROMPT = PromptOptions(system_prompt="", instruction="", audio_in_video=True)
OPTIMIZER = OptimizerOptions(lr=1e-2, warmup_steps=1)
BATCHES = 48 // 8
FEW = {"max_steps": 4}


@dataclass
class Engine:
    """Where the workers are, one for each of two ranks, and what they noted."""

    options: VLLMOptions
    noted: StandIn
    unbroken: "Run | None" = None

    def asked(self) -> list[str]:
        """Each time that one was asked to sample."""
        return [call for call in self.noted.names() if call == "sample"]


@dataclass
class Run:
    """What a run did: the values of each step, as they were logged, and the weights it ended with."""

    steps: list[dict[str, float]] = field(default_factory=list)
    weights: list[torch.Tensor] = field(default_factory=list)

    def of(self, name: str) -> list[float]:
        """One value of every step that has it."""
        return [step[name] for step in self.steps if name in step]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine")
    with pytest.MonkeyPatch.context() as patch:
        noted = stand_in(folder, patch)
        workers = [
            subprocess.Popen(
                [noted.python, WORKER, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                text=True, env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
            )
            for _ in range(2)
        ]  # fmt: skip
    export_policy(load_policy(STUDENT), folder / "model", full_layout=True)
    lines = [next(line for line in worker.stdout if line.startswith("listening on ")) for worker in workers]
    addresses = [line.split()[-1] for line in lines]
    yield Engine(VLLMOptions(addresses=addresses, model=str(folder / "model")), noted)
    for worker in workers:
        worker.kill()
        worker.wait()


class Watched(GRPOModule):
    """Keeps what it logs of each step."""

    def __init__(self, run, **settings):
        super().__init__(**settings)
        self.run = run

    def log_values(self, values, *, on_bar=()):
        super().log_values(values, on_bar=on_bar)
        if "rewards/total/mean" in values:
            self.run.steps.append({"step": self.run_log.step, **values})


class Stop(pl.Callback):
    """Stops a run after some batches, as `max_time` does."""

    def __init__(self, batches):
        self.left = batches

    def on_train_batch_end(self, trainer, *_):
        self.left -= 1
        trainer.should_stop |= self.left == 0


def train(world, engine, root, *, ahead=1, callbacks=(), resume=False, val=False, batch_size=8, trainer=None, **module):
    """Train in this process; returns what happened."""
    run = Run()
    settings = {
        "student": STUDENT, "group_size": 2, "rollout": SamplingOptions(max_new_tokens=6), "micro_batch_size": 8,
        "rewards": RewardOptions(extra=[ExtraReward("tests.algorithms.test_grpo.brevity")]), "vllm": engine.options,
        "optimizer": OPTIMIZER, "rollout_ahead": ahead,
        "generation": SamplingOptions(max_new_tokens=3, temperature=0.0), "loss": PolicyLoss(beta=0.1),
    }  # fmt: skip
    made = Watched(run, **{**settings, **module})
    data = AVDataModule(
        train=str(world / "train"), val=str(world / "val") if val else None, batch_size=batch_size, num_workers=0,
        eval_batch_size=8, prompt=PROMPT,
    )  # fmt: skip
    options = {
        "accelerator": "cpu", "max_epochs": 1, "logger": False, "enable_progress_bar": False,
        "enable_model_summary": False, "num_sanity_val_steps": 0, "default_root_dir": root,
    }  # fmt: skip
    fit = pl.Trainer(callbacks=[*callbacks, RunCheckpoint(every_n_train_steps=100)], **{**options, **(trainer or {})})
    last = str(complete_checkpoints(root)[-1]) if resume else None
    fit.fit(made, datamodule=data, ckpt_path=last, weights_only=True)
    run.weights = [p.detach().clone() for p in made.parameters() if p.requires_grad]
    return run


def is_timed(name):
    return name.startswith(("seconds/", "rollout/push")) or name.endswith("_per_second")


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.weights, other.weights, strict=True))


class WaitsForTheNext(pl.Callback):
    """Holds up each update until the engine is at work on the next batch; it would wait forever were that later."""

    def __init__(self, engine, batches):
        self.engine, self.batches = engine, batches
        self.before = len(engine.asked())
        self.updates = 0

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.updates += 1
        deadline = time.monotonic() + 60
        while len(self.engine.asked()) - self.before < min(self.updates + 1, self.batches):
            assert time.monotonic() < deadline, "the engine is not asked before the update is over"
            time.sleep(0.01)


def test_it_samples_while_the_policy_learns_and_takes_the_same_steps(world, engine, tmp_path):
    begun = len(engine.noted.calls())
    waits = WaitsForTheNext(engine, BATCHES)
    run = train(world, engine, tmp_path / "ahead", callbacks=[waits])
    assert waits.updates == BATCHES
    calls = engine.noted.names()[begun:]
    assert calls == ["load", "sample"] * BATCHES or calls == ["start", *["load", "sample"] * BATCHES]
    turns = train(world, engine, tmp_path / "turns", ahead=0)
    assert run.of("step") == turns.of("step") == list(range(BATCHES))
    assert run.of("rollout/staleness") == [0, *[1] * (BATCHES - 1)]
    assert run.of("train/lr") == turns.of("train/lr")
    measured = [name for name in turns.steps[0] if not is_timed(name)]
    assert {name: run.steps[0][name] for name in measured} == {name: turns.steps[0][name] for name in measured}
    assert not equal(run, turns)


@pytest.mark.parametrize("dynamic", [0, 2])
def test_a_run_ends_with_the_step_that_it_is_to_end_with(world, engine, tmp_path, dynamic):
    """Over the end of an epoch cut short, with two optimizer steps on each rollout, in the middle of the last pair."""
    before = len(engine.asked())
    run = train(
        world, engine, tmp_path / "ahead", num_iterations=2, dynamic_sampling=dynamic,
        loss=PolicyLoss(beta=0.1, importance_sampling_cap=2.0), optimizer=OPTIMIZER,
        trainer={"max_epochs": 2, "limit_train_batches": 4, "max_steps": 9},
    )  # fmt: skip
    updates = [step for step in run.steps if step.get("train/updated", 1)]
    assert [step["step"] for step in updates] == [0, 2, 4, 6, 8]
    assert run.of("train/lr") == pytest.approx([OPTIMIZER.lr * OPTIMIZER.schedule(9)(s) for s in (0, 2, 4, 6, 8)])
    assert len(engine.asked()) - before == len(run.steps), "something was sampled in vain"
    weights = run.of("policy/importance")
    assert weights[0] == pytest.approx(1.0, abs=1e-4)
    if not dynamic:
        assert run.of("rollout/staleness") == [0, 2, 2, 2, 2]  # optimizer steps
        assert all(abs(weight - 1) > 1e-4 for weight in weights[1:])


@pytest.mark.parametrize("batches", [1, 3, 5])
def test_a_stopped_run_goes_on_with_the_rollout_that_was_in_flight(world, engine, tmp_path, batches):
    """After the first batch, at the end of an epoch, and within one; nothing is sampled twice."""
    epochs = {"trainer": {"max_epochs": 2, "limit_train_batches": 3}, "dynamic_sampling": 2}
    unbroken = engine.unbroken = engine.unbroken or train(world, engine, tmp_path / "whole", **epochs)
    before = len(engine.asked())
    first = train(world, engine, tmp_path / "run", callbacks=[Stop(batches)], **epochs)
    stored = torch.load(complete_checkpoints(tmp_path / "run")[-1], weights_only=True)["rollout_ahead"]
    assert [len(share["completions"]) for share in stored] == [2 * 8]
    second = train(world, engine, tmp_path / "run", resume=True, **epochs)
    assert len(engine.asked()) - before == 2 * 3
    assert [*first.of("step"), *second.of("step")] == unbroken.of("step")
    assert [*first.of("train/loss"), *second.of("train/loss")] == unbroken.of("train/loss")
    assert equal(second, unbroken)


def test_two_ranks_killed_in_mid_flight_go_on_as_if_unbroken(world, engine, tmp_path):
    options = (
        *SMALL, "--data.batch_size", 2, "--model.group_size", 2, "--model.rollout.max_new_tokens", 8,
        "--trainer.devices", 2, "--trainer.max_steps", 11, "--checkpoint.every_n_train_steps", 4,
        "--model.rewards.extra", '[{"function": "tests.algorithms.test_grpo.brevity", "weight": 1.0}]',
        "--model.vllm.addresses", json.dumps(engine.options.addresses), "--model.vllm.model", engine.options.model,
        "--model.rollout_ahead", 1, "--model.loss.importance_sampling_cap", 2.0,
    )  # fmt: skip
    unbroken = fit("grpo", world, tmp_path / "whole", *options)
    root = tmp_path / "killed"
    fit_and_kill("grpo", world, root, *options)
    assert max(logged(root)) < 10
    shutil.rmtree(root / "lightning_logs")
    resumed = fit("grpo", world, root, *options, "--ckpt_path", "last")
    assert min(resumed) > 0, "the resumed run began anew"
    assert sorted(unbroken) == list(range(11))
    assert max(resumed) == 10
    assert [values["rollout/staleness"] for values in resumed.values()] == [1] * len(resumed)
    for step in resumed:
        for name, value in unbroken[step].items():
            if not is_timed(name):
                assert resumed[step][name] == pytest.approx(value, rel=1e-6, abs=1e-6), (step, name)


@pytest.fixture(scope="module")
def plain(world, engine, tmp_path_factory):
    return train(world, engine, tmp_path_factory.mktemp("plain"), trainer=FEW)


class EndsTheEngine(pl.Callback):
    """Kills it with -9 in the second update, before its answer to the next batch is taken."""

    updates = 0

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.updates += 1
        if self.updates == 2:
            os.kill(module.vllm.pid, signal.SIGKILL)


def test_an_engine_killed_in_mid_flight_is_given_the_weights_that_it_sampled_by(
    world, engine, tmp_path, plain, monkeypatch
):
    """The policy has learned since: what is asked again has to come from the older weights."""
    monkeypatch.setenv("STAND_IN_LOG", str(engine.noted.log))
    beside = VLLMOptions(python=str(engine.noted.python), model=engine.options.model)
    run = train(world, engine, tmp_path, vllm=beside, callbacks=[EndsTheEngine()], trainer=FEW)
    assert run.of("rollout/engine_restarts") == [0, 0, 1, 1]
    assert run.of("train/loss") == plain.of("train/loss")
    assert equal(run, plain)


def test_checkpoints_and_validation_by_the_engine_leave_the_run_as_it_is(world, engine, tmp_path, plain):
    """Both wait for the rollout in flight; the engine answers with newer weights than it samples with."""
    begun = len(engine.noted.calls())
    busy = train(
        world, engine, tmp_path / "busy", vllm_in_validation=True, val=True, trainer={**FEW, "val_check_interval": 1},
        callbacks=[pl.callbacks.ModelCheckpoint(tmp_path / "kept", every_n_train_steps=1, save_top_k=-1)],
    )  # fmt: skip
    assert engine.noted.names()[begun:].count("sample") == 4 + 4
    assert busy.of("train/loss") == plain.of("train/loss")
    assert equal(busy, plain)


def test_fewer_steps_than_a_checkpoint_has_leave_the_rollout_to_it(world, engine, tmp_path):
    """A run that is over with its first update has read one batch more, which the next run learns from."""
    root, epoch = tmp_path / "run", {"max_epochs": 1}
    train(world, engine, root, callbacks=[Stop(3)], trainer=epoch)
    shorter = train(world, engine, root, resume=True, trainer={**epoch, "max_steps": 3})
    rest = train(world, engine, root, resume=True, trainer=epoch)
    assert shorter.of("step") == [2]
    assert rest.of("step") == [3, 4, 5]


def test_another_number_of_ranks_finds_its_samples_or_asks_anew(batch, nano):
    asked = []
    ids = [sample.id for sample in batch.samples]

    class Asked:
        """Answers each prompt of the batch by its number."""

        sampling_seconds = 1.0

        def begin(self, policy, prompts, sampling, seeds, group_size):
            asked.append(prompts.sample_ids)
            return prompts.sample_ids

        def finish(self, pending):
            numbers = [ids.index(sample_id) for sample_id in pending]
            return [Completion(torch.tensor([i, g]), torch.zeros(2), True) for i in numbers for g in (0, 1)]

    def share(*rows):
        part = copy.copy(batch)
        part.valid = batch.valid[[*rows]]
        for name, value in vars(batch).items():
            if isinstance(value, list) and len(value) == len(batch):
                setattr(part, name, [value[i] for i in rows])
        ahead = RolloutAhead(Asked())
        ahead.begin(nano, part, GRPOOptions(group_size=2), (0,))
        ahead.staleness = 1
        return ahead.state_dict()

    shares = [share(0, 2), share(1, 3)]
    asked.clear()
    buffer = io.BytesIO()
    torch.save(shares, buffer)
    buffer.seek(0)
    ahead = RolloutAhead(Asked())
    ahead.load_state_dict(torch.load(buffer, weights_only=True), 0)
    ahead.begin(nano, batch, GRPOOptions(group_size=2), (0,))
    done = ahead.finish()
    assert [c.token_ids.tolist() for c in done.completions] == [[i, g] for i in range(4) for g in (0, 1)]
    assert (done.staleness, ahead.stored.missed, asked) == (1, False, [])
    other = copy.copy(batch)  # as with other options for prompts
    other.prompt_ids = [*batch.prompt_ids[:3], batch.prompt_ids[3][1:]]
    cold = SamplingOptions(temperature=0.5)
    for lacking, asks, options, seed in (
        (shares[:1], batch, GRPOOptions(group_size=2), 0),
        (shares, batch, GRPOOptions(group_size=4), 0),
        (shares, other, GRPOOptions(group_size=2), 0),
        (shares, batch, GRPOOptions(group_size=2, sampling=cold), 0),
        (shares, batch, GRPOOptions(group_size=2), 1),
    ):
        ahead.load_state_dict(lacking, 0)
        ahead.begin(nano, asks, options, (seed,))
        assert ahead.stored.missed
        assert asked.pop() == ids
        assert ahead.staleness == 0
    assert done.sampling_seconds == 0  # a checkpoint's took none
    assert 1 <= ahead.finish().sampling_seconds < 1.5  # as the engine says, and asking it


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"rollout_ahead": 1}, r"the native engine is this process, which learns meanwhile \(set model\.vllm"),
        ({"rollout_ahead": 1, "vllm": VLLMOptions(python="python", sleep=True)}, r"an engine that sleeps meanwhile"),
        ({"rollout_ahead": 2, "vllm": VLLMOptions(python="python")}, "must be 0 or 1, not 2"),
    ],
)
def test_what_cannot_sample_ahead_is_refused(options, why):
    with pytest.raises(AvrtError, match=rf"model\.rollout_ahead: {why}") as caught:
        GRPOModule(student=STUDENT, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.server
@pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-server here: `make server` sets it up")
def test_a_real_engine_samples_ahead(world, tmp_path, monkeypatch):
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    steps = fit(
        "grpo", world, tmp_path, *SMALL, "--model.vllm.python", PYTHON, "--model.vllm.settings", json.dumps(SETTINGS),
        "--data.batch_size", 4, "--model.group_size", 2, "--model.rollout.max_new_tokens", 16,
        "--model.rewards.extra", '[{"function": "tests.algorithms.test_grpo.brevity", "weight": 1.0}]',
        "--model.rollout_ahead", 1, "--model.loss.importance_sampling_cap", 2.0,
        "--model.optimizer.lr", 1e-2, "--model.optimizer.warmup_steps", 1, "--trainer.max_steps", 4,
    )  # fmt: skip
    assert [values["rollout/staleness"] for values in steps.values()] == [0, 1, 1, 1]
    mismatch = [values["policy/sampler_mismatch"] for values in steps.values()]
    assert mismatch[0] < 0.2  # the engine's numerics alone
    assert all(0 < distance < 2 for distance in mismatch[1:])  # and what one update has moved
    assert all(0 < values["policy/importance"] < 2 for values in steps.values())
