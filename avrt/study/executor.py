"""Runs the stages of a study: several at once, each when what it needs is there, only those not finished before."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import FrameType

from avrt.errors import AvrtError
from avrt.messages import printable, quoted
from avrt.progress import ProgressDisplay
from avrt.study.estimate import Estimate
from avrt.study.process import Processes, Told
from avrt.study.records import Records
from avrt.study.stages import Plan, Stage
from avrt.study.twins import make_twins

LOCK, PROCESSES_LOCK = ".lock", ".processes.lock"
_PATIENCE = 60.0
"""How long processes may take to end when they are told to, such as to save a checkpoint, in seconds."""
_ORPHANS = 15.0
"""How long those of a study that was killed may take to see it."""
_LAST_LINES = 15
JOBS_HELP = "stages at a time; by default as many as there are cores"


@dataclass
class _Running:
    """A process and its stages, of which those before `at` have ended."""

    process: ForkServerProcess
    told: Connection
    stages: list[Stage]
    begun: float = field(default_factory=time.monotonic)
    at: int = 0


def execute(plan: Plan, out: Path, jobs: int, *, commands_shown: bool = False) -> None:
    """Run what is not finished of a plan.

    Args:
        plan: The stages.
        out: The study's folder.
        jobs: How many stages run at a time.
        commands_shown: Print the command of each stage when it begins, and how long it took when it has ended.

    Raises:
        AvrtError: If a stage fails, after all that do not need it; its status is 1. Or if another study runs there.
        KeyboardInterrupt: At Ctrl-C, when all processes have ended.
        SystemExit: At SIGTERM likewise, with status 143.
    """
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        _Executor(plan, out, jobs, commands_shown).run()


class StageFailedError(AvrtError):
    """A stage of a study has failed."""

    status = 1


class _Executor:
    def __init__(self, plan: Plan, out: Path, jobs: int, commands_shown: bool) -> None:
        self._plan = plan
        self._commands_shown = commands_shown
        self._jobs = max(1, jobs)
        self._records = Records(out)
        self._records.identify(plan)
        self._finished, told = self._records.finished(plan)
        for line in told:
            sys.stderr.write(f"avrt: {printable(line)}\n")
        self._failed: dict[str, int] = {}
        self._left_out: set[str] = set()
        self._running: list[_Running] = []
        self._waiting = [stage for stage in plan.stages.values() if stage.name not in self._finished]
        self._estimate = Estimate(plan, self._records, self._jobs)
        self._processes = Processes(out / PROCESSES_LOCK)
        self._signal: int | None = None

    def run(self) -> None:
        total = len(self._plan.stages)
        if self._finished:
            sys.stderr.write(f"{len(self._finished)} of {total} stages were finished before\n")
        handlers = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with ProgressDisplay(total, "stages") as self._display:
                self._display.update(len(self._finished))
                while (self._waiting or self._running) and self._signal is None:
                    self._start()
                    self._listen()
                    self._show()
        finally:
            self._end_processes()
            for number, handler in handlers.items():
                signal.signal(number, handler)
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self._signal is not None:
            sys.stderr.write("avrt: ended by SIGTERM; the same command goes on\n")
            sys.exit(128 + self._signal)
        make_twins(self._plan, self._finished)
        if self._failed:
            names = ", ".join(self._failed)
            left = f"; {len(self._left_out)} that need them were left out" if self._left_out else ""
            raise StageFailedError(
                f"{len(self._failed)} of {total} stages failed: {names}{left}",
                where=self._records.log(self._plan.stages[next(iter(self._failed))]),
                remedy="the same command runs what is missing",
            )

    # ---- which stages run

    def _start(self) -> None:
        while self._waiting and len(self._running) < self._jobs:
            chosen = self._choose()
            if not chosen:
                return
            for stage in chosen:
                self._waiting.remove(stage)
                self._records.begin(stage)
                self._records.log(stage).parent.mkdir(parents=True, exist_ok=True)
            logs = [self._records.log(stage) for stage in chosen]
            process, told = self._processes.start(
                [stage.command for stage in chosen], logs, alone=all(stage.alone for stage in chosen)
            )
            self._running.append(_Running(process, told, chosen))

    def _choose(self) -> list[Stage]:
        """The stages of the next process: first what most time of others waits for."""
        ready = [stage for stage in self._waiting if self._finished.issuperset(stage.needs)]
        if not ready:
            return []
        first = max(ready, key=lambda stage: self._estimate.urgency(stage))
        chosen, there = [first], self._finished | {first.name}
        for stage in self._waiting:
            if stage.process == first.process and stage is not first and there.issuperset(stage.needs):
                chosen.append(stage)
                there.add(stage.name)
        return chosen

    # ---- what they tell

    def _listen(self) -> None:
        watched = [handle for each in self._running for handle in (each.told, each.process.sentinel)]
        if not watched:
            return
        wait(watched, timeout=0.5)
        for each in list(self._running):
            self._hear(each)

    def _hear(self, each: _Running) -> None:
        ended = not each.process.is_alive()  # before the rest of what it has said is read
        with contextlib.suppress(EOFError, OSError):
            while each.told.poll():
                told: Told = each.told.recv()
                if told.status is None:
                    each.begun = time.monotonic()
                    self._tell(f"avrt {' '.join(map(quoted, each.stages[told.number].command))}")
                    continue
                self._take(each.stages[told.number], told)
                each.at = told.number + 1
        if not ended:
            return
        each.process.join()
        self._running.remove(each)
        rest = each.stages[each.at :]
        if rest and self._signal is None and not (each.at and each.stages[each.at - 1].name in self._failed):
            # It did not live to tell, as when the system is out of memory.
            self._take(rest[0], Told(each.at, each.process.exitcode or 1, time.monotonic() - each.begun))
            rest = rest[1:]
        self._waiting += [stage for stage in rest if stage.name not in self._left_out]
        each.told.close()

    def _take(self, stage: Stage, told: Told) -> None:
        """A stage has ended."""
        if not told.status and stage.leaves.exists():
            self._records.add(stage, told.seconds, told.cpu_seconds)
            self._finished.add(stage.name)
            self._tell(f"{stage.name}: {told.seconds:.0f} s")
            return
        if self._signal is not None:
            return  # told to end
        status = told.status or 0
        self._failed[stage.name] = status
        without = {name for name in self._plan.dependents(stage.name) if name not in self._finished}
        self._left_out |= without
        self._waiting = [waiting for waiting in self._waiting if waiting.name not in without]
        how = f"status {status}" if status > 0 else _killed(status) if status else f"{stage.leaves} is not there"
        log = self._records.log(stage)
        self._display.say(f"failed: {stage.name} ({how}), {log}:")
        for line in _last_lines(log):
            self._display.say(f"  {line}")

    def _tell(self, text: str) -> None:
        if self._commands_shown:
            self._display.say(text)

    def _show(self) -> None:
        now = [each.stages[min(each.at, len(each.stages) - 1)].name for each in self._running]
        left = self._estimate.left(self._waiting, [stage for each in self._running for stage in each.stages[each.at :]])
        failed = [f"{len(self._failed)} failed"] if self._failed else []
        self._display.update(len(self._finished), "; ".join([*failed, ", ".join(now)]), left=left)

    # ---- how they end

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            self._kill()
        self._signal = number

    def _end_processes(self) -> None:
        """Tell the processes to end, wait for them, and kill those that do not."""
        for each in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each.process.pid or 0, self._signal or signal.SIGTERM)
        until = time.monotonic() + _PATIENCE
        while self._running and time.monotonic() < until:
            self._listen()
        self._kill()
        for each in self._running:
            each.process.join()

    def _kill(self) -> None:
        for each in self._running:
            for kill in (os.kill, os.killpg):  # it may not lead a group of its own yet
                with contextlib.suppress(ProcessLookupError):
                    kill(each.process.pid or 0, signal.SIGKILL)


def _killed(status: int) -> str:
    with contextlib.suppress(ValueError):
        return f"ended by {signal.Signals(-status).name}"
    return f"status {status}"


def _last_lines(log: Path) -> Sequence[str]:
    if not log.is_file():
        return []
    lines = log.read_text(errors="replace").replace("\r", "\n").splitlines()
    return [printable(line) for line in lines if line.strip()][-_LAST_LINES:]


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Be the only study in a folder, when the processes of one that was killed have ended too."""
    with (out / LOCK).open("w") as own, (out / PROCESSES_LOCK).open("w") as processes:
        until = time.monotonic() + _ORPHANS
        for lock in (own, processes):
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if lock is own or time.monotonic() > until:
                        raise AvrtError(
                            "another avrt is at work there",
                            where=out,
                            remedy="wait for it, or give another --out",
                        ) from None
                    time.sleep(0.2)
        fcntl.flock(processes, fcntl.LOCK_UN)
        yield
