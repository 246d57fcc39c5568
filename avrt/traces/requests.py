"""What is asked of a model and what it replies: the records that every backend and the store share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from avrt.data.sample import Sense
from avrt.errors import AvrtError

# What servers say of a reply that ended at its limit of tokens: OpenAI and vLLM, Anthropic, Mistral, Gemini.
CUT_OFF = ("length", "max_tokens", "model_length", "max_output_tokens", "max_length")


@dataclass(frozen=True)
class Sampling:
    """How a model draws its reply.

    Attributes:
        temperature: 0 for the most likely reply.
        top_p: Nucleus.
        max_tokens: Longest reply; a reasoning model's thinking counts.
        seed: Seed of the first of several replies, the next ones count up from it. None leaves it to the server.
        extra: Further fields of the request body, such as `{top_k: 20}` for vLLM.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 2048
    seed: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def record(self) -> str:
        """The parameters as JSON, equal for equal ones."""
        return json.dumps(asdict(self), sort_keys=True)

    def nth(self, number: int) -> Sampling:
        """The same with the seed of reply `number`."""
        return self if self.seed is None else replace(self, seed=self.seed + number)


@dataclass(frozen=True)
class Media:
    """What a model is shown of a clip: members of its sample in the shard, compressed as they lie there.

    Attributes:
        members: Numbered JPEG frames, `image.jpg`, `flac`; `clip.json` with times and sizes.
    """

    members: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, raw: Mapping[str, Any], senses: tuple[Sense, ...]) -> Media:
        """The part of a sample's members that the given senses take in.

        Args:
            raw: What `ShardSet.read` returns.
            senses: `vision` for frames and pictures, `audio` for sound.
        """
        suffixes = {Sense.VISION: "jpg", Sense.AUDIO: "flac"}
        wanted = {suffixes[sense] for sense in senses}
        kept = {name: data for name, data in raw.items() if name.rpartition(".")[2] in wanted}
        return cls({**kept, "clip.json": raw["clip.json"]} if kept else {})

    def __bool__(self) -> bool:
        """Whether there is anything to look at or listen to."""
        return bool(self.members)

    @property
    def pictures(self) -> list[bytes]:
        """JPEGs: frames in order of time, then the still picture."""
        numbered = sorted((name for name in self.members if name[0].isdigit()), key=lambda name: int(name[:-4]))
        still = ["image.jpg"] if "image.jpg" in self.members else []
        return [self.members[name] for name in [*numbered, *still]]

    @property
    def sound(self) -> bytes | None:
        """The sound as FLAC, 16 kHz mono."""
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
class MergeMaterial:
    """What a merger works with, for one that reads no prompt.

    Attributes:
        choices: The options.
        answer: Letter of the right one.
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
        sample_id: Which sample it is about.
        system: System message; empty for none.
        prompt: The user's text.
        media: What is shown.
        sampling: How to draw.
        number: Which of several replies to the same prompt.
        material: For mergers that read no prompt.
    """

    role: str
    sample_id: str
    system: str
    prompt: str
    sampling: Sampling
    media: Media = field(default_factory=Media)
    number: int = 0
    material: MergeMaterial | None = None

    @cached_property
    def prompt_hash(self) -> str:
        """A hash of all that the model is shown."""
        shown = json.dumps([self.system, self.prompt, self.media.digest])
        return hashlib.blake2b(shown.encode(), digest_size=16).hexdigest()

    def key(self, model: str) -> str:
        """What makes two calls the same: sample, role, model, prompt, sampling parameters and number."""
        parts = [self.sample_id, self.role, model, self.prompt_hash, self.sampling.record, self.number]
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes:
        text: The reply, as it was.
        reasoning: Thinking that the server returned in a field of its own.
        finish_reason: `stop`, or `length` where the reply was cut off.
        prompt_tokens: As the server counts them, where it does.
        completion_tokens: As the server counts them, where it does.
        seconds: From sending to receiving.
        attempts: How often it was sent until this reply came.
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
        """Whether it ended at its limit of tokens, so that whatever it says last may be half of something."""
        return is_cut_off(self.finish_reason)


def is_cut_off(finish_reason: str | None) -> bool:
    """Whether a server's reason for ending a reply is its limit of tokens."""
    return (finish_reason or "").lower() in CUT_OFF


class CallFailedError(AvrtError):
    """One call has failed for good; its sample is recorded as failed and the run goes on."""


class ServerDownError(AvrtError):
    """A server does not answer at all; the run ends, and nothing that was done is lost."""
