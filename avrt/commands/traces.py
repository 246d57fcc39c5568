"""`avrt traces run|stats|show|export|merge_adapter`: reasoning traces from teachers, and what became of each sample."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from avrt.arguments import OneLineErrors
from avrt.data.shards.reader import ShardSet
from avrt.errors import AvrtError
from avrt.files import write_whole
from avrt.text import clean, to_json
from avrt.traces.folders import RUN, TraceFolder, run_record
from avrt.traces.matching import counts_of, draw
from avrt.traces.options import TraceOptions
from avrt.traces.pipeline import Tally, TracePipeline
from avrt.traces.requests import is_cut_off
from avrt.traces.store import CallStore, connect, rows
from avrt.traces.summary import conclude, told_reasons
from avrt.traces.terminal import inert
from avrt.traces.to_shards import SPLITS, export_run, write_parquet

CONFIG = "traces.yaml"
LINE_SECONDS = 30.0
WIDTH = 140  # of tables in a file


def main(arguments: list[str]) -> None:
    """Run one of the five commands.

    Args:
        arguments: What follows `avrt traces`.
    """
    commands: dict[str, Callable[[list[str]], None]] = {
        "run": run, "stats": stats, "show": show, "export": export, "merge_adapter": merge,
    }  # fmt: skip
    if not arguments or arguments[0] in ("-h", "--help"):
        print(
            "usage: avrt traces COMMAND [options]\n\n"
            "  run     make traces: --config traces.yaml --data SHARDS --out DIR\n"
            "  stats   statistics of a trace folder, printed and as JSON and HTML: avrt traces stats DIR\n"
            "  show    everything about one sample: avrt traces show DIR --id ID\n"
            "  export  write the traces of a folder once more: avrt traces export DIR --format parquet\n"
            "  merge_adapter  make a teacher of a model and its adapter: avrt traces merge_adapter MODEL --out DIR"
        )
        return
    if arguments[0] not in commands:
        raise AvrtError("no such command", where=f"traces {arguments[0]}", remedy=f"one of {', '.join(commands)}")
    commands[arguments[0]](arguments[1:])


def run(arguments: list[str]) -> None:
    """`avrt traces run`: make what is missing, then write the traces."""
    parser = OneLineErrors(prog="avrt traces run", description="Make reasoning traces.")
    parser.add_argument("--config", action="config", help="a configuration; several are merged")
    parser.add_class_arguments(TraceOptions)
    parsed = parser.parse_args(arguments)
    options = TraceOptions(**{k: v for k, v in vars(parser.instantiate_classes(parsed)).items() if k != "config"})
    shards, folder = ShardSet(options.data), options.folder
    folder.path.mkdir(parents=True, exist_ok=True)
    wanted = _wanted(options)
    # Forked while there are no threads yet, so that they need not import and parse everything again.
    forks = multiprocessing.get_context("fork")
    helpers = [forks.Process(target=_help, args=(options, shards, part)) for part in range(1, options.workers)]
    for helper in helpers:
        helper.start()
    try:
        name = _work(options, shards, 0)
        for helper in helpers:
            helper.join()
    finally:
        for helper in helpers:
            helper.terminate()
    if failed := sum(helper.exitcode != 0 for helper in helpers):
        raise AvrtError(
            f"{failed} of the other workers failed, see above", where="workers", remedy="run the same command again"
        )
    write_whole(folder.path / CONFIG, parser.dump(parsed).encode())
    write_whole(folder.path / RUN, folder.finished(name, options.data))
    missing = draw(folder, name, wanted, options.draw_seed, options.val_share) if wanted else {}
    found = conclude(name, options, len(shards))
    print(found.told)
    for line in [] if found.useless else told_reasons(found.reasons):  # else the error says them
        print(f"  {inert(line)}")
    if "export" in options.stages:
        split = export_run(options, name, shards)
        print(f"traces: {', '.join(f'{split[name]} {name}' for name in SPLITS)}: {folder.path}")
    lacking = [f"{n} traces fewer in {split} than {options.as_many_as} has" for split, n in missing.items()]
    for warning in (*found.warnings, *lacking):
        sys.stderr.write(f"avrt: warning: {inert(warning)}\n")
    found.raise_if_useless(folder.path)


def _work(options: TraceOptions, shards: ShardSet, part: int) -> str:
    """Go through one worker's part of the questions; returns the run's name."""
    begun = time.monotonic()
    folder = options.folder
    store = CallStore(folder.store, retry_failed=options.retry_failed, results=folder.name)
    try:
        count = len(shards) if options.limit is None else min(len(shards), options.limit)
        with _Watch(len(range(part, count, options.workers)), shown=part == 0) as watch:
            pipeline = TracePipeline(options, store, watch.update)
            tally = asyncio.run(_unless_orphaned(pipeline.process(shards, part), part))
    finally:
        store.close()
    _summarize(tally, time.monotonic() - begun)
    return pipeline.run


def _wanted(options: TraceOptions) -> Counter[str] | None:
    """How many traces are wanted in each split, where that was said."""
    if options.as_many_as is None:
        return None
    return counts_of(options.as_many_as, Path(options.out), options.folder.path, "as_many_as")


def _help(options: TraceOptions, shards: ShardSet, part: int) -> None:
    """What a further worker does; its errors are told like those of the command."""
    try:
        _work(options, shards, part)
    except AvrtError as error:
        sys.stderr.write(f"avrt: worker {part}: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


async def _unless_orphaned(work: Coroutine[Any, Any, Tally], part: int) -> Tally:
    """Do the work, but stop when the process that started this one is gone: nobody would expect calls to go on."""
    parent = os.getppid()
    task = asyncio.create_task(work)
    while part and not (await asyncio.wait([task], timeout=1.0))[0]:
        if os.getppid() != parent:
            task.cancel()
    return await task


def stats(arguments: list[str]) -> None:
    """`avrt traces stats`: print the statistics, and write them as JSON and HTML beside the traces."""
    from avrt.traces.stats import collect
    from avrt.traces.stats_page import page
    from avrt.traces.stats_page import show as show_tables

    parser = OneLineErrors(prog="avrt traces stats", description="Statistics of a trace folder.")
    parser.add_argument("folder", type=str, help="the trace folder")
    measure = "measure lengths in the tokens of this model, such as the student: a folder or an id; words otherwise"
    parser.add_argument("--tokenizer", type=str | None, default=None, help=measure)
    options = parser.parse_args(arguments)
    folder = Path(options.folder)
    data = Path(run_record(folder)["data"])
    found = collect(folder, data if data.is_dir() else None, options.tokenizer)
    show_tables(found, Console() if sys.stdout.isatty() else Console(width=WIDTH))
    if options.tokenizer is None and found["splits"]:
        print("lengths are in words; AVRT's are in tokens of the student's tokenizer: --tokenizer MODEL measures so")
    if not data.is_dir():
        sys.stderr.write(f"avrt: warning: {data}: the shards are not there, so nothing is told of their clips\n")
    write_whole(folder / "stats.json", to_json(found, indent=1).encode())
    write_whole(folder / "stats.html", page(found).encode())
    print(f"written: {folder / 'stats.json'}, {folder / 'stats.html'}")


def show(arguments: list[str]) -> None:
    """`avrt traces show`: a sample's question, every call about it, and what became of it."""
    parser = OneLineErrors(prog="avrt traces show", description="Everything about one sample.")
    parser.add_argument("folder", type=str, help="the trace folder")
    parser.add_argument("--id", type=str, required=True, help="the sample's id")
    parser.add_argument("--prompts", type=bool, default=False, help="show whole prompts, not only their question")
    options = parser.parse_args(arguments)
    folder, console = TraceFolder.find(Path(options.folder)), Console(highlight=False, markup=False, soft_wrap=True)
    connect(folder.store).close()
    name = clean(options.id)
    calls = list(rows(folder.store, "SELECT * FROM calls WHERE sample = ? ORDER BY role = 'merger', role, model, number", (name,)))  # fmt: skip  # noqa: E501
    here = (folder.name, name)
    outcome = next(rows(folder.store, "SELECT * FROM outcomes WHERE folder = ? AND sample = ?", here), None)
    if not calls and outcome is None:
        raise AvrtError("no such sample", where=f"{folder.path}, id {inert(name)}")
    judged_here = rows(folder.store, "SELECT * FROM verdicts WHERE folder = ? AND sample = ?", here)
    verdicts = {row["call"]: row for row in judged_here}

    def tell(text: str, style: str | None = None) -> None:
        console.print(inert(text), style=style)

    for call in calls:
        console.rule(inert(f"{call['role']}  {call['model']}  #{call['number']}  {call['status']}"))
        shown = f"{call['pictures']} pictures, {'sound' if call['sound'] else 'no sound'}"
        prompt = call["prompt"] if options.prompts else call["prompt"].rpartition("Question:")[2].strip()
        tell(f"{shown}\n{prompt}\n", "dim")
        if call["reasoning"]:
            tell(call["reasoning"], "italic")
        tell(call["text"] or call["error"] or "")
        if is_cut_off(call["finish_reason"]):
            tell("-> cut off at its limit of tokens: no vote, and nothing for the merger", "bold")
        if verdict := verdicts.get(call["key"]):
            judged = "right" if verdict["correct"] else f"wrong, right is {verdict['answer']}"
            judged = judged if verdict["letter"] else f"undecided, right is {verdict['answer']}"
            tell(f"-> {verdict['letter']} ({judged}); votes {verdict['votes']}", "bold")
    if outcome is not None:
        console.rule("outcome")
        reason = f": {outcome['reason']}" if outcome["reason"] else ""
        tell(f"{outcome['status']}{reason}; difficulty {outcome['difficulty']}", "bold")


def export(arguments: list[str]) -> None:
    """`avrt traces export`: the exported traces in another format."""
    parser = OneLineErrors(prog="avrt traces export", description="The traces of a folder in another format.")
    parser.add_argument("folder", type=str, help="the trace folder")
    parser.add_argument(
        "--format", type=Literal["parquet"], default="parquet", help="shards and JSONL are always there"
    )
    options = parser.parse_args(arguments)
    print(f"written: {write_parquet(Path(options.folder))}")


def merge(arguments: list[str]) -> None:
    """`avrt traces merge_adapter`: a model with an adapter of its release merged in, ready to be served."""
    from avrt.traces.adapters import merge_adapter

    parser = OneLineErrors(prog="avrt traces merge_adapter", description="A model with its adapter merged in.")
    parser.add_argument("model", type=str, help="folder of the model, downloaded whole")
    parser.add_argument("--out", type=str, required=True, help="new folder for the merged model")
    parser.add_argument(
        "--adapter", type=str, default="think", help="the adapter's folder, below the model's or by path"
    )
    options = parser.parse_args(arguments)
    merged = merge_adapter(Path(options.model), Path(options.out), options.adapter)
    told = f"{merged.changed} weights changed, {merged.replaced} replaced, {merged.kept} as they were"
    print(f"{told}: {options.out}")


def _summarize(tally: Tally, seconds: float) -> None:
    print(f"went through {tally.samples} samples in {seconds:.0f} s")
    for role in sorted({*tally.made, *tally.stored, *tally.failed}):
        told = f"{tally.made[role]} calls made, {tally.stored[role]} in store, {tally.failed[role]} failed"
        if cut := tally.cut_off[role]:
            told += f", {cut} cut off (raise {role}.sampling.max_tokens)"
        if long := tally.shortened[role]:
            told += f", the thinking of {long} shortened for the merger (merger.thinking_words)"
        print(f"  {role}: {told}")


class _Watch:
    """Progress with the time left: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, samples: int, *, shown: bool) -> None:
        self._samples = samples
        self._shown = shown  # of several workers, the first alone tells
        self._on_terminal = shown and sys.stderr.isatty()
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, TextColumn("{task.description}"), console=Console(stderr=True))
        self._begun = self._printed = time.monotonic()

    def __enter__(self) -> _Watch:
        """Show the bar."""
        if self._on_terminal:
            self._bar.start()
            self._task = self._bar.add_task("", total=self._samples)
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar away."""
        if self._on_terminal:
            self._bar.stop()

    def update(self, tally: Tally) -> None:
        """Show the state of the run."""
        now = time.monotonic()
        if not self._shown or now - self._printed < (0.2 if self._on_terminal else LINE_SECONDS):
            return
        self._printed = now
        told = ", ".join(f"{n} {status}" for status, n in tally.outcomes.items())
        told += f"; calls {tally.made.total()}, stored {tally.stored.total()}, failed {tally.failed.total()}"
        if self._on_terminal:
            self._bar.update(self._task, completed=tally.samples, description=told)
        else:
            left = (now - self._begun) / max(1, tally.samples) * (self._samples - tally.samples)
            sys.stderr.write(f"{tally.samples}/{self._samples}: {told}; {left:.0f} s left\n")
