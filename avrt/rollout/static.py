"""Decoding in buffers of fixed shape and address, so that one step serves every token: on a GPU as a CUDA graph.

A step then costs one launch instead of two thousand, which is what bounds decoding of few rows on a GPU. Rows stay
until all rows of their prompt have finished; then a waiting prompt can take their place.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from avrt.errors import AvrtError
from avrt.models.decoder import Decoder
from avrt.models.encoded_prompts import EncodedPrompts
from avrt.rollout.prefill import prefill_packed
from avrt.rollout.rows import Rows
from avrt.rollout.sampling import SamplingOptions
from avrt.rollout.static_caches import StaticCaches

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
        self._caches = StaticCaches(decoder, slots, room, len(self.rows), sampling, weight)
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
        inputs = self._decoder.embed_completion(rows.last[:, None])
        hidden = self._decoder.hidden_states(inputs, rows.positions, prefix, self._caches)
        return self._decoder.logits(hidden[:, -1])


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
