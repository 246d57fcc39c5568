"""bfloat16 that is right: one policy in training, sampling, export and evaluation; gradients accumulated in float32."""

import lightning.pytorch as pl
import pytest
import torch
from deepspeed.runtime.zero.linear import zero3_linear_wrap
from lightning.pytorch.plugins.precision import DeepSpeedPrecision

from avrt.algorithms.sft import sft_step
from avrt.data.loading.datamodule import AVDataModule
from avrt.errors import AvrtError
from avrt.policy.policy import load_policy
from avrt.policy.student_options import StudentOptions
from avrt.traces.student_backend import find_model
from avrt.training.sft_module import SFTModule
from avrt.training.trained_policy import policy_from_checkpoint
from tests.conftest import avrt
from tests.training.runs import fit_arguments

STUDENT = str(find_model("nano/teachers/visual"))  # one that has learned: what it says depends on where things are
BF16 = (
    "--model.student.source", STUDENT, "--model.student.dtype", "bfloat16", "--trainer.precision", "bf16-mixed",
    "--data.num_workers", 0, "--data.batch_size", 8, "--model.optimizer.warmup_steps", 1,
)  # fmt: skip

# What rounding to bfloat16 does to a log-probability of this student, 0.006 on average and 0.03 at most, is what lies
# between two ways of computing it (measured against the same weights in float32). The same way has to give the same.
SAME_WAY, ROUNDING_MEAN, ROUNDING_MAX = 1e-6, 0.012, 0.1
STOCK_MEAN = 0.0005  # scoring against transformers' own forward pass: nearly the same operations, 0.00007 measured


def mean(one, other):
    return float((one - other).abs().nan_to_num().mean())


@pytest.mark.parametrize("rounded", [False, True], ids=["as configured", "buffers rounded"])
def test_what_is_trained_in_bfloat16_is_what_is_exported_and_evaluated(world, tmp_path, rounded):
    record = tmp_path / "record.pt"
    avrt(*fit_arguments(
        "sft", world, tmp_path, *BF16, "--model.micro_batch_size", 2, "--trainer.max_steps", 4,
        "--model.optimizer.lr", 1e-3, "--trainer.callbacks+=tests.training.recording.RecordPolicy",
        "--trainer.callbacks.path", record, "--trainer.callbacks.round_buffers", str(rounded).lower(),
    ))  # fmt: skip
    avrt("export", "--ckpt_path", tmp_path, "--out", tmp_path / "model")
    found = torch.load(record, weights_only=False)
    batch, tokens, trained = found["batch"], found["tokens"], found["trained"]
    exported = load_policy(StudentOptions(source=str(tmp_path / "model"), dtype="bfloat16"))
    checkpoint = policy_from_checkpoint(next((tmp_path / "checkpoints").glob("step-*.ckpt")))
    with torch.no_grad():
        evaluated = exported.logprobs(exported.encode(batch), tokens).logprobs
        resumed = checkpoint.logprobs(checkpoint.encode(batch), tokens).logprobs
        rows = range(len(tokens))
        model, processor = exported.model, exported.inputs.processor
        stock = torch.cat([exported.family.stock_logprobs(model, processor, batch, i, tokens[i]) for i in rows])
    assert len(trained) > 150
    assert torch.equal(resumed, evaluated)
    recorded = found["recorded"]
    assert mean(recorded, trained) < ROUNDING_MEAN  # sampling and scoring share the module, rounded or not
    if rounded:  # the fault is beyond every bound that the policy as configured keeps
        assert mean(trained, evaluated) > 100 * SAME_WAY
        assert mean(trained, stock) > 4 * STOCK_MEAN
        return
    assert float((trained - evaluated).abs().max()) <= SAME_WAY
    assert mean(trained, stock) < STOCK_MEAN
    for one, other in ((recorded, trained), (recorded, evaluated), (recorded, stock), (trained, stock)):
        assert mean(one, other) < ROUNDING_MEAN
        assert float((one - other).abs().nan_to_num().max()) < ROUNDING_MAX


class Sum:
    """Gradients of micro-batches, each in bfloat16 as autograd makes it, added up in float32."""

    def __init__(self, policy):
        self.trained = {name: p for name, p in policy.model.named_parameters() if p.requires_grad}
        self.gradients = {name: torch.zeros(p.shape) for name, p in self.trained.items()}

    def zero_grad(self):
        pass

    def backward(self, loss, *, last):
        loss.backward()
        for name, p in self.trained.items():
            self.gradients[name] += p.grad.float()
            p.grad = None

    def step(self):
        pass


def gradients_of(batch, micro_batch_size):
    policy = load_policy(StudentOptions(source=STUDENT, dtype="bfloat16")).train()
    added = Sum(policy)
    sft_step(policy, batch, added, micro_batch_size=micro_batch_size)
    return added.gradients


def apart(one, other):
    """Distance of two sets of gradients, relative to their length."""
    difference = sum(float((one[name] - other[name]).square().sum()) for name in one)
    return (difference / sum(float(g.square().sum()) for g in other.values())) ** 0.5


# Stage 1 with offload adds in float32, but rounds once for the reduction.
@pytest.mark.parametrize(
    ("stage", "offload", "bound"), [(1, True, 0.0022), (2, False, 0.0), (2, True, 0.0), (3, True, 0.0)]
)
def test_micro_batches_add_up_in_float32(world, tmp_path, monkeypatch, stage, offload, bound):
    """Eight micro-batches give the float32 sum of their gradients; as one batch they are not farther than rounding."""
    added, big = run_and_compare(world, tmp_path, monkeypatch, stage, offload)
    assert added <= bound
    assert big < 0.0035


@pytest.mark.parametrize("stage", [2, 3])
def test_micro_batches_added_up_in_bfloat16_are_caught(world, tmp_path, monkeypatch, stage):
    added, _ = run_and_compare(world, tmp_path, monkeypatch, stage, True, accumulate="bf16")
    assert added > 0.0025


def run_and_compare(world, tmp_path, monkeypatch, stage, offload, accumulate=""):
    record = tmp_path / "record.pt"
    avrt(*fit_arguments(
        "sft", world, tmp_path, *BF16, "--model.micro_batch_size", 1, "--trainer.max_steps", 1,
        "--trainer.strategy.stage", stage, "--trainer.strategy.offload_optimizer", str(offload).lower(),
        "--trainer.callbacks+=tests.training.recording.RecordGradients",
        "--trainer.callbacks.path", record, "--trainer.callbacks.accumulate", accumulate,
    ))  # fmt: skip
    found = torch.load(record, weights_only=False)
    if stage == 3:  # DeepSpeed puts a linear layer of its own there, which adds a bias after rounding
        monkeypatch.setattr(torch.nn.functional, "linear", zero3_linear_wrap)
    eight, one = gradients_of(found["batch"], 1), gradients_of(found["batch"], 8)
    assert set(found["gradients"]) == set(eight)
    return apart(found["gradients"], eight), apart(found["gradients"], one)


def test_stage_1_without_offload_is_refused_in_bfloat16(world, tmp_path):
    stage_1 = ("--trainer.strategy.stage", 1, "--trainer.strategy.offload_optimizer", "false")
    done = avrt(*fit_arguments("sft", world, tmp_path, *BF16, *stage_1), check=False)
    assert done.returncode == 2
    assert "trainer.strategy.stage: 1 without offload" in done.stderr
    assert "set --trainer.strategy.stage 2" in done.stderr


GUARDED = [
    ("bfloat16", "bf16-true", "rounds 5 buffers", "set --trainer.precision bf16-mixed"),
    ("bfloat16", "32-true", "turns 128 weights of bfloat16 into float32", "set --trainer.precision bf16-mixed"),
    ("float32", "bf16-mixed", "turns 128 weights of float32 into bfloat16", "set --trainer.precision 32-true"),
]


@pytest.mark.parametrize(
    ("dtype", "precision", "told", "remedy"), GUARDED, ids=[f"{case[0]} {case[1]}" for case in GUARDED]
)
def test_a_precision_that_changes_the_student_is_refused(world, tmp_path, dtype, precision, told, remedy):
    done = avrt(*fit_arguments(
        "sft", world, tmp_path, *BF16, "--model.student.dtype", dtype, "--trainer.precision", precision
    ), check=False)  # fmt: skip
    assert done.returncode == 2
    for part in ("trainer.precision:", f"{precision} (DeepSpeedPrecision)", told, remedy):
        assert part in done.stderr
    if precision == "bf16-true":
        assert "inv_freq (float32 " in done.stderr or "positional_embedding (float32 " in done.stderr


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize(
    ("precision", "told"), [("bf16-true", "rounds 5 buffers"), ("bf16-mixed", "under torch.autocast")]
)
def test_so_is_one_in_evaluation_and_without_deepspeed(world, tmp_path, stage, precision, told):
    trainer = pl.Trainer(
        accelerator="cpu", precision=precision, max_steps=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, default_root_dir=tmp_path,
    )  # fmt: skip
    module = SFTModule(student=StudentOptions(source=STUDENT, dtype="bfloat16"))
    split = {"fit": "train", "validate": "val"}.get(stage, stage)
    data = AVDataModule(**{split: str(world / ("val" if split == "predict" else split))}, num_workers=0, batch_size=2)
    with pytest.raises(AvrtError, match=told) as caught:
        getattr(trainer, stage)(module, datamodule=data)
    assert "set --trainer.precision 32-true" in str(caught.value)


def test_deepspeeds_precision_leaves_a_batch_as_it_is(batch):
    """Rewards and vLLM are given the clips' own sound, towers the frequencies of the whole float32 spectrogram."""
    found = DeepSpeedPrecision("bf16-mixed").convert_input(batch)
    assert found is batch
    assert batch.mel.dtype == torch.float32
    assert batch.clips[0].audio.dtype == torch.float32
