"""A log without the chatter of the packages below: known lines are left out, everything else stays."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from lightning.pytorch.utilities import rank_zero_only

import avrt

_PACKAGE = str(Path(avrt.__file__).parent)
_ALWAYS_OFF = (
    ".*does not have many workers.*",
    ".*is smaller than the logging interval.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
    ".*sync_dist=True.*when logging on epoch level.*",
    ".*Total length of .* across ranks is zero.*",  # a run without validation; a split without samples is refused
    ".*The `srun` command is available.*",
    ".*Using ModelCheckpoint with manual optimization.*",  # the state after the step is the one to resume from
    ".*in eval mode at the start of training.*",  # the frozen towers and the reference, as they should be
    ".*it is recommended to use `Trainer\\(devices=1.*",  # our plan asks every question once on any number of devices
)
"""Warnings that are wrong or meaningless here, also with `--verbose`."""
_CHATTER = re.compile(
    r"(\[rank: \d+\] )?Seed set to|SLURM auto-requeueing enabled|[GTH]PU available|HPU available|💡|"
    r"initializing (deepspeed )?distributed: |Initializing distributed: |distributed_backend=|-{50}|"
    r"All distributed processes registered|LOCAL_RANK: |`Trainer\.fit` stopped: |"
    r"`Trainer\(\w+=1(\.0)?\)` was configured|"
    r"Restor(ing|ed) (states|all states)|Loaded model weights|Detected KeyboardInterrupt|"
    r"Using (bfloat16|16bit|bf16).*(AMP|[Pp]recision)|Enabling DeepSpeed |"
    r"No CUDA runtime is found, using CUDA_HOME|DeepSpeed \S+ built successfully"
)
"""What Lightning, PyTorch and DeepSpeed say at every start and end, by how it begins."""

_leaves_out = False


class _NotChatter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not is_chatter(record.getMessage())


class _OnStderr(logging.StreamHandler[TextIO]):
    """Writes to what stderr is at the time, so that a bar can print lines above itself."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def is_chatter(line: str) -> bool:
    """Whether a line is one that says nothing about this run."""
    return _CHATTER.match(line.strip()) is not None


def be_quiet(*, verbose: bool = False) -> None:
    """Leave known chatter out of what this process logs from now on.

    Args:
        verbose: Leave it in, but for warnings that are wrong here.
    """
    global _leaves_out
    _leaves_out = not verbose
    for pattern in _ALWAYS_OFF:
        warnings.filterwarnings("ignore", pattern)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.formatwarning = _short_warning
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    for logger in loggers:
        if logger.handlers:  # none where an application has set up logging itself
            logger.handlers = [_OnStderr()]
    ours = logging.getLogger("avrt")
    ours.setLevel(logging.INFO)
    if not ours.handlers and not logging.getLogger().handlers:
        ours.addHandler(_OnStderr() if getattr(rank_zero_only, "rank", 0) == 0 else logging.NullHandler())
        ours.propagate = False
    if verbose:
        return
    for logger in loggers:
        for handler in logger.handlers:
            handler.addFilter(_NotChatter())
    logging.getLogger("torch.utils.cpp_extension").addFilter(_NotChatter())


@contextlib.contextmanager
def chatter_left_out() -> Iterator[None]:
    """Leave known chatter out of what is printed meanwhile; the rest is printed at the end."""
    if not _leaves_out:
        yield
        return
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        for line in printed.getvalue().splitlines():
            if not is_chatter(line):
                print(line, flush=True)


def _short_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning in one line; where it comes from is said of others' alone, whose words do not tell."""
    if filename.startswith(_PACKAGE) or category is UserWarning:
        return f"warning: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"
