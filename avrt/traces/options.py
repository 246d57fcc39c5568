"""The settings of a trace run, as `traces.yaml` and the command line give them."""

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
from avrt.traces.folders import TraceFolder
from avrt.traces.requests import Sampling
from avrt.traces.teacher_view import ShownOptions

Strategy = Literal["both_correct", "any_correct", "audio_only", "visual_only", "majority", "none"]
Stage = Literal["teach", "merge", "export"]
MERGER = "merger"


@dataclass(frozen=True)
class TeacherOptions:
    """One teacher.

    Attributes:
        backend: The model.
        template: Its prompt: a path, or the name of a packaged template.
        samples: k, replies to each question; the letter with most votes is its answer.
        sampling: How replies are drawn; k > 1 needs a temperature.
    """

    backend: Backend
    template: str
    samples: int = 1
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True)
class FurtherTeacher(TeacherOptions):
    """A teacher beside the two, such as one that transcribes speech.

    Attributes:
        name: What its analysis goes by in templates: `{NAME_reasoning}`.
        senses: What it is shown: `vision`, `audio`, or both.
    """

    name: str = "further"
    senses: tuple[Literal["vision", "audio"], ...] = ("audio",)  # jsonargparse reads enums by name, not by value


@dataclass(frozen=True)
class MergerOptions:
    """The merger.

    Attributes:
        backend: The model.
        template: Its prompt: a path, or the name of a packaged template.
        sampling: How traces are drawn.
        attempts: How often a sample is merged at most, when checks refuse its traces; at temperature 0 it is once.
        reads: Names of the teachers whose analyses it gets; None for all.
        reads_thinking: Whether it gets what a teacher thought before it spoke openly, too, as AVRT's merger did.
        thinking_words: Most words of one teacher's thinking that it gets; from more, the middle is left out.
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
        out: Trace folder: the store, and everything made from it.
        name: Put what is made into a folder of this name below `out`, as ablations do; the store stays where it is.
        store: Folder of the store, where calls are kept and looked up; None for `out`.
        visual: The teacher that sees; None to do without.
        audio: The teacher that hears; None to do without.
        further_teachers: Teachers beside these two.
        merger: The merger.
        filter: Which samples are kept.
        only: Take only samples that each of these names: trace folders, of which the kept samples count, or files of
            ids. Folders are looked for below `out` first.
        as_many_as: Keep a random choice of as many traces, in each split, as this trace folder has.
        draw_seed: Decides that choice.
        checks: What merged traces have to satisfy.
        stages: What to do; each stage can be run alone and repeated, and takes the earlier ones' calls from the store.
        val_share: Share of clips whose traces are set aside for validation.
        label_all: Also write shards of all samples with their difficulty, for curricula.
        shown: How much of a clip teachers are shown, whatever the shards hold.
        limit: Take only the first questions.
        retry_failed: Make calls again that failed in an earlier run.
        workers: Processes that share the questions, where one cannot feed the servers: a call takes it over a
            millisecond. The backends' concurrency is divided among them.
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
    checks: CheckOptions = field(default_factory=CheckOptions)
    stages: tuple[Stage, ...] = ("teach", "merge", "export")
    val_share: float = 0.05
    label_all: bool = False
    shown: ShownOptions = field(default_factory=ShownOptions)
    limit: int | None = None
    retry_failed: bool = True
    workers: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot work, before any call is paid for."""
        _ = self.folder
        names = [name for name, _, _ in self.teachers()]
        if not names:
            raise AvrtError("there is no teacher", where="visual, audio", remedy="configure at least one")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise AvrtError(f"two teachers are called {twice[0]}", where="further_teachers")
        if unknown := sorted(set(self.merger.reads or ()) - set(names)):
            raise AvrtError(f"no teacher is called {unknown[0]}", where="merger.reads", remedy=f"one of {names}")
        for name, teacher, _ in self.teachers():
            if teacher.samples > 1 and teacher.sampling.temperature == 0:
                raise AvrtError(
                    f"{teacher.samples} samples at temperature 0 are the same reply", where=f"{name}.sampling"
                )
        for pattern in self.checks.extra_leaks:
            try:
                re.compile(pattern)
            except re.error as error:
                raise AvrtError(f"{pattern!r} is no regular expression: {error}", where="checks.extra_leaks") from None
        if (words := self.merger.thinking_words) is not None and words < 1:
            raise AvrtError(
                f"{words} words are no thinking", where="merger.thinking_words", remedy="merger.reads_thinking: false"
            )
        if self.workers < 1:
            raise AvrtError(f"{self.workers} processes can do nothing", where="workers")
        if not 0 <= self.val_share < 1:
            raise AvrtError(f"{self.val_share} is no share", where="val_share", remedy="0 to below 1")

    @property
    def folder(self) -> TraceFolder:
        """Where the run's exports lie, and its store."""
        return TraceFolder.of_run(self.out, self.name, self.store)

    def teachers(self) -> Iterator[tuple[str, TeacherOptions, tuple[Sense, ...]]]:
        """(name, options, senses) of every teacher."""
        if self.visual is not None:
            yield VISUAL, self.visual, (Sense.VISION,)
        if self.audio is not None:
            yield AUDIO, self.audio, (Sense.AUDIO,)
        for teacher in self.further_teachers:
            yield teacher.name, teacher, tuple(map(Sense, teacher.senses))
