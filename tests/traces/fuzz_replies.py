"""Mutated replies through run, stats, export and show: `python -m tests.traces.fuzz_replies --samples 1000`.

`mutations` changes a share of the replies of every role. No command may end in a traceback, and every sample has to be
counted once: kept, dropped or failed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from avrt.data.shards.reader import ShardSet
from avrt.traces.database import rows
from tests.conftest import avrt
from tests.traces.servers import serving, write_config, write_questions

ACTIVE = [*range(9), *range(11, 32), *range(127, 160)]


@dataclass(frozen=True)
class Found:
    """The counts of a fuzz run: mutated replies, samples by outcome, calls by status, samples shown."""

    mutated: int
    outcomes: Counter[str]
    calls: Counter[str]
    shown: int


def fuzz(folder: Path, samples: int, seed: int, shown: int, filter_: str = "both_correct") -> Found:
    """Run everything once.

    Raises:
        AssertionError: If a command ends in a traceback or a sample is not counted.
    """
    questions = write_questions(folder / "questions", samples, frames=1)
    out = folder / "out"
    with serving(folder, "--mutate_percent", 60, "--seed", seed) as server:
        changes = {"backend": {"attempts": 2, "pause": 0.001, "longest_pause": 0.01, "timeout": 20.0}}
        config = write_config(folder / "c.yaml", server.url, filter=filter_, **changes)
        _whole(avrt("traces", "run", "--config", config, "--data", questions, "--out", out, check=False))
        mutated = len(server.records("mutated"))
    outcomes = {r["sample"]: dict(r) for r in rows(out, "SELECT * FROM outcomes")}
    counts = Counter(o["status"] for o in outcomes.values())
    assert set(outcomes) == {f"q{i:05d}" for i in range(samples)}
    assert set(counts) <= {"kept", "dropped", "failed"}, counts
    assert all(o["reason"] for o in outcomes.values() if o["status"] != "kept")
    calls = Counter(r["status"] for r in rows(out, "SELECT status FROM calls"))
    assert set(calls) <= {"done", "failed"}, calls

    _whole(avrt("traces", "stats", out, check=False))
    stats = json.loads((out / "stats.json").read_bytes())
    assert stats["outcomes"] == dict(counts)
    assert sum(s["traces"] for s in stats["splits"].values()) == counts["kept"]
    (out / "stats.html").read_bytes().decode()
    _whole(avrt("traces", "export", out, "--format", "parquet", check=False))
    lines = [json.loads(line) for line in (out / "traces.jsonl").read_bytes().split(b"\n") if line]
    kept = {name: o["trace"] for name, o in outcomes.items() if o["status"] == "kept"}
    assert {line["id"]: line["trace"] for line in lines} == kept
    held = [s.id for name in ("train", "val") for s in ShardSet(out / "shards" / name).samples()]
    assert sorted(held) == sorted(kept)
    if kept:
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(out / "traces.parquet").to_pylist()
        assert {row["id"]: row["trace"] for row in table} == kept
    for name in sorted(outcomes)[:: max(1, samples // shown)][:shown]:
        told = _whole(avrt("traces", "show", out, "--id", name, check=False))
        assert not set(told) & {chr(code) for code in ACTIVE}, name
    return Found(mutated, counts, calls, shown)


def _whole(done: subprocess.CompletedProcess) -> str:
    """The output of a command, which may fail but not crash."""
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    assert done.returncode in (0, 1), (done.returncode, done.stderr[-3000:])
    return done.stdout


def main() -> None:
    """Run the fuzz test with the options of the command line, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=20)
    parser.add_argument("--filter", default="both_correct")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = fuzz(Path(folder), options.samples, options.seed, options.show, options.filter)
    print(
        f"{found.mutated} mutated replies, {options.samples} samples: {dict(found.outcomes)}; calls {dict(found.calls)}"
    )


if __name__ == "__main__":
    main()
