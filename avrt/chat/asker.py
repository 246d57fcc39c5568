"""A student that answers questions typed by hand, with its senses on and off."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from avrt.data.media.clip import Clip
from avrt.errors import BadSampleError
from avrt.evaluation.runner import answer
from avrt.evaluation.scorers import lenient
from avrt.library import Senses, load
from avrt.response import Response, parse_response


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
    """A student, loaded once and asked as it was trained.

    Args:
        source: What `avrt.load` takes: a folder, a packaged name such as `nano/student`, or a model id.
        device: Where it runs; None takes a GPU where there is one.

    Attributes:
        name: The source as it was given.
        settings: How it was trained to be asked.

    Raises:
        AvrtError: If it cannot be loaded.
    """

    def __init__(self, source: str, device: str | None = None) -> None:
        self.name = source
        self._student = load(source, device)
        self.settings = self._student.settings

    def open(self, path: Path) -> Clip:
        """Decode a file as this student gets it.

        Raises:
            BadSampleError: If it cannot be decoded.
        """
        return self._student.open(path)

    def ask(
        self,
        clip: Clip,
        question: str,
        choices: Sequence[str],
        *,
        senses: Senses,
        temperature: float,
        max_new_tokens: int,
        seed: int,
    ) -> Answer:
        """Ask one question.

        Args:
            clip: What `open` returned.
            question: The question.
            choices: 2 to 26 options.
            senses: Which senses the student is asked with.
            temperature: 0 takes the likeliest token each time.
            max_new_tokens: Longest answer.
            seed: Decides the answer where it is drawn at a temperature above 0.

        Raises:
            BadSampleError: If the question cannot be put to the student, for example because it is too long.
        """
        sampling = replace(self.settings.generation, temperature=temperature, max_new_tokens=max_new_tokens)
        started = time.perf_counter()
        batch = self._student.batch(clip, question, choices, senses=senses)
        [prediction] = answer(self._student.policy, batch, sampling, seed=(seed,))
        seconds = time.perf_counter() - started
        text, [sample] = prediction.responses[0], batch.samples
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
        number = "there is 1" if len(choices) == 1 else f"there are {len(choices) or 'none'}"
        raise BadSampleError(f"There have to be 2 to 26 options, one per line, and {number}.")
    return choices
