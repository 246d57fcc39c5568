"""`avrt` as the pages' test has it on its path: the command as typed, cut down to what a laptop can do in a minute.

What is added makes runs shorter and moves them to one CPU process; no step, file or model of the page is replaced.
"""

from __future__ import annotations

import json
import os
import sys

from avrt.cli import main

ANSWERS = ("--model.generation.max_new_tokens", "8")
ONE_CPU = (
    *("--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.precision", "32-true"),
    *("--model.student.dtype", "float32", "--data.num_workers", "0", *ANSWERS),
)
FEW_STEPS = (
    *("--trainer.max_steps", "2", "--trainer.limit_val_batches", "1"),
    *("--data.batch_size", "2", "--data.eval_batch_size", "2", "--model.micro_batch_size", "2"),
)
SHORT_ROLLOUTS = ("--model.rollout.max_new_tokens", "8")
FEW_QUESTIONS = ("--data.eval_batch_size", "4")


def cut_down(command: list[str], servers: dict[str, str]) -> list[str]:
    """The command with what a laptop needs behind it.

    Args:
        command: What was typed behind `avrt`.
        servers: Role in a trace run -> address of the server that stands in for it.
    """
    kind = command[0]
    grpo = any("grpo" in word for word in command)
    if kind == "fit":
        return [*command, *ONE_CPU, *FEW_STEPS, *(SHORT_ROLLOUTS if grpo else ())]
    if kind in ("test", "validate", "predict"):
        return [*command, *ONE_CPU, *FEW_QUESTIONS]
    if kind == "doctor":
        return [*command, *ONE_CPU, *(SHORT_ROLLOUTS if grpo else ())]
    if kind == "benchmark" and "--replay" not in command:
        return [*command, "--devices", "1", "--arguments", json.dumps([*ONE_CPU, *FEW_QUESTIONS])]
    if command[:2] == ["traces", "run"]:
        where = [f"--{role}.backend.init_args.endpoints=[{url}]" for role, url in servers.items()]
        return [*command, *where]
    return command


if __name__ == "__main__":
    typed = sys.argv[1:]
    if os.environ.get("AVRT_DOCS_PARSE_ONLY"):
        command = [*typed, "--print_config"]
    else:
        command = cut_down(typed, json.loads(os.environ["AVRT_DOCS_SERVERS"]))
    sys.argv = ["avrt", *command]
    main()
