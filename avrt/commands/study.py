"""`avrt study`: students trained and asked as a declaration says, by the commands that a user would type."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from avrt.arguments import OneLineErrors
from avrt.cores import cores
from avrt.evaluation.result import RESULT, Result
from avrt.evaluation.statistics import percent
from avrt.messages import print_results, printable, quoted
from avrt.study.analysis import REPORT, analyze
from avrt.study.declaration import Declaration
from avrt.study.executor import JOBS_HELP, execute
from avrt.study.page import write
from avrt.study.reading import FIELDS, read_declaration, split_arguments, write_declaration
from avrt.study.stages import Plan, plan
from avrt.study.statement import POWER, state_power
from avrt.terminal_tables import print_table

DECLARATION, QUICK = "nano/study.yaml", "nano/study_quick.yaml"
_ABOUT = (
    "A study: shards, traces, students and benchmarks as a declaration in YAML says, each stage one avrt command. What "
    "is finished is not repeated, so that the same command goes on after an interruption. Fields of the declaration: "
    f"{', '.join(FIELDS)}. Each can be overridden, as in --seeds [0,1] or "
    "--students.sft.arguments.trainer.max_steps 10."
)


def main(arguments: list[str]) -> None:
    """Run the command.

    Args:
        arguments: What follows `avrt study`.

    Raises:
        AvrtError: If the declaration is none, or a stage fails.
    """
    own, overrides = split_arguments(arguments)
    options = _parser().parse_args(own)
    first, *overlays = options.config or [DECLARATION]
    configs = [first, *([QUICK] if options.quick else []), *overlays]
    study, text = read_declaration(configs, overrides)
    out = Path(options.out)
    stages = plan(study, out)
    if options.dry_run:
        for stage in stages.stages.values():
            print(" ".join(quoted(word) for word in ("avrt", *stage.command)))
        print(f"{len(stages.stages)} stages: {_counts(stages)}")
        return
    write_declaration(text, out)
    if study.claims:
        state_power(study, out)
        print(f"what it can tell, stated before it runs: {out / REPORT / POWER}", flush=True)
    execute(stages, out, options.jobs or cores())
    console = Console()
    print_cells(study, out, console)
    analysis = analyze(study, out)
    page = write(analysis, out)
    verdicts = analysis.verdict_table
    if study.claims:
        shown = 4 if console.width >= 90 else 3  # the rest is on the page
        print_table(console, verdicts.title, verdicts.head[:shown], [row[:shown] for row in verdicts.rows])
        console.print(printable(verdicts.note), style="dim", markup=False, highlight=False)
    print_results("study", page, f"open {quoted(page)} in a browser")


def _parser() -> OneLineErrors:
    parser = OneLineErrors(prog="avrt study", description=_ABOUT)
    add = parser.add_argument
    add("--config", type=str, action="append", help=f"a declaration; several are merged (default: {DECLARATION})")
    add("--quick", type=bool, default=False, help=f"merge {QUICK} after the first")
    add("--out", type=str, default="study", help="folder for everything that is made")
    add("--jobs", type=int | None, default=None, help=JOBS_HELP)
    add("--dry_run", type=bool, default=False, help="print the commands, and run none")
    return parser


def _counts(stages: Plan) -> str:
    kinds = [stage.kind for stage in stages.stages.values()]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))


def print_cells(study: Declaration, out: Path, console: Console) -> None:
    """The accuracy of each student on each benchmark under each mask, with each seed."""
    rows = []
    for student, benchmark, mask in study.cells():
        seeds = study.seeds_of(student)
        folders = [out / "benchmarks" / student / f"seed-{seed}" / benchmark / mask for seed in seeds]
        found = [Result.load(folder / RESULT).accuracy.mean for folder in folders]
        mean = percent(sum(found) / len(found))
        rows.append((f"{student} / {benchmark} / {mask}", mean, " ".join(percent(each) for each in found)))
    head = ("student / benchmark / mask", "mean %", f"seeds {', '.join(map(str, study.seeds))}")
    print_table(console, "accuracy by the headline rule", head, rows)
    sys.stdout.flush()
