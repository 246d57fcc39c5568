"""The scripts for Slurm, run with stand-ins for its commands and ours: what they start, and when they start again."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from avrt.commands.benchmark import GridOptions
from avrt.commands.early_checks import check_early
from avrt.configurations import resolve_configs

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(ROOT.glob("examples/slurm/*.sh"))
WORDS = {"shards.sh": ("avqa", "data/avqa", "shards/avqa")}
TOOLS = {
    # Two processes, and the highest status; Slurm's -K kills the others when one fails.
    "srun": """
        kill=
        while [[ "$1" == -* ]]; do [[ "$1" != --kill-on-bad-exit=1 ]] || kill=1; shift; done
        for rank in 0 1; do SLURM_PROCID=$rank "$@" & pids+=($!); done
        worst=0
        for _ in "${pids[@]}"; do
            status=0; wait -n || status=$?
            [ "$status" -le "$worst" ] || worst=$status
            [ -z "$kill" ] || [ "$status" = 0 ] || kill "${pids[@]}" 2>/dev/null
        done
        exit "$worst"
    """,
    # Of a fit the second process ends later, as `avrt.cli` has it.
    "avrt": """
        if [ "${SLURM_PROCID:-0}" = 0 ]; then printf "%s\\0" "$@" >>"$CALLS"; printf "\\n" >>"$CALLS"; fi
        [ "$1" = fit ] || exit 0
        [ "$SLURM_PROCID" = 0 ] || sleep 0.2
        [ -z "${SAVES:-}" ] || mkdir -p "$SAVES"
        exit "${STATUS:-0}"
    """,
    "scontrol": 'printf "%s\\0" scontrol "$@" >>"$CALLS"; printf "\\n" >>"$CALLS"\n',
}
JOB = {
    "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "4", "SLURM_CPUS_PER_TASK": "8", "SLURM_JOB_ID": "9",
    "SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "1", "STORE": "postgresql://avrt@dbhost/traces",
}  # fmt: skip


def run(script: Path, folder: Path, *words: str, **environment: str) -> tuple[int, list[list[str]]]:
    """Run a script; returns its status and the commands that it has called."""
    tools = folder / "venv" / "bin"
    tools.mkdir(parents=True, exist_ok=True)
    for name, text in TOOLS.items():
        (tools / name).write_text(f"#!/usr/bin/env bash\n{text}")
        (tools / name).chmod(0o755)
    (tools / "activate").write_text(f"export PATH={tools}:$PATH\n")
    calls = folder / "calls"
    calls.unlink(missing_ok=True)
    given = {**os.environ, **JOB, "VENV": str(folder / "venv"), "CALLS": str(calls), **environment}
    done = subprocess.run(["bash", script, *words], cwd=folder, env=given, capture_output=True, text=True, check=False)
    return done.returncode, [line.split("\0")[:-1] for line in calls.read_text().splitlines()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_start_commands_that_exist(script, tmp_path):
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", script], check=True)
    for a, b in re.findall(r"--config (\S+)|config: \[([\w.]+)\]", script.read_text()):
        assert (ROOT / "configs" / (a or b)).is_file(), a or b
    status, calls = run(script, tmp_path, *WORDS.get(script.name, ()))
    assert status == 0
    for command, *words in calls:
        if command == "fit":
            check_early("fit", resolve_configs(words))
            assert words[words.index("--trainer.num_nodes") + 1] == "2"
            assert words[words.index("--trainer.devices") + 1] == "4"
        elif command == "shards":  # one task of them, submitted again
            assert words[words.index("--part") + 1] == "2/8"
            assert "#SBATCH --array=1-8 " in script.read_text()
        elif command == "benchmark":
            assert {word[2:] for word in words if word.startswith("--")} <= GridOptions.__dataclass_fields__.keys()
    ends = {"sft.sh": ["fit", "export"], "grpo.sh": ["fit", "export"], "benchmarks.sh": ["benchmark"],
            "shards.sh": ["shards"], "traces.sh": ["traces"]}  # fmt: skip
    assert [call[0] for call in calls] == ends[script.name]


@pytest.mark.parametrize("name", ["sft.sh", "grpo.sh"])
def test_a_stopped_or_lost_run_goes_back_into_the_queue(name, tmp_path):
    script = ROOT / "examples" / "slurm" / name
    again = [["scontrol", "requeue", "9"]]
    checkpoints = Path("runs") / name.removesuffix(".sh") / "checkpoints"
    for status, restarts, saves, ends, calls in (
        ("75", "0", "", 0, again), ("143", "1", "", 0, again), ("137", "2", "", 137, []),  # saved nothing
        ("143", "0", "", 0, again), ("143", "1", "", 0, again), ("75", "2", "step-000010.ckpt", 0, again),
        ("75", "30", "", 0, again), ("143", "31", "step-000010.ckpt", 0, again), ("143", "32", "", 143, []),
        ("2", "0", "step-000020.ckpt", 2, []), ("1", "0", "", 1, []),  # what fails for good
    ):  # fmt: skip
        saved = str(checkpoints / saves) if saves else ""
        found, called = run(script, tmp_path, STATUS=status, SLURM_RESTART_COUNT=restarts, SAVES=saved)
        assert (found, called[1:]) == (ends, calls), (status, restarts, json.dumps(called))
