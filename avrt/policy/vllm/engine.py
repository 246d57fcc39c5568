"""vLLM in the native engine's place.

The engine is told the prompts as the student's processor wrote them and prepares the media by itself; what it made of a
prompt is compared token by token with what the student is trained on. Its log-probabilities are close to the policy's
but not equal: `policy/sampler_mismatch` says how far off they are, `loss.importance_sampling_cap` corrects for it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from avrt.errors import AvrtError
from avrt.models.encoded_prompts import EncodedPrompts
from avrt.policy.policy import Policy
from avrt.policy.saving import export_policy
from avrt.policy.vllm.options import VLLMOptions
from avrt.policy.vllm.process import EngineProcess
from avrt.policy.vllm.questions import completions_of, question_message
from avrt.policy.vllm.readback import ReadBack
from avrt.policy.vllm.weights import push_weights
from avrt.rollout.completion import Completion
from avrt.rollout.sampling import SamplingOptions

PARTS = ("weights", "kv_cache")
"""What of an engine can be woken by itself, in the order in which it is."""
READ_BACK = 2
"""How many times weights are read back after they were pushed."""
SETTINGS: dict[str, Any] = {"enforce_eager": False, "limit_mm_per_prompt": {"video": 1, "image": 1, "audio": 1}}


@dataclass(frozen=True)
class Pending:
    """A rollout that the engine is working on.

    Attributes:
        prompts: The prompts.
    """

    prompts: EncodedPrompts


class VLLMEngine:
    """One rank's engine.

    Args:
        options: Where it is.
        rank: Number of this process.
        gpu: Index of this process' GPU among those that it sees; by default PyTorch's current one, if there is any.

    Attributes:
        difference: Largest difference of weights that were read back from those that were pushed, 0; None where that
            was not possible.

    Raises:
        AvrtError: If the options contradict each other.
    """

    def __init__(self, options: VLLMOptions, rank: int = 0, gpu: int | None = None) -> None:
        self._options = options
        self._process = EngineProcess(options, rank, gpu)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._asleep: set[str] = set()
        self._held = False
        self._pushes = 0
        self.difference: float | None = None
        self.version = ""

    @property
    def pid(self) -> int | None:
        """Its process id, if it was started here."""
        return self._process.pid

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
        dtype = {"dtype": policy.options.dtype}
        sleep = {"enable_sleep_mode": True} if self._options.sleep else {}
        self.version = self._process.open(model, {**SETTINGS, **dtype, **sleep, **self._options.settings})["version"]

    def generate(
        self, policy: Policy, prompts: EncodedPrompts, sampling: SamplingOptions, seeds: Sequence[int], group_size: int
    ) -> list[Completion]:
        """Completions of each prompt by the policy's weights as they are now; `Policy.generate` calls this.

        Its own copy of the weights is brought up to date first, unless it holds them; it prepares the prompts' clips by
        itself, so these have to be there.

        Raises:
            AvrtError: If there are no clips, if the engine fails, or if it reads a prompt as other tokens than the
                student does.
        """
        return self.finish(self.begin(policy, prompts, sampling, seeds, group_size))

    def begin(
        self, policy: Policy, prompts: EncodedPrompts, sampling: SamplingOptions, seeds: Sequence[int], group_size: int
    ) -> Pending:
        """Have the engine sample as `generate` does, while this process does other things; see `finish`."""
        message, clips = question_message(policy, prompts, sampling, seeds, group_size)
        if not self._held:
            self.push(policy)
        self._process.begin(message, clips)
        return Pending(prompts)

    def finish(self, pending: Pending) -> list[Completion]:
        """Wait for the completions of a rollout that was begun."""
        reply, found = self._process.finish()
        if not self._held:
            self.rest()
        return completions_of(pending.prompts, reply, found)

    def push(self, policy: Policy) -> None:
        """Give the engine the policy's weights as they are now.

        All of them the first time, then those that training changes. Of a sleeping engine the cache wakes last, so that
        it does not stand beside what loading takes. The first two times, before and after an update, a few are read
        back and compared.
        """
        self._wake_up("weights")
        weights, read_back = policy.released_weights(everything=not self._pushes), ReadBack()
        push_weights(self._process, read_back.watch(weights))
        self._wake_up()
        if self._pushes < READ_BACK:
            self.difference = read_back.check(self._process)
        self._pushes += 1

    def hold(self, policy: Policy) -> None:
        """Give the engine the policy's weights now, and not again until `release`, as nothing changes them before.

        Until then it does not sleep either.
        """
        self.push(policy)
        self._held = True

    def release(self) -> None:
        """From now on the policy's weights may change between any two calls."""
        self._held = False
        self.rest()

    def _wake_up(self, *parts: str) -> None:
        """Wake some parts, or all, that are asleep; on the same GPU they need the memory that PyTorch keeps unused."""
        for part in parts or PARTS:
            if part in self._asleep:
                torch.cuda.empty_cache()
                self._process.ask({"do": "wake_up", "tags": [part]})
                self._asleep.remove(part)

    def rest(self) -> None:
        """Let it sleep until the next rollout, if it is to."""
        if self._options.sleep and not self._asleep:
            self._process.ask({"do": "sleep"})
            self._asleep = set(PARTS)

    def close(self) -> None:
        """End the connection, and the engine if it was started here."""
        self._process.close()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def start_engine(policy: Policy, options: VLLMOptions, rank: int = 0) -> VLLMEngine:
    """An engine that has the policy loaded.

    Args:
        policy: The policy.
        options: Where the engine is.
        rank: Number of this process.

    Raises:
        AvrtError: If it cannot be started; it is closed then.
    """
    engine = VLLMEngine(options, rank)
    try:
        engine.start(policy)
    except BaseException:
        engine.close()
        raise
    return engine
