"""vLLM in the native engine's place.

The engine is told the prompts as the student's processor wrote them and prepares the media by itself; what it made of a
prompt is compared token by token with what the student is trained on. Its log-probabilities are close to the policy's
but not equal: `policy/sampler_mismatch` says how far off they are, `loss.importance_sampling_cap` corrects for it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from avrt.errors import AvrtError
from avrt.models.encoded_prompts import EncodedPrompts
from avrt.policy.policy import Policy
from avrt.policy.vllm.exported import ExportedModel
from avrt.policy.vllm.options import VLLMOptions
from avrt.policy.vllm.process import EngineGoneError, EngineProcess
from avrt.policy.vllm.questions import Question, completions_of, joined, parted, question_message
from avrt.policy.vllm.ranks import EngineRanks
from avrt.policy.vllm.readback import ReadBack
from avrt.policy.vllm.supply import WeightSupply
from avrt.rollout.completion import Completion
from avrt.rollout.sampling import SamplingOptions

T = TypeVar("T")
PARTS = ("weights", "kv_cache")
"""What of an engine can be woken by itself, in the order in which it is."""
READ_BACK = 2
"""How many times weights are read back after they were pushed."""
RESTARTS = 3
"""How often an engine is started again without an answer in between."""
SETTINGS: dict[str, Any] = {"enforce_eager": False, "limit_mm_per_prompt": {"video": 1, "image": 1, "audio": 1}}


@dataclass(frozen=True)
class Pending:
    """A rollout that the engine is working on.

    Attributes:
        prompts: This rank's prompts.
        questions: What was asked, for each of the ranks that share the engine, so that it can be asked again; empty on
            ranks that do not talk to it.
        failure: Why it could not be asked.
    """

    prompts: EncodedPrompts
    questions: list[Question]
    failure: AvrtError | None = None


class VLLMEngine:
    """One rank's engine, or one that several share.

    An engine that ends is started again (or reached again, where it runs elsewhere), given the weights and asked again:
    each completion has its own seed, so that nothing is lost or changed but time.

    Args:
        options: Where it is.
        rank: Number of this process.
        gpu: Index of this process' GPU among those that it sees; by default PyTorch's current one, if there is any.

    Attributes:
        version: Of vLLM.
        supply: How it gets the weights.
        restarts: How often it was started again.
        sampling_seconds: What its last completions took it.
        difference: Largest difference of weights that were read back from those that were pushed, 0; None where that
            was not possible.

    Raises:
        AvrtError: If the options contradict each other.
    """

    def __init__(self, options: VLLMOptions, rank: int = 0, gpu: int | None = None) -> None:
        # An engine that loaded what was exported here holds all that does not change.
        self.supply = WeightSupply(options.transfer, everything=options.model is not None)
        self._options = options
        self._ranks = EngineRanks(rank, len(options.addresses))
        self._process = EngineProcess(options, self._ranks.engine, gpu)
        self._rank = rank
        self._exported: ExportedModel | None = None
        self._loaded: tuple[str, dict[str, Any]] = ("", {})
        self._policy: Policy | None = None
        self._asleep: set[str] = set()
        self._held = self._gone = False
        self._in_vain = 0
        # One that is told to round what it is given (`quantization: fp8`) holds other weights, and is meant to.
        self._compared = READ_BACK if options.settings.get("quantization") else 0
        self.restarts = 0
        self.sampling_seconds = 0.0
        self.difference: float | None = None
        self.version = ""

    @property
    def pid(self) -> int | None:
        """Its process id, if it was started here."""
        return self._process.pid

    def metrics(self) -> dict[str, float]:
        """What of it is logged at each step."""
        return {
            "rollout/push_seconds": self.supply.seconds,
            "rollout/push_gigabytes_per_second": self.supply.gigabytes_per_second,
            "rollout/engine_restarts": float(self.restarts),
        }

    def start(self, policy: Policy) -> None:
        """Start or reach the engine and load the policy there; all ranks that share it take part.

        Raises:
            AvrtError: If that fails; the engine's own output goes to this process' standard error.
        """
        self._policy = policy
        beside = self._options.python is not None and torch.cuda.is_available()
        if beside and not self._options.settings.keys() & {"gpu_memory_utilization", "kv_cache_memory_bytes"}:
            warnings.warn(
                "model.vllm.settings says nothing of gpu_memory_utilization: vLLM takes about nine tenths of the GPU's "
                "memory, which this process shares with it; set it to what may be spared, such as 0.35",
                stacklevel=2,
            )
        model = self._options.model
        if model is None:
            self._exported = ExportedModel(policy, self._rank, wanted=self._ranks.is_leader)
            model = self._exported.path
        dtype = {"dtype": policy.options.dtype}
        sleep = {"enable_sleep_mode": True} if self._options.sleep else {}
        self._loaded = (model, {**SETTINGS, **dtype, **sleep, **self._options.settings})

        def open_and_rest() -> str:
            version = self._open()
            self.rest()  # what trains on the same GPU is allocated before the first rollout
            return version

        self.version = self._ranks.for_all(open_and_rest)

    def generate(
        self, policy: Policy, prompts: EncodedPrompts, sampling: SamplingOptions, seeds: Sequence[int], group_size: int
    ) -> list[Completion]:
        """Completions of each prompt by the policy's weights as they are now; `Policy.generate` calls this.

        Its own copy of the weights is brought up to date first, unless it holds them; it prepares the prompts' clips by
        itself, so these have to be there.

        Raises:
            AvrtError: If there are no clips, if there is no room for a completion, if the engine fails, or if it reads
                a prompt as other tokens than the student does.
        """
        return self.finish(self.begin(policy, prompts, sampling, seeds, group_size))

    def begin(
        self, policy: Policy, prompts: EncodedPrompts, sampling: SamplingOptions, seeds: Sequence[int], group_size: int
    ) -> Pending:
        """Have the engine sample as `generate` does, while this process does other things; see `finish`.

        Where the policy learns meanwhile, set `supply.keeps` first.
        """
        for ids, sample in zip(prompts.token_ids, prompts.sample_ids, strict=True):
            self._options.check_room(len(ids), sampling.max_new_tokens, f"sample {sample!r}")
        question = question_message(policy, prompts, sampling, seeds, group_size)
        if not self._held:
            self.push(policy)
        questions = self._ranks.gather(question)
        if questions:
            try:
                self._lastingly(lambda: self._process.begin(*joined(questions)))
            except AvrtError as error:
                return Pending(prompts, questions, error)
        return Pending(prompts, questions)

    def finish(self, pending: Pending) -> list[Completion]:
        """Wait for the completions of a rollout that was begun.

        Raises:
            AvrtError: See `generate`.
        """

        def answers() -> Question:
            if not self._process.asked:
                self._process.begin(*joined(pending.questions))
            return self._process.finish()

        def replies() -> list[Question]:
            if pending.failure is not None:
                raise pending.failure
            reply, found = self._lastingly(answers)
            self._in_vain = 0
            if not self._held:
                self.rest()
            return parted(reply, found, pending.questions)

        reply, found = self._ranks.scatter(replies)
        self.sampling_seconds = float(reply["seconds"])
        return completions_of(pending.prompts, reply, found)

    def push(self, policy: Policy) -> None:
        """Give the engine the policy's weights as they are now; all ranks that share it take part.

        Of a sleeping engine the cache wakes last, so that it does not stand beside what loading takes. The first two
        times, before and after an update, a few weights are read back and compared.
        """
        self._policy = policy
        given, read_back = False, ReadBack() if self._compared < READ_BACK else None

        def give() -> None:
            nonlocal given
            self._wake_up("weights")
            if not given:
                self.supply.choose(self._process, policy)
                given = True  # an engine that ends from here on is given these weights as it is started again
                self.supply.push(self._process, policy, read_back)
            self._wake_up()
            if read_back is not None:
                self.difference = read_back.check(self._process)
                self._compared += 1

        def gather() -> None:
            if policy.is_partitioned:  # the ranks do it together
                for _ in policy.released_weights(everything=self.supply.everything):
                    pass

        def give_or_gather() -> None:
            try:
                self._lastingly(give)
            except AvrtError:
                if not given:  # the others are about it
                    gather()
                raise

        if not self._ranks.is_leader:
            gather()
        self._ranks.for_all(give_or_gather)

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

    def checksums(self) -> dict[str, str]:
        """SHA-256 of each of the engine's own parameters, by vLLM's names; for the rank that talks to it."""
        found: dict[str, str] = self._process.ask({"do": "checksums"})[0]["checksums"]
        return found

    def rest(self) -> None:
        """Let it sleep until the next rollout, if it is to."""
        if self._options.sleep and self._ranks.is_leader and not self._asleep and not self._gone:
            try:
                self._process.ask({"do": "sleep", "level": self._options.sleep_level})
            except EngineGoneError as error:
                self._note(error)
            else:
                self._asleep = set(PARTS)

    def close(self) -> None:
        """End the connection, and the engine if it was started here."""
        self._process.close()
        self.supply.close()
        if self._exported is not None:
            self._exported.close()
            self._exported = None

    def _wake_up(self, *parts: str) -> None:
        """Wake some parts, or all, that are asleep; on the same GPU they need the memory that PyTorch keeps unused."""
        for part in parts or PARTS:
            if part in self._asleep:
                torch.cuda.empty_cache()
                self._process.ask({"do": "wake_up", "tags": [part]})
                self._asleep.remove(part)

    # ---- an engine that ends

    def _open(self, patience: float = 0) -> str:
        assert self._policy is not None
        said = self._process.open(*self._loaded, self._policy.family.engine, patience=patience)
        self._asleep = set(said["asleep"])
        version: str = said["version"]
        if said["lacking"]:
            warnings.warn(
                f"vLLM {version} has no {' and no '.join(said['lacking'])}, where 0.32 is put right to compute as the "
                "student does: look at what avrt doctor says of it, or use vLLM 0.32",
                stacklevel=2,
            )
        return version

    def _lastingly(self, work: Callable[[], T]) -> T:
        """Do something with the engine, again from its begin where it ends meanwhile.

        Raises:
            AvrtError: If it answers with an error, or ends again and again.
        """
        while True:
            try:
                if self._gone:
                    self._start_again()
                return work()
            except EngineGoneError as error:
                self._note(error)

    def _note(self, error: EngineGoneError) -> None:
        """It has ended: say so, and start it again when it is needed next, unless that has been in vain before."""
        self._gone = True
        self._process.close(wait=0)
        self._in_vain += 1
        if self._in_vain > RESTARTS:
            raise AvrtError(
                f"has ended {self._in_vain} times without answering a rollout, the last time: {error.what}",
                where="vLLM engine",
                remedy="its output says why; resume with --ckpt_path",
            ) from None
        self.restarts += 1
        warnings.warn(
            f"the vLLM engine has gone ({error.what}): it is started again, given the weights and asked again "
            f"(restart {self.restarts})",
            stacklevel=2,
        )

    def _start_again(self) -> None:
        assert self._policy is not None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            self._open(self._options.reconnect_seconds)
        except AvrtError as error:
            if self._options.addresses:
                raise
            # It may have found the GPU's memory not free yet.
            raise EngineGoneError(error.what, where=error.where, remedy=error.remedy) from None
        self._wake_up("weights")
        self.supply.again(self._process, self._policy)
        self._wake_up()
        self._gone = False


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
