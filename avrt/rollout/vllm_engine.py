"""Rollouts by vLLM: the trainer's side of `vllm_process`.

The engine is told the prompts as the student's processor wrote them and prepares the media by itself; what it made of a
prompt is compared token by token with what the student is trained on. Its log-probabilities are close to the policy's
but not equal: `policy/sampler_mismatch` says how far off they are, `loss.importance_sampling_cap` corrects for it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avrt.data.inputs.preprocessor import OmniBatch
from avrt.errors import AvrtError
from avrt.policy.policy import Decoder, Policy
from avrt.policy.saving import THINKER_PREFIX, export_policy
from avrt.rollout.native import Completion
from avrt.rollout.sampling import SamplingOptions
from avrt.rollout.vllm_process.wire import WireError, receive, send

WORKER = Path(__file__).parent / "vllm_process" / "worker.py"
CHUNK_BYTES = 1 << 28
SETTINGS: dict[str, Any] = {"enforce_eager": False, "limit_mm_per_prompt": {"video": 1, "image": 1, "audio": 1}}


@dataclass(frozen=True)
class VLLMOptions:
    """Where answers are sampled while training. Set `python` or `addresses`.

    Attributes:
        python: Python of an environment with vLLM; each rank starts an engine of its own beside itself.
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

    Raises:
        AvrtError: If the options contradict each other.
    """

    def __init__(self, options: VLLMOptions, rank: int = 0) -> None:
        if (options.python is None) == (not options.addresses):
            raise AvrtError("set one of python and addresses", where="model.vllm")
        if options.addresses and rank >= len(options.addresses):
            raise AvrtError(
                f"{len(options.addresses)} addresses are too few", where="model.vllm.addresses", remedy="one per rank"
            )
        self._options = options
        self._rank = rank
        self._process: subprocess.Popen[str] | None = None
        self._connection: socket.socket | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._asleep = False
        self.version = ""

    def start(self, student: Policy) -> None:
        """Start or reach the engine and load the student there.

        Raises:
            AvrtError: If that fails; the engine's own output goes to this process' standard error.
        """
        model = self._options.model
        if model is None:
            self._folder = tempfile.TemporaryDirectory(prefix="avrt-vllm-")
            model = str(Path(self._folder.name) / "model")
            export_policy(student, Path(model), full_layout=True)
        address = self._options.addresses[self._rank] if self._options.addresses else self._launch()
        host, _, port = address.rpartition(":")
        try:
            self._connection = socket.create_connection((host, int(port)), timeout=30)
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except (OSError, ValueError) as error:
            raise AvrtError(f"cannot be reached: {error}", where=address, remedy="is the worker running?") from None
        self._connection.settimeout(self._options.start_seconds)
        dtype = {"dtype": student.options.dtype}
        sleep = {"enable_sleep_mode": True} if self._options.sleep else {}
        settings = {**SETTINGS, **dtype, **sleep, **self._options.settings}
        self.version = self._ask({"do": "start", "model": model, "settings": settings})[0]["version"]
        self._connection.settimeout(None)

    def sample(
        self,
        student: Policy,
        batch: OmniBatch,
        options: SamplingOptions,
        seeds: list[int],
        group_size: int,
    ) -> list[Completion]:
        """Answers to a batch's questions, `group_size` to each; see `engine.generate`.

        Raises:
            AvrtError: If the engine fails, or reads a prompt as other tokens than the student does.
        """
        self._wake_up()
        prompts, tensors = [], {}
        for row in range(len(batch)):
            clip = batch.clips[row]
            for kind, tensor in (("video", clip.frames), ("image", clip.image), ("audio", clip.audio)):
                if tensor is not None:
                    tensors[f"{kind}.{row}"] = tensor
            mine = seeds[row * group_size : (row + 1) * group_size]
            prompts.append(_prompt(student, batch, row) | {"seeds": [seed % 2**31 for seed in mine]})
        sampling = {
            "max_tokens": options.max_new_tokens,
            "temperature": options.temperature,
            "top_p": options.top_p,
            "top_k": options.top_k or -1,
            "stop_token_ids": [student.processor.tokenizer.eos_token_id],
        }
        message, found = self._ask({"do": "sample", "prompts": prompts, "sampling": sampling}, tensors)
        for row, expected in enumerate(batch.prompt_ids):
            _check_prompt(found[f"prompt.{row}"], expected, batch.samples[row].id)
        device = batch.valid.device
        return [
            Completion(found[f"tokens.{i}"].to(device), found[f"logprobs.{i}"].to(device), finished)
            for i, finished in enumerate(message["finished"])
        ]

    def push(self, text: Decoder) -> None:
        """Give the engine the policy's weights as they are now."""
        self._wake_up()
        chunk: dict[str, Tensor] = {}
        size = 0
        for name, tensor in _weights(text):
            if chunk and size + tensor.nbytes > CHUNK_BYTES:
                self._ask({"do": "load", "last": False}, chunk)
                chunk, size = {}, 0
            chunk[name] = tensor
            size += tensor.nbytes
        self._ask({"do": "load", "last": True}, chunk)

    def _wake_up(self) -> None:
        if self._asleep:
            self._ask({"do": "wake_up"})
            self._asleep = False

    def rest(self) -> None:
        """Let it sleep until the next rollout, if it is to."""
        if self._options.sleep and not self._asleep:
            self._ask({"do": "sleep"})
            self._asleep = True

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


def _weights(text: Decoder) -> Iterator[tuple[str, Tensor]]:
    """Name in the released checkpoints, and tensor, of everything that is trained."""
    for name, parameter in text.language_model.named_parameters():
        yield f"{THINKER_PREFIX}model.{name}", parameter.detach()
    for name, parameter in text.lm_head.named_parameters():
        yield f"{THINKER_PREFIX}lm_head.{name}", parameter.detach()


def _prompt(student: Policy, batch: OmniBatch, row: int) -> dict[str, Any]:
    """One prompt as vLLM is asked it: a single placeholder for each medium, and how the processor is to prepare it."""
    clip, ids = batch.clips[row], student.ids
    tokens = batch.prompt_ids[row].tolist()
    opens = tokens.index(ids.audio_bos) if ids.audio_bos in tokens else -1
    interleaved = opens >= 0 and tokens[opens + 1] == ids.video
    short: list[int] = []
    for token in tokens:
        if interleaved and token in (ids.audio, ids.audio_bos, ids.audio_eos):
            continue  # the processor puts them back
        if token not in (ids.image, ids.video, ids.audio) or not short or short[-1] != token:
            short.append(token)
    processor: dict[str, Any] = {"use_audio_in_video": interleaved}
    fps = 1.0 / clip.seconds_per_frame if clip.seconds_per_frame else 1.0
    if clip.frames is not None:
        # Where it interleaves sound, vLLM looks for the second of these instead of the first.
        patch = student.processor.video_processor.temporal_patch_size
        processor |= {"fps": fps, "second_per_grid_ts": [patch / fps]}
    for pictures in (clip.frames, clip.image):
        if pictures is not None:  # they have the model's size already
            processor |= {"min_pixels": 1, "max_pixels": pictures.shape[-1] * pictures.shape[-2]}
    return {"token_ids": short, "fps": fps, "processor": processor}


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
