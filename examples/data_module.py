"""Fine-tune in a Trainer of your own, asked as before:  python examples/data_module.py STUDENT SHARDS CHECKPOINT."""

import sys

from lightning.pytorch import Trainer

import avrt
from avrt.policy.student_options import StudentOptions
from avrt.training.sft_module import SFTModule

model, shards, checkpoint = sys.argv[1:]
data = avrt.load(model).data_module(train=shards, batch_size=4, num_workers=0)
trainer = Trainer(max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False)
trainer.fit(SFTModule(StudentOptions(model, dtype="float32")), data)
trainer.save_checkpoint(checkpoint)  # for avrt export, or avrt.load
