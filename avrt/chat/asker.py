"""A student that answers questions typed by hand, with its senses on and off."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from avrt.data.inputs.preprocessor import Preprocessor
from avrt.data.inputs.prompt_options import PromptOptions
from avrt.data.media.clip import Clip, ClipSpec
from avrt.data.sample import Sample
from avrt.data.shards.members import clip_media
from avrt.errors import BadSampleError
from avrt.evaluation.runner import answer
from avrt.evaluation.scorers import lenient
from avrt.library import load_clip, load_policy
from avrt.response import Response, parse_response
from avrt.rollout.sampling import SamplingOptions

Senses = Literal["both", "vision", "audio", "none"]
GREEDY = SamplingOptions(temperature=0.0)


@dataclass(frozen=True)
class Answer:
    """What a student answered.

    Attributes:
        response: The response as the strict reader reads it.
        letter: The choice by the strict reader, or else by the lenient one; None if none can be read.
        choice: The text of that choice.
        finished: Whether the response ended by itself, before the limit of tokens.
        seconds: How long it took, from preparing the clip to the last token.
        given: What it was given: the clip without the senses that were taken away.
    """

    response: Response
    letter: str | None
    choice: str | None
    finished: bool
    seconds: float
    given: Clip


class Asker:
    """A student, loaded once, and how it is asked.

    Args:
        source: A folder, a packaged name such as `nano/student`, or a model id.
        device: Where it runs.
        prompt: How questions are put; None for the student's own way.
        clip: What is taken from a clip; None for the student's own way.

    Attributes:
        name: The source as it was given.
        spec: What it takes from a clip.
        senses: The senses that it was trained with.
        generation: How it answers unless it is told otherwise.

    Raises:
        AvrtError: If it cannot be loaded.
    """

    def __init__(
        self,
        source: str,
        device: str | torch.device = "cpu",
        *,
        prompt: PromptOptions | None = None,
        clip: ClipSpec | None = None,
    ) -> None:
        self.name = source
        self.spec = clip or ClipSpec(audio_seconds=None)
        self.generation = GREEDY
        self._prompt = prompt or PromptOptions(audio_in_video=True)
        self.senses: Senses = self._prompt.senses
        self._policy = load_policy(source, device)
        self._device = device

    def open(self, path: Path) -> Clip:
        """Decode a file as this student gets it.

        Raises:
            BadSampleError: If it cannot be decoded.
        """
        return load_clip(path, self.spec)

    def ask(
        self,
        clip: Clip,
        question: str,
        choices: Sequence[str],
        *,
        senses: Senses = "both",
        sampling: SamplingOptions = GREEDY,
        seed: int = 0,
    ) -> Answer:
        """Ask one question.

        Args:
            clip: What `open` returned.
            question: The question.
            choices: 2 to 26 options.
            senses: Which senses the student is asked with.
            sampling: How the answer is drawn.
            seed: Decides the answer where it is drawn at a temperature above 0.

        Raises:
            BadSampleError: If the question cannot be put to the student, for example because it is too long.
        """
        options = replace(self._prompt, senses=senses)
        sample = Sample(id="question", question=question, choices=tuple(choices), answer=None, media=clip_media(clip))
        started = time.perf_counter()
        batch = Preprocessor(self._policy.inputs, options).row(sample, clip).to(self._device)
        [prediction] = answer(self._policy, batch, sampling, seed=(seed,))
        seconds = time.perf_counter() - started
        text = prediction.responses[0]
        letter = lenient(text, sample).choice
        return Answer(
            response=parse_response(text, sample.letters),
            letter=letter,
            choice=None if letter is None else sample.choices[sample.letters.index(letter)],
            finished=prediction.finished[0],
            seconds=seconds,
            given=batch.clips[0],
        )


def check_question(path: str | None, question: str, options: str) -> list[str]:
    """The options of a question typed by hand.

    Args:
        path: The clip's file; None if there is none yet.
        question: The question.
        options: One option per line.

    Raises:
        BadSampleError: If one of the three is missing; the message is for the one who typed.
    """
    choices = [line.strip() for line in options.splitlines() if line.strip()]
    if path is None:
        raise BadSampleError("There is no clip yet: drop a video, a picture or a sound.")
    if not question.strip():
        raise BadSampleError("There is no question yet: type one.")
    if not 2 <= len(choices) <= 26:
        raise BadSampleError(f"There have to be 2 to 26 options, one per line, and there are {len(choices)}.")
    return choices
