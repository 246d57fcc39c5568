"""One call of a teacher or merger: the request, its media and sampling, and the reply."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from avrt.data.sample import Sense
from avrt.errors import AvrtError

# Finish reasons of a reply that reached its token limit: OpenAI and vLLM, Anthropic, Mistral, Gemini.
CUT_OFF = ("length", "max_tokens", "model_length", "max_output_tokens", "max_length")


@dataclass(frozen=True)
class Sampling:
    """How a reply is sampled.

    Attributes:
        temperature: 0 for greedy decoding.
        top_p: Probability mass of nucleus sampling.
        max_tokens: Token limit of a reply; a reasoning model's thinking counts.
        seed: Seed of the first of several replies; reply n takes seed + n. None leaves it to the server.
        extra: Further fields of the request body, such as `{top_k: 20}` for vLLM.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 2048
    seed: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def record(self) -> str:
        """The parameters as JSON with sorted keys, part of a call's key."""
        return json.dumps(asdict(self), sort_keys=True)

    def nth(self, number: int) -> Sampling:
        """The parameters of reply `number`, which differ in the seed."""
        return self if self.seed is None else replace(self, seed=self.seed + number)


@dataclass(frozen=True)
class Media:
    """The part of a clip that a model gets: compressed members of its sample in the shard.

    Attributes:
        members: Numbered JPEG frames, `image.jpg`, `flac`; `clip.json` with times and sizes.
    """

    members: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, raw: Mapping[str, Any], senses: tuple[Sense, ...]) -> Media:
        """The members of a sample for some senses.

        Args:
            raw: What `ShardSet.read` returns.
            senses: `vision` for frames and the image, `audio` for the audio track.
        """
        suffixes = {Sense.VISION: "jpg", Sense.AUDIO: "flac"}
        wanted = {suffixes[sense] for sense in senses}
        kept = {name: data for name, data in raw.items() if name.rpartition(".")[2] in wanted}
        return cls({**kept, "clip.json": raw["clip.json"]} if kept else {})

    def __bool__(self) -> bool:
        """Whether there are any members."""
        return bool(self.members)

    @property
    def images(self) -> list[bytes]:
        """JPEGs: frames in order of time, then the still image."""
        numbered = sorted((name for name in self.members if name[0].isdigit()), key=lambda name: int(name[:-4]))
        still = ["image.jpg"] if "image.jpg" in self.members else []
        return [self.members[name] for name in [*numbered, *still]]

    @property
    def audio(self) -> bytes | None:
        """FLAC, 16 kHz mono."""
        return self.members.get("flac")

    @cached_property
    def digest(self) -> str:
        """A hash of all members."""
        whole = hashlib.blake2b(digest_size=16)
        for name in sorted(self.members):
            whole.update(f"{name}\0{len(self.members[name])}\0".encode())
            whole.update(self.members[name])
        return whole.hexdigest()


@dataclass(frozen=True)
class MergeInputs:
    """What a merger merges, for one that does not read the prompt.

    Attributes:
        choices: The question's choices.
        answer: The right letter, or all right ones as in `A,C`.
        analyses: Teacher -> analysis.
    """

    choices: tuple[str, ...]
    answer: str
    analyses: Mapping[str, str]


@dataclass(frozen=True)
class Request:
    """One call of a model.

    Attributes:
        role: Name of the teacher, or `merger`.
        sample_id: The sample that it is about.
        system: System message; empty for none.
        prompt: The user message's text.
        media: The media of the user message.
        sampling: How the reply is sampled.
        number: Index among several replies to the same prompt, from 0 on.
        merge_inputs: The inputs of a merger that does not read the prompt.
    """

    role: str
    sample_id: str
    system: str
    prompt: str
    sampling: Sampling
    media: Media = field(default_factory=Media)
    number: int = 0
    merge_inputs: MergeInputs | None = None

    @cached_property
    def prompt_hash(self) -> str:
        """A hash of system message, prompt and media."""
        content = json.dumps([self.system, self.prompt, self.media.digest])
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()

    def key(self, model: str) -> str:
        """A hash of sample, role, model, prompt, sampling parameters and number: equal calls have equal keys."""
        parts = [self.sample_id, self.role, model, self.prompt_hash, self.sampling.record, self.number]
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Reply:
    """A model's reply to one request.

    Attributes:
        text: The reply's text, unchanged.
        reasoning: Thinking that the server returns in a field of its own.
        finish_reason: `stop`, or `length` where the reply was cut off.
        prompt_tokens: The server's count; None without one.
        completion_tokens: The server's count; None without one.
        seconds: From sending the request to receiving the reply.
        attempts: How often the request was sent.
    """

    text: str
    reasoning: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float = 0.0
    attempts: int = 1

    @property
    def cut_off(self) -> bool:
        """Whether it reached its token limit, so that it may end in the middle of a statement."""
        return is_cut_off(self.finish_reason)


def is_cut_off(finish_reason: str | None) -> bool:
    """Whether a finish reason says that a reply reached its token limit."""
    return (finish_reason or "").lower() in CUT_OFF


class CallFailedError(AvrtError):
    """One call has failed permanently; its sample is recorded as failed and the run goes on."""


class ServerDownError(AvrtError):
    """A server does not answer any call; the run ends, and the finished calls are kept."""
