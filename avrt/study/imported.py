"""Everything that a study's commands import, imported once by the process that they are forks of (`process.py`)."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import signal

# Our commands, and what DeepSpeed and Lightning import when a run is under way: the first alone is two seconds of each.
_MODULES = (
    "deepspeed.runtime.zero.muon.muon_optimizer", "deepspeed.module_inject", "deepspeed.moe.sharded_moe", "s3fs",
    "avrt.commands.early_checks", "avrt.commands.export", "avrt.commands.help_page", "avrt.commands.shards",
    "avrt.commands.traces", "avrt.evaluation.model_card", "avrt.policy.saving", "avrt.training.grpo_module",
    "avrt.training.sft_module", "avrt.training.launch", "avrt.training.trained_policy",
    "avrt.traces.student_backend", "tensorboard", "torch.utils.tensorboard",
)  # fmt: skip


def _import_all() -> None:
    # Who ends all processes at once, as a batch system does, means the study, which lets its commands end in order.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # `avrt.training.launch` comes first: it sets what DeepSpeed reads when it is imported.
    importlib.import_module("avrt.training.launch")
    for name in _MODULES:
        with contextlib.suppress(ImportError):  # an extra that is not installed, or another version's module
            importlib.import_module(name)
    with contextlib.suppress(ImportError):
        # DeepSpeed starts two processes in each run to learn what is the same in all of them.
        processor = importlib.import_module("cpuinfo")
        vars(processor)["get_cpu_info"] = functools.cache(processor.get_cpu_info)
        processor.get_cpu_info()
    gc.collect()
    gc.freeze()  # or each fork's first collection copies all that was imported


_import_all()
