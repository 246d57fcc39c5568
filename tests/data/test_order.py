"""The order of training samples: rounds, weights, windows of shards, curriculum."""

from collections import Counter

import numpy as np
import pytest

from avrt.data.loading.dropout import ModalityDropout
from avrt.data.loading.mixture import Curriculum, Mixture, MixtureSource
from avrt.data.loading.order import SampleOrder, Source
from avrt.data.media.clip import Clip, ClipSpec
from avrt.data.shards.conversion import SourceItem, write_shards
from avrt.data.shards.reader import ShardSet
from avrt.errors import AvrtError
from tests.conftest import make_sample
from tests.data.test_preprocessor import clip_of


@pytest.mark.parametrize("window", [0, 1, 3])
def test_weight_one_is_every_sample_once_in_every_epoch(window):
    order = SampleOrder((Source((5, 7, 4, 1)), Source((3, 3))), seed=3, shard_window=window)
    for epoch in range(4):
        assert sorted(order.epoch(epoch)) == list(range(23))
    assert order.epoch(0).tolist() != order.epoch(1).tolist()


def test_weights_are_repetitions_and_shares_and_neglect_no_sample():
    order = SampleOrder((Source((40,), 0.25), Source((10,), 2.0), Source((12,), 1.5)), seed=1)
    assert len(order) == 10 + 20 + 18
    epochs = [order.epoch(e) for e in range(4)]
    seen = Counter(int(i) for epoch in epochs for i in epoch)
    assert all(seen[i] == 1 for i in range(40))  # a quarter in each of four epochs: each once
    assert all(seen[i] == 8 for i in range(40, 50))
    assert all(seen[i] == 6 for i in range(50, 62))
    for epoch in epochs:
        counts = Counter(int(i) for i in epoch)
        assert all(counts[i] == 2 for i in range(40, 50))
        assert {counts[i] for i in range(50, 62)} == {1, 2}


def test_sources_are_mixed_throughout_the_epoch():
    order = SampleOrder((Source((300,)), Source((100,))), seed=0).epoch(0)
    assert 10 < (order[:100] >= 300).sum() < 45


def test_sources_are_mixed_anew_in_every_epoch_and_for_every_seed():
    sources = (Source((50,)), Source((50,)))
    patterns = {
        (seed, epoch): tuple((SampleOrder(sources, seed=seed).epoch(epoch) >= 50).tolist())
        for seed in (0, 1)
        for epoch in (0, 1, 2)
    }
    assert len(set(patterns.values())) == 6
    assert all(sum(pattern) == 50 for pattern in patterns.values())
    assert patterns[1, 2] == tuple((SampleOrder(sources, seed=1).epoch(2) >= 50).tolist())


def test_every_source_has_an_order_of_its_own():
    order = SampleOrder((Source((40,)), Source((40,)), Source((40,))), seed=2).epoch(0)
    own = {tuple((order[order // 40 == number] % 40).tolist()) for number in range(3)}
    assert len(own) == 3
    assert len({tuple(SampleOrder((Source((40,)),), seed=seed).epoch(e)) for seed in (0, 1) for e in (0, 1)}) == 4


def test_an_order_stays_what_it_was():
    """A run that goes on after an update must find its samples: the random numbers are those of these very seeds."""
    order = SampleOrder((Source((6,)), Source((4, 5))), seed=3)
    for epoch in (0, 1):
        slots = np.random.default_rng([3, epoch, 2**20]).permutation([0] * 6 + [1] * 9)
        first = np.random.default_rng([3, epoch]).permutation(6)
        second = np.random.default_rng([3, epoch, 1]).permutation(9) + 6
        expected = np.empty(15, dtype=int)
        expected[slots == 0], expected[slots == 1] = first, second
        assert order.epoch(epoch).tolist() == expected.tolist()


def test_a_share_is_rounded_and_never_nothing():
    shares = {(3, 0.01): 1, (10, 0.26): 3, (10, 0.24): 2, (7, 1.0): 7, (3, 2.5): 8, (5, 0.5): 2, (1, 1.6): 2}
    for (samples, weight), expected in shares.items():
        assert Source((samples,), weight).per_epoch == expected, (samples, weight)
    assert Source((4, 3, 2)).samples == 9


def test_without_shuffling_rounds_of_a_weighted_source_go_on_where_the_last_epoch_stopped():
    order = SampleOrder((Source((4,), 0.75), Source((2,), 1.5)), shuffle=False)
    # three of 0-3 and three of 4-5 in each epoch
    assert [order.epoch(e).tolist() for e in range(4)] == [
        [0, 1, 2, 4, 5, 4],
        [3, 0, 1, 5, 4, 5],
        [2, 3, 0, 4, 5, 4],
        [1, 2, 3, 5, 4, 5],
    ]


def test_a_window_keeps_few_shards_in_use():
    sizes = (10,) * 20
    shard_of = np.repeat(np.arange(20), 10)
    windowed = shard_of[SampleOrder((Source(sizes),), shard_window=3).epoch(0)]
    spread = shard_of[SampleOrder((Source(sizes),)).epoch(0)]
    assert max(len(set(windowed[i : i + 30].tolist())) for i in range(0, 200, 30)) <= 3
    assert len(set(spread[:30].tolist())) > 10
    assert windowed[:30].tolist() != sorted(windowed[:30].tolist())
    firsts = [set(windowed[i : i + 30].tolist()) for i in range(0, 180, 30)]
    assert [len(shards) for shards in firsts] == [3] * 6  # whole windows of three, and one of the two that are left
    assert any(max(shards) - min(shards) > 2 for shards in firsts)  # of shards that are shuffled themselves


def test_taken_counts_each_source_over_all_epochs():
    order = SampleOrder((Source((30,)), Source((10,), 0.5)), seed=5)
    for epoch, position in ((0, 0), (0, 7), (2, 13), *((e, i) for e in (2, 3) for i in range(36))):
        seen = [int(i) for e in range(epoch) for i in order.epoch(e)] + order.epoch(epoch)[:position].tolist()
        taken = order.taken(epoch, position)
        assert taken == [sum(i < 30 for i in seen), sum(i >= 30 for i in seen)]
        assert {type(count) for count in taken} == {int}  # they go into checkpoints


def test_a_curriculum_begins_with_the_easy_samples():
    levels = tuple(i % 3 for i in range(30))
    order = SampleOrder((Source((30,)),), levels=levels, leveled_epochs=1)
    first, second = ([levels[i] for i in order.epoch(e)] for e in (0, 1))
    assert first == sorted(first)
    assert second != sorted(second)
    assert sorted(order.epoch(0)) == list(range(30))


def test_a_curriculum_keeps_the_random_order_among_equally_hard_samples():
    levels = tuple(i * 7 % 3 for i in range(400))
    plain = SampleOrder((Source((400,)),), seed=6)
    for leveled in (1, 2):
        order = SampleOrder((Source((400,)),), seed=6, levels=levels, leveled_epochs=leveled)
        for epoch in range(3):
            drawn = plain.epoch(epoch).tolist()
            expected = [i for level in range(3) for i in drawn if levels[i] == level] if epoch < leveled else drawn
            assert order.epoch(epoch).tolist() == expected


def test_without_shuffling_samples_come_as_written():
    order = SampleOrder((Source((4,)), Source((3,))), shuffle=False)
    assert order.epoch(2).tolist() == list(range(7))


def test_a_mixture_reads_the_right_folder(world):
    sets = [ShardSet(world / "val"), ShardSet(world / "train")]
    mixture = Mixture([MixtureSource("a/val"), MixtureSource("b/train", 2.0)], sets)
    assert len(mixture) == 8 + 48
    for index, (number, place) in {0: (0, 0), 7: (0, 7), 8: (1, 0), 55: (1, 47)}.items():
        assert mixture.read(index) == sets[number].read(place)
        assert mixture.name(index) == sets[number].name(place)
    assert len(mixture.order(0, True, 0, Curriculum())) == 8 + 96


def test_senseless_mixtures_say_what_is_wrong(world):
    shards = ShardSet(world / "val")
    with pytest.raises(AvrtError, match="two sources are called val"):
        Mixture([MixtureSource("x/val"), MixtureSource("y/val")], [shards, shards])
    with pytest.raises(ValueError, match="more than 0"):
        MixtureSource("x", weight=0.0)
    with pytest.raises(AvrtError, match="no sample has a difficulty"):
        Mixture([MixtureSource("x")], [shards]).order(0, True, 0, Curriculum(epochs=1))


def test_dropout_takes_what_it_says_and_never_everything():
    clip, dropout = clip_of(), ModalityDropout(audio=0.3, vision=0.2, seed=4)
    outcomes = [dropout.apply(clip, epoch, i) for epoch in range(2) for i in range(1000)]
    lost = Counter(what for _, what in outcomes)
    assert lost["audio"] / 2000 == pytest.approx(0.3, abs=0.04)
    assert lost["vision"] / 2000 == pytest.approx(0.2, abs=0.04)
    for part, what in outcomes:
        assert (part.audio is None) == (what == "audio")
        assert (part.frames is None) == (what == "vision")
    assert [what for _, what in outcomes[:1000]] != [what for _, what in outcomes[1000:]]
    assert [dropout.apply(clip, 1, i)[1] for i in range(1000)] == [what for _, what in outcomes[1000:]]
    everything = ModalityDropout(audio=0.5, vision=0.5)
    for single in (Clip(audio=clip.audio), clip.part("vision")):
        assert all(everything.apply(single, 0, i)[1] is None for i in range(50))
    with pytest.raises(ValueError, match="audio \\+ vision"):
        ModalityDropout(audio=0.7, vision=0.7)


def test_a_curriculum_follows_the_labels_of_the_shards(tmp_path):
    labels = ["hard", "easy", "medium", None, "easy", "hard", "odd"]
    items = [
        SourceItem(make_sample(f"q{i}", metadata={} if label is None else {"difficulty": label}), {})
        for i, label in enumerate(labels)
    ]
    write_shards(items, tmp_path, ClipSpec(), samples_per_shard=3)
    mixture = Mixture([MixtureSource(str(tmp_path))], [ShardSet(tmp_path)])
    order = mixture.order(1, True, 0, Curriculum(epochs=1))
    seen = [labels[i] for i in order.epoch(0)]
    assert seen[:5] == ["easy", "easy", "medium", "hard", "hard"]
    assert set(seen[5:]) == {None, "odd"}
    turned = mixture.order(1, True, 0, Curriculum(epochs=1, levels=["hard", "easy"]))
    assert [labels[i] for i in turned.epoch(0)][:4] == ["hard", "hard", "easy", "easy"]


def test_epochs_without_levels_are_shuffled_as_usual():
    plain, asked = (SampleOrder((Source((30,)),), seed=3, leveled_epochs=n) for n in (0, 2))
    assert asked.epoch(0).tolist() == plain.epoch(0).tolist()
