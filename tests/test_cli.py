"""The command line: instant help, bare configuration names, errors in one line."""

import os
import subprocess
import sys
import time

import pytest

from avrt.arguments import shorten
from avrt.cli import COMMANDS, find_config, resolve_configs
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


def test_unknown_configuration_lists_the_known_ones():
    with pytest.raises(AvrtError, match=r"grpo\.yaml, .*sft\.yaml"):
        find_config("sftt.yaml")


@pytest.mark.parametrize(
    ("arguments", "telling"),
    [
        (("fitt",), "no such command: fitt"),
        (("fit", "--config", "nothing.yaml"), "nothing.yaml: no such configuration"),
        (("fit", "--config", "sft.yaml", "--model.lrr", "1"), "lrr"),
        (("fit", "--config", "sft.yaml", "--model.optimizer.lrr", "1"), "lrr"),
        (("fit", "--config", "sft.yaml", "--model.optimizer.lr", "fast"), "lr"),
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
