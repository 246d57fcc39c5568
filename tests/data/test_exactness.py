"""Exactly once and exact resume in hundreds of random cases: samples, shards, ranks, workers, batches, kill points."""

import itertools
from collections import Counter

import numpy as np
import pytest

from avrt.data.loading.mixture import Curriculum, Mixture, MixtureSource
from avrt.data.loading.plans import EpochPlan
from avrt.data.loading.stream import BatchStream
from avrt.data.media.clip import ClipSpec
from avrt.data.shards.conversion import SourceItem, write_shards
from avrt.data.shards.reader import ShardSet
from tests.conftest import make_sample

CASES = 320
LARGEST = 60


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Shard sets of many sizes, by samples and shard size; made when asked for."""
    root, made = tmp_path_factory.mktemp("sets"), {}

    def get(name: str, samples: int, per_shard: int) -> ShardSet:
        key = (name, samples, per_shard)
        if key not in made:
            items = [SourceItem(make_sample(f"{name}{i}", trace=None), {}) for i in range(samples)]
            folder = root / "-".join(map(str, key))
            write_shards(items, folder, ClipSpec(), samples_per_shard=per_shard)
            made[key] = ShardSet(folder)
        return made[key]

    return get


class Ranks:
    """All ranks' streams over one mixture, advanced step by step as synchronous training does."""

    def __init__(self, mixture, builder, seed, ranks, workers, batch, window):
        order = mixture.order(seed, True, window, Curriculum())
        self.streams = [
            BatchStream(mixture, EpochPlan(order, batch, ranks), rank, builder, workers) for rank in range(ranks)
        ]

    def epoch(self):
        """Yields each step's sample ids over all ranks; fails if a rank has more steps than another."""
        for step in itertools.zip_longest(*self.streams):
            assert all(batch is not None for batch in step), "ranks have different numbers of steps"
            assert len({len(batch) for batch in step}) == 1
            yield [
                sample.id
                for batch in step
                for sample, valid in zip(batch.samples, batch.valid.tolist(), strict=True)
                if valid
            ]

    def resume(self, states):
        """Every rank loads rank 0's state, as Lightning gives it to all."""
        for stream in self.streams:
            stream.load_state_dict(states[0])


@pytest.mark.parametrize("part", range(4))
def test_exactly_once_and_exact_resume(sets, builder, part):
    rng = np.random.default_rng(part)
    kinds: Counter[str] = Counter()
    for case in range(CASES // 4):
        samples, per_shard, batch = (int(rng.integers(1, top)) for top in (LARGEST, 25, 9))
        before, after = int(rng.integers(1, 6)), int(rng.integers(1, 6))
        if rng.random() < 0.6:
            after = before
        # worker processes cost nearly all of the time, so that most cases do without
        workers = [int(w) if rng.random() < 0.15 else 0 for w in rng.integers(1, 4, 2)]
        window, epochs_before = int(rng.integers(0, 4)), int(rng.integers(0, 2))
        parts = [sets("a", samples, per_shard)]
        if rng.random() < 0.3:
            parts.append(sets("b", int(rng.integers(1, 20)), 7))
        mixture = Mixture([MixtureSource(f"s{i}") for i in range(len(parts))], parts)
        everything = sorted(sample.id for shards in parts for sample in shards.samples())
        place = f"{part}/{case}: {samples=} {per_shard=} {batch=} {before=} {after=} {workers=} {window=}"

        unbroken = Ranks(mixture, builder, case, before, 0, batch, window)
        whole = [list(unbroken.epoch()) for _ in range(epochs_before + 2)]
        for epoch in whole:
            assert sorted(itertools.chain(*epoch)) == everything, place

        broken = Ranks(mixture, builder, case, before, workers[0], batch, window)
        for _ in range(epochs_before):
            assert sum(1 for _ in broken.epoch()) == len(whole[0]), place
        steps = len(whole[epochs_before])
        kill = int(rng.integers(0, steps + 1))
        seen = list(itertools.islice(broken.epoch(), kill)) if kill else []
        assert seen == whole[epochs_before][:kill], place
        states = [stream.state_dict() for stream in broken.streams]
        assert all(state == states[0] for state in states), place

        resumed = Ranks(mixture, builder, case, after, workers[1], batch, window)
        resumed.resume(states)
        rest = list(resumed.epoch())
        if kill in (0, steps):  # between epochs: the next one, whole
            assert sorted(itertools.chain(*rest)) == everything, place
        else:
            assert sorted(itertools.chain(*seen, *rest)) == everything, place
        if before == after and kill:
            assert rest == (whole[epochs_before][kill:] or whole[epochs_before + 1]), place
        kinds["changed ranks" if before != after else "same ranks"] += 1
        kinds["in mid-epoch"] += 0 < kill < steps
        kinds["with workers"] += bool(workers[0] or workers[1])
    assert kinds["changed ranks"] > 15
    assert kinds["in mid-epoch"] > 30
    assert kinds["with workers"] > 12
