"""From questions to traces: teachers, filter, merger, checks; many samples at a time, every call through the store."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import avrt
from avrt.data.sample import Sample, Sense
from avrt.data.shards.reader import ShardSet
from avrt.errors import AvrtError, BadSampleError
from avrt.messages import short
from avrt.traces.analysis import Analysis, read_analysis
from avrt.traces.backend import Backend
from avrt.traces.checks import check_trace
from avrt.traces.filters import STRATEGIES, TeacherVerdict, difficulty
from avrt.traces.media_phrases import Subject
from avrt.traces.merger_reply import read_trace
from avrt.traces.outcomes import Outcome
from avrt.traces.requests import CallFailedError, Media, MergeInputs, Reply, Request
from avrt.traces.selection import NOT_ASKED_FOR, selected_ids
from avrt.traces.store import CallStore
from avrt.traces.store_errors import UnstorableError
from avrt.traces.teacher_view import teacher_view
from avrt.traces.templates import Template, merger_template, merger_values, teacher_values
from avrt.traces.trace_options import MERGER, TeacherOptions, TraceOptions, template_of

POLL_SECONDS = 0.5
BLOCK = 256
"""So many neighbouring samples are asked for at once, whether other workers have decided them."""


@dataclass
class RunStats:
    """Counts of a run so far.

    Attributes:
        samples: Samples that have an outcome.
        made: Calls made by this run, by role.
        stored: Calls found in the store, by role.
        failed: Calls that failed permanently, by role.
        cut_off: Replies that reached their token limit, by role, whether made by this run or stored.
        shortened: Analyses whose thinking is longer than `merger.thinking_words`, by teacher.
        outcomes: Samples by status.
    """

    samples: int = 0
    made: Counter[str] = field(default_factory=Counter)
    stored: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    cut_off: Counter[str] = field(default_factory=Counter)
    shortened: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)


class _InProgressElsewhereError(Exception):
    """Another process is making a call that this sample needs."""


class _StageNotRunError(Exception):
    """A call is not in the store, and its stage is not among the run's stages."""


@dataclass(frozen=True)
class TeacherResult:
    """One teacher's verdict on a question, and the analysis that the merger gets.

    Attributes:
        verdict: Its votes.
        analysis: The first analysis that agrees with the verdict; None where every reply was cut off, as the merger
            would take a part for the whole.
        call: Key of that analysis' call; None where the teacher had no media.
    """

    verdict: TeacherVerdict
    analysis: str | None
    call: str | None


class TracePipeline:
    """Runs samples through teachers, filter, merger and checks.

    Args:
        options: The run's settings.
        store: Where calls and outcomes are kept.
        report: Called with the run's counts after each sample.
        data: What identifies the questions in the run's name; None for `options.data`. With it, the name identifies
            everything that decides outcomes, also the templates' texts and the version of avrt, so that a worker can
            leave out what others with the same name have decided.

    Raises:
        AvrtError: If a template, or a source named by `only`, cannot be used.
    """

    def __init__(
        self, options: TraceOptions, store: CallStore, report: Callable[[RunStats], None], data: str | None = None
    ) -> None:
        self._options = options
        self._store = store
        self._report = report
        self._templates = {name: template_of(name, teacher) for name, teacher, _ in options.teachers()}
        reads = options.merger.reads
        self._merged_teachers = [name for name in self._templates if reads is None or name in reads]
        self._merger_template: Template = merger_template(options.merger.template, self._merged_teachers)
        self._only = selected_ids(options.only, Path(options.out))
        if data is not None:
            data = repr((data, avrt.__version__, sorted(self._templates.items()), self._merger_template))
        self.run = run_name(options, self._only, data)
        self.stats = RunStats()

    async def process(self, shards: ShardSet, worker: int = 0) -> RunStats:
        """Give every sample an outcome.

        Args:
            shards: The questions.
            worker: Index of this process among the run's n workers; each takes every n-th question.

        Returns:
            The run's counts.

        Raises:
            ServerDownError: If a server does not answer any more.
            AvrtError: If the store cannot be written, or a model cannot be loaded.
        """
        backends = self._needed_backends()
        try:
            for backend in backends:
                backend.share_among(self._options.workers)
                await backend.open()
            waiting = list(range(worker, self._options.limited(len(shards)), self._options.workers))
            first = self._store.first_of(len(waiting))
            waiting = [*waiting[first:], *waiting[:first]]
            while waiting:
                skipped = await self._pass(shards, waiting, 2 * sum(b.max_concurrency for b in backends) or 64)
                if len(skipped) == len(waiting):
                    await asyncio.sleep(POLL_SECONDS)
                waiting = skipped
        finally:
            for backend in backends:
                await backend.close()
        return self.stats

    def _needed_backends(self) -> list[Backend]:
        wanted = [t.backend for _, t, _ in self._options.teachers()] if "teach" in self._options.stages else []
        if "merge" in self._options.stages:
            wanted.append(self._options.merger.backend)
        return list({id(backend): backend for backend in wanted}.values())

    async def _pass(self, shards: ShardSet, indices: list[int], at_once: int) -> list[int]:
        """Process samples, at most `at_once` at a time; returns those that wait for a call of another process."""
        rest, block = deque(indices), deque[int]()
        filling = asyncio.Lock()
        skipped: list[int] = []

        async def following() -> int | None:
            async with filling:
                while rest and not block:
                    block.extend(await self._undecided([rest.popleft() for _ in range(min(BLOCK, len(rest)))]))
                return block.popleft() if block else None

        async def work() -> None:
            while (index := await following()) is not None:
                try:
                    raw = shards.read(index, teachers=True)
                    await self._process_sample(index, teacher_view(raw, self._options.shown))
                except _InProgressElsewhereError:
                    skipped.append(index)

        tasks = [asyncio.create_task(work()) for _ in range(min(at_once, len(indices)))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return sorted(skipped)

    async def _undecided(self, indices: list[int]) -> list[int]:
        """Those of some samples that no worker of this run has decided for good; the others are counted."""
        decided = await self._store.decided(self.run, indices)
        if decided:
            self.stats.samples += len(decided)
            self.stats.outcomes.update(decided.values())
            self._report(self.stats)
        return [index for index in indices if index not in decided]

    async def _process_sample(self, index: int, raw: dict[str, Any]) -> None:
        """Decide one sample's outcome and record it."""
        try:
            sample = Sample.from_json(raw["json"])
            if sample.answer is None:
                raise BadSampleError("has no right answer to filter by", where=f"sample {sample.id!r}")
            if self._store.longest_id is not None and len(sample.id.encode()) > self._store.longest_id:
                what = f"its id is longer than the {self._store.longest_id} bytes that the store takes"
                raise BadSampleError(what, where=f"sample {short(sample.id)}")
        except BadSampleError as error:
            name = f"{Path(raw['__url__']).name}, sample {raw['__key__']}"
            await self._record(Outcome(name, index, "failed", f"unreadable: {error}", None, ""))
            return
        media = Media.of(raw, tuple(Sense))
        outcome = Outcome(sample.id, index, "waiting", None, None, media.digest)
        if self._only is not None and sample.id not in self._only:
            await self._record(replace(outcome, status="dropped", reason=NOT_ASKED_FOR))
            return
        subject = Subject.of(media)
        results: list[TeacherResult] = []
        try:
            results = await self._run_teachers(sample, raw, subject)
            outcome = replace(outcome, difficulty=difficulty([result.verdict for result in results]))
            outcome = await self._filter_and_merge(sample, results, outcome, subject)
        except CallFailedError as error:
            outcome = replace(outcome, status="failed", reason=str(error))
        except _StageNotRunError as error:
            outcome = replace(outcome, reason=f"stage not run: {error}")
        await self._record(outcome, results)

    async def _record(self, outcome: Outcome, results: Sequence[TeacherResult] = ()) -> None:
        """Keep an outcome and the verdicts that it comes from, and count it."""
        verdicts = [{**result.verdict.record(), "call": result.call} for result in results]
        await self._store.record_outcome(self.run, outcome, verdicts)
        self.stats.samples += 1
        self.stats.outcomes[outcome.status] += 1
        self._report(self.stats)

    async def _run_teachers(self, sample: Sample, raw: dict[str, Any], subject: Subject) -> list[TeacherResult]:
        """Every teacher's result; of several errors the one with the highest priority is raised."""
        calls = [
            self._run_teacher(sample, Media.of(raw, senses), subject, name, teacher)
            for name, teacher, senses in self._options.teachers()
        ]
        results = await asyncio.gather(*calls, return_exceptions=True)  # one that fails does not cancel the others
        for error in sorted((r for r in results if isinstance(r, BaseException)), key=error_priority):
            raise error
        return [result for result in results if isinstance(result, TeacherResult)]

    async def _run_teacher(
        self, sample: Sample, media: Media, subject: Subject, name: str, teacher: TeacherOptions
    ) -> TeacherResult:
        """One teacher's votes on a question by its k replies, and its analysis."""
        answer = str(sample.answer_letter)
        if not media:
            return TeacherResult(TeacherVerdict(name, (None,), answer), "", None)
        system, prompt = self._templates[name].render(teacher_values(sample, Subject.of(media), subject))
        requests = [
            Request(name, sample.id, system, prompt, teacher.sampling.nth(number), media, number)
            for number in range(teacher.samples)
        ]
        replies = await asyncio.gather(*(self._call(teacher.backend, request) for request in requests))
        analyses = [
            read_analysis(r.text, sample.choices, r.reasoning, cut_off=r.cut_off, several=sample.several)
            for r in replies
        ]
        votes = tuple(analysis.letter for analysis in analyses)
        verdict = TeacherVerdict(name, votes, answer, sum(reply.cut_off for reply in replies))
        complete = [i for i, reply in enumerate(replies) if not reply.cut_off]
        chosen = next((i for i in complete if votes[i] == verdict.letter), complete[0] if complete else 0)
        text = self._merger_input(name, analyses[chosen]) if complete else None
        return TeacherResult(verdict, text, requests[chosen].key(teacher.backend.model))

    def _merger_input(self, name: str, analysis: Analysis) -> str:
        """The text of a teacher's analysis that the merger gets."""
        merger = self._options.merger
        if merger.reads_thinking and merger.thinking_words is not None and name in self._merged_teachers:
            self.stats.shortened[name] += len(analysis.thinking.split()) > merger.thinking_words
        return analysis.for_merger(thinking=merger.reads_thinking, words=merger.thinking_words)

    async def _filter_and_merge(
        self, sample: Sample, results: list[TeacherResult], outcome: Outcome, subject: Subject
    ) -> Outcome:
        """A sample's outcome by the filter and, for one that the filter keeps, by the merger and the checks."""
        reason = STRATEGIES[self._options.filter]([result.verdict for result in results])
        read = [result for result in results if result.verdict.teacher in self._merged_teachers]
        if not reason and read and all(result.analysis is None for result in read):
            reason = "every analysis for the merger cut off"
        if not reason and read and not any(result.analysis for result in read):
            reason = "no analysis that the merger could read"
        if reason:
            return replace(outcome, status="dropped", reason=f"filter: {reason}")
        analyses = {result.verdict.teacher: result.analysis or "" for result in read}
        return await self._merge(sample, analyses, outcome, subject)

    async def _merge(self, sample: Sample, analyses: dict[str, str], outcome: Outcome, subject: Subject) -> Outcome:
        """Merge analyses until a trace passes the checks or the attempts are used up."""
        system, prompt = self._merger_template.render(merger_values(sample, analyses, subject))
        merger, answer = self._options.merger, str(sample.answer_letter)
        inputs = MergeInputs(sample.choices, answer, analyses)
        reason: str | None = "no attempt"
        attempts = merger.attempts if merger.sampling.temperature > 0 else 1  # greedy decoding repeats itself
        for number in range(attempts):
            sampling = merger.sampling.nth(number)
            request = Request(MERGER, sample.id, system, prompt, sampling, number=number, merge_inputs=inputs)
            reply = await self._call(merger.backend, request)
            if reply.cut_off:
                reason = "cut off: the merger's reply ended at its limit of tokens"
                continue
            trace = read_trace(reply)
            reason = check_trace(trace, sample.letters, answer, self._options.checks, several=sample.several)
            if reason is None:
                return replace(outcome, status="kept", trace=trace, merger_call=request.key(merger.backend.model))
        return replace(outcome, status="dropped", reason=f"check: {reason}")

    async def _call(self, backend: Backend, request: Request) -> Reply:
        """The reply to a request, from the store or from the backend."""
        stage = "merge" if request.role == MERGER else "teach"
        key = request.key(backend.model)
        if stage not in self._options.stages:
            claim = await self._store.look_up(key)
            if claim is None:
                raise _StageNotRunError(stage)
        else:
            claim = await self._store.claim(key, request, backend.model)
        if claim.state == "elsewhere":
            raise _InProgressElsewhereError
        if claim.state == "failed":
            raise CallFailedError(str(claim.error))
        if claim.reply is not None:
            self.stats.stored[request.role] += 1
            self.stats.cut_off[request.role] += claim.reply.cut_off
            return claim.reply
        return await self._make(backend, request, key)

    async def _make(self, backend: Backend, request: Request, key: str) -> Reply:
        """Make a call that this process has claimed, and keep its reply or its error."""
        try:
            # The stored form is the one that is used, so that a later run on this store decides the same.
            reply = await self._store.finish(key, await backend.complete(request))
        except (CallFailedError, UnstorableError) as error:
            self.stats.failed[request.role] += 1
            await self._store.fail(key, f"{request.role}: {error}")
            raise CallFailedError(f"{request.role}: {error}") from None
        except (AvrtError, asyncio.CancelledError):
            await asyncio.shield(self._store.release(key))
            raise
        self.stats.made[request.role] += 1
        self.stats.cut_off[request.role] += reply.cut_off
        return reply


def run_name(options: TraceOptions, only: frozenset[str] | None = None, data: str | None = None) -> str:
    """A hash of every setting that decides outcomes: processes with equal settings work on the same run.

    It includes the names of options' classes and fields, so that a run gets another name when these are renamed.

    Args:
        options: The settings.
        only: The ids of the samples that the run is restricted to.
        data: What identifies the questions; None for the folder that `options.data` names.
    """
    roles = [
        [
            name, t.backend.model, t.template or repr(t.backend.own_template()), t.samples, repr(t.sampling),
            list(senses), repr(options.shown),
        ]
        for name, t, senses in options.teachers()
    ]  # fmt: skip
    merger = options.merger
    rest = [merger.backend.model, merger.template, repr(merger.sampling), merger.attempts, merger.reads]
    thinking = [merger.reads_thinking, merger.thinking_words]
    taken = [None if only is None else sorted(only), options.as_many_as, options.draw_seed]
    if options.shuffle_seed is not None:
        taken.append(options.shuffle_seed)
    questions = options.data if data is None else data
    decided = json.dumps([questions, roles, rest, options.filter, repr(options.checks), thinking, taken])
    return hashlib.blake2b(decided.encode(), digest_size=8).hexdigest()


def error_priority(error: BaseException) -> int:
    """The order in which errors of several teachers count: those that end the run, then waits, then failed calls."""
    order: list[type[BaseException]] = [_InProgressElsewhereError, _StageNotRunError, CallFailedError]
    return next((i + 1 for i, kind in enumerate(order) if isinstance(error, kind)), 0)
