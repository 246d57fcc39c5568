"""Training and asking on two nodes, with a folder that they share and without; one of them killed or told to end."""

import os
import shlex
import shutil
import socket
import threading
from pathlib import Path

import pytest
import torch
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_only
from torch.distributed import HashStore, TCPStore

from avrt.errors import AvrtError
from avrt.evaluation.result import Result
from avrt.run_folder import complete_checkpoints
from avrt.training.connect import check_same_shards
from avrt.training.deepspeed_internals import trained_weights
from avrt.training.lifeline import Lifeline, Loss, LostError
from avrt.training.meeting import (
    Exchange,
    NodeReport,
    agreed_checkpoint,
    check_alike,
    check_parts,
    folder_is_shared,
    same_options,
)
from avrt.training.nodes import PlainNodesStrategy, check_place, gathering_command
from avrt.training.unsupported import plain_error
from tests.conftest import WARM
from tests.training.runs import fit, fit_arguments, logged
from tests.training.test_benchmark import ask
from tests.training.two_nodes import TwoNodes

STEPS = 6
COMMON = ("--model.micro_batch_size", 4, "--trainer.max_steps", STEPS, "--model.optimizer.warmup_steps", 1,
          "--checkpoint.every_n_train_steps", 2)  # fmt: skip
HALF = ("--data.batch_size", 4, "--trainer.num_nodes", 2, *COMMON)
SIGNAL = ("--trainer.callbacks+=tests.training.recording.SendSignal", "--trainer.callbacks.step")
LAST = "step-000006.ckpt"


@pytest.fixture(scope="module")
def one(world, tmp_path_factory):
    """One process: its losses, and the weights that it ends with."""
    root = tmp_path_factory.mktemp("one")
    steps = fit("sft", world, root, "--data.num_workers", 0, "--data.batch_size", 8, *COMMON)
    return steps, trained_weights(root / "checkpoints" / LAST)


def check_same(one, steps, checkpoint, *, begun):
    losses, weights = one
    assert sorted(steps) == list(range(begun, STEPS))
    for step, values in steps.items():
        assert values["train/loss"] == pytest.approx(losses[step]["train/loss"], abs=2e-4), step
    found = trained_weights(checkpoint)
    assert found.keys() == weights.keys()
    apart = max(float((found[name] - weights[name]).detach().abs().max()) for name in weights)
    print(f"losses and weights as of one process; weights at most {apart:.1e} apart")
    assert apart < 4e-4  # each step moves a weight by up to 2e-3, and sums are taken in another order


def test_by_hand_without_a_shared_folder_one_killed(world, tmp_path, one):
    """ZeRO-3. Each node has its part of a checkpoint; what needs all of them says so, or finds them."""
    nodes = TwoNodes(tmp_path)
    command = fit_arguments("sft", world, "{node}/run", *HALF, "--trainer.strategy.stage", 3, "--data.num_workers", 0)
    first, second = nodes.run(*command, *SIGNAL, 3, "--trainer.callbacks.signal", "KILL", "--trainer.callbacks.rank", 1)
    assert second.status == -9
    assert first.status == 75, first.err
    told = [line for line in first.err.splitlines() if line.startswith("avrt: error: ")]
    assert len(told) == 1
    assert told[0].startswith("avrt: error: node 1 (")
    assert "has ended without a word (see its log; all that was saved is there: go on with --ckpt_path last)" in told[0]
    assert "Traceback" not in first.err
    print(f"the other node ended {first.at - second.at:.1f} s later")
    assert first.at - second.at < 40
    assert "do NOT share the run's folder" in first.err
    runs = [nodes.folder(node) / "run" for node in (0, 1)]
    assert [[path.name for path in complete_checkpoints(run)] for run in runs] == [["step-000002.ckpt"]] * 2

    shutil.move(runs[0] / "checkpoints", tmp_path / "kept")
    for ended in nodes.run(*command):  # the folder of an earlier run on one of them
        assert ended.status == 2
        assert ": node 1 (" in ended.err
        assert "holds the checkpoints of an earlier run (step-000002.ckpt)" in ended.err
    shutil.move(tmp_path / "kept", runs[0] / "checkpoints")

    for run in runs:
        shutil.rmtree(run / "lightning_logs", ignore_errors=True)
    first, second = nodes.run(*command, "--ckpt_path", "last")
    assert (first.status, second.status) == (0, 0), first.err + second.err
    assert not list(runs[1].rglob("metrics.csv")) + list(runs[1].rglob("config.yaml"))
    # The one that the run went on from stays, as on one node; step 4 is gone from both.
    assert [[path.name for path in complete_checkpoints(run)] for run in runs] == [["step-000002.ckpt", LAST]] * 2
    whole, part = (run / "checkpoints" / LAST for run in runs)
    assert f"{part}/ {whole}/ && avrt export --ckpt_path {whole}" in first.out
    with pytest.raises(AvrtError, match="holds 1 of 2 parts, not that of rank 1"):
        trained_weights(whole)
    shutil.copytree(part, whole, dirs_exist_ok=True)  # what the last line says, without ssh
    check_same(one, logged(runs[0]), whole, begun=2)


def test_under_slurm_with_a_shared_folder_told_to_end(world, tmp_path, one):
    """ZeRO-2. Slurm's SIGTERM reaches every process of the step, also those that read the data."""
    nodes = TwoNodes(tmp_path, slurm=True)
    run = tmp_path / "run"
    command = fit_arguments("sft", world, run, *HALF, "--trainer.strategy.stage", 2, "--data.num_workers", 2,
                            "--ckpt_path", "last_or_new")  # fmt: skip
    told = nodes.run(*command, *SIGNAL, 2, "--trainer.callbacks.signal", "TERM", "--trainer.callbacks.rank", -1,
                     "--trainer.callbacks.group", "true")  # fmt: skip
    assert [ended.status for ended in told] == [143, 143], told
    assert "Traceback" not in told[0].err + told[1].err
    assert "share the run's folder" in told[0].err
    assert "SIGTERM: saving after step 3" in told[0].err
    assert [path.name for path in complete_checkpoints(run)] == ["step-000003.ckpt"]
    shutil.rmtree(run / "lightning_logs")
    told = nodes.run(*command)
    assert [ended.status for ended in told] == [0, 0], told
    check_same(one, logged(run), run / "checkpoints" / LAST, begun=3)


def test_a_benchmark_on_nodes_that_share_no_folder(world, tmp_path):
    """Questions answered on either node are not asked again, and the result is that of one process."""
    told = (*SIGNAL, 0, "--trainer.callbacks.signal", "TERM", "--trainer.callbacks.rank", 0)
    ended = ask(world, tmp_path / "one", *told, check=False)
    assert (ended.returncode, (tmp_path / "one" / "result.json").exists()) == (143, False), ended.stderr
    ask(world, tmp_path / "one")
    nodes = TwoNodes(tmp_path)
    command = ("test", "--config", "avqa.yaml", "--config", "nano/benchmark.yaml", "--data.num_workers", 0,
               "--model.generation.max_new_tokens", 12, "--data.eval_batch_size", 3, "--data.test", world / "test",
               "--trainer.num_nodes", 2, "--trainer.default_root_dir", "{node}/asked")  # fmt: skip
    for already in (None, "8 of 8 questions are answered already"):
        first, second = nodes.run(*command)
        assert (first.status, second.status) == (0, 0), first.err + second.err
        assert already is None or already in first.err
    folders = [nodes.folder(node) / "asked" for node in (0, 1)]
    assert len(list(folders[1].glob("journal/*.jsonl"))) == 1
    assert not (folders[1] / "result.json").exists()
    one, two = (folder / "predictions.jsonl" for folder in (tmp_path / "one", folders[0]))
    assert one.read_bytes() == two.read_bytes()
    assert Result.load(tmp_path / "one" / "result.json").scores == Result.load(folders[0] / "result.json").scores


def told(node: int, **changes) -> NodeReport:
    fields = {"node": node, "host": f"host{node}", "folder": "/run", "given": "last", "checkpoint": "step-000004.ckpt",
              "complete": ["step-000002.ckpt", "step-000004.ckpt"], "error": None, "options": {"data.batch_size": 4},
              "versions": {"torch": "2"}}  # fmt: skip
    return NodeReport(**{**fields, **changes})


def test_nodes_that_cannot_go_together():
    check_alike([told(0), told(1)])
    with pytest.raises(AvrtError, match=r"data.batch_size is 4 on node 0 \(host0\) and 8 on node 1 \(host1\)"):
        check_alike([told(0), told(1, options={"data.batch_size": 8})])
    with pytest.raises(AvrtError, match=r"model.lora.rank is 16 on node 0 \(host0\) and not set on node 1"):
        check_alike([told(0, options={"model.lora.rank": 16}), told(1, options={})])
    with pytest.raises(AvrtError, match=r"torch is 2 on node 0 \(host0\) and 3 on node 1"):
        check_alike([told(0), told(1, versions={"torch": "3"})])
    with pytest.raises(AvrtError, match=r"node 0 \(host0\), node 2 \(host2\): disk full; node 1 \(host1\): no shards"):
        check_alike([told(0, error="disk full"), told(1, error="no shards"), told(2, error="disk full")])


def test_options_that_have_to_be_the_same_are_all_but_paths():
    student = {
        "source": "/here",
        "dtype": "bfloat16",
        "lora": None,
        "feature_cache": {"folder": "/here", "gigabytes": 2},
    }
    config = {
        "model": {"class_path": "a.b.GRPOModule", "init_args": {"student": student, "loss": {"beta": 0.1}}},
        "data": {"train": "/here", "val": "/here", "prompt": {"system": ["be", "brief"]}},
        "trainer": {"devices": 2, "val_check_interval": 0.5, "limit_val_batches": None, "default_root_dir": "/here"},
        "checkpoint": {"every_n_train_steps": 100},
    }
    assert same_options(config) == {
        "model": "GRPOModule", "model.student.dtype": "bfloat16", "model.student.feature_cache.gigabytes": 2,
        "model.loss.beta": 0.1, "data.prompt.system": '["be", "brief"]', "trainer.devices": 2,
        "trainer.val_check_interval": 0.5, "checkpoint.every_n_train_steps": 100,
    }  # fmt: skip


def test_every_process_reads_the_same_shards():
    check_same_shards([{"data.train": "a b", "data.val": "c"}] * 3)
    with pytest.raises(AvrtError, match=r"data\.val: the shards that process 2 reads are not those of process 0"):
        check_same_shards([{"data.val": "c"}, {"data.val": "c"}, {"data.val": "d"}])
    with pytest.raises(AvrtError, match=r"data\.val: the shards that process 1 reads are not those of process 0"):
        check_same_shards([{"data.train": "a", "data.val": "c"}, {"data.train": "a"}])


def test_processes_that_are_not_those_of_slurm_are_told_in_one_line(monkeypatch):
    given = {"NTASKS": "8", "NTASKS_PER_NODE": "4", "NNODES": "2", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in given.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURM_JOB_NAME", "avrt")
    environment = SLURMEnvironment(auto_requeue=False)
    check_place(environment, devices=4, nodes=2)
    for devices, nodes in ((1, 2), (4, 1)):
        with pytest.raises(AvrtError, match=r"trainer\.devices, trainer\.num_nodes: You set"):
            check_place(environment, devices=devices, nodes=nodes)
        with pytest.raises(ValueError, match="You set") as raised:
            environment.validate_settings(num_devices=devices, num_nodes=nodes)
        assert "trainer.num_nodes" in str(plain_error(raised.value))  # on one node, where Lightning alone looks
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    with pytest.raises(RuntimeError) as odd:
        SLURMEnvironment()
    assert "--ntasks-per-node=8" in str(plain_error(odd.value))


def test_the_checkpoint_is_one_that_all_nodes_have():
    older = {"checkpoint": "step-000002.ckpt", "complete": ["step-000002.ckpt"]}
    assert agreed_checkpoint([told(0), told(1)], fits=True) == "step-000004.ckpt"
    assert agreed_checkpoint([told(0), told(1, **older)], fits=True) == "step-000002.ckpt"
    begun_anew = ["step-999900.ckpt", "step-000100.ckpt", "step-1000000.ckpt", "step-000200.ckpt"]
    first = told(0, checkpoint=begun_anew[-1], complete=begun_anew)
    for count, newest in ((3, "step-1000000.ckpt"), (2, "step-000100.ckpt")):
        second = told(1, checkpoint=newest, complete=begun_anew[:count])
        assert agreed_checkpoint([first, second], fits=True) == newest
    new = {"checkpoint": None, "complete": []}
    assert agreed_checkpoint([told(0, **new), told(1, **new)], fits=True) is None
    with pytest.raises(AvrtError, match=r"/run on node 1 \(host1\): the nodes do not have the same checkpoint"):
        agreed_checkpoint([told(0), told(1, **new)], fits=True)
    for odd in ({"fits": False}, {"fits": True}):
        given = {} if not odd["fits"] else {"given": "/run/checkpoints/step-000002.ckpt"}
        with pytest.raises(AvrtError, match="do not have the same"):
            agreed_checkpoint([told(0), told(1, **older, **given)], **odd)


def test_every_node_has_the_parts_of_its_own_processes():
    nodes = [told(0), told(1)]
    check_parts(nodes, [[0, 1], [2, 3]], made_by=4, world_size=4)
    check_parts(nodes, [[0, 1, 2, 3], [0, 1, 2, 3]], made_by=4, world_size=2)
    with pytest.raises(AvrtError, match=r"node 0 \(host0\) lacks the part of rank 0; it lies on node 1 \(host1\)"):
        check_parts(nodes, [[2, 3], [0, 1]], made_by=4, world_size=4)
    with pytest.raises(AvrtError, match="lacks the part of rank 2; it lies on none of these nodes"):
        check_parts(nodes, [[0, 1], []], made_by=4, world_size=4)
    with pytest.raises(AvrtError, match="made by 4 processes and is to be cut anew for 2"):
        check_parts(nodes, [[0, 1], [2, 3]], made_by=4, world_size=2)


@pytest.mark.parametrize(("folders", "shared"), [("aaa", True), ("abc", False), ("aab", None)])
def test_whether_a_folder_is_shared_is_tried(tmp_path, folders, shared):
    store, found = HashStore(), {}

    def look(node: int) -> None:
        try:
            found[node] = folder_is_shared(Exchange(store, node, 3, speaks=True), tmp_path / folders[node] / "run")
        except AvrtError as error:
            found[node] = str(error)

    threads = [threading.Thread(target=look, args=(node,)) for node in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    if shared is None:
        assert all("is shared by some nodes, but not by node 2" in found[node] for node in range(3))
    else:
        assert found == dict.fromkeys(range(3), shared)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def connected(count: int) -> list[Lifeline]:
    """Lifelines of so many processes, in this one."""
    ends = [Lifeline(count, f"node {rank}", "node 0") for rank in range(count)]
    listening = ends[0].listen("127.0.0.1")
    stranger = socket.create_connection((listening.address, listening.port))
    stranger.sendall(b'{"key": "of another run", "name": "nobody"}\n')
    threads = [threading.Thread(target=end.open, args=(listening,)) for end in ends]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert stranger.recv(1) == b""  # shown the door
    return ends


def test_the_first_process_listens_where_the_others_reach_it_alone(monkeypatch):
    assert Lifeline(2, "node 0", "node 0").listen("127.0.0.2").address == "127.0.0.2"
    assert Lifeline(2, "node 0", "node 0").listen("192.0.2.1").address == "192.0.2.1"  # translated: at all it has
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(socket.AF_INET, 1, 6, "", ("127.0.1.1", 0))])
    own_name = Lifeline(2, "node 0", "node 0")
    assert own_name.listen("host0").address == "host0"
    assert own_name._server.getsockname()[0] in ("::", "0.0.0.0")


def test_the_command_that_gathers_parts_can_be_pasted():
    strategy = PlainNodesStrategy()
    strategy.files_are_shared = False
    strategy.nodes = (told(0), told(1, folder="/my run"))
    command = gathering_command(strategy, Path("/first run/checkpoints/step-000002.ckpt"))
    assert shlex.split(command) == ["rsync", "-a", "host1:/my run/checkpoints/step-000002.ckpt/",
                                    "/first run/checkpoints/step-000002.ckpt/"]  # fmt: skip


def close(end: Lifeline, error: Exception | None = None) -> None:
    """Close it in a thread: in the main one it sets an alarm where somebody is lost."""
    thread = threading.Thread(target=end.close, args=(error,))
    thread.start()
    thread.join(30)


def test_what_ends_one_process_is_told_to_all():
    ends = connected(3)
    close(ends[2], AvrtError("no space left", where="/run"))
    assert [end.loss(10) for end in ends[:2]] == [Loss("node 2: /run: no space left", 2)] * 2
    for end in ends[:2]:
        close(end)
    ends = connected(3)
    close(ends[0], ValueError("of two\nlines"))
    assert [end.loss(10) for end in ends[1:]] == [Loss("node 0: ValueError: of two lines", 1)] * 2
    assert (ends[1].loss(0).error().status, LostError("gone").status) == (1, 75)
    for end in ends[1:]:
        close(end)
    for error, status in ((OSError("full"), 2), (SystemExit(143), 143), (SystemExit(), 1), (LostError("gone"), 75)):
        ends = connected(2)
        close(ends[1], error)
        assert ends[0].loss(10).status == status
        close(ends[0])
    ends = connected(3)
    ends[1]._streams[0].shutdown(socket.SHUT_RDWR)  # as where its process is killed
    assert [ends[end].loss(10) for end in (0, 2)] == [Loss("node 1 has ended without a word", 75)] * 2
    for end in ends:
        close(end)
    ends = connected(3)  # that end well, one after another
    for end in (ends[1], ends[0], ends[2]):
        close(end)
    assert [end.loss(0.3) for end in ends] == [None] * 3


def test_a_node_that_does_not_know_its_place(monkeypatch):
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(AvrtError, match="2 nodes need MASTER_ADDR, MASTER_PORT, NODE_RANK in the environment"):
        check_place(LightningEnvironment(), devices=1, nodes=2)
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setenv("NODE_RANK", "2")
    with pytest.raises(AvrtError, match="NODE_RANK: 2 is not one of 2 nodes"):
        check_place(LightningEnvironment(), devices=1, nodes=2)
    monkeypatch.setenv("NODE_RANK", "1")
    check_place(LightningEnvironment(), devices=1, nodes=2)


def test_a_node_whose_number_is_none(world, tmp_path):
    command = [str(word) for word in fit_arguments("sft", world, tmp_path / "run", *HALF)]
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "NODE_RANK": "x"}
    done = WARM.run(command, timeout=60, cwd=tmp_path, environment=environment)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert "avrt: error: NODE_RANK: x is not the number of a node" in done.stderr


def test_a_meeting_at_which_one_node_stays_silent(monkeypatch):
    first = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # comes, and tells nothing
    given = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(first.port), "NODE_RANK": "1", "RANK": "1",
             "LOCAL_RANK": "0", "WORLD_SIZE": "2"}  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    strategy = PlainNodesStrategy(patience_minutes=0.02, cluster_environment=LightningEnvironment())
    strategy.parallel_devices, strategy.num_nodes = [torch.device("cpu")], 2
    strategy.set_world_ranks()
    with pytest.raises(AvrtError, match=r"trainer\.num_nodes: not all 2 processes of 2 nodes .* within 0\.02 min"):
        strategy.setup_distributed()
