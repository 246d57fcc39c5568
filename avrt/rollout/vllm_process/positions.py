"""Has vLLM use the positions that the trainer hands in with each prompt, and reports those that it really used.

vLLM counts the positions of a prompt anew from its media, family by family, and not always as transformers does. Here
they come with each request instead, as one of its `extra_args`. `WorkerExtension` is mixed into the worker of every
process of the engine (`worker_extension_cls`): it answers the model's `get_mrope_input_positions` with what came, and
reads back what the forward passes were given, from the buffer that vLLM keeps for it. Where positions are the tokens'
numbers, vLLM asks no model for them: they are only read back.

Runs in the engine's own Python environment, so it imports nothing of this project.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

KEY = "handed_positions"
UNSEEN = -1.0
NUMBERS = "numbers"
"""What a family's positions are called that are the tokens' numbers."""


def extra_args(request: int, positions: torch.Tensor) -> dict[str, Any]:
    """What of a request's `SamplingParams` brings its prompt's positions (3, P) to the workers."""
    flat = positions.to(torch.float32).contiguous()
    return {KEY: {"request": request, "rows": len(flat), "positions": flat.numpy().tobytes()}}


def used_positions(llm: Any) -> dict[int, torch.Tensor]:
    """What all requests since the last call were really computed with.

    Args:
        llm: A `vllm.LLM` whose workers are extended (`extension.py`).

    Returns:
        For each request (3, P + 1) float32: of the prompt's tokens and of the first one after them, -1 where nothing
        was computed, since it was cached or not needed.

    Raises:
        RuntimeError: If that cannot be found out, or two workers differ.
    """
    first, *others = llm.collective_rpc("positions_used")
    if any(other != first for other in others):
        raise RuntimeError("the workers of this vLLM do not use the same positions")
    if first["failure"]:
        raise RuntimeError(f"this vLLM does not show which positions it uses: {first['failure']}")
    found = {}
    for request, rows, length, spans in first["requests"]:
        used = torch.full((rows, length + 1), UNSEEN)
        for start, data in spans:
            part = torch.frombuffer(bytearray(data), dtype=torch.float32).view(rows, -1)
            used[:, start : start + part.shape[1]] = part
        found[request] = used
    return found


@dataclass
class _Request:
    """One request that brought positions (3, P), and the spans (3, n) that were computed of it, with their starts."""

    number: int
    tokens: list[int]
    media: list[str]
    positions: torch.Tensor
    seen: list[tuple[int, torch.Tensor]] = field(default_factory=list)

    def follows(self, tokens: list[int], media: list[str]) -> bool:
        """Whether a prompt is this one; what was preempted comes again with the tokens that it has generated."""
        return self.media == media and self.tokens == tokens[: len(self.tokens)]


class HandedPositions:
    """Stands between one worker's runner and its model.

    Args:
        runner: vLLM's model runner, whose `execute_model` is told the new requests of a step and then asks the model
            for the positions of each.
        kind: What the family's positions are: `whole`, `fractional` or `numbers`.

    Raises:
        RuntimeError: If this model is not asked for positions that are not the tokens' numbers, or this runner cannot
            hold such ones.
    """

    def __init__(self, runner: Any, kind: str) -> None:
        model = runner.get_model()
        count: Any = getattr(model, "get_mrope_input_positions", None)
        if kind != NUMBERS and not callable(count):
            raise RuntimeError(f"vLLM does not ask {type(model).__name__} for positions, so none can be handed in")
        if kind != "whole" and hasattr(runner, "model_state"):
            raise RuntimeError(
                f"vLLM's second model runner holds whole numbers alone, not {type(model).__name__}'s positions; leave "
                "VLLM_USE_V2_MODEL_RUNNER at 0"
            )
        if kind == "fractional" and not runner.mrope_positions.gpu.is_floating_point():
            raise RuntimeError(f"vLLM cuts the positions of {type(model).__name__} down to whole numbers; use 0.32")
        self._runner, self._numbered, self._fractional = runner, kind == NUMBERS, kind == "fractional"
        self._count, self._execute = count, runner.execute_model
        self._requests: dict[str, _Request] = {}
        self._new: list[_Request] = []
        self._failure = ""
        if not self._numbered:
            model.get_mrope_input_positions = self._positions
        runner.execute_model = self._step

    def used(self) -> dict[str, Any]:
        """Those of the requests since the last call, in a form that travels between processes."""
        requests = [
            (r.number, len(r.positions), r.positions.shape[1], [(start, _bytes(part)) for start, part in r.seen])
            for r in self._requests.values()
        ]
        failure, self._failure = self._failure, ""
        self._requests.clear()
        return {"failure": failure, "requests": requests}

    def _step(self, scheduled: Any, *args: Any, **kwargs: Any) -> Any:
        for new in scheduled.scheduled_new_reqs:
            handed = (getattr(new.sampling_params, "extra_args", None) or {}).get(KEY)
            if handed is not None:
                self._new.append(self._requests.setdefault(new.req_id, _read(new, handed)))
        result = self._execute(scheduled, *args, **kwargs)
        self._new.clear()
        try:
            self._record(scheduled)
        except (AttributeError, KeyError, IndexError, TypeError) as error:  # vLLM's internals are others by now
            self._failure = f"{type(error).__name__}: {error}"
        return result

    def _positions(self, input_tokens: list[int], mm_features: list[Any]) -> tuple[torch.Tensor, float]:
        """In the place of the model's method: positions (3, T) and how much further than T generation goes on."""
        tokens, media = list(input_tokens), [feature.identifier for feature in mm_features]
        mine = next((request for request in self._new if request.follows(tokens, media)), None)
        if mine is None:
            counted: tuple[torch.Tensor, float] = self._count(input_tokens, mm_features)
            return counted
        end, length = mine.positions.max() + 1, mine.positions.shape[1]
        generated = (end + torch.arange(len(tokens) - length)).expand(len(mine.positions), -1)
        positions, further = torch.cat([mine.positions, generated], dim=1), float(end) - length
        if self._fractional:
            return positions, further
        return positions.long(), int(further)

    def _record(self, scheduled: Any) -> None:
        """Keep what the step that has just been queued reads as positions of the prompts and of what follows them."""
        starts = {new.req_id: new.num_computed_tokens for new in scheduled.scheduled_new_reqs}
        cached = scheduled.scheduled_cached_reqs
        starts |= dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        wanted = {key for key, start in starts.items() if key in self._requests and start <= self._length(key)}
        if not wanted:
            return
        order, buffer = _inputs(self._runner, numbered=self._numbered)
        whole = buffer[:, : scheduled.total_num_scheduled_tokens].clone()
        place = 0
        for key in order:
            count = scheduled.num_scheduled_tokens[key]
            if key in wanted:
                kept = min(count, self._length(key) + 1 - starts[key])
                self._requests[key].seen.append((starts[key], whole[:, place : place + kept]))
            place += count

    def _length(self, key: str) -> int:
        return self._requests[key].positions.shape[1]


def _read(new: Any, handed: dict[str, Any]) -> _Request:
    positions = torch.frombuffer(bytearray(handed["positions"]), dtype=torch.float32).view(handed["rows"], -1)
    tokens, media = list(new.prompt_token_ids), [feature.identifier for feature in new.mm_features]
    return _Request(handed["request"], tokens, media, positions)


def _inputs(runner: Any, *, numbered: bool) -> tuple[list[str], torch.Tensor]:
    """The requests of the step that was queued last, in their order, and the buffer (3, N) of its positions."""
    if hasattr(runner, "model_state"):  # vLLM's second model runner, which `worker.py` switches off unless told
        return runner.execute_model_state.input_batch.req_ids, runner.model_state.rope_state.positions
    buffer = runner.positions.expand(3, -1) if numbered else runner.mrope_positions.gpu
    return runner.input_batch.req_ids, buffer


def _bytes(positions: torch.Tensor) -> bytes:
    data: bytes = positions.to("cpu", torch.float32).contiguous().numpy().tobytes()
    return data
