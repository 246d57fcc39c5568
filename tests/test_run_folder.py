"""Which checkpoint `last` is, and that a new run does not begin among the checkpoints of another."""

import os
from pathlib import Path

import pytest

from avrt.errors import AvrtError
from avrt.run_folder import LAST, LAST_OR_NEW, check_new_run, find_checkpoint, newest_run


def checkpoint(run, step, age):
    """A complete checkpoint that is so many seconds old."""
    folder = Path(run) / "checkpoints" / f"step-{step:06d}.ckpt"
    folder.mkdir(parents=True)
    (folder / "latest").touch()
    now = folder.stat().st_mtime
    os.utime(folder, (now - age, now - age))
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_last_is_of_the_configured_run_and_else_of_the_newest_below_runs(here):
    assert newest_run() is None
    checkpoint("runs/sft", 9, age=300)
    newest = checkpoint("runs/nano/grpo", 3, age=100)
    own = checkpoint("elsewhere", 1, age=900)
    (Path("runs") / "empty" / "checkpoints").mkdir(parents=True)
    assert newest_run() == Path("runs/nano/grpo")
    assert find_checkpoint(LAST, Path("elsewhere"), "test") == str(own)
    assert find_checkpoint(LAST, Path("runs/empty"), "validate") == str(newest)
    assert find_checkpoint(LAST, None, "export") == str(newest)
    assert find_checkpoint("runs/sft", None, "export").endswith("runs/sft/checkpoints/step-000009.ckpt")


def test_a_fit_goes_on_with_its_own_run_only(here):
    checkpoint("runs/sft", 9, age=300)
    with pytest.raises(AvrtError, match=r"no complete checkpoint .*last_or_new"):
        find_checkpoint(LAST, Path("runs/grpo"), "fit")
    assert find_checkpoint(LAST_OR_NEW, Path("runs/grpo"), "fit") is None


def test_without_any_run_it_says_where_it_looked(here):
    with pytest.raises(AvrtError, match="nor below runs"):
        find_checkpoint(LAST, Path("mine"), "test")
    with pytest.raises(AvrtError, match="runs: there is no complete checkpoint"):
        find_checkpoint(LAST, None, "export")


def test_a_new_run_is_refused_among_the_checkpoints_of_another(here):
    check_new_run(Path("runs/sft"))
    checkpoint("runs/sft", 4, age=0)
    with pytest.raises(AvrtError, match=r"step-000004\.ckpt.*--ckpt_path last .*--trainer\.default_root_dir"):
        check_new_run(Path("runs/sft"))
