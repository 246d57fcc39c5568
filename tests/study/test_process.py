"""The processes that run a study's commands."""

import pytest

from avrt.study.process import Processes


@pytest.mark.parametrize(
    ("set_by_user", "alone", "threads"), [(None, False, "1"), (None, True, None), ("3", False, "3"), ("3", True, "3")]
)
def test_commands_beside_others_have_one_thread_and_the_users_number_overrules(
    tmp_path, monkeypatch, set_by_user, alone, threads
):
    monkeypatch.setenv("OMP_NUM_THREADS", set_by_user or "")
    if set_by_user is None:
        monkeypatch.delenv("OMP_NUM_THREADS")
    log = tmp_path / "log"
    process, told = Processes(tmp_path / "lock").start([("env",)], [log], alone=alone)
    process.join()
    told.close()
    assert process.exitcode == 0
    shown = [line.split()[-1] for line in log.read_text().splitlines() if "OMP_NUM_THREADS" in line]
    assert shown == ([threads] if threads else [])
