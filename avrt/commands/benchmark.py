"""`avrt benchmark --config GRID`: students x benchmarks x modality masks, each cell one `avrt test`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from avrt.arguments import OneLineErrors
from avrt.data.shards.manifest import MANIFEST
from avrt.errors import AvrtError
from avrt.evaluation.benchmark_options import OURS
from avrt.evaluation.benchmark_runs import REPLAY
from avrt.evaluation.predictions import PREDICTIONS, read_predictions
from avrt.evaluation.protocol import MASKS, cell_command, differences
from avrt.evaluation.result import RESULT, Result
from avrt.evaluation.statistics import percent
from avrt.files import sha256, write_whole
from avrt.messages import print_results, quoted
from avrt.run_folder import is_trained
from avrt.terminal_tables import print_table

LOG, COMMAND = "log.txt", "command.json"


@dataclass(frozen=True)
class ProtocolSpec:
    """A protocol by which a benchmark's questions are asked.

    Attributes:
        config: The overlay, such as `protocols/dailyomni_authors.yaml`; None for our own protocol.
        shards: Shards for this protocol, where it needs others than the benchmark's.
        students: Labels of the students to ask by this protocol; None for all.
    """

    config: str | None = None
    shards: str | None = None
    students: list[str] | None = None

    @property
    def name(self) -> str:
        """The protocol's name in the folders of the grid."""
        return OURS if self.config is None else Path(self.config).stem


@dataclass(frozen=True)
class BenchmarkSpec:
    """A benchmark of the grid.

    Attributes:
        config: Its configurations, which are merged in this order.
        shards: Its shards.
        masks: Its masks; None for the grid's.
        protocols: The protocols to ask it by: `avrt` for our own, the name of an overlay, or an overlay with its shards
            and students.
    """

    config: list[str]
    shards: str
    masks: list[str] | None = None
    protocols: list[str | ProtocolSpec] = field(default_factory=lambda: [OURS])

    @property
    def asked(self) -> list[ProtocolSpec]:
        """The protocols, with names resolved."""
        return [p if isinstance(p, ProtocolSpec) else ProtocolSpec(None if p == OURS else p) for p in self.protocols]


@dataclass(frozen=True)
class GridOptions:
    """A grid of benchmark runs.

    Attributes:
        students: Label -> a model's folder or id, a training run or checkpoint, or `nano`. The labels base, rl_only,
            sft, sft_rl and others (see `avrt report --help`) fill rows of the paper's tables.
        benchmarks: Label -> configuration and shards.
        masks: Modality masks: av, a, v, a_blank, v_silent, text, shuffled.
        out: Output folder; each cell gets a folder below it.
        jobs: How many cells run at a time.
        devices: Processes per cell.
        arguments: Further arguments of `avrt test`, for every cell.
    """

    students: dict[str, str]
    benchmarks: dict[str, BenchmarkSpec]
    masks: list[str] = field(default_factory=lambda: ["av"])
    out: str = "runs/benchmarks"
    jobs: int = 1
    devices: int = 1
    arguments: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Check that masks and students exist and that the protocols of a benchmark have different names."""
        for label, spec in self.benchmarks.items():
            names = [protocol.name for protocol in spec.asked]
            if repeated := [name for name in names if names.count(name) > 1]:
                raise AvrtError(f"two protocols have the name {repeated[0]}", where=f"benchmarks.{label}.protocols")
            for student in (s for protocol in spec.asked for s in protocol.students or ()):
                if student not in self.students:
                    raise AvrtError(f"no such student: {student}", where=f"benchmarks.{label}.protocols")
        for mask in [*self.masks, *(m for spec in self.benchmarks.values() for m in spec.masks or ())]:
            if mask not in MASKS:
                raise AvrtError("no such mask", where=mask, remedy=f"one of {', '.join(MASKS)}")


@dataclass(frozen=True)
class Cell:
    """One `avrt test` of the grid.

    Attributes:
        name: student/benchmark/mask, with the protocol before the mask where it is not ours.
        folder: Where it writes.
        shards: The shards with its questions.
        command: The arguments of `avrt`.
    """

    name: str
    folder: Path
    shards: str
    command: tuple[str, ...]


def main(arguments: list[str]) -> None:
    """Run the command.

    Args:
        arguments: What follows `avrt benchmark`.

    Raises:
        AvrtError: If a cell fails, after all others have been tried.
    """
    parser = OneLineErrors(prog="avrt benchmark", description=__doc__)
    parser.add_argument("--config", action="config", help="a grid; several are merged")
    parser.add_argument(
        "--replay", type=str | None, default=None, help="repeat the run of a result file and compare the two"
    )
    if any(a == "--replay" or a.startswith("--replay=") for a in arguments):
        parser.add_argument("--out", type=str | None, default=None, help="folder of the repeated run")
        replay_options = parser.parse_args(arguments)
        replay(Path(replay_options.replay), replay_options.out)
        return
    parser.add_class_arguments(GridOptions)
    parsed = parser.instantiate_classes(parser.parse_args(arguments))
    options = GridOptions(**{k: v for k, v in vars(parsed).items() if k not in ("config", "replay")})
    _check_alone()
    console = Console()
    run_grid(options, console)
    print_overview(options, console)
    print_results("results", options.out, f"avrt report {quoted(options.out)} --out report")


def _check_alone() -> None:
    """Refuse to be one of several processes, each of which would run the whole grid."""
    if os.environ.get("SLURM_STEP_ID", "").isdecimal() and int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        raise AvrtError(
            "starts the processes of its cells itself, and srun has started it several times",
            where="avrt benchmark",
            remedy="give each job one task and some of the students, as in examples/slurm/benchmarks.sh; one benchmark "
            "over several nodes is: srun avrt test --trainer.num_nodes N",
        )


def cells(options: GridOptions) -> Iterator[Cell]:
    """Every cell of the grid, by student, benchmark, protocol and mask."""
    for student, source in options.students.items():
        for benchmark, spec in options.benchmarks.items():
            for protocol in spec.asked:
                if protocol.students is None or student in protocol.students:
                    for mask in spec.masks or options.masks:
                        yield _cell(options, student, source, benchmark, protocol, mask)


def _cell(options: GridOptions, student: str, source: str, benchmark: str, protocol: ProtocolSpec, mask: str) -> Cell:
    """The `avrt test` command of one cell."""
    spec = options.benchmarks[benchmark]
    parts = [student, benchmark, *([] if protocol.config is None else [protocol.name]), mask]
    folder, shards = Path(options.out, *parts), protocol.shards or spec.shards
    where = "--ckpt_path" if is_trained(Path(source)) else "--model.student.source"
    configs = [*spec.config, *([] if protocol.config is None else [protocol.config])]
    devices = ("--trainer.devices", str(options.devices))
    command = cell_command(configs, (where, source), shards, str(folder), student, benchmark, mask, devices)
    return Cell("/".join(parts), folder, shards, (*command, *options.arguments))


def run_grid(options: GridOptions, console: Console) -> None:
    """Run the cells without a result, `jobs` at a time.

    Raises:
        AvrtError: If any cell fails; the message names them.
    """
    todo = [cell for cell in cells(options) if not finished(cell)]
    total = sum(1 for _ in cells(options))
    if len(todo) < total:
        console.print(f"{total - len(todo)} of {total} cells are already finished", highlight=False)
    begun = time.perf_counter()
    failed: list[str] = []
    with ThreadPoolExecutor(max_workers=max(1, options.jobs)) as pool:
        for done, (cell, code) in enumerate(pool.map(_run, todo), 1):
            left = (time.perf_counter() - begun) / done * (len(todo) - done)
            verdict = "failed" if code else _headline(cell)
            console.print(f"{done}/{len(todo)}  {cell.name}: {verdict}  (about {left:.0f} s left)", highlight=False)
            if code:
                failed.append(cell.name)
                console.print(_last_lines(cell), highlight=False, markup=False)
    if failed:
        raise AvrtError(
            f"{len(failed)} of {len(todo)} cells failed: {', '.join(failed)}",
            where=options.out,
            remedy="see log.txt in each; run the same command again, answers so far are kept",
        )


def finished(cell: Cell) -> bool:
    """Whether a cell has its result.

    Raises:
        AvrtError: If the folder holds the result of another command or of other shards.
    """
    record = cell.folder / COMMAND
    if record.is_file() and json.loads(record.read_bytes()) != list(cell.command):
        raise AvrtError(
            "holds the result of another command than this grid's, see command.json in it",
            where=cell.folder,
            remedy="choose another out, or delete the folder",
        )
    result, manifest = cell.folder / RESULT, Path(cell.shards) / MANIFEST
    if not result.is_file():
        return False
    if manifest.is_file() and Result.load(result).protocol["data.manifest"] != sha256(manifest)[:16]:
        raise AvrtError(
            f"holds the result of other shards than those now in {cell.shards}",
            where=cell.folder,
            remedy="choose another out, or delete the folder",
        )
    return True


def _run(cell: Cell) -> tuple[Cell, int]:
    cell.folder.mkdir(parents=True, exist_ok=True)
    write_whole(cell.folder / COMMAND, json.dumps(list(cell.command)).encode())
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "AVRT_STOP_WITH_PARENT": "1"}
    with (cell.folder / LOG).open("w") as log:
        command = [sys.executable, "-m", "avrt", *cell.command]
        done = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False)
    return cell, done.returncode


def _headline(cell: Cell) -> str:
    result = Result.load(cell.folder / RESULT)
    headline = f"{percent(result.accuracy.mean)} % of {result.accuracy.count}, {result.headline} rule"
    return headline + (f", a nano student on {result.benchmark}" if result.miniature else "")


def _last_lines(cell: Cell) -> str:
    return "\n".join((cell.folder / LOG).read_text(errors="replace").splitlines()[-5:])


def print_overview(options: GridOptions, console: Console) -> None:
    """Every cell's accuracy by its headline, strict and official scorers, and its share of unparsable answers."""
    head = ("run", "asked by", "n", "rule", "headline", "strict", "official", "unparsable %", "failed")
    rows = []
    for cell in cells(options):
        result = Result.load(cell.folder / RESULT)
        official = result.official_accuracy
        student = result.display_name + result.other_engine
        row = (
            f"{student} / {result.benchmark} / {result.mask}", result.asked_by, str(result.accuracy.count),
            result.headline, result.accuracy.percent(), percent(result.strict_accuracy.mean),
            percent(official.mean) if official else "-", percent(result.headline_score["unparsable_share"]),
            str(result.counts["failed"]),
        )  # fmt: skip
        rows.append(row)
    print_table(console, "accuracy %: by the headline rule with its 95 % interval, strict and official", head, rows)


def replay(path: Path, out: str | None) -> None:
    """Run a result's configuration again in another folder and compare protocol, answers and scores.

    Raises:
        AvrtError: If the run fails, or anything differs.
    """
    first = Result.load(path)
    if not first.config:
        raise AvrtError("holds no configuration to run again", where=path)
    folder = Path(out) if out else path.parent / REPLAY
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".yaml", delete=False) as stream:
        stream.write(first.config)
    source = first.environment["source"]
    where = ("--ckpt_path", source) if is_trained(Path(source)) else ()
    command = ("test", "--config", stream.name, "--trainer.default_root_dir", str(folder), *where)
    cell = Cell("replay", folder, first.environment["shards"], command)
    code = _run(cell)[1]
    Path(stream.name).unlink()
    if code:
        raise AvrtError("failed", where=folder / LOG, remedy=_last_lines(cell))
    second = Result.load(folder / RESULT)
    console = Console()
    if changed := differences(first.protocol, second.protocol):
        fields = "; ".join(f"{key}: {old!r} then, {new!r} now" for key, (old, new) in changed.items())
        raise AvrtError(f"the protocol differs: {fields}", where=folder)
    pairs = zip(read_predictions(path.parent / PREDICTIONS), read_predictions(folder / PREDICTIONS), strict=True)
    changed_answers = [a.id for a, b in pairs if a.responses != b.responses]
    if first.scores != second.scores or changed_answers:
        scores = ", ".join(
            f"{name}: {first.scores[name]['accuracy']} then, {score['accuracy']} now"
            for name, score in second.scores.items()
        )
        raise AvrtError(f"{len(changed_answers)} answers differ, e.g. {changed_answers[:1]}; {scores}", where=folder)
    console.print(f"the same {first.counts['questions']} answers and figures as {path}", highlight=False)
