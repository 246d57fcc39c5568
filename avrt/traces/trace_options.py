"""The settings of a trace run in `traces.yaml` and on the command line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from avrt.data.sample import Sense
from avrt.errors import AvrtError
from avrt.traces.backend import Backend
from avrt.traces.checks import CheckOptions
from avrt.traces.filters import AUDIO, VISUAL
from avrt.traces.requests import Sampling
from avrt.traces.teacher_view import ShownOptions
from avrt.traces.templates import Template, teacher_template
from avrt.traces.trace_folder import TraceFolder

Strategy = Literal["both_correct", "any_correct", "audio_only", "visual_only", "majority", "none"]
Stage = Literal["teach", "merge", "export"]
MERGER = "merger"


@dataclass(frozen=True)
class TeacherOptions:
    """One teacher.

    Attributes:
        backend: The model.
        template: Its prompt: a path, or the name of a packaged template. None asks a student of this project as it was
            trained; other models have no prompt of their own.
        samples: k, replies to each question; the letter with most votes is its answer.
        sampling: How replies are sampled; k > 1 needs a temperature above 0.
    """

    backend: Backend
    template: str | None = None
    samples: int = 1
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True)
class FurtherTeacher(TeacherOptions):
    """A teacher beside the visual and the audio one, such as one that transcribes speech.

    Attributes:
        name: Its name, for the placeholder `{NAME_reasoning}` in templates and for `merger.reads`.
        senses: The media that it gets: `vision`, `audio`, or both.
    """

    name: str = "further"
    senses: tuple[Literal["vision", "audio"], ...] = ("audio",)  # jsonargparse reads enums by name, not by value


@dataclass(frozen=True)
class MergerOptions:
    """The merger.

    Attributes:
        backend: The model.
        template: Its prompt: a path, or the name of a packaged template.
        sampling: How traces are sampled.
        attempts: Most attempts for a sample whose traces fail the checks; 1 at temperature 0.
        reads: Names of the teachers whose analyses it gets; None for all.
        reads_thinking: Whether it also gets the teachers' thinking, as AVRT's merger does.
        thinking_words: Most words of one teacher's thinking that it gets; longer thinking loses its middle.
    """

    backend: Backend
    template: str = "merger.txt"
    sampling: Sampling = field(default_factory=Sampling)
    attempts: int = 2
    reads: tuple[str, ...] | None = None
    reads_thinking: bool = True
    thinking_words: int | None = 3000


@dataclass(frozen=True)
class TraceOptions:
    """A trace run.

    Attributes:
        data: Folder of shards with the questions.
        out: Trace folder, with the store and the exports.
        name: Export to a folder of this name inside `out` instead, as ablations do; the store stays in `out`.
        store: Folder of the store with the calls, or a database that workers on many machines share, as in
            `postgresql://user@host/database`; None for `out`.
        visual: The teacher that gets frames and images; None for no such teacher.
        audio: The teacher that gets the audio; None for no such teacher.
        further_teachers: Further teachers.
        merger: The merger.
        filter: Which samples are kept.
        only: Keep only samples that all of these have in common: trace folders, for their kept samples, or files of
            ids. Folders are looked up inside `out` first.
        as_many_as: Keep a random sample of the traces, in each split as many as this trace folder has.
        draw_seed: Seed of that random sample.
        shuffle_seed: Give each sample the trace, with its answer, of one about another clip, drawn with this seed: a
            control whose traces have the form but know nothing of their clips. None for each its own.
        checks: The checks of merged traces.
        stages: The stages to run; each can be run alone and repeated, with the earlier stages' calls in the store.
        val_share: Share of clips whose traces are the validation split.
        label_all: Also write shards of all samples with their difficulty, for curricula.
        shown: Limits of what teachers get of a clip.
        limit: Take only the first questions.
        retry_failed: Make calls again that failed in an earlier run.
        workers: Processes that share the questions and the backends' concurrency, for servers that are faster than one
            process, which needs over 1 ms for a call.
    """

    data: str
    out: str
    merger: MergerOptions
    visual: TeacherOptions | None = None
    audio: TeacherOptions | None = None
    further_teachers: list[FurtherTeacher] = field(default_factory=list)
    name: str | None = None
    store: str | None = None
    filter: Strategy = "both_correct"
    only: list[str] = field(default_factory=list)
    as_many_as: str | None = None
    draw_seed: int = 0
    shuffle_seed: int | None = None
    checks: CheckOptions = field(default_factory=CheckOptions)
    stages: tuple[Stage, ...] = ("teach", "merge", "export")
    val_share: float = 0.05
    label_all: bool = False
    shown: ShownOptions = field(default_factory=ShownOptions)
    limit: int | None = None
    retry_failed: bool = True
    workers: int = 1

    def __post_init__(self) -> None:
        """Refuse settings that cannot work, before any call is made."""
        _ = self.folder
        names = [name for name, _, _ in self.teachers()]
        if not names:
            raise AvrtError("there is no teacher", where="visual, audio", remedy="configure at least one")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise AvrtError(f"two teachers are called {twice[0]}", where="further_teachers", remedy="rename one")
        if unknown := sorted(set(self.merger.reads or ()) - set(names)):
            raise AvrtError(f"no teacher is called {unknown[0]}", where="merger.reads", remedy=f"one of {names}")
        for name, teacher, _ in self.teachers():
            if teacher.samples > 1 and teacher.sampling.temperature == 0:
                raise AvrtError(
                    f"{teacher.samples} samples at temperature 0 are the same reply",
                    where=f"{name}.sampling",
                    remedy="raise the temperature, or set samples to 1",
                )
        for pattern in self.checks.extra_leaks:
            try:
                re.compile(pattern)
            except re.error as error:
                what = f"{pattern!r} is not a regular expression: {error}"
                raise AvrtError(what, where="checks.extra_leaks", remedy="correct or remove it") from None
        if (words := self.merger.thinking_words) is not None and words < 1:
            remedy = "set at least 1, or merger.reads_thinking to false"
            raise AvrtError(f"is {words}", where="merger.thinking_words", remedy=remedy)
        if self.workers < 1:
            raise AvrtError(f"is {self.workers}", where="workers", remedy="set at least 1")
        if not 0 <= self.val_share < 1:
            raise AvrtError(f"is {self.val_share}", where="val_share", remedy="set a share from 0 to below 1")

    @property
    def folder(self) -> TraceFolder:
        """The folder of the run's exports, and its store."""
        return TraceFolder.of_run(self.out, self.name, self.store)

    def limited(self, samples: int) -> int:
        """How many of that many samples the run takes."""
        return samples if self.limit is None else min(samples, self.limit)

    def teachers(self) -> Iterator[tuple[str, TeacherOptions, tuple[Sense, ...]]]:
        """(name, options, senses) of every teacher."""
        if self.visual is not None:
            yield VISUAL, self.visual, (Sense.VISION,)
        if self.audio is not None:
            yield AUDIO, self.audio, (Sense.AUDIO,)
        for teacher in self.further_teachers:
            yield teacher.name, teacher, tuple(map(Sense, teacher.senses))


def template_of(name: str, teacher: TeacherOptions) -> Template:
    """A teacher's template: the one that is named, or that of its training.

    A student that is asked by another template than that of its training is warned of.

    Args:
        name: The teacher's name, for messages.
        teacher: The teacher.

    Raises:
        AvrtError: If the named one cannot be used, or none is named and the model has none of its own.
    """
    if teacher.template is not None:
        return teacher_template(teacher.template)
    own = teacher.backend.own_template()
    if own is None:
        raise AvrtError(
            "is not set, and the model does not say how it was trained", where=f"{name}.template",
            remedy="name a template, such as visual.txt",
        )  # fmt: skip
    return own


def asked_otherwise(name: str, teacher: TeacherOptions) -> str | None:
    """How a teacher that says how it was trained is asked in other words than that; None if it is not.

    Args:
        name: The teacher's name, for the message.
        teacher: The teacher.
    """
    own = None if teacher.template is None else teacher.backend.own_template()
    if own is None or template_of(name, teacher) == own:
        return None
    return (
        f"{name}.template: {teacher.template} asks otherwise than {teacher.backend.model} was trained; leave it out to "
        "ask it as it was"
    )
