"""Schedule and display; how a module and its data are connected."""

import warnings

import lightning.pytorch as pl
import pytest

from avrt.data.loading.datamodule import AVDataModule
from avrt.errors import AvrtError
from avrt.policy.student_options import LoraOptions, StudentOptions
from avrt.rollout.sampling import SamplingOptions
from avrt.training.connect import ConnectData
from avrt.training.grpo_module import GRPOModule
from avrt.training.optimizers import OptimizerOptions
from avrt.training.sft_module import SFTModule


def test_linear_warm_up_then_cosine():
    factor = OptimizerOptions(warmup_steps=4, final_lr_share=0.1).schedule(12)
    assert [factor(i) for i in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert factor(4) == pytest.approx(1.0)
    assert factor(8) == pytest.approx(0.1 + 0.9 * 0.5)
    assert factor(12) == pytest.approx(0.1)
    assert factor(99) == pytest.approx(0.1)


def test_group_needs_company():
    with pytest.raises(ValueError, match="group_size"):
        GRPOModule(group_size=1)


def test_a_reference_on_the_host_makes_no_sense_with_lora():
    with pytest.raises(AvrtError, match=r"model.reference: with LoRA"):
        GRPOModule(student=StudentOptions(lora=LoraOptions()), reference="host")


def test_sampling_that_biases_the_loss_is_warned_about():
    with pytest.warns(UserWarning, match="biases"):
        GRPOModule(rollout=SamplingOptions(top_p=0.9))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GRPOModule()


def test_the_callback_that_connects_the_data_is_attached_once_for_any_number_of_stages(world, tmp_path):
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        default_root_dir=tmp_path, limit_val_batches=0,
    )  # fmt: skip
    module = SFTModule(student=StudentOptions(source="nano", dtype="float32"))
    data = AVDataModule(train=str(world / "train"), val=str(world / "val"), num_workers=0, batch_size=2)
    found = []
    for _ in range(2):
        trainer.fit(module, datamodule=data)
        found += [callback for callback in trainer.callbacks if isinstance(callback, ConnectData)]
    assert len(found) == 2
    assert found[0] is found[1]  # one that is replaced makes Lightning say that callbacks are overridden


def test_another_data_module_is_refused_in_one_line(tmp_path):
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path)
    with pytest.raises(AvrtError, match="needs an AVDataModule"):
        trainer.fit(SFTModule(student=StudentOptions(source="nano")), train_dataloaders=[0])
