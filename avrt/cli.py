"""The `avrt` command: a table of subcommands, each imported only when it is run."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import avrt
from avrt.errors import AvrtError
from avrt.packaged import find_packaged, packaged

COMMANDS: dict[str, tuple[str, str]] = {
    "fit": ("avrt.training.launch", "train a student: --config sft.yaml or grpo.yaml"),
    "validate": ("avrt.training.launch", "evaluate on the validation shards"),
    "test": ("avrt.training.launch", "evaluate on the test shards and write the predictions"),
    "predict": ("avrt.training.launch", "answer questions about clips"),
    "shards": (
        "avrt.commands.shards",
        "make shards from a dataset, or check them: avrt shards RECIPE --root DIR --out DIR",
    ),
    "traces": ("avrt.commands.traces", "make reasoning traces with teachers: avrt traces run --config traces.yaml"),
    "export": ("avrt.commands.export", "turn a checkpoint into a folder that transformers and vLLM load"),
    "benchmark": ("avrt.commands.benchmark", "students x benchmarks x modality masks: --config GRID"),
    "report": (
        "avrt.commands.report",
        "the paper's tables and one page of benchmark results: avrt report RUNS --out DIR",
    ),
    "chat": ("avrt.commands.chat", "talk to a student on a local web page: avrt chat MODEL [MODEL2]"),
    "doctor": ("avrt.commands.doctor", "check that sampling agrees with scoring: --config grpo.yaml --data.train DIR"),
    "demo": ("avrt.commands.demo", "run the whole pipeline in miniature on this machine"),
}


def main() -> None:
    """Run one subcommand; an `AvrtError` or `OSError` ends as one line, an interrupt as status 130."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return
    if arguments[0] == "--version":
        print(f"avrt {avrt.__version__}")
        return
    name, *rest = arguments
    if name not in COMMANDS:
        _fail(f"no such command: {name} (one of {', '.join(COMMANDS)})")
    try:
        rest = resolve_configs(rest)
        module = importlib.import_module(COMMANDS[name][0])
        module.main([name, *rest] if COMMANDS[name][0] == "avrt.training.launch" else rest)
    except AvrtError as error:
        _fail(str(error), error.status)
    except OSError as error:
        # A full disk, a folder that may not be written: the user's to mend, and nothing that a traceback explains.
        _fail(f"{error.filename or name}: {error.strerror or error}")
    except KeyboardInterrupt:
        sys.stderr.write("avrt: interrupted\n")
        sys.exit(130)


def usage() -> str:
    """The table of commands."""
    rows = "\n".join(f"  {name:<10}{what}" for name, (_, what) in COMMANDS.items())
    return (
        f"avrt {avrt.__version__}: audio-visual reasoning transfer\n\nusage: avrt COMMAND [options]\n\n{rows}\n\n"
        "A configuration is a path or the bare name of a packaged one (--config sft.yaml); several are merged.\n"
        "Every field can be overridden: --model.optimizer.lr 1e-5. See: avrt COMMAND --help"
    )


def resolve_configs(arguments: list[str]) -> list[str]:
    """Turn the bare name after each --config into the path of a packaged configuration, unless such a file is here.

    Raises:
        AvrtError: If there is neither.
    """
    resolved: list[str] = []
    for i, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if i and arguments[i - 1] in ("--config", "-c"):
            resolved.append(str(find_config(argument)))
        elif option in ("--config", "-c") and equals:
            resolved.append(f"{option}={find_config(value)}")
        else:
            resolved.append(argument)
    return resolved


def find_config(name: str) -> Path:
    """A configuration by path, or by its name among the packaged ones.

    Raises:
        AvrtError: If there is none.
    """
    configs = packaged("avrt.configs")
    if found := find_packaged(name, configs):
        return found
    folder = next(path for path in ((configs / name).parent, configs) if path.is_dir())
    known = ", ".join(sorted(path.name for path in folder.glob("*.yaml")))
    raise AvrtError("no such configuration", where=name, remedy=f"packaged ones: {known}")


def _fail(message: str, status: int = 2) -> None:
    sys.stderr.write(f"avrt: error: {message}\n")
    sys.exit(status)
