"""Rollouts by vLLM: the trainer's side of `avrt.rollout.vllm_process`.

The engine is told the prompts as the student's processor wrote them and prepares the media by itself; what it made of a
prompt is compared token by token with what the student is trained on. Its log-probabilities are close to the policy's
but not equal: `policy/sampler_mismatch` says how far off they are, `loss.importance_sampling_cap` corrects for it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avrt.errors import AvrtError
from avrt.models.encoded_prompts import EncodedPrompts
from avrt.policy.policy import Policy
from avrt.policy.saving import export_policy
from avrt.rollout import vllm_process
from avrt.rollout.completion import Completion
from avrt.rollout.sampling import SamplingOptions
from avrt.rollout.vllm_process.wire import WireError, receive, send

WORKER = Path(vllm_process.__path__[0]) / "worker.py"
CHUNK_BYTES = 1 << 28
PARTS = ("weights", "kv_cache")
"""What of an engine can be woken by itself, in the order in which it is."""
SETTINGS: dict[str, Any] = {"enforce_eager": False, "limit_mm_per_prompt": {"video": 1, "image": 1, "audio": 1}}


@dataclass(frozen=True)
class VLLMOptions:
    """Where answers are sampled while training. Set `python` or `addresses`.

    Attributes:
        python: Python of an environment with vLLM; each rank starts an engine of its own beside itself, on its own GPU.
        addresses: `host:port` of engines that run elsewhere, started there by `vllm_process/worker.py`; rank r uses the
            r-th, so there must be as many as ranks.
        model: Folder or id of the student in the layout of the released checkpoints, as the engine sees it; None
            writes one out, which an engine beside the trainer can read. An engine elsewhere keeps its first one.
        settings: Further arguments of `vllm.LLM`, such as `{gpu_memory_utilization: 0.4, max_model_len: 4096}`.
        sleep: Let an engine on the same GPU give its memory back between rollouts (GPU only).
        start_seconds: How long it may take to start.
    """

    python: str | None = None
    addresses: list[str] = field(default_factory=list)
    model: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    sleep: bool = False
    start_seconds: float = 900.0


class VLLMEngine:
    """One rank's engine.

    Args:
        options: Where it is.
        rank: Number of this process.
        gpu: Index of this process' GPU among those that it sees; by default PyTorch's current one, if there is any.

    Raises:
        AvrtError: If the options contradict each other.
    """

    def __init__(self, options: VLLMOptions, rank: int = 0, gpu: int | None = None) -> None:
        if (options.python is None) == (not options.addresses):
            raise AvrtError("set one of python and addresses", where="model.vllm")
        if options.addresses and rank >= len(options.addresses):
            raise AvrtError(
                f"{len(options.addresses)} addresses are too few", where="model.vllm.addresses", remedy="one per rank"
            )
        self._options = options
        self._rank = rank
        self._gpu = gpu
        self._process: subprocess.Popen[str] | None = None
        self._connection: socket.socket | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._asleep: set[str] = set()
        self.version = ""

    def start(self, policy: Policy) -> None:
        """Start or reach the engine and load the policy there.

        Raises:
            AvrtError: If that fails; the engine's own output goes to this process' standard error.
        """
        model = self._options.model
        if model is None:
            self._folder = tempfile.TemporaryDirectory(prefix="avrt-vllm-")
            model = str(Path(self._folder.name) / "model")
            export_policy(policy, Path(model), full_layout=True)
        address = self._options.addresses[self._rank] if self._options.addresses else self._launch()
        host, _, port = address.rpartition(":")
        try:
            self._connection = socket.create_connection((host, int(port)), timeout=30)
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except (OSError, ValueError) as error:
            raise AvrtError(f"cannot be reached: {error}", where=address, remedy="is the worker running?") from None
        self._connection.settimeout(self._options.start_seconds)
        dtype = {"dtype": policy.options.dtype}
        sleep = {"enable_sleep_mode": True} if self._options.sleep else {}
        settings = {**SETTINGS, **dtype, **sleep, **self._options.settings}
        self.version = self._ask({"do": "start", "model": model, "settings": settings})[0]["version"]
        self._connection.settimeout(None)

    def generate(
        self, policy: Policy, prompts: EncodedPrompts, sampling: SamplingOptions, seeds: Sequence[int], group_size: int
    ) -> list[Completion]:
        """Completions of each prompt by the policy's weights as they are now; `Policy.generate` calls this.

        Its own copy of the weights is brought up to date first; it prepares the prompts' clips by itself, so these have
        to be there.

        Raises:
            AvrtError: If the engine fails, or reads a prompt as other tokens than the student does.
        """
        if len(prompts.clips) != len(prompts):
            raise ValueError(f"{len(prompts.clips)} clips for {len(prompts)} prompts")
        self.push(policy)
        asked, tensors = [], {}
        for row, clip in enumerate(prompts.clips):
            for kind, tensor in (("video", clip.frames), ("image", clip.image), ("audio", clip.audio)):
                if tensor is not None:
                    tensors[f"{kind}.{row}"] = tensor
            mine = seeds[row * group_size : (row + 1) * group_size]
            prompt = policy.family.vllm_prompt(policy.inputs, prompts, row)
            asked.append(prompt | {"seeds": [seed % 2**31 for seed in mine]})
        settings = {
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,
            "stop_token_ids": [policy.inputs.tokenizer.eos_token_id],
        }
        message, found = self._ask({"do": "sample", "prompts": asked, "sampling": settings}, tensors)
        self.rest()
        for row, (expected, sample_id) in enumerate(zip(prompts.token_ids, prompts.sample_ids, strict=True)):
            _check_prompt(found[f"prompt.{row}"], expected, sample_id)
        device = prompts.token_ids[0].device
        return [
            Completion(found[f"tokens.{i}"].to(device), found[f"logprobs.{i}"].to(device), finished)
            for i, finished in enumerate(message["finished"])
        ]

    def push(self, policy: Policy) -> None:
        """Give the engine the policy's weights as they are now.

        Of a sleeping engine the cache wakes last, so that it does not stand beside what loading takes.
        """
        self._wake_up("weights")
        chunk: dict[str, Tensor] = {}
        size = 0
        for name, tensor in policy.family.released_weights(policy.decoder):
            if chunk and size + tensor.nbytes > CHUNK_BYTES:
                self._ask({"do": "load", "last": False}, chunk)
                chunk, size = {}, 0
            chunk[name] = tensor
            size += tensor.nbytes
        self._ask({"do": "load", "last": True}, chunk)
        self._wake_up()

    def _wake_up(self, *parts: str) -> None:
        """Wake some parts, or all, that are asleep; on the same GPU they need the memory that PyTorch keeps unused."""
        for part in parts or PARTS:
            if part in self._asleep:
                torch.cuda.empty_cache()
                self._ask({"do": "wake_up", "tags": [part]})
                self._asleep.remove(part)

    def rest(self) -> None:
        """Let it sleep until the next rollout, if it is to."""
        if self._options.sleep and not self._asleep:
            self._ask({"do": "sleep"})
            self._asleep = set(PARTS)

    def close(self) -> None:
        """End the connection, and the engine if it was started here."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
            self._process = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _launch(self) -> str:
        python = str(self._options.python)
        environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
        # vLLM must not take the trainer's ranks for its own.
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_WORLD_SIZE", "NODE_RANK"):
            environment.pop(name, None)
        gpu = torch.cuda.current_device() if self._gpu is None and torch.cuda.is_available() else self._gpu
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = visible_device(environment.get("CUDA_VISIBLE_DEVICES"), gpu)
        try:
            # A group of its own: Ctrl-C is for the trainer, whose step still needs answers before it is saved.
            self._process = subprocess.Popen(
                [python, str(WORKER), "--once"], stdout=subprocess.PIPE, text=True, env=environment, process_group=0
            )
        except OSError as error:
            raise AvrtError(f"cannot be run: {error}", where=python, remedy="set model.vllm.python") from None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("listening on "):
                return line.split()[-1]
        raise AvrtError("ended before it listened, see above", where=python, remedy="does it have vllm?")

    def _ask(
        self, message: dict[str, Any], tensors: dict[str, Tensor] | None = None
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        if self._connection is None:
            raise RuntimeError("the engine has not been started")
        try:
            send(self._connection, message, tensors)
            reply, found = receive(self._connection)
        except (WireError, OSError) as error:
            raise AvrtError(str(error), where="vLLM engine", remedy="see its output; resume with --ckpt_path") from None
        if "error" in reply:
            raise AvrtError(f"{message['do']}: {reply['error']}", where="vLLM engine")
        return reply, found


def visible_device(visible: str | None, index: int) -> str:
    """One GPU in the form of `CUDA_VISIBLE_DEVICES`.

    Args:
        visible: The variable as it is for this process, whose GPUs may be some of the machine's; None if it is not set.
        index: The GPU's index among those.
    """
    names = [name.strip() for name in visible.split(",")] if visible else []
    return names[index] if index < len(names) else str(index)


def _check_prompt(theirs: Tensor, ours: Tensor, sample: str) -> None:
    mine = ours.cpu()
    if torch.equal(theirs, mine):
        return
    shared = min(len(theirs), len(mine))
    differing = (theirs[:shared] != mine[:shared]).nonzero()
    place = int(differing[0]) if len(differing) else shared
    raise AvrtError(
        f"vLLM reads the prompt as {len(theirs)} tokens, the student as {len(mine)}; they part at token {place}",
        where=f"sample {sample!r}",
        remedy="the versions of vLLM and transformers prepare this clip differently; sample without vllm",
    )
