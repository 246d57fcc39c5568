"""Decoding in buffers of fixed shape and address, so that one step serves every token: on a GPU as a CUDA graph.

A step then costs one launch instead of two thousand, which is what bounds decoding of few rows on a GPU. Rows stay
until all rows of their prompt have finished; then a waiting prompt can take their place.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from avrt.errors import AvrtError
from avrt.models.decoder import Decoder
from avrt.models.encoded_prompts import EncodedPrompts
from avrt.models.fused_prefix import FusedPrefix, Rooms
from avrt.models.prefix import SharedPrefix
from avrt.models.varlen import supports_varlen
from avrt.rollout.prefill import PackedPrefill, prefill_packed
from avrt.rollout.rows import Rows
from avrt.rollout.sampling import SamplingOptions
from avrt.transfer import tensor_on

_LOG = logging.getLogger(__name__)
_RECORDING = threading.Lock()
PROMPT_MULTIPLE = 512
"""Where the longest prompt is not known beforehand, rooms are rounded up to this."""


class StaticDecoder:
    """Holds the buffers and the step from one batch to the next; batches of the same G share them.

    Args:
        compiled: Compile the step.
        prompt_room: Most tokens of a prompt, so that the buffers need never be larger; None rounds up as they come.
    """

    def __init__(self, *, compiled: bool, prompt_room: int | None = None) -> None:
        self._compiled = compiled
        self._prompt_room = prompt_room
        self._context: StaticContext | None = None

    def start(
        self,
        decoder: Decoder,
        prompts: EncodedPrompts,
        group_size: int,
        sampling: SamplingOptions,
        eos_token_id: int,
        slots: int,
    ) -> StaticContext:
        """Take up a batch's first prompts.

        Args:
            decoder: The policy's decoder, whose attention supports packing.
            prompts: All prompts of the batch, for the length of the longest.
            group_size: G, completions per prompt.
            sampling: How to draw.
            eos_token_id: The token that ends a completion.
            slots: How many prompts are decoded at once; the first so many are taken up.
        """
        needed = max(prompts.lengths)
        held = self._context
        if held is None or not held.fits(decoder, slots, needed, group_size, sampling, eos_token_id):
            if held is not None:
                held.close()  # the old buffers go before the new ones come
            known = self._prompt_room or 0
            room = known if needed <= known else -(-needed // PROMPT_MULTIPLE) * PROMPT_MULTIPLE
            held = StaticContext(decoder, slots, room, group_size, sampling, eos_token_id, compiled=self._compiled)
            self._context = held
        held.rows.finished.fill_(True)
        return held


class StaticContext:
    """Buffers for B prompts of up to P tokens with G rows each, and the rows.

    Args:
        decoder: The policy's decoder.
        slots: B.
        room: P.
        group_size: G.
        sampling: How to draw; fixes the room of a completion.
        eos_token_id: The token that ends a completion.
        compiled: Compile the step.

    Attributes:
        rows: The B * G rows.
    """

    def __init__(
        self,
        decoder: Decoder,
        slots: int,
        room: int,
        group_size: int,
        sampling: SamplingOptions,
        eos_token_id: int,
        *,
        compiled: bool,
    ) -> None:
        self._decoder = decoder
        self._weights = _addresses(decoder)
        self._slots, self._room, self._group_size = slots, room, group_size
        weight = next(decoder.lm_head.parameters())
        self.rows = Rows(slots * group_size, sampling.max_new_tokens, sampling, eos_token_id, weight.device)
        self._caches = _Caches(decoder.language_model.config, slots, room, len(self.rows), sampling, weight)
        if compiled and weight.device.type == "cuda":
            _LOG.info("compiling a decoding step, about 60 s (decoding: static does without)")
        step = torch.compile(self._logits) if compiled else self._logits
        self._step = Recorded(lambda: self.rows.draw(step()), weight.device)

    def fits(
        self, decoder: Decoder, slots: int, room: int, group_size: int, sampling: SamplingOptions, eos_token_id: int
    ) -> bool:
        """Whether another batch can use the buffers and the recorded step."""
        return (
            (self._group_size, self.rows.sampling, self.rows.eos_token_id) == (group_size, sampling, eos_token_id)
            and self._slots >= slots
            and self._room >= room
            and self._weights == _addresses(decoder)
        )

    def close(self) -> None:
        """Give the buffers and the recorded step back."""
        del self._step, self._caches, self.rows  # the step refers to the others, which refer to it

    def take(self, slots: Sequence[int], prompts: EncodedPrompts) -> Tensor:
        """Run prompts and put their caches into slots, in place of what was there; returns logits (n, V)."""
        prefilled = prefill_packed(self._decoder, prompts)
        self._caches.put(slots, prefilled)
        return prefilled.logits

    def advance(self, rows: Rows) -> None:
        """Read every row's newest token and draw its next one."""
        self._step()

    def _logits(self) -> Tensor:
        """Logits (R, V) after every row's newest token."""
        rows = self.rows
        prefix = self._caches.before_step(rows.drawn)
        embeddings = self._decoder.embed_completion(rows.last[:, None])
        hidden = self._decoder.hidden_states(embeddings, rows.positions, prefix, self._caches)
        logits: Tensor = self._decoder.lm_head(hidden[:, -1])
        return logits


class _Caches:
    """Keys and values of B prompts and R rows; implements what a decoder asks of transformers' caches.

    A layer's keys are (tokens, heads, D) for the fused kernel, room after room; else (rooms, heads, room, D).
    """

    def __init__(
        self, config: Any, slots: int, room: int, rows: int, sampling: SamplingOptions, weight: Tensor
    ) -> None:
        heads = config.num_key_value_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._fused = supports_varlen(weight)
        self._room, self._steps, self._group_size = room, sampling.max_new_tokens, rows // slots
        device = weight.device

        def buffers(count: int, length: int) -> list[Tensor]:
            shape = (count * length, heads, width) if self._fused else (count, heads, length, width)
            return [weight.new_zeros(shape) for _ in range(config.num_hidden_layers)]

        self._prompt_keys, self._prompt_values = buffers(slots, room), buffers(slots, room)
        self._keys, self._values = buffers(rows, self._steps), buffers(rows, self._steps)
        self._lengths = torch.ones(slots, dtype=torch.long, device=device)
        self._row_numbers = torch.arange(rows, device=device)
        self._columns = torch.zeros(rows, dtype=torch.long, device=device)
        self._heads, self._each = heads, config.num_attention_heads // heads

    def put(self, slots: Sequence[int], prefilled: PackedPrefill) -> None:
        """Copy the caches of some prompts into slots."""
        device = self._lengths.device
        self._lengths.index_copy_(0, tensor_on(slots, device), tensor_on(prefilled.lengths, device))
        pairs = zip(
            [*self._prompt_keys, *self._prompt_values], [*prefilled.keys, *prefilled.values], strict=True
        )  # fmt: skip
        if self._fused:
            ranges = [range(s * self._room, s * self._room + n) for s, n in zip(slots, prefilled.lengths, strict=True)]
            index = tensor_on([place for places in ranges for place in places], device)
            for buffer, packed in pairs:
                buffer.index_copy_(0, index, packed[0].transpose(0, 1))
            return
        for buffer, packed in pairs:
            start = 0
            for slot, length in zip(slots, prefilled.lengths, strict=True):
                buffer[slot, :, :length] = packed[0, :, start : start + length]
                start += length

    def before_step(self, drawn: Tensor) -> FusedPrefix | SharedPrefix:
        """Make room for every row's newest token, its number `drawn` (R,) from 1 on; returns what it may attend to."""
        self._columns = (drawn - 1).clamp(min=0)
        if self._fused:
            prompts = Rooms.of(self._lengths, self._room, self._group_size * self._each, self._heads)
            own = Rooms.of(self._columns + 1, self._steps, self._each, self._heads)
            return FusedPrefix(self._prompt_keys, self._prompt_values, prompts, own)
        device = drawn.device
        mask = torch.arange(self._room, device=device) < self._lengths[:, None]
        own_mask = torch.arange(self._steps, device=device) <= self._columns[:, None]
        return SharedPrefix(self._prompt_keys, self._prompt_values, mask, own=own_mask)

    def update(self, key: Tensor, value: Tensor, layer: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add each row's keys and values (R, heads, 1, D) to a layer's; returns all of them."""
        keys, values = self._keys[layer], self._values[layer]
        for buffer, new in ((keys, key), (values, value)):
            if self._fused:
                buffer.index_copy_(0, self._row_numbers * self._steps + self._columns, new[:, :, 0])
            else:
                buffer[self._row_numbers, :, self._columns] = new[:, :, 0]
        return keys, values

    def get_seq_length(self, layer: int = 0) -> int:
        """Not what positions are made of here."""
        return 0


class Recorded:
    """A step that is always the same: on a GPU recorded as a CUDA graph when it is called for the second time.

    Args:
        step: Reads and writes tensors whose addresses stay, and asks the device for nothing.
        device: Where it runs.
    """

    def __init__(self, step: Callable[[], None], device: torch.device) -> None:
        self._step = step
        self._calls = 0
        self._device = device
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Run the step.

        Raises:
            AvrtError: If it cannot be recorded.
        """
        self._calls += 1
        if self._device.type != "cuda" or self._calls == 1:  # the first call compiles kernels and loads libraries
            self._step()
            return
        if self._graph is None:
            self._graph = self._record()
        self._graph.replay()

    def _record(self) -> torch.cuda.CUDAGraph:
        """Record the step, on the device's own stream; other threads may use the device meanwhile, but not record."""
        graph = torch.cuda.CUDAGraph()
        try:
            with _RECORDING, torch.cuda.device(self._device):
                stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
                with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                    self._step()
        except RuntimeError as error:
            raise AvrtError(
                f"a decoding step cannot be recorded as a CUDA graph: {str(error).splitlines()[0]}",
                where="decoding",
                remedy="set decoding: dynamic",
            ) from error
        return graph


def _addresses(decoder: Decoder) -> tuple[int, ...]:
    """Where the decoder's weights are; a recorded step reads them there."""
    return tuple(p.data_ptr() for part in (decoder.language_model, decoder.lm_head) for p in part.parameters())
