"""From samples to outcomes: teachers, filter, merger, checks; every call through the store, many samples at a time."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from avrt.data.sample import Sample, Sense
from avrt.data.shards.reader import ShardSet
from avrt.errors import AvrtError, BadSampleError
from avrt.traces.backend import Backend
from avrt.traces.checks import check_trace
from avrt.traces.filters import STRATEGIES, Verdict, difficulty
from avrt.traces.matching import NOT_ASKED_FOR, wanted_ids
from avrt.traces.merging import trace_of
from avrt.traces.options import MERGER, TeacherOptions, TraceOptions
from avrt.traces.reading import Analysis, read_analysis
from avrt.traces.requests import CallFailedError, Media, MergeMaterial, Reply, Request
from avrt.traces.store import CallStore, Outcome, UnstorableError
from avrt.traces.teacher_view import shown
from avrt.traces.templates import Template, merger_template, merger_values, teacher_template, teacher_values
from avrt.traces.wording import Subject

POLL_SECONDS = 0.5


@dataclass
class Tally:
    """Counts of a run so far.

    Attributes:
        samples: Samples that have an outcome.
        made: Calls made now, by role.
        stored: Calls found in the store, by role.
        failed: Calls that failed for good, by role.
        cut_off: Replies that ended at their limit of tokens, by role, among those made now and those in the store.
        shortened: Analyses whose thinking is too long for the merger and loses its middle, by teacher.
        outcomes: Samples by status.
    """

    samples: int = 0
    made: Counter[str] = field(default_factory=Counter)
    stored: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    cut_off: Counter[str] = field(default_factory=Counter)
    shortened: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)


class _ElsewhereError(Exception):
    """Another process is making a call that this sample needs."""


class _NotMadeError(Exception):
    """A call is not in the store, and this run is not to make it."""


@dataclass(frozen=True)
class _Heard:
    """What one teacher replied: its verdict, the analysis that speaks for it, and that analysis' call.

    An analysis that was cut off is None: the merger would take a half for the whole.
    """

    verdict: Verdict
    analysis: str | None
    call: str | None


class TracePipeline:
    """Runs samples through teachers, filter, merger and checks.

    Args:
        options: What to do.
        store: Where calls and outcomes are kept.
        report: Called with the tally after each sample.

    Raises:
        AvrtError: If a template, or what `only` names, cannot be used.
    """

    def __init__(self, options: TraceOptions, store: CallStore, report: Callable[[Tally], None] | None = None) -> None:
        self._options = options
        self._store = store
        self._report = report or (lambda tally: None)
        self._templates = {name: teacher_template(t.template) for name, t, _ in options.teachers()}
        self._read = [name for name in self._templates if options.merger.reads is None or name in options.merger.reads]
        self._merging: Template = merger_template(options.merger.template, self._read)
        self._only = wanted_ids(options.only, Path(options.out))
        self.run = run_name(options, self._only)
        self.tally = Tally()

    async def process(self, shards: ShardSet, part: int = 0) -> Tally:
        """Give every sample an outcome.

        Args:
            shards: The questions.
            part: Which of the run's workers this is; each takes every n-th question.

        Returns:
            What was done.

        Raises:
            ServerDownError: If a server has gone away.
            AvrtError: If the store cannot be written, or a model not be loaded.
        """
        backends = self._needed_backends()
        try:
            for backend in backends:
                backend.divide(self._options.workers)
                await backend.open()
            count = len(shards) if self._options.limit is None else min(len(shards), self._options.limit)
            waiting = list(range(part, count, self._options.workers))
            while waiting:
                skipped = await self._pass(shards, waiting, 2 * sum(b.slots for b in backends) or 64)
                if len(skipped) == len(waiting):
                    await asyncio.sleep(POLL_SECONDS)
                waiting = skipped
        finally:
            for backend in backends:
                await backend.close()
        return self.tally

    def _needed_backends(self) -> list[Backend]:
        wanted = [t.backend for _, t, _ in self._options.teachers()] if "teach" in self._options.stages else []
        if "merge" in self._options.stages:
            wanted.append(self._options.merger.backend)
        return list({id(backend): backend for backend in wanted}.values())

    async def _pass(self, shards: ShardSet, indices: list[int], at_once: int) -> list[int]:
        """One pass over samples with bounded memory; returns those that another process is at."""
        queue = iter(indices)
        skipped: list[int] = []

        async def work() -> None:
            for index in queue:
                try:
                    await self._settle(index, shown(shards.read(index, teachers=True), self._options.shown))
                except _ElsewhereError:
                    skipped.append(index)

        tasks = [asyncio.create_task(work()) for _ in range(min(at_once, len(indices)))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return sorted(skipped)

    async def _settle(self, index: int, raw: dict[str, Any]) -> None:
        """Find out one sample's outcome and keep it."""
        try:
            sample = Sample.from_json(raw["json"])
            if sample.answer is None:
                raise BadSampleError("has no right answer to filter by", where=f"sample {sample.id!r}")
        except BadSampleError as error:
            name = f"{Path(raw['__url__']).name}, sample {raw['__key__']}"
            await self._conclude(Outcome(name, index, "failed", f"unreadable: {error}", None, ""), [])
            return
        whole = Media.of(raw, tuple(Sense))
        heard: list[_Heard] = []
        blank = Outcome(sample.id, index, "waiting", None, None, whole.digest)
        if self._only is not None and sample.id not in self._only:
            await self._conclude(replace(blank, status="dropped", reason=NOT_ASKED_FOR), [])
            return
        subject = Subject.of(whole)
        try:
            heard = await self._ask_teachers(sample, raw, subject)
            outcome = await self._decide(sample, heard, blank, subject)
        except CallFailedError as error:
            outcome = replace(blank, status="failed", reason=str(error))
        except _NotMadeError as error:
            outcome = replace(blank, reason=f"stage not run: {error}")
        verdicts = [
            {
                "teacher": h.verdict.teacher,
                "letter": h.verdict.letter,
                "votes": json.dumps(h.verdict.votes),
                "answer": h.verdict.answer,
                "correct": int(h.verdict.correct),
                "call": h.call,
            }
            for h in heard
        ]
        await self._conclude(outcome, verdicts)

    async def _conclude(self, outcome: Outcome, verdicts: list[dict[str, Any]]) -> None:
        await self._store.conclude(self.run, outcome, verdicts)
        self.tally.samples += 1
        self.tally.outcomes[outcome.status] += 1
        self._report(self.tally)

    async def _ask_teachers(self, sample: Sample, raw: dict[str, Any], whole: Subject) -> list[_Heard]:
        asked = [
            self._ask_teacher(sample, Media.of(raw, senses), whole, name, teacher)
            for name, teacher, senses in self._options.teachers()
        ]
        heard = await asyncio.gather(*asked, return_exceptions=True)  # one that fails must not undo the other
        for answer in sorted((a for a in heard if isinstance(a, BaseException)), key=_gravity):
            raise answer
        return [answer for answer in heard if isinstance(answer, _Heard)]

    async def _ask_teacher(
        self, sample: Sample, media: Media, whole: Subject, name: str, teacher: TeacherOptions
    ) -> _Heard:
        answer = str(sample.answer_letter)
        if not media:
            return _Heard(Verdict(name, (None,), answer), "", None)
        system, prompt = self._templates[name].render(teacher_values(sample, Subject.of(media), whole))
        requests = [
            Request(name, sample.id, system, prompt, teacher.sampling.nth(number), media, number)
            for number in range(teacher.samples)
        ]
        replies = await asyncio.gather(*(self._call(teacher.backend, request) for request in requests))
        read = [
            read_analysis(r.text, sample.choices, r.reasoning, cut_off=r.cut_off, several=sample.several)
            for r in replies
        ]
        votes = tuple(analysis.letter for analysis in read)
        verdict = Verdict(name, votes, answer, sum(reply.cut_off for reply in replies))
        unbroken = [i for i, reply in enumerate(replies) if not reply.cut_off]
        spoken = next((i for i in unbroken if votes[i] == verdict.letter), unbroken[0] if unbroken else 0)
        analysis = self._told(name, read[spoken]) if unbroken else None
        return _Heard(verdict, analysis, requests[spoken].key(teacher.backend.model))

    def _told(self, name: str, analysis: Analysis) -> str:
        """What the merger reads of a teacher's analysis."""
        merger = self._options.merger
        if merger.reads_thinking and merger.thinking_words is not None and name in self._read:
            self.tally.shortened[name] += len(analysis.thinking.split()) > merger.thinking_words
        return analysis.told(thinking=merger.reads_thinking, words=merger.thinking_words)

    async def _decide(self, sample: Sample, heard: list[_Heard], blank: Outcome, subject: Subject) -> Outcome:
        """Filter, and merge what is kept."""
        verdicts = [h.verdict for h in heard]
        labelled = replace(blank, difficulty=difficulty(verdicts))
        if reason := STRATEGIES[self._options.filter](verdicts):
            return replace(labelled, status="dropped", reason=f"filter: {reason}")
        read = [h for h in heard if h.verdict.teacher in self._read]
        if read and all(h.analysis is None for h in read):
            return replace(labelled, status="dropped", reason="filter: every analysis for the merger cut off")
        if read and not any(h.analysis for h in read):
            return replace(labelled, status="dropped", reason="filter: no analysis that the merger could read")
        analyses = {h.verdict.teacher: h.analysis or "" for h in read}
        system, prompt = self._merging.render(merger_values(sample, analyses, subject))
        merger, answer = self._options.merger, str(sample.answer_letter)
        material = MergeMaterial(sample.choices, answer, analyses)
        reason = "no attempt"
        attempts = merger.attempts if merger.sampling.temperature > 0 else 1  # the same trace again would not help
        for number in range(attempts):
            sampling = merger.sampling.nth(number)
            request = Request(MERGER, sample.id, system, prompt, sampling, number=number, material=material)
            try:
                reply = await self._call(merger.backend, request)
            except CallFailedError as error:
                return replace(labelled, status="failed", reason=str(error))
            except _NotMadeError as error:
                return replace(labelled, reason=f"stage not run: {error}")
            if reply.cut_off:
                reason = "cut off: the merger's reply ended at its limit of tokens"
                continue
            trace = trace_of(reply)
            checks = self._options.checks
            if (refused := check_trace(trace, sample.letters, answer, checks, several=sample.several)) is None:
                return replace(labelled, status="kept", trace=trace, merger_call=request.key(merger.backend.model))
            reason = refused
        return replace(labelled, status="dropped", reason=f"check: {reason}")

    async def _call(self, backend: Backend, request: Request) -> Reply:
        """One call, from the store or made now."""
        stage = "merge" if request.role == MERGER else "teach"
        key = request.key(backend.model)
        if stage not in self._options.stages:
            claim = await self._store.look_up(key)
            if claim is None:
                raise _NotMadeError(stage)
        else:
            claim = await self._store.claim(key, request, backend.model)
        if claim.state == "elsewhere":
            raise _ElsewhereError
        if claim.state == "failed":
            raise CallFailedError(str(claim.error))
        if claim.reply is not None:
            self.tally.stored[request.role] += 1
            self.tally.cut_off[request.role] += claim.reply.cut_off
            return claim.reply
        return await self._make(backend, request, key)

    async def _make(self, backend: Backend, request: Request, key: str) -> Reply:
        try:
            # Used as it is kept, so that another run on this store decides the same.
            reply = await self._store.finish(key, await backend.complete(request))
        except (CallFailedError, UnstorableError) as error:
            self.tally.failed[request.role] += 1
            await self._store.fail(key, f"{request.role}: {error}")
            raise CallFailedError(f"{request.role}: {error}") from None
        except (AvrtError, asyncio.CancelledError):
            await asyncio.shield(self._store.release(key))
            raise
        self.tally.made[request.role] += 1
        self.tally.cut_off[request.role] += reply.cut_off
        return reply


def run_name(options: TraceOptions, only: frozenset[str] | None = None) -> str:
    """A name for everything that decides outcomes, so that two processes on the same run agree on it."""
    roles = [
        [name, t.backend.model, t.template, t.samples, repr(t.sampling), list(senses), repr(options.shown)]
        for name, t, senses in options.teachers()
    ]
    merger = options.merger
    rest = [merger.backend.model, merger.template, repr(merger.sampling), merger.attempts, merger.reads]
    thinking = [merger.reads_thinking, merger.thinking_words]
    taken = [None if only is None else sorted(only), options.as_many_as, options.draw_seed]
    decided = json.dumps([options.data, roles, rest, options.filter, repr(options.checks), thinking, taken])
    return hashlib.blake2b(decided.encode(), digest_size=8).hexdigest()


def _gravity(error: BaseException) -> int:
    """What to raise first when several teachers stumble: what ends the run, then what is waited for, then failures."""
    order: list[type[BaseException]] = [_ElsewhereError, _NotMadeError, CallFailedError]
    return next((i + 1 for i, kind in enumerate(order) if isinstance(error, kind)), 0)
