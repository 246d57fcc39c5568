"""Everything that relies on private parts of DeepSpeed. Written against 0.19; `tests/test_internals.py` checks them.

What is relied on: how the engine is told of micro-batches that do not go through its own forward pass, the hooks by
which ZeRO-3 gathers weights, the setting that makes it load a universal checkpoint, the names of the files in a
checkpoint and when it counts as complete, what it writes on nodes that share no folder, what it compiles and where, how
its builders ask for the processor, and what Lightning's strategy does with it before a run.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import logging
import subprocess
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from avrt.errors import AvrtError
from avrt.files import write_whole

_TAG, _UNIVERSAL = "checkpoint", "universal"
CPU_ADAM, SHARED_MEMORY = "cpu_adam", "deepspeed_shm_comm"
"""What is compiled at first use: the optimizer on the CPU, and communication between processes on the CPU."""


@contextlib.contextmanager
def import_deferred() -> Iterator[None]:
    """Keep the constructor of Lightning's strategy, which only sets a level of logging, from importing DeepSpeed."""
    if "deepspeed" in sys.modules:
        yield
        return
    stand_in: Any = types.ModuleType("deepspeed")
    stand_in.utils = types.SimpleNamespace(logging=types.SimpleNamespace(logger=logging.getLogger("DeepSpeed")))
    sys.modules["deepspeed"] = stand_in
    try:
        yield
    finally:
        del sys.modules["deepspeed"]


def is_built(name: str) -> bool:
    """Whether one of the two has been compiled in this environment."""
    from torch.utils import cpp_extension  # which looks for CUDA, and says so

    return (Path(cpp_extension._get_build_directory(name, verbose=False)) / f"{name}.so").is_file()


def leave_shared_memory_out() -> None:
    """Have processes on the CPU talk without DeepSpeed's own kernel, which cannot be compiled."""
    import deepspeed

    deepspeed.ops.__compatible_ops__[SHARED_MEMORY] = False


def import_deepspeed(level: int) -> None:
    """Import DeepSpeed before something is trained under it.

    Args:
        level: From which level on it logs.

    Raises:
        AvrtError: If it is not installed.
    """
    try:
        import deepspeed
    except ImportError as error:
        raise AvrtError(
            f"DeepSpeed cannot be imported: {error}",
            where="trainer.strategy",
            remedy="pip install deepspeed, or set --trainer.strategy auto with --trainer.precision 32-true",
        ) from error
    deepspeed.utils.logging.logger.setLevel(level)
    ask_processor_once()


def ask_processor_once() -> None:
    """Have DeepSpeed's builders ask py-cpuinfo once in a process what processor this is; they ask three times.

    Each time a process is started for it, which takes a second. Processes that are forked later need not ask at all.
    """
    with contextlib.suppress(ImportError):
        cpuinfo: Any = importlib.import_module("cpuinfo")  # comes with DeepSpeed

        if not hasattr(cpuinfo.get_cpu_info, "cache_info"):
            cpuinfo.get_cpu_info = functools.cache(cpuinfo.get_cpu_info)


def prepare_backward(engine: Any, *, last: bool) -> None:
    """Tell the engine that a backward pass begins, and whether it is the step's last one.

    The engine's own forward pass would tell its optimizer that a new pass begins. Ours does not go through it, and
    without being told ZeRO-3 keeps the last micro-batch's gradients alone.
    """
    engine.set_gradient_accumulation_boundary(last)
    engine.optimizer.clear_backward_seen_flag()


def _offload(engine: Any) -> Any:
    """What has ZeRO-3's hooks: the optimizer's `parameter_offload`, or what has them in evaluation."""
    return getattr(engine.optimizer, "parameter_offload", engine.optimizer)


@contextlib.contextmanager
def gathered(engine: Any, modules: Sequence[nn.Module]) -> Iterator[None]:
    """Hold some modules' weights whole, with no module gathering or releasing weights by itself meanwhile (ZeRO-3).

    All ranks have to enter together; what they do inside is their own. Like DeepSpeed's `unwrap_model_for_generation`,
    but for some modules alone, and the hooks come back after an exception too.

    Args:
        engine: DeepSpeed's engine.
        modules: Whose weights; nothing else of the model can be used inside.
    """
    import deepspeed

    parameters: list[Any] = [parameter for module in modules for parameter in module.parameters()]
    offload = _offload(engine)
    with deepspeed.zero.GatheredParameters(parameters):
        for parameter in parameters:
            parameter.ds_active_sub_modules.clear()
        for hook in (*offload.forward_hooks, *offload.backward_hooks):
            hook.remove()
        offload.forward_hooks, offload.backward_hooks = [], []
        try:
            yield
        finally:
            offload._register_deepspeed_module(offload.module)


@contextlib.contextmanager
def gathered_to_read(engine: Any, modules: Sequence[nn.Module]) -> Iterator[None]:
    """Hold some modules' weights whole, to be read (ZeRO-3); all ranks have to enter together.

    Args:
        engine: DeepSpeed's engine.
        modules: Whose weights.
    """
    import deepspeed

    parameters: list[Any] = [parameter for module in modules for parameter in module.parameters()]
    if any(parameter.ds_status is parameter.ds_status.INFLIGHT for parameter in parameters):
        # Being fetched ahead of a module that did not run then: wait for them, and begin with none.
        _offload(engine).partition_all_parameters()
    with deepspeed.zero.GatheredParameters(parameters):
        for parameter in parameters:
            parameter.ds_active_sub_modules.clear()
        yield


def load_universal(engine: Any) -> None:
    """Have the engine load the universal form of a checkpoint; only loading reads this setting."""
    engine._config.load_universal_checkpoint = True


def keep_on_nodes(config: dict[str, Any]) -> None:
    """Have each node write what it needs to go on into its own folder, since the others do not see it."""
    config.setdefault("checkpoint", {})["use_node_local_storage"] = True


def save_parts(engine: Any, checkpoint: Path, record: dict[str, Any], *, exclude_frozen: bool) -> None:
    """Write this process's part of a checkpoint; when this returns all parts are written, but not the mark.

    Args:
        engine: DeepSpeed's engine.
        checkpoint: The checkpoint, on this node.
        record: What is saved beside weights and optimizer.
        exclude_frozen: Whether frozen parameters are left out.
    """
    with _second_names_left_out(engine) if exclude_frozen else contextlib.nullcontext():
        engine.save_checkpoint(
            str(checkpoint), client_state=record, tag=_TAG, save_latest=False, exclude_frozen_parameters=exclude_frozen
        )


@contextlib.contextmanager
def _second_names_left_out(engine: Any) -> Iterator[None]:
    """Leave frozen parameters out under every name: DeepSpeed deletes a tied or shared one under its first alone."""
    module: nn.Module = engine.module
    frozen = {n for n, p in module.named_parameters(remove_duplicate=False) if not p.requires_grad}
    whole = engine.module_state_dict

    def without_frozen(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return {name: tensor for name, tensor in whole(*args, **kwargs).items() if name not in frozen}

    engine.module_state_dict = without_frozen
    try:
        yield
    finally:
        del engine.module_state_dict


def mark_complete(checkpoint: Path) -> None:
    """Mark a checkpoint as written to its end, as DeepSpeed does it: it looks there for what to load."""
    write_whole(checkpoint / "latest", _TAG.encode())


def made_by(checkpoint: Path) -> int | None:
    """How many processes cut a DeepSpeed checkpoint's optimizer states among them; None for another kind."""
    return len(parts_of(checkpoint)) or None


def parts_of(checkpoint: Path) -> set[int]:
    """The ranks whose parts of a DeepSpeed checkpoint's optimizer states are in its folder."""
    names = [path.name for path in (checkpoint / _TAG).glob("*zero_pp_rank_*_optim_states.pt")]
    return {int(name.partition("zero_pp_rank_")[2].partition("_")[0]) for name in names}


def complete_parts(checkpoint: Path) -> int | None:
    """How many parts a DeepSpeed checkpoint has in all, wherever they are; None for another kind."""
    if not parts_of(checkpoint):
        return None
    return int(saved_record(checkpoint)["dp_world_size"])


def check_whole(checkpoint: Path) -> None:
    """Refuse a DeepSpeed checkpoint some of whose parts are elsewhere, on nodes that shared no folder.

    Raises:
        AvrtError: Naming the parts that are here.
    """
    here, made = parts_of(checkpoint), complete_parts(checkpoint)
    if made is not None and (missing := sorted(set(range(made)) - here)):
        raise AvrtError(
            f"holds {len(here)} of {made} parts, not that of rank {missing[0]}: they lie on the nodes of its run",
            where=checkpoint,
            remedy="bring them into this folder first: rsync -a NODE:FOLDER/ FOLDER/ for every other node",
        )


def make_universal(checkpoint: Path) -> None:
    """Add the form of a DeepSpeed checkpoint that any number of processes can load, unless it is there.

    Raises:
        AvrtError: If DeepSpeed cannot convert it.
    """
    if (checkpoint / "latest_universal").is_file():
        return
    rank_zero_info(f"{checkpoint} was made by {made_by(checkpoint)} processes: cutting its optimizer states anew")
    command = [
        sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state",
        "--input_folder", str(checkpoint / _TAG), "--output_folder", str(checkpoint / _UNIVERSAL),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise AvrtError(
            f"cannot be resumed by another number of processes: {reason}",
            where=checkpoint,
            remedy=f"go on with --trainer.devices {made_by(checkpoint)}",
        )


def is_complete(checkpoint: Path) -> bool:
    """Whether a folder is a checkpoint of DeepSpeed that was written to its end."""
    return (checkpoint / "latest").is_file()


def trained_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The trained parameters in float32, by name; works for every ZeRO stage and number of processes.

    Raises:
        AvrtError: If not all of it is in the folder.
    """
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    check_whole(checkpoint)
    said = io.StringIO()  # it prints what it reads, and a bar for every file
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        weights: dict[str, Tensor] = get_fp32_state_dict_from_zero_checkpoint(
            str(checkpoint), tag=_TAG, exclude_frozen_parameters=True
        )
    return weights


def saved_record(checkpoint: Path) -> dict[str, Any]:
    """What Lightning saved beside the weights.

    Raises:
        AvrtError: If there is nothing.
    """
    states = sorted((checkpoint / _TAG).glob("*model_states.pt"))
    if not states:
        raise AvrtError("has no model states", where=checkpoint)
    record: dict[str, Any] = torch.load(states[0], map_location="cpu", weights_only=False, mmap=True)
    return record
