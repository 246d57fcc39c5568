"""`avrt demo`: the whole pipeline in miniature on the CPU, by the same commands that a user would type."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from avrt.arguments import OneLineErrors
from avrt.commands.demo_stages import Stage, stages
from avrt.data.sample import LETTERS
from avrt.errors import AvrtError
from avrt.messages import print_results, quoted
from avrt.response import parse_response

DONE = ".done"


def main(arguments: list[str]) -> None:
    """Run the command; stages that are done already are not repeated.

    Args:
        arguments: What follows `avrt demo`.

    Raises:
        AvrtError: If a stage fails.
    """
    parser = OneLineErrors(prog="avrt demo", description=__doc__)
    parser.add_argument("--out", type=str, default="demo", help="folder for everything that the demo makes")
    parser.add_argument("--clips", type=int, default=400, help="number of training clips")
    parser.add_argument("--model.student.source", dest="source", default="nano", help="an untrained nano preset")
    options = parser.parse_args(arguments)
    out, console = Path(options.out), Console()
    begun = time.perf_counter()
    for stage in stages(out, options.clips, options.source):
        _run(stage, out, console)
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
    relations = {"Which": "both", "Come From": "vision", "Happening": "audio"}
    for name, label, training in (("base", "base", None), ("sft", "SFT", "sft/run"), ("grpo", "SFT+GRPO", "grpo/run")):
        lines = (out / "eval" / name / "predictions.jsonl").read_text().splitlines()
        records = [record for record in map(json.loads, lines) if record["error"] is None]
        cells = [_share(records, "correct")]
        for kind in relations:
            cells.append(_share([r for r in records if r["question_type"] == kind], "correct"))
        cells.append(_share(records, "well_formed"))
        cells.append(f"{sum(r['rewards']['total'] for r in records) / len(records):.3f}")
        cells.append(f"{sum(_words(r['responses'][0]) for r in records) / len(records):.1f}")
        seconds = json.loads((out / training / DONE).read_text())["seconds"] if training else None
        table.add_row(label, *cells, f"{seconds:.0f}" if seconds is not None else "-")
    return table


def _run(stage: Stage, out: Path, console: Console) -> None:
    marker = out / stage.name / DONE
    if marker.is_file():
        if json.loads(marker.read_text())["command"] != list(stage.command):
            raise AvrtError(
                "was done with other options, as for another student", where=marker.parent, remedy="give another --out"
            )
        console.print(f"[dim]{stage.title}: done before[/dim]", highlight=False)
        return
    if not stage.resumes:
        shutil.rmtree(marker.parent, ignore_errors=True)  # what an interrupted stage left behind
    console.print(f"[bold]{stage.title}[/bold]\n  avrt {' '.join(stage.command)}", highlight=False)
    begun = time.perf_counter()
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    if subprocess.run([sys.executable, "-m", "avrt", *stage.command], env=environment, check=False).returncode:
        raise AvrtError("failed, see above", where=stage.title, remedy="run the demo again; finished stages are kept")
    seconds = time.perf_counter() - begun
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps({"seconds": seconds, "command": stage.command}))
    console.print(f"  {seconds:.0f} s", highlight=False)


def _share(records: list[dict[str, Any]], field: str) -> str:
    return f"{100 * sum(bool(r[field]) for r in records) / max(1, len(records)):.1f}"


def _words(response: str) -> int:
    return parse_response(response, LETTERS).think_words or 0
