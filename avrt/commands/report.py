"""`avrt report RUNS --out DIR`: the paper's tables and further ones from benchmark results, and an HTML report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from avrt.arguments import OneLineErrors
from avrt.commands.judge import judge_hallucination
from avrt.commands.teachers import teacher_runs
from avrt.errors import NothingUsableError
from avrt.evaluation.benchmark_runs import read_runs
from avrt.evaluation.comparison_tables import comparison_tables
from avrt.evaluation.difficulty import with_difficulty
from avrt.evaluation.html_report import Curve, render
from avrt.evaluation.paper import paper_tables, published
from avrt.evaluation.questions import side_by_side
from avrt.files import write_whole
from avrt.messages import print_results, printable
from avrt.terminal_tables import print_table
from avrt.text import clean
from avrt.traces.backend import Backend
from avrt.training.run_log.scalars import read_scalars

CURVES = {
    "rewards/total/mean": ("Reward per answer in training", "reward"),
    "completions/tokens": ("Length of answers in training", "tokens"),
}
"""Scalar of a training run -> title and unit of its plot."""


def main(arguments: list[str]) -> None:
    """Run the command.

    Args:
        arguments: What follows `avrt report`.

    Raises:
        NothingUsableError: If no question of any run could be asked; the report is written all the same.
    """
    parser = _parser()
    options = parser.instantiate_classes(parser.parse_args(arguments))
    runs = read_runs(Path(options.runs))
    if options.difficulty is not None:
        runs = with_difficulty(runs, Path(options.difficulty))
    teachers = [run for folder in options.teachers for run in teacher_runs(Path(folder))]
    of_paper, further = paper_tables([*runs, *teachers], options.stand_in), comparison_tables(runs)
    questions = side_by_side(runs, options.figure3)
    if options.judge is not None:
        further.append(judge_hallucination(runs, options.judge))
    tables = [*of_paper, *further]
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    for table in tables:
        write_whole(out / f"{table.id}.csv", table.csv().encode())
        write_whole(out / f"{table.id}.tex", table.latex().encode())
    text = "\n".join([*(table.markdown() for table in tables), *(question.markdown() for question in questions)])
    write_whole(out / "report.md", f"# Evaluation of {len(runs)} runs\n\n{clean(text)}".encode())
    curves = training_curves({name: Path(folder) for name, folder in options.training.items()})
    headed = {"The paper's tables": of_paper, "Further tables": further}
    write_whole(out / "report.html", render(runs, headed, curves, options.examples, questions).encode())
    console = Console(highlight=False)
    for table in of_paper:
        print_table(console, table.title, table.head, table.rows)
        console.print(printable(table.note), style="dim", markup=False)
        console.print()
    if all(run.result.counts["failed"] >= run.result.counts["questions"] for run in runs):
        raise NothingUsableError(
            "no run has a question with a known answer that could be asked, so there is nothing to report",
            where=options.runs,
            remedy="see the error of each line of predictions.jsonl",
        )
    what = f"{len(tables)} tables as Markdown, CSV and LaTeX, and a page"
    print_results(what, out, f"open {out / 'report.html'} in a browser")


def _parser() -> OneLineErrors:
    """The options of the command."""
    labels = sorted({row["student"] for table in published() for row in table["rows"] if "student" in row})
    parser = OneLineErrors(
        prog="avrt report",
        description=f"{__doc__} Labels of students that fill rows of the paper's tables: {', '.join(labels)}.",
    )
    add = parser.add_argument
    add("runs", type=str, help="folder with results of avrt test or avrt benchmark")
    add("--out", type=str, default="report", help="folder for the report")
    add(
        "--stand_in",
        type=dict[str, str],
        default={},
        help='a benchmark of the paper -> the one that ran in its place: {"omnibench": "nano_world"}',
    )
    add("--difficulty", type=str | None, default=None, help="difficulty.jsonl of avrt traces")
    add("--teachers", type=str, nargs="+", default=[], help="trace folders of benchmarks, for rows of the teachers")
    add("--figure3", type=str, nargs="+", default=[], help="ids of questions to show under every mask side by side")
    add("--training", type=dict[str, str], default={}, help="name -> folder of a training run, for its curves")
    add("--examples", type=int, default=8, help="how many questions of each benchmark to show with their clip")
    add("--judge", type=Backend | None, default=None, help="a language model that judges modality hallucination")
    return parser


def training_curves(folders: Mapping[str, Path]) -> list[Curve]:
    """Reward and length curves from the TensorBoard logs of training runs."""
    found = {name: read_scalars(folder, CURVES) for name, folder in folders.items()}
    lines = {tag: {name: points[tag] for name, points in found.items() if tag in points} for tag in CURVES}
    return [Curve(*CURVES[tag], lines[tag]) for tag in CURVES if lines[tag]]
