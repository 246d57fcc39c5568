"""The `avrt` command: a table of subcommands, each imported only when it is run."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import io
import os
import select
import shutil
import sys
import tempfile
import time
from pathlib import Path

import avrt
from avrt.configurations import resolve_configs
from avrt.errors import AvrtError
from avrt.text import did_you_mean

LAUNCH = "avrt.training.launch"
COMMANDS: dict[str, tuple[str, str]] = {
    "fit": (LAUNCH, "train a student: --config sft.yaml or grpo.yaml"),
    "validate": (LAUNCH, "evaluate on the validation shards"),
    "test": (LAUNCH, "evaluate on the test shards and write the predictions"),
    "ask": ("avrt.commands.ask", "one question about one clip: avrt ask MODEL CLIP QUESTION CHOICE..."),
    "predict": (LAUNCH, "answer the questions of shards, or one about a clip"),
    "shards": (
        "avrt.commands.shards",
        "make shards from a dataset, or check them: avrt shards RECIPE --root DIR --out DIR",
    ),
    "traces": ("avrt.commands.traces", "make reasoning traces with teachers: avrt traces run --config traces.yaml"),
    "export": ("avrt.commands.export", "turn a checkpoint into a folder that transformers and vLLM load"),
    "push": ("avrt.commands.push", "upload an exported student with its card: avrt push MODEL user/name"),
    "benchmark": ("avrt.commands.benchmark", "students x benchmarks x modality masks: --config GRID"),
    "report": (
        "avrt.commands.report",
        "the paper's tables and one page of benchmark results: avrt report RUNS --out DIR",
    ),
    "chat": ("avrt.commands.chat", "talk to a student on a local web page: avrt chat MODEL [MODEL2]"),
    "doctor": ("avrt.commands.doctor", "check that sampling agrees with scoring: --config grpo.yaml --data.train DIR"),
    "demo": ("avrt.commands.demo", "run the whole pipeline in miniature on this machine"),
    "study": ("avrt.commands.study", "the whole paper in miniature, or a study of your own: --config STUDY --out DIR"),
    "env": ("avrt.commands.environment", "versions and devices, for a report of a problem"),
    "completion": ("avrt.commands.completion", 'tab completion: eval "$(avrt completion bash)", or zsh or fish'),
}
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # in Lightning's order: Slurm numbers also what it does not start
FIRST_RANK = "AVRT_FIRST_RANK"
"""In the environment: the number of the process that is the first rank, for those that it starts."""
FAILURE_MARK = "AVRT_FAILURE_MARK"
"""In the environment: the file that is there while a first rank that has reported an error is ending, for seconds."""
_READER_LEFT = 141
"""The status of a command that a shell sees end by SIGPIPE."""
_SILENT_SECONDS = 10
"""How long a further rank waits for the first one to report the same error."""


def main() -> None:
    """Run one subcommand; an `AvrtError` or `OSError` ends as one line, an interrupt as status 130.

    A command that cannot go on because nobody reads its output any more ends silently with status 141.
    """
    try:
        _run(sys.argv[1:])
    except BrokenPipeError:  # while the table of commands was printed
        if not _reader_has_left():
            raise
    finally:
        _reader_has_left()  # which is no error of a command that has ended, as in `avrt --help | head`


def _reader_has_left() -> bool:
    """Write what waits for standard output, and tell whether nobody reads it; if so, nothing is written there again."""
    try:
        sys.stdout.flush()
        pipe = select.poll()
        pipe.register(sys.stdout, 0)
        left = any(event & select.POLLERR for _, event in pipe.poll(0))
    except BrokenPipeError:
        left = True
    except io.UnsupportedOperation:  # an object of a notebook or a test, which is no pipe
        return False
    if left:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return left


def _run(arguments: list[str]) -> None:
    if "_ARGCOMPLETE" in os.environ:
        importlib.import_module("avrt.commands.completion").complete(
            {name: path for name, (path, _) in COMMANDS.items()}
        )
        return
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return
    if arguments[0] == "--version":
        print(f"avrt {avrt.__version__}")
        return
    name, *rest = arguments
    if name not in COMMANDS:
        _fail(f"no such command: {name} ({did_you_mean(name, COMMANDS) or 'one of ' + ', '.join(COMMANDS)})")
    try:
        run_command(name, rest)
    except AvrtError as error:
        if COMMANDS[name][0] == LAUNCH and _first_rank_reports():
            sys.exit(error.status)
        _fail(str(error), error.status)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _reader_has_left():
            sys.exit(_READER_LEFT)
        # A full disk, a folder that may not be written: the user's to mend, and nothing that a traceback explains.
        _fail(f"{error.filename or name}: {error.strerror or error}")
    except KeyboardInterrupt:
        sys.stderr.write("avrt: interrupted\n")
        sys.exit(130)


def run_command(name: str, arguments: list[str]) -> None:
    """Run a command of the table.

    Raises:
        AvrtError: If it cannot be done.
    """
    path = COMMANDS[name][0]
    arguments = resolve_configs(arguments)
    if path != LAUNCH:
        importlib.import_module(path).main(arguments)
        return
    pages = importlib.import_module("avrt.commands.help_page")
    checks = importlib.import_module("avrt.commands.early_checks")
    if pages.asked_for(arguments):
        pages.print_page(name, arguments)
        return
    arguments = checks.with_whole_class_paths(arguments)
    if pages.all_asked_for(arguments):
        pages.print_everything(name, arguments)
        return
    checks.check_early(name, arguments)
    if not rank():
        _be_first_rank()
    importlib.import_module(path).main([name, *arguments])


def usage() -> str:
    """The table of commands."""
    rows = "\n".join(f"  {name:<12}{what}" for name, (_, what) in COMMANDS.items())
    return (
        f"avrt {avrt.__version__}: audio-visual reasoning transfer\n\nusage: avrt COMMAND [options]\n\n{rows}\n\n"
        "A configuration is a path or the bare name of a packaged one (--config sft.yaml); several are merged.\n"
        "Every field can be overridden: --model.optimizer.lr 1e-5. See: avrt COMMAND --help"
    )


def rank() -> int:
    """The number of this process among those of its run, as the one that started it has told."""
    given = next((os.environ[name] for name in _RANKS if os.environ.get(name)), "0")
    return int(given) if given.isdecimal() else 0


def _be_first_rank() -> None:
    """Let the ranks that this one starts see which process it is, and whether it has failed."""
    folder = tempfile.mkdtemp(prefix="avrt-")  # nobody else's, in a place that is everybody's
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ |= {FIRST_RANK: str(os.getpid()), FAILURE_MARK: str(Path(folder) / "failed")}


def _first_rank_reports() -> bool:
    """Whether the first rank has met an error too, and so has printed this one; waits for that.

    It is the parent of the others where Lightning starts them; `torchrun` ends the others itself meanwhile. An error on
    this rank alone is reported after the wait.
    """
    if not rank() or os.environ.get(FIRST_RANK) == str(os.getpid()):  # the first of its node speaks for that
        return False
    first, mark = int(os.environ.get(FIRST_RANK, "0")), os.environ.get(FAILURE_MARK)
    until = time.monotonic() + _SILENT_SECONDS
    while time.monotonic() < until:
        if first and (os.getppid() != first or (mark and Path(mark).exists())):
            return True
        time.sleep(0.1)
    return False


def _fail(message: str, status: int = 2) -> None:
    of_rank = f" on rank {rank()}" if rank() else ""
    sys.stderr.write(f"avrt: error{of_rank}: {message}\n")
    if os.environ.get(FIRST_RANK) == str(os.getpid()):
        with contextlib.suppress(OSError):  # a run of weeks may outlive what is in the temporary folder
            Path(os.environ[FAILURE_MARK]).touch()
    sys.exit(status)
