"""`avrt traces run|stats|show|export|merge_adapter`: make reasoning traces with teachers, and look at them."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from sqlalchemy import select

from avrt.arguments import OneLineErrors
from avrt.data.shards.reader import ShardSet
from avrt.errors import AvrtError
from avrt.files import write_whole
from avrt.messages import print_results, printable, quoted
from avrt.progress import ProgressDisplay
from avrt.text import clean, did_you_mean, to_json
from avrt.traces.database import require_store, rows
from avrt.traces.pipeline import RunStats, TracePipeline
from avrt.traces.requests import is_cut_off
from avrt.traces.run_summary import main_reasons, summarize
from avrt.traces.schema import calls as made_calls
from avrt.traces.schema import outcomes, verdicts
from avrt.traces.selection import count_by_split, draw_traces
from avrt.traces.store import CallStore
from avrt.traces.store_place import written
from avrt.traces.trace_export import SPLITS, export_run, write_parquet
from avrt.traces.trace_folder import RUN, TraceFolder, run_record
from avrt.traces.trace_options import MERGER, TraceOptions, asked_otherwise

CONFIG = "traces.yaml"
WIDTH = 140  # characters of tables that are not printed on a terminal


def main(arguments: list[str]) -> None:
    """Run one of the five commands.

    Args:
        arguments: What follows `avrt traces`.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(
            "usage: avrt traces COMMAND [options]\n\n"
            "  run     make traces: --config traces.yaml --data SHARDS --out DIR\n"
            "  stats   print the statistics of a trace folder and write them as JSON and HTML: avrt traces stats DIR\n"
            "  show    print everything about one sample: avrt traces show DIR --id ID\n"
            "  export  write the traces of a folder in another format: avrt traces export DIR --format parquet\n"
            "  merge_adapter  merge a model's adapter into its weights: avrt traces merge_adapter MODEL --out DIR"
        )
        return
    if arguments[0] not in TOOLS:
        remedy = did_you_mean(arguments[0], TOOLS) or f"use one of {', '.join(TOOLS)}"
        raise AvrtError("no such command", where=f"traces {arguments[0]}", remedy=remedy)
    TOOLS[arguments[0]](arguments[1:])


def run(arguments: list[str]) -> None:
    """`avrt traces run`: make the calls that the store does not have, then write the traces."""
    parser = OneLineErrors(prog="avrt traces run", description="Make reasoning traces.")
    parser.add_argument("--config", action="config", help="a configuration; several are merged")
    parser.add_class_arguments(TraceOptions)
    parsed = parser.parse_args(arguments)
    options = TraceOptions(**{k: v for k, v in vars(parser.instantiate_classes(parsed)).items() if k != "config"})
    shards = ShardSet(options.data)
    folder = options.folder.of_questions(shards.digest)
    spec = shards.manifest.spec
    for name, teacher, _ in options.teachers():
        for told in (teacher.backend.warn_of_shards(options.data, spec), asked_otherwise(name, teacher)):
            if told is not None:
                sys.stderr.write(f"avrt: warning: {printable(told)}\n")
    folder.path.mkdir(parents=True, exist_ok=True)
    _tell_of_machines(options, folder)
    wanted = None
    if options.as_many_as is not None:
        wanted = count_by_split(options.as_many_as, Path(options.out), folder.path, "as_many_as")
    # Forked before there are threads, so that the workers do not import and parse everything again.
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_further_worker, args=(options, shards, i)) for i in range(1, options.workers)]
    for worker in workers:
        worker.start()
    try:
        name = _work(options, shards, 0)
        for worker in workers:
            worker.join()
    finally:
        for worker in workers:
            worker.terminate()
    if failed := sum(worker.exitcode != 0 for worker in workers):
        raise AvrtError(f"{failed} workers failed, see above", where="workers", remedy="run the same command again")
    write_whole(folder.path / CONFIG, parser.dump(parsed).encode())
    write_whole(folder.path / RUN, folder.run_json(name, options.data))
    missing = draw_traces(folder, name, wanted, options.draw_seed, options.val_share) if wanted else {}
    summary = summarize(name, options, shards)
    print(summary.counts_line)
    for line in [] if summary.nothing_usable else main_reasons(summary.reasons):  # else they are in the error
        print(f"  {printable(line)}")
    if "export" in options.stages:
        split = export_run(options, name, shards)
        print(f"traces: {', '.join(f'{split[name]} {name}' for name in SPLITS)}: {folder.path}")
    fewer = [f"{n} traces fewer in {split} than {options.as_many_as} has" for split, n in missing.items()]
    for warning in (*summary.warnings, *fewer):
        sys.stderr.write(f"avrt: warning: {printable(warning)}\n")
    summary.raise_if_nothing_usable(folder.path)
    named = f" --store {quoted(written(folder.store))}" if folder.store_has_to_be_named else ""
    print_results("trace folder", folder.path, f"avrt traces stats {quoted(folder.path)}{named}")


def _work(options: TraceOptions, shards: ShardSet, worker: int) -> str:
    """Process one worker's share of the questions; returns the run's name."""
    begun = time.monotonic()
    folder = options.folder.of_questions(shards.digest)
    store = CallStore(folder.store, retry_failed=options.retry_failed, results=folder.name)
    own = len(range(worker, options.limited(len(shards)), options.workers))
    try:
        with ProgressDisplay(own, "samples", shown=worker == 0) as progress:
            # Machines may have the same shards in different folders.
            data = None if isinstance(folder.store, Path) else shards.digest

            def report(stats: RunStats) -> None:
                progress.update(stats.samples, _counts(stats))

            pipeline = TracePipeline(options, store, report, data)
            stats = asyncio.run(_while_parent_runs(pipeline.process(shards, worker), worker))
    finally:
        store.close()
    _print_calls(stats, time.monotonic() - begun)
    return pipeline.run


def _tell_of_machines(options: TraceOptions, folder: TraceFolder) -> None:
    """Say what workers on several machines share, and what is of this machine alone."""
    if isinstance(folder.store, Path):
        return
    told = [f"calls and outcomes are in {written(folder.store)}, as {folder.name}: shared by all workers with this run"]
    if "export" in options.stages:
        told.append(
            f"exports go to {folder.path} of this machine: with several workers give them --stages [teach,merge], "
            "then run [export] once"
        )
    if options.only or options.as_many_as is not None:
        told.append("the trace folders that only and as_many_as name have to be on every machine")
    for line in told:
        print(printable(line))


def _further_worker(options: TraceOptions, shards: ShardSet, worker: int) -> None:
    """The main function of the other workers, which prints errors as the command does."""
    try:
        _work(options, shards, worker)
    except AvrtError as error:
        sys.stderr.write(f"avrt: worker {worker}: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


async def _while_parent_runs(work: Coroutine[Any, Any, RunStats], worker: int) -> RunStats:
    """Do the work; in the other workers, cancel it when the command's process ends, so that no calls go on unseen."""
    parent = os.getppid()
    task = asyncio.create_task(work)
    while worker and not (await asyncio.wait([task], timeout=1.0))[0]:
        if os.getppid() != parent:
            task.cancel()
    return await task


def _counts(stats: RunStats) -> str:
    """The counts beside the progress of a run."""
    outcomes = ", ".join(f"{n} {status}" for status, n in stats.outcomes.items())
    made, stored, failed = stats.made.total(), stats.stored.total(), stats.failed.total()
    return f"{outcomes}; calls {made}, stored {stored}, failed {failed}"


def _print_calls(stats: RunStats, seconds: float) -> None:
    """Print the counts of a run's calls by role, with what to change where replies were cut off."""
    print(f"processed {stats.samples} samples in {seconds:.0f} s")
    for role in sorted({*stats.made, *stats.stored, *stats.failed}):
        line = f"{stats.made[role]} calls made, {stats.stored[role]} in store, {stats.failed[role]} failed"
        if cut := stats.cut_off[role]:
            line += f", {cut} cut off (raise {role}.sampling.max_tokens)"
        if long := stats.shortened[role]:
            line += f", the thinking of {long} shortened for the merger (merger.thinking_words)"
        print(f"  {role}: {line}")


def stats(arguments: list[str]) -> None:
    """`avrt traces stats`: print the statistics, and write them as JSON and HTML beside the traces."""
    from avrt.traces.stats import collect
    from avrt.traces.stats_page import page
    from avrt.traces.stats_page import show as show_tables

    parser = OneLineErrors(prog="avrt traces stats", description="Statistics of a trace folder.")
    parser.add_argument("folder", type=str, help="the trace folder")
    measure = "folder or id of the model in whose tokens lengths are measured, such as the student; words without it"
    parser.add_argument("--tokenizer", type=str | None, default=None, help=measure)
    _add_store(parser)
    options = parser.parse_args(arguments)
    folder = Path(options.folder)
    data = Path(run_record(folder, options.store)["data"])
    found = collect(folder, data if data.is_dir() else None, options.tokenizer, options.store)
    show_tables(found, Console() if sys.stdout.isatty() else Console(width=WIDTH))
    if options.tokenizer is None and found["splits"]:
        print("lengths are in words; AVRT's are in tokens of the student: --tokenizer MODEL measures in tokens")
    if "clips" not in found:
        sys.stderr.write(f"avrt: warning: {data}: the shards are missing, so durations and resolutions are left out\n")
    write_whole(folder / "stats.json", to_json(found, indent=1).encode())
    write_whole(folder / "stats.html", page(found).encode())
    home = TraceFolder.find(folder, options.store)
    query = select(outcomes.c.sample).where(outcomes.c.folder == home.name)
    kept_first = (outcomes.c.status == "kept").desc()
    first = next(rows(home.store, query.order_by(kept_first, outcomes.c.sample).limit(1)), None)
    named = "" if options.store is None else f" --store {quoted(options.store)}"
    look = None if first is None else f"avrt traces show {quoted(folder)} --id {quoted(first['sample'])}{named}"
    print_results("statistics", f"{folder / 'stats.html'}, {folder / 'stats.json'}", look)


def show(arguments: list[str]) -> None:
    """`avrt traces show`: a sample's question, every call about it, and its outcome."""
    parser = OneLineErrors(prog="avrt traces show", description="Everything about one sample.")
    parser.add_argument("folder", type=str, help="the trace folder")
    parser.add_argument("--id", type=str, required=True, help="the sample's id")
    parser.add_argument("--prompts", type=bool, default=False, help="print whole prompts, not only questions")
    _add_store(parser)
    options = parser.parse_args(arguments)
    folder = TraceFolder.find(Path(options.folder), options.store)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    require_store(folder.store)
    name, of = clean(options.id), made_calls.c
    in_order = (of.role == MERGER, of.role, of.model, of.number)
    calls = list(rows(folder.store, select(made_calls).where(of.sample == name).order_by(*in_order)))
    here = (outcomes.c.folder == folder.name, outcomes.c.sample == name)
    outcome = next(rows(folder.store, select(outcomes).where(*here)), None)
    if not calls and outcome is None:
        where = f"{folder.path}, id {printable(name)}"
        raise AvrtError("no such sample", where=where, remedy="traces.jsonl and difficulty.jsonl list the ids")
    of_sample = (verdicts.c.folder == folder.name, verdicts.c.sample == name)
    judgements = {row["call"]: row for row in rows(folder.store, select(verdicts).where(*of_sample))}

    def tell(text: str, style: str | None = None) -> None:
        console.print(printable(text, keep_lines=True), style=style)

    for call in calls:
        console.rule(printable(f"{call['role']}  {call['model']}  #{call['number']}  {call['status']}"))
        media = f"{call['pictures']} images, {'audio' if call['sound'] else 'no audio'}"
        prompt = call["prompt"] if options.prompts else call["prompt"].rpartition("Question:")[2].strip()
        tell(f"{media}\n{prompt}\n", "dim")
        if call["reasoning"]:
            tell(call["reasoning"], "italic")
        tell(call["text"] or call["error"] or "")
        if is_cut_off(call["finish_reason"]):
            tell("-> cut off at its token limit: no vote, and not for the merger", "bold")
        if verdict := judgements.get(call["key"]):
            judged = "right" if verdict["correct"] else "wrong" if verdict["letter"] else "undecided"
            answer = "" if verdict["correct"] else f", right is {verdict['answer']}"
            tell(f"-> {verdict['letter']} ({judged}{answer}); votes {verdict['votes']}", "bold")
    if outcome is not None:
        console.rule("outcome")
        reason = f": {outcome['reason']}" if outcome["reason"] else ""
        tell(f"{outcome['status']}{reason}; difficulty {outcome['difficulty']}", "bold")
    print_results("trace folder", folder.path, None if options.prompts else "--prompts true prints whole prompts")


def _add_store(parser: OneLineErrors) -> None:
    where = "the folder's store; needed where run.json names a database of another machine, or a folder far away"
    parser.add_argument("--store", type=str | None, default=None, help=where)


def export(arguments: list[str]) -> None:
    """`avrt traces export`: write the exported traces in another format."""
    parser = OneLineErrors(prog="avrt traces export", description="The traces of a folder in another format.")
    parser.add_argument("folder", type=str, help="the trace folder")
    others = "shards and JSON lines are always written"
    parser.add_argument("--format", type=Literal["parquet"], default="parquet", help=others)
    options = parser.parse_args(arguments)
    print_results("parquet", write_parquet(Path(options.folder)))


def merge(arguments: list[str]) -> None:
    """`avrt traces merge_adapter`: merge an adapter into its model's weights, to serve both as one model."""
    from avrt.traces.lora_merge import merge_adapter

    parser = OneLineErrors(prog="avrt traces merge_adapter", description="Merge an adapter into its model's weights.")
    parser.add_argument("model", type=str, help="folder of the whole model")
    parser.add_argument("--out", type=str, required=True, help="new folder of the merged model")
    where = "the adapter's folder, by path or by name in the model's"
    parser.add_argument("--adapter", type=str, default="think", help=where)
    options = parser.parse_args(arguments)
    counts = merge_adapter(Path(options.model), Path(options.out), options.adapter)
    print(f"{counts.changed} weights changed, {counts.replaced} replaced, {counts.kept} unchanged")
    serve = "serve it, and name it as a teacher's model in a configuration of avrt traces run"
    print_results("model", options.out, serve)


TOOLS: dict[str, Callable[[list[str]], None]] = {
    "run": run,
    "stats": stats,
    "show": show,
    "export": export,
    "merge_adapter": merge,
}
