"""A stand-in for the package vLLM where that is not installed: the names that the worker uses, on our native engine.

The worker, its process and its messages are the real ones. Each call is noted as a line of JSON in the file that
STAND_IN_LOG names; `STAND_IN_FAILS=sample` makes that call fail, `STAND_IN_DIES=sample:2,load:1` kills the process in
the second call of `sample` and in the first of `load`, counted over all engines that write to the file, and
`STAND_IN_LOSES=sample:2` has that call fail in the middle, with requests left.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch

from avrt.data.inputs.batch import OmniBatch
from avrt.data.media.clip import Clip
from avrt.data.sample import Sample
from avrt.models.qwen2_5_omni.positions import expand_prompt
from avrt.policy.policy import load_policy
from avrt.policy.student_options import StudentOptions
from avrt.rollout.sampling import SamplingOptions

__version__ = "0.0.stand-in"


@dataclass
class SamplingParams:
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    stop_token_ids: list[int]
    seed: int
    logprobs: int
    detokenize: bool
    extra_args: dict[str, Any]


def note(call: str, **what: Any) -> None:
    with open(os.environ["STAND_IN_LOG"], "a") as file:
        file.write(json.dumps({"call": call, "pid": os.getpid(), **what}) + "\n")
    if os.environ.get("STAND_IN_FAILS") == call:
        raise RuntimeError("told to fail")
    if _is_told("STAND_IN_DIES", call):
        os.kill(os.getpid(), signal.SIGKILL)


def _is_told(variable: str, call: str) -> bool:
    if variable not in os.environ:
        return False
    with open(os.environ["STAND_IN_LOG"]) as file:
        count = sum(json.loads(line)["call"] == call for line in file)
    return f"{call}:{count}" in os.environ[variable].split(",")


class LLM:
    def __init__(self, model: str, dtype: str, **settings: Any) -> None:
        note("start", settings=settings)
        self._policy = load_policy(StudentOptions(model, dtype=dtype))
        self.llm_engine = SimpleNamespace(
            engine_core=SimpleNamespace(), has_unfinished_requests=lambda: self._unfinished
        )
        self._unfinished = False
        self._used: list[tuple[int, int, int, list[tuple[int, bytes]]]] = []

    def collective_rpc(self, method: str, kwargs: dict[str, Any] | None = None) -> list[Any]:
        if method == "follow_trainer":  # it counts positions as the student does
            return [[]]
        if method == "positions_used":
            used, self._used = self._used, []
            return [{"failure": "", "requests": used}]
        places = dict(self._policy.released_weights())
        if method == "compute_weight_checksums":
            plain = {name: tensor.detach().view(-1).view(torch.uint8) for name, tensor in places.items()}
            return [{name: hashlib.sha256(tensor.numpy()).hexdigest() for name, tensor in plain.items()}]
        assert method == "reload_weights"
        assert kwargs is not None
        weights = dict(kwargs["weights_iterator"])
        assert weights.keys() <= places.keys()
        note("load", tensors=len(weights))
        with torch.no_grad():
            for name, tensor in weights.items():
                places[name].copy_(tensor)
        return [None]

    def apply_model(self, function: Callable[[Any], Any]) -> list[Any]:
        model = torch.nn.Module()  # parts by vLLM's names
        model.language_model = torch.nn.Module()
        model.language_model.model, model.language_model.lm_head = (
            self._policy.decoder.language_model, self._policy.decoder.lm_head
        )  # fmt: skip
        return [function(model)]

    def reset_prefix_cache(self) -> None: ...

    def reset_mm_cache(self) -> None: ...

    def generate(self, prompts: list[dict[str, Any]], params: list[SamplingParams], use_tqdm: bool) -> list[Any]:
        first = asdict(params[0])
        del first["extra_args"]  # bytes
        note("sample", prompts=len(prompts), first=first)
        if _is_told("STAND_IN_LOSES", "sample"):
            self._unfinished = True
            raise RuntimeError("in the middle")
        return [self._answer(prompt, param) for prompt, param in zip(prompts, params, strict=True)]

    def _answer(self, prompt: dict[str, Any], params: SamplingParams) -> Any:
        media, inputs = prompt.get("multi_modal_data", {}), self._policy.inputs
        clip = Clip()
        if "video" in media:
            [(frames, seen)] = media["video"]
            clip = Clip(frames=torch.from_numpy(frames).permute(0, 3, 1, 2), seconds_per_frame=1 / seen["fps"])
        if "audio" in media:
            clip = replace(clip, audio=torch.from_numpy(media["audio"][0][0]))
        row = OmniBatch([Sample("q", "q", ("a", "b"), None)], [], [], [], torch.ones(1, dtype=torch.bool), [clip])
        interleaved = prompt.get("mm_processor_kwargs", {}).get("use_audio_in_video", False)
        layout = inputs.add(row, clip, audio_in_video=interleaved)
        ids, positions = expand_prompt(prompt["prompt_token_ids"], layout, inputs.ids)
        used = torch.cat([positions, (positions.max() + 1).expand(3, 1)], dim=1).float().numpy().tobytes()
        self._used.append((params.extra_args["handed_positions"]["request"], 3, len(ids), [(0, used)]))
        row.prompt_ids, row.prompt_positions, row.position_ends = [ids], [positions], [int(positions.max()) + 1]
        row.vision_places, row.audio_places = (
            [torch.isin(ids, torch.tensor(tokens)).nonzero()[:, 0]] for tokens in inputs.placeholders
        )
        sampling = SamplingOptions(params.max_tokens, params.temperature, max(params.top_k, 0), params.top_p)
        with torch.no_grad():
            [found] = self._policy.generate(self._policy.encode(row), sampling, seeds=[params.seed])
        tokens = found.token_ids.tolist()
        logprobs = [{t: SimpleNamespace(logprob=p)} for t, p in zip(tokens, found.logprobs.tolist(), strict=True)]
        output = SimpleNamespace(
            token_ids=tokens, logprobs=logprobs, finish_reason="stop" if found.finished else "length"
        )
        return SimpleNamespace(outputs=[output], prompt_token_ids=ids.tolist())
