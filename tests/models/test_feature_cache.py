"""The feature cache: the same features without the towers, within its size, and never wrong ones."""

import pytest
import torch

from avrt.data.inputs.batch import collate
from avrt.data.media.clip import Clip
from avrt.models.feature_cache import FeatureCacheOptions
from avrt.policy.policy import load_policy
from avrt.policy.student_options import StudentOptions
from tests.conftest import make_sample
from tests.training.runs import SMALL, fit


def cached_student(folder, gigabytes=1.0, seed=0):
    options = FeatureCacheOptions(str(folder), gigabytes)
    return load_policy(StudentOptions(source="nano", dtype="float32", feature_cache=options, seed=seed))


def tower_runs(student):
    """Counts what the towers are given from now on."""
    counts = {"patches": 0, "frames": 0}

    def see(module, args, kwargs):
        counts["patches"] += len(args[0] if args else kwargs["hidden_states"])

    def hear(module, args, kwargs):
        counts["frames"] += 1

    student.model.model.visual.register_forward_pre_hook(see, with_kwargs=True)
    student.model.model.audio_tower.register_forward_pre_hook(hear, with_kwargs=True)
    return counts


def same(one, other):
    for kind in ("vision", "audio"):
        for a, b in zip(getattr(one, kind), getattr(other, kind), strict=True):
            assert (a is None) == (b is None)
            assert a is None or torch.allclose(a, b, atol=1e-5)


def test_a_second_pass_runs_no_tower_and_gives_the_same(nano, batch, tmp_path):
    student = cached_student(tmp_path)
    same(student.encode(batch).features, nano.encode(batch).features)
    counts = tower_runs(student)
    same(student.encode(batch).features, nano.encode(batch).features)
    assert counts == {"patches": 0, "frames": 0}
    student.cache.flush()
    later = cached_student(tmp_path)
    counts = tower_runs(later)
    same(later.encode(batch).features, nano.encode(batch).features)
    assert counts == {"patches": 0, "frames": 0}
    assert later.cache.misses == 0


def test_only_what_is_missing_is_encoded(nano, builder, batch, tmp_path):
    clip, other = batch.clips[0], batch.clips[2]
    clips = [clip, Clip(audio=other.audio), Clip(), Clip(image=clip.frames[0], audio=clip.audio), other]
    rows = [builder.row(make_sample(str(i)), c) for i, c in enumerate(clips)]
    student = cached_student(tmp_path)
    student.encode(rows[0])
    student.encode(rows[1])
    counts = tower_runs(student)
    mixed = collate(rows)
    same(student.encode(mixed).features, nano.encode(mixed).features)
    patches = rows[3].pixels.shape[0] + rows[4].pixels.shape[0]
    assert counts["patches"] == patches
    assert student.cache.hits == 2 + 1 + 1 + 1  # what came before, and the first clip's sound beside a still picture


def test_other_towers_have_features_of_their_own(batch, tmp_path):
    cached_student(tmp_path).encode(batch)
    first = cached_student(tmp_path)
    first.encode(batch)
    first.cache.flush()
    second = cached_student(tmp_path, seed=1)
    assert len(second.cache) == 0
    assert len(list(tmp_path.iterdir())) == 2


def test_the_cache_stays_within_its_size(nano, batch, tmp_path):
    one = sum(t.numel() * 4 for t in nano.encode(batch).features.vision[:1])
    student = cached_student(tmp_path, gigabytes=2.5 * one / 1e9)
    same(student.encode(batch).features, nano.encode(batch).features)
    student.cache.flush()
    kept = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    assert 0 < kept < 2.5 * one + 2000
    same(student.encode(batch).features, nano.encode(batch).features)


def test_a_damaged_file_costs_time_and_nothing_else(nano, batch, tmp_path):
    student = cached_student(tmp_path)
    student.encode(batch)
    student.cache.flush()
    path = next(tmp_path.rglob("*.safetensors"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    again = cached_student(tmp_path)
    assert len(again.cache) == 0
    same(again.encode(batch).features, nano.encode(batch).features)


@pytest.mark.parametrize(("stage", "zero"), [("sft", 2), ("grpo", 2), ("grpo", 3)])
def test_training_with_the_cache_repeats_training_without(stage, zero, world, tmp_path):
    options = (*SMALL, "--data.batch_size", 8, "--trainer.max_steps", 3, "--trainer.strategy.stage", zero)
    if stage == "grpo":
        options = (*options, "--model.group_size", 2, "--model.rollout.max_new_tokens", 8)
    if zero == 3:
        options = (*options, "--trainer.devices", 2, "--data.batch_size", 4)
    plain = fit(stage, world, tmp_path / "plain", *options)
    cache = ("--model.student.feature_cache.folder", tmp_path / "cache")
    fit(stage, world, tmp_path / "first", *options, *cache)
    again = fit(stage, world, tmp_path / "again", *options, *cache)
    assert again[2]["train/cached_features"] == 1.0
    for step in range(3):
        assert again[step]["train/loss"] == pytest.approx(plain[step]["train/loss"], abs=1e-5)


def test_clips_that_are_kept_in_memory_are_encoded_once(nano, builder, batch):
    """Also within a batch; one that is not kept is encoded each time."""
    student = load_policy(StudentOptions(source="nano", dtype="float32"))
    rows = [builder.row(make_sample(str(i)), batch.clips[i]) for i in range(3)]
    for row in rows[:2]:
        row.clips[0].kept = True
    asked = collate([*rows, rows[0]])
    patches = asked.pixels.shape[0] // 4
    expected = nano.family.encode_clips(nano.model, asked, run_on_empty=False)
    counts = tower_runs(student)
    for runs in (3, 1, 1):
        same(student.encode(asked).features, expected)
        assert counts["patches"] == runs * patches
        counts["patches"] = 0
