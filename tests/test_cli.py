"""The command line: instant help, bare configuration names, errors in one line."""

import importlib.metadata
import os
import subprocess
import sys
import time

import pytest

from avrt.arguments import shorten
from avrt.cli import COMMANDS, FIRST_RANK, rank
from avrt.commands.early_checks import check_early
from avrt.commands.option_table import options_in
from avrt.configurations import find_config, resolve_configs
from avrt.errors import AvrtError
from tests.conftest import avrt


def test_help_is_instant_and_lists_every_command():
    def seconds(*command):
        begun = time.perf_counter()
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True)
        return time.perf_counter() - begun, done.stdout

    plain = min(seconds("-c", "pass")[0] for _ in range(3))
    runs = [seconds("-m", "avrt", "--help") for _ in range(3)]
    assert min(t for t, _ in runs) < 20 * plain  # importing torch costs more than a hundred times as much
    assert all(f"  {name}" in runs[0][1] for name in COMMANDS)


def test_help_imports_nothing_heavy():
    code = "import sys; sys.argv = ['avrt']; from avrt.cli import main; main(); print([m for m in ('torch', 'lightning', 'transformers', 'numpy') if m in sys.modules])"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_bare_names_are_found_from_any_folder_and_files_here_win(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("sft.yaml").read_text().startswith("# Stage 1")
    assert find_config("nano/grpo.yaml").is_file()
    (tmp_path / "sft.yaml").write_text("mine: 1")
    assert find_config("sft.yaml").read_text() == "mine: 1"
    resolved = resolve_configs(["--config", "sft.yaml", "--config=nano/sft.yaml", "--model.x", "sft.yaml"])
    assert resolved[0] == "--config"
    assert resolved[2].endswith("configs/nano/sft.yaml")
    assert resolved[3:] == ["--model.x", "sft.yaml"]


def test_unknown_configuration_offers_the_nearest_or_lists_the_known_ones():
    with pytest.raises(AvrtError, match=r"did you mean sft\.yaml\?"):
        find_config("sftt.yaml")
    with pytest.raises(AvrtError, match=r"grpo\.yaml, .*sft\.yaml"):
        find_config("nothing_like_it")


@pytest.mark.parametrize(
    ("arguments", "telling"),
    [
        (("fti",), "no such command: fti (did you mean fit?)"),
        (("traces", "rnu"), "did you mean run?"),
        (
            ("traces", "run", "--mergr.attempts", "2"),
            "no such option: --mergr.attempts (did you mean --merger.attempts?)",
        ),
        (("traces", "run", "--bad", "1"), "(see: avrt traces run --help)"),
        (
            ("export", "--ckpt_path", "x", "--out", "y", "--layout", "flat"),
            "layout: Expected one of: thinker, full, adapters.",
        ),
        (("fit", "--model.optimiser.lr", "1", "--config", "sft.yaml"), "did you mean --model.optimizer.lr?"),
        (("fit", "--config", "sft.yaml", "--trainer.max_step", "3"), "did you mean --trainer.max_steps?"),
        (("fit", "--config", "sft.yaml", "--optimizer", "SGD"), "--optimizer: no such option"),
        (("fit", "--model", "SFTModul", "--data.train", "x"), "did you mean SFTModule?"),
        (("fit", "--data.train", "x"), "no model is chosen"),
        (
            ("fit", "--config", "sft.yaml", "--trainer.strategy", "avrt.training.strategy.OmniDeepSpedStrategy"),
            "did you mean avrt.training.strategy.OmniDeepSpeedStrategy?",
        ),
        (("doctor", "--config", "grpo.yaml", "--model.grop_size", "2"), "did you mean --model.group_size?"),
        (("predict", "--config", "sft.yaml", "--data.ask.clip", "none.mp4"), "none.mp4: no such file"),
        (("fit", "--config", "nothing.yaml"), "nothing.yaml: no such configuration"),
        (("fit", "--config", "sft.yaml", "--model.lrr", "1"), "lrr"),
        (("fit", "--config", "sft.yaml", "--model.optimizer.lrr", "1"), "lrr"),
        (("fit", "--config", "sft.yaml", "--model.optimizer.lr", "fast", "--print_config"), "lr"),
        (("fit", "--config", "sft.yaml", "--data.batch_sise", "1"), "batch_sise"),
        (("fit", "--config", "sft.yaml", "--config", "nano/sft.yaml"), "data.train"),
        (("fit", "--config", "sft.yaml", "--config", "nano/sft.yaml", "--data.train", "/no/shards"), "/no/shards"),
        (("shards", "nonsense"), "nonsense"),
        (("shards", "dailyomni", "--root", "/nowhere", "--out", "/tmp/never"), "qa.json"),
        (("shards", "dailyomni", "--rooot", "x"), "rooot"),
        (("export", "--ckpt_path", "/nowhere", "--out", "/tmp/never"), "/nowhere"),
    ],
)
def test_mistakes_end_in_one_clear_line(arguments, telling, tmp_path):
    done = avrt(*arguments, check=False, cwd=tmp_path)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("avrt: error:")]
    assert len(lines) == 1, done.stderr
    assert telling in lines[0]
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_one_line_and_no_shard_pretends_to_be_whole(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "shard-000000.tar.partial").symlink_to("/dev/full")
    done = avrt("shards", "nano_world", "--root", tmp_path, "--out", out, "--clips", "1", check=False)
    assert done.returncode == 2
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (out / "manifest.json").exists()
    assert not (out / "shard-000000.tar").exists()


def test_shorten_keeps_the_innermost_cause():
    message = """Parser key "model":
  Does not validate against any of the Union subtypes
  Subtypes: [...]
  Errors:
    - Problem with given class_path 'a.B':
        Key 'lrr' is not expected
    - Not a dict"""
    assert shorten(message) == "model: Key 'lrr' is not expected"


def said_and_imported(tmp_path, *arguments):
    """The last line of the error, and what of the heavy packages was imported to know it."""
    code = (
        "import sys; from avrt.cli import main\n"
        f"sys.argv = ['avrt', *{list(arguments)!r}]\n"
        "try:\n    main()\n"
        "except SystemExit:\n    print([m for m in ('torch', 'lightning', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    return done.stderr.splitlines()[-1], done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "telling"),
    [
        (("fit", "--config", "sft.yaml", "--modle.student.source", "nano"), "did you mean --model.student.source?"),
        (("fit", "--config", "sft.yaml", "--data.train", "nowhere"), "nowhere: no shards here"),
        (("fit", "--config", "mine.yaml", "--data.train", "nowhere"), "mine.yaml: model.init_args.grup_size is not"),
        (("fit", "--config", "sft.yaml", "--config", "mixed.yaml"), "gone: no shards here"),
        (("test", "--config", "omnibench.yaml", "--data.test", "shards", "--ckpt_path", "lst"), "lst: no such check"),
        (("fit", "--config", "sft.yaml", "--data.train", "shards", "--trainer.default_root_dir", "run"), "step-000004"),
    ],
)
def test_what_is_wrong_is_said_before_anything_heavy_is_imported(arguments, telling, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "model: {class_path: avrt.training.grpo_module.GRPOModule, init_args: {grup_size: 2}}"
    )
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "manifest.json").write_text("{}")
    (tmp_path / "mixed.yaml").write_text("data: {train: [{shards: shards}, {shards: gone, weight: 2}]}")
    (tmp_path / "run" / "checkpoints" / "step-000004.ckpt").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "step-000004.ckpt" / "latest").touch()
    said, imported = said_and_imported(tmp_path, *arguments)
    assert telling in said
    assert imported == "[]"


def test_a_reader_that_leaves_ends_the_command_quietly():
    for asked, reader in (("--help", "head -1"), ("env --help", "true")):
        command = f"{sys.executable} -m avrt {asked} | {reader}; echo status ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        assert done.stdout.splitlines()[-1] == "status 0"


PIPES = """
import os, sys
from avrt import cli
def report(arguments):
    print("counts")
    if arguments:  # something else than the output is a pipe whose reader has left
        reader, writer = os.pipe()
        os.close(reader)
        os.write(writer, b"question")
    print("x" * 100_000, flush=True)
sys.modules["told"] = type("Told", (), {"main": report})
cli.COMMANDS["told"] = ("told", "")
sys.argv[0] = "avrt"
cli.main()
"""


@pytest.mark.parametrize("unbuffered", [(), ("-u",)])
def test_a_broken_pipe_is_an_error_unless_it_is_the_output_that_nobody_reads(unbuffered):
    def statuses(*words):
        inner = [sys.executable, *unbuffered, "-c", PIPES, "told", *words]
        read_end, write_end = os.pipe()
        os.close(read_end)
        unread = subprocess.run(inner, stdout=write_end, stderr=subprocess.PIPE, text=True, check=False)
        os.close(write_end)
        read = subprocess.run(inner, capture_output=True, text=True, check=False)
        return (unread.returncode, unread.stderr), (read.returncode, read.stderr)

    assert statuses() == ((141, ""), (0, ""))
    assert statuses("other")[1] == (2, "avrt: error: told: Broken pipe\n")


def test_a_further_rank_leaves_an_error_to_the_first_if_that_ends_too():
    command = [sys.executable, "-m", "avrt", "fit", "--config", "sft.yaml"]
    rank = {**os.environ, "LOCAL_RANK": "1"}
    first_is_gone = {**rank, FIRST_RANK: "1"}
    first_goes_on = {**rank, FIRST_RANK: str(os.getpid())}
    done = subprocess.run(command, env=first_is_gone, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "")
    done = subprocess.run(command, env=first_goes_on, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("avrt: error on rank 1: data.train: no shards given")


def test_the_rank_is_the_one_that_lightning_sees(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    assert rank() == 0
    monkeypatch.setenv("SLURM_PROCID", "0")  # of the one task whose process starts the others
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert rank() == 1
    monkeypatch.setenv("RANK", "5")
    assert rank() == 5


def test_the_mark_of_a_failure_is_in_a_folder_of_its_own_which_goes(tmp_path):
    """Whatever others have left in the shared temporary folder; a command that has failed leaves nothing."""
    code = (
        "import os, sys; from pathlib import Path; from avrt import cli\n"
        "Path(os.environ['TMPDIR'], f'avrt-failed-{os.getpid()}').mkdir()  # as if another user had made it\n"
        "cli._be_first_rank(); print(os.environ[cli.FAILURE_MARK])\n"
        "try:\n    cli._fail('too bad')\n"
        "finally:\n    print(*map(os.path.isfile, [os.environ[cli.FAILURE_MARK]]))"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "avrt: error: too bad\n")
    mark, there = done.stdout.splitlines()
    assert there == "True"
    assert not os.path.exists(os.path.dirname(mark))
    assert [path.name.startswith("avrt-failed-") for path in tmp_path.iterdir()] == [True]


def test_an_error_that_all_ranks_meet_is_printed_once(tmp_path):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "manifest.json").write_text("not a manifest")  # read when the ranks are running
    told = ("fit", "--config", "sft.yaml", "--config", "nano/sft.yaml", "--data.train", "shards")
    done = avrt(*told, "--trainer.devices", 2, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert "2 x CPU" in done.stderr
    assert done.stderr.count("avrt: error") == 1, done.stderr
    assert "Traceback" not in done.stderr


def test_one_callback_needs_no_list_and_a_group_may_be_in_a_file(tmp_path):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "manifest.json").write_text("not a manifest")  # read when everything is made
    (tmp_path / "data.yaml").write_text("train: shards")
    done = avrt(
        "fit", "--config", "sft.yaml", "--config", "nano/sft.yaml", "--data", "data.yaml", "--trainer.callbacks",
        "lightning.pytorch.callbacks.LearningRateMonitor", "--trainer.devices", 1, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("avrt: error: shards/manifest.json: not a shard manifest")


def test_an_option_is_no_value_of_a_flag_before_it():
    words = ["--verbose", "-c", "sft.yaml", "--model.loss.beta", "-1", "--print_config", "--x=-c"]
    told = [("verbose", None), ("c", "sft.yaml"), ("model.loss.beta", "-1"), ("print_config", None), ("x", "-c")]
    assert list(options_in(words)) == told


@pytest.mark.parametrize(
    ("arguments", "telling"),
    [
        (("--data", "data.yaml"), None),
        (("--data", "data.yaml", "--data.batch_size", "2"), None),
        (("--config", "whole.yaml"), None),
        (("--data.train+", "shards"), None),
        (("--data.train", "shards", "--trainer", "trainer.yaml"), None),
        (("--data", "{batch_size: 2}"), "no shards given"),
        (("--data.train", "shards"), "step-000004"),
    ],
)
def test_what_only_the_parser_reads_is_not_refused_before(arguments, telling, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("shards", "checkpoints/step-000004.ckpt"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "shards" / "manifest.json").write_text("{}")
    (tmp_path / "checkpoints" / "step-000004.ckpt" / "latest").touch()
    (tmp_path / "whole.yaml").write_text("data: data.yaml")
    words = ["--model", "avrt.training.sft_module.SFTModule", *arguments]
    if telling is None:
        words += [] if "--trainer" in arguments else ["--trainer.default_root_dir", "run"]
        check_early("fit", words)
        return
    with pytest.raises(AvrtError, match=telling):
        check_early("fit", words)


def test_versions_and_devices_are_told_without_importing_anything_heavy():
    done = avrt("env")
    versions = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if not line.startswith("next"))
    for name in ("torch", "transformers", "lightning", "deepspeed"):
        assert versions[name].split()[0] == importlib.metadata.version(name)
    assert versions["python"].startswith(sys.version.split()[0])
    code = "import sys; from avrt.cli import main; sys.argv = ['avrt', 'env']; main(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
