"""`avrt demo`: the whole pipeline in miniature on the CPU, by the same commands that a user would type."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from avrt.arguments import OneLineErrors
from avrt.commands.demo_stages import demo_plan
from avrt.cores import cores
from avrt.data.sample import LETTERS
from avrt.errors import AvrtError
from avrt.messages import print_results, quoted
from avrt.response import parse_response
from avrt.study.executor import JOBS_HELP, execute
from avrt.study.records import Records


def main(arguments: list[str]) -> None:
    """Run the command; stages that are done already are not repeated.

    Args:
        arguments: What follows `avrt demo`.

    Raises:
        AvrtError: If a stage fails, or the folder holds a demo of other options.
    """
    parser = OneLineErrors(prog="avrt demo", description=__doc__)
    parser.add_argument("--out", type=str, default="demo", help="folder for everything that the demo makes")
    parser.add_argument("--clips", type=int, default=400, help="number of training clips")
    parser.add_argument("--model.student.source", dest="source", default="nano", help="an untrained nano preset")
    parser.add_argument("--jobs", type=int | None, default=None, help=JOBS_HELP)
    options = parser.parse_args(arguments)
    out, console = Path(options.out), Console()
    plan = demo_plan(out, options.clips, options.source)
    for name, record in Records(out).found.items():
        if name in plan.stages and tuple(record.command) != plan.stages[name].command:
            remedy = "give another --out, or remove that folder"
            raise AvrtError("holds a demo of other options, such as another student's", where=out, remedy=remedy)
    begun = time.perf_counter()
    execute(plan, out, options.jobs or cores(), commands_shown=True)
    console.print(result_table(out))
    console.print(f"this run took {time.perf_counter() - begun:.0f} s", highlight=False)
    students = f"{out / 'sft' / 'model'}, {out / 'grpo' / 'model'}"
    print_results("students", students, f"tensorboard --logdir {quoted(out)}")


def result_table(out: Path) -> Table:
    """Base, SFT and SFT+GRPO on the held-out questions."""
    table = Table(
        title="held-out nano_world questions, greedy answers",
        caption="right: share answered right, then by the sense that a question needs; format: well-formed answers, %",
    )
    columns = ("right %", "both", "vision", "audio", "format", "reward", "words")
    for column in ("student", *columns, "train s"):
        table.add_column(column, justify="left" if column == "student" else "right", no_wrap=column == "student")
    records = Records(out)
    relations = {"Which": "both", "Come From": "vision", "Happening": "audio"}
    for name, label, training in (("base", "base", None), ("sft", "SFT", "sft/run"), ("grpo", "SFT+GRPO", "grpo/run")):
        lines = (out / "eval" / name / "predictions.jsonl").read_text().splitlines()
        answers = [record for record in map(json.loads, lines) if record["error"] is None]
        cells = [_share(answers, "correct")]
        for kind in relations:
            cells.append(_share([r for r in answers if r["question_type"] == kind], "correct"))
        cells.append(_share(answers, "well_formed"))
        cells.append(f"{sum(r['rewards']['total'] for r in answers) / len(answers):.3f}")
        cells.append(f"{sum(_words(r['responses'][0]) for r in answers) / len(answers):.1f}")
        table.add_row(label, *cells, f"{records.found[training].seconds:.0f}" if training else "-")
    return table


def _share(records: list[dict[str, Any]], field: str) -> str:
    return f"{100 * sum(bool(r[field]) for r in records) / max(1, len(records)):.1f}"


def _words(response: str) -> int:
    return parse_response(response, LETTERS).think_words or 0
