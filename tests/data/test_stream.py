"""Order, split and resume of the stream: every sample exactly once, the same steps on every rank."""

import copy
import itertools
import multiprocessing
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from avrt.data.loading.datamodule import AVDataModule, BatchRequirements
from avrt.data.loading.kept import KeptSamples
from avrt.data.loading.order import SampleOrder, Source
from avrt.data.loading.plans import BlockPlan, EpochPlan
from avrt.data.loading.stream import BatchStream, check_temporary_folder
from avrt.data.shards.members import decode_members
from avrt.data.shards.reader import ShardSet
from avrt.errors import AvrtError


def plan_of(samples, batch, ranks=1, **order):
    return EpochPlan(SampleOrder((Source((samples,)),), **order), batch, ranks)


@pytest.mark.parametrize(("samples", "batch", "ranks"), itertools.product((1, 7, 48), (1, 4, 5), (1, 2, 3)))
def test_plan_gives_each_sample_once_and_each_rank_as_many_steps(samples, batch, ranks):
    plan = plan_of(samples, batch, ranks, seed=3)
    for epoch in range(2):
        parts = [list(plan.rows(epoch, rank)) for rank in range(ranks)]
        assert {len(part) for part in parts} == {plan.steps}
        assert all(len(indices) == batch for part in parts for indices in part)
        seen = [i for part in parts for indices in part for i in indices if i is not None]
        assert sorted(seen) == list(range(samples))


def test_global_batches_do_not_depend_on_the_number_of_ranks():
    whole = [set(indices) for indices in plan_of(48, 8, 1, seed=1).rows(0, 0)]
    split = [
        set(a) | set(b)
        for a, b in zip(plan_of(48, 4, 2, seed=1).rows(0, 0), plan_of(48, 4, 2, seed=1).rows(0, 1), strict=True)
    ]
    assert whole == split


def test_order_depends_on_seed_and_epoch_alone():
    orders = [plan_of(50, 4, seed=s).order.epoch(e).tolist() for s, e in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert orders[0] == orders[3]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert plan_of(5, 2, shuffle=False).order.epoch(4).tolist() == [0, 1, 2, 3, 4]


def stream(world, builder, workers=0, ranks=1, rank=0, batch=5):
    shards = ShardSet(world / "train")
    return BatchStream(shards, plan_of(len(shards), batch, ranks, seed=7), rank, builder, workers)


def ids(batches):
    return [[s.id for s, valid in zip(b.samples, b.valid.tolist(), strict=True) if valid] for b in batches]


def test_real_batches_are_the_same_with_any_number_of_workers(world, builder):
    expected = ids(stream(world, builder))
    assert len(expected) == 10
    assert len({i for batch in expected for i in batch}) == 48
    assert [len(batch) for batch in expected] == [5] * 9 + [3]
    for workers in (1, 2, 3):
        assert ids(stream(world, builder, workers)) == expected


def test_two_ranks_share_the_samples(world, builder):
    parts = [ids(stream(world, builder, ranks=2, rank=rank, batch=4)) for rank in range(2)]
    assert len(parts[0]) == len(parts[1]) == 6
    flat = [i for part in parts for batch in part for i in batch]
    assert len(flat) == len(set(flat)) == 48


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 4, 10, 13])
def test_resumed_stream_continues_exactly(world, builder, workers, stop):
    def three_epochs(loader):
        return (batch for _ in range(3) for batch in loader)

    unbroken = ids(three_epochs(stream(world, builder)))
    first = stream(world, builder, workers)
    seen = ids(itertools.islice(three_epochs(first), stop))
    second = stream(world, builder)
    second.load_state_dict(first.state_dict())
    seen += ids(itertools.islice(three_epochs(second), len(unbroken) - stop))
    assert seen == unbroken


def test_workers_leave_signals_of_others_to_the_trainer(world, builder):
    """Ctrl-C and Slurm's SIGTERM reach them too, while the trainer needs the batches of the step that it finishes."""
    before = set(multiprocessing.active_children())
    batches = iter(stream(world, builder, workers=2))
    begun = [next(batches), next(batches)]  # one of each
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 2
    for worker in workers:
        for signal in ("-TERM", "-INT"):
            subprocess.run(["/bin/kill", signal, str(worker.pid)], check=True)
    assert ids([*begun, *batches]) == ids(stream(world, builder))
    assert not set(multiprocessing.active_children()) & workers
    ended = iter(stream(world, builder, workers=2))
    next(ended), next(ended)
    workers = set(multiprocessing.active_children()) - before
    for worker in workers:
        worker.terminate()  # as PyTorch does where a worker does not end by itself
        worker.join(20)
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_a_bad_sample_becomes_a_named_filler_row(world, builder, tmp_path):
    import shutil

    folder = tmp_path / "damaged"
    shutil.copytree(world / "val", folder)
    shards = ShardSet(folder)
    victim = shards.sample(2).id
    _, _, members = shards._locate(2)
    tar = folder / "shard-000000.tar"
    with tar.open("r+b") as file:
        file.seek(members["3.jpg"][0])
        file.write(b"\0" * members["3.jpg"][1])
    batches = list(BatchStream(ShardSet(folder), plan_of(8, 4, shuffle=False), 0, builder))
    assert [b.valid.tolist() for b in batches] == [[True, True, False, True], [True] * 4]
    assert victim not in {i for batch in ids(batches) for i in batch}
    [(name, why)] = batches[0].skipped.items()
    assert "shard-000000.tar" in name
    assert "JPEG" in why


@pytest.mark.parametrize(("samples", "batch", "ranks"), itertools.product((1, 7, 48), (1, 4, 5), (1, 2, 3)))
def test_evaluation_batches_are_the_same_for_any_number_of_ranks_and_after_any_interruption(samples, batch, ranks):
    whole = list(BlockPlan(samples, batch).rows(0, 0))
    done = frozenset(i for rows in whole[::2] for i in rows if i is not None)
    plan = BlockPlan(samples, batch, ranks, done)
    parts = [list(plan.rows(0, rank)) for rank in range(ranks)]
    assert {len(part) for part in parts} == {plan.steps}
    asked = sorted((rows for part in parts for rows in part if rows[0] is not None), key=lambda rows: rows[0])
    assert asked == whole[1::2]


def test_shards_for_another_patch_size_are_refused_by_name(nano, world, tmp_path):
    """A family whose patches have other sides cannot read frames that were resized for this one."""
    inputs = copy.copy(nano.inputs)
    inputs.patch_factor = 32
    data = AVDataModule(train=str(world / "train"))
    data.setup("fit")
    with pytest.raises(AvrtError, match="patch size of 28 pixels, the model needs 32"):
        data.connect(BatchRequirements(inputs, 1000))
    data.connect(BatchRequirements(nano.inputs, 1000))


def test_what_is_kept_is_read_and_made_once_and_the_batches_are_the_same(world, builder, nano, monkeypatch):
    shards = ShardSet(world / "train")
    plan = plan_of(len(shards), 5, seed=7)
    kept, plain = (BatchStream(shards, plan, 0, builder, keep_gigabytes=g) for g in (1.0, 0.0))
    made = []
    clip_inputs = builder.clip_inputs
    monkeypatch.setattr(builder, "clip_inputs", lambda clip: made.append(clip) or clip_inputs(clip))
    media = [(clip.frames, clip.image, clip.audio) for batch in plain for clip in batch.clips if clip.info]
    clips = len({tuple(None if t is None else t.numpy().tobytes() for t in tensors) for tensors in media})
    made.clear()
    for epoch in range(2):
        reads = []
        read = shards.read
        with monkeypatch.context() as patch:
            patch.setattr(shards, "read", lambda index, read=read, reads=reads: reads.append(index) or read(index))
            ours = list(kept)
        assert len(reads) == (0 if epoch else len(shards))
        plain.load_state_dict({"epoch": epoch, "consumed": 0})
        for one, other in zip(ours, plain, strict=True):
            assert (one.epoch, one.step, one.indices) == (other.epoch, other.step, other.indices)
            for a, b in zip(one.prompt_ids + one.completion_ids, other.prompt_ids + other.completion_ids, strict=True):
                assert a.tolist() == b.tolist()
            assert torch.equal(one.pixels, other.pixels)
            assert torch.equal(one.mel, other.mel)
    assert sum(clip.kept for clip in {id(c): c for b in ours for c in b.clips}.values()) == clips < len(shards)


def test_what_has_no_room_is_not_kept(world, builder):
    shards = ShardSet(world / "train")
    stream = BatchStream(shards, plan_of(len(shards), 5, seed=7), 0, builder, keep_gigabytes=0.001)
    kept = {id(clip): clip.kept for batch in stream for clip in batch.clips}
    assert 0 < sum(kept.values()) < len(kept)


def test_what_is_kept_takes_as_much_room_as_its_tensors(world, builder):
    sample, clip = decode_members(ShardSet(world / "train").read(0))
    media = builder.clip_inputs(clip)
    row = builder.row_of(sample, media)
    inputs = [t for t in (*media.fields.values(), *vars(media.clip).values()) if isinstance(t, torch.Tensor)]
    own = [*row.prompt_ids, *row.prompt_positions, *row.completion_ids, *row.vision_places, *row.audio_places]
    size = sum(t.nbytes for t in inputs + own)
    for room, fits in ((size, True), (size - 1, False)):
        samples = KeptSamples(room / 1e9)
        samples.keep_clip(b"clip", media)
        samples.keep_row(0, row)
        assert (samples.row(0) is row) == fits


def test_workers_keep_nothing_and_less_than_nothing_is_refused(world, builder):
    shards = ShardSet(world / "val")
    stream = BatchStream(shards, plan_of(len(shards), 5, seed=7), 0, builder, 1, keep_gigabytes=1.0)
    assert not any(clip.kept for batch in stream for clip in batch.clips)
    with pytest.raises(AvrtError, match=r"data\.keep_gigabytes: is -1"):
        AVDataModule(keep_gigabytes=-1)


def test_a_temporary_folder_too_long_for_sockets_is_named(world, monkeypatch):
    """By a byte: what is let pass holds a socket of `multiprocessing`, and what is refused does not."""
    listen = [sys.executable, "-c", "from multiprocessing import connection; connection.Listener(family='AF_UNIX')"]
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        for length in (75, 76):
            folder = Path(short, "d" * (length - len(short) - 1))
            folder.mkdir()
            monkeypatch.setattr(tempfile, "tempdir", str(folder))
            done = subprocess.run(listen, env={"TMPDIR": str(folder)}, capture_output=True, text=True, check=False)
            if length == 75:
                assert done.returncode == 0, done.stderr
                check_temporary_folder()
                continue
            assert "AF_UNIX path too long" in done.stderr
            with pytest.raises(AvrtError, match=r"TMPDIR: the path is 1 bytes too long .* or data.num_workers to 0"):
                AVDataModule(val=str(world / "val")).setup("validate")
            AVDataModule(val=str(world / "val"), num_workers=0).setup("validate")
