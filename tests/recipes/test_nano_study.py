"""The study's world: sight and sound tell equally much, one sense is not enough, and traces say what there is."""

from collections import Counter
from itertools import pairwise

import av
import pytest
import soundfile
from torchvision.io import decode_image

from avrt.data.sample import Modality, Relation
from avrt.data_recipes.nano_events import WHEN, NanoEvents
from avrt.data_recipes.nano_stills import NanoStills
from avrt.response import parse_response
from avrt.traces.analysis import read_analysis, split_analysis


def events(**options):
    return [(scene, sample) for scene, _, samples in NanoEvents(**options).questions() for sample in samples]


def stills(**options):
    return [sample for *_, samples in NanoStills(**options).questions() for sample in samples]


def half(sample):
    """Which half of the clip a question is about, by its words and what there is alone; both are the same if steady."""
    words = sample.question.split()
    for i, name in enumerate(WHEN):
        if name in words:
            return i
    there = [*zip(sample.metadata["things"], sample.metadata["sounds"], strict=True)]
    return next((i for i, pair in enumerate(there) if any(part in sample.question for part in pair)), 0)


def test_the_right_option_follows_from_what_there_is_and_when():
    for scene, sample in [*events(clips=60), *events(clips=60, steady=1.0)]:
        when = half(sample)
        thing, sound = scene.things[when], scene.sounds[when]
        pair = f"{thing} with {sound}"
        expected = {"order": pair, "match": pair, "seen": thing, "heard": sound}
        seen = "seen" in sample.question
        assert sample.choices[sample.answer] == expected.get(sample.question_type, thing if seen else sound)
        assert len(set(sample.choices)) == 4
    for sample in stills(clips=60):
        thing, sound = sample.metadata["thing"], sample.metadata["sound"]
        expected = {"match": f"{thing} and {sound}", "picture": thing, "audio": sound}
        assert sample.choices[sample.answer] == expected[sample.question_type]
    letters = Counter(sample.answer_letter for _, sample in events(clips=60))
    assert max(letters.values()) - min(letters.values()) <= 1


def test_sight_and_sound_tell_equally_much_and_one_of_them_not_enough():
    """By the options that a sense with perfect perception cannot exclude."""
    for samples in (
        [s for _, s in events(clips=200)],
        [s for _, s in events(clips=200, steady=1.0)],
        stills(clips=200),
    ):
        best = dict.fromkeys(("vision", "audio"), 0.0)
        for sample in samples:
            things = sample.metadata.get("things") or [sample.metadata["thing"]]
            sounds = sample.metadata.get("sounds") or [sample.metadata["sound"]]
            for sense, there in (("vision", things), ("audio", sounds)):
                when = half(sample) if len(there) == 2 else 0
                asked_by_other = sample.question_type == "while"
                possible = there if asked_by_other else [there[when]]
                fitting = [c for c in sample.choices if any(name in c for name in possible)]
                best[sense] += 1 / (len(fitting) or 4) / len(samples)
        assert best["vision"] == pytest.approx(best["audio"], abs=0.05)
        assert 0.4 < best["vision"] < 0.75


def test_traces_answer_rightly_and_analyses_fit_what_a_sense_can_know():
    for _, sample in events(clips=40, traces="both"):
        response = parse_response(sample.trace, sample.letters)
        assert response.well_formed
        assert response.letter == sample.answer_letter
        assert all(thing in response.think for thing in sample.metadata["things"] + sample.metadata["sounds"])
    for sense, relation in (("visual", Relation.VISION), ("audio", Relation.AUDIO)):
        right = Counter()
        for _, sample in events(clips=100, traces=sense):
            analysis = read_analysis(sample.trace, sample.choices)
            assert all(split_analysis(analysis.text))
            right[sample.relation, sample.question_type] += analysis.letter == sample.answer_letter
            right[sample.question_type] += 1
        own = "seen" if sense == "visual" else "heard"
        assert right[relation, own] == right[own]
        assert right[Relation.BOTH, "while"] < 0.6 * right["while"]
    styles = Counter(
        "bare" if sample.trace.startswith("(") else "joined" if "frames" in sample.trace and "sound" in sample.trace
        else "one" for _, sample in events(clips=200, traces="one_sense", pairs=1.0)
    )  # fmt: skip
    assert styles["bare"] / 800 == pytest.approx(0.6, abs=0.06)
    assert styles["joined"] / 800 == pytest.approx(0.1, abs=0.04)


def test_a_question_about_one_sense_can_come_with_this_sense_alone(tmp_path):
    for recipe in (NanoEvents(clips=3, pairs=0.2, alone=1.0), NanoStills(clips=3, both=0.2, alone=1.0)):
        for item in recipe.items(tmp_path):
            relation, files = item.sample.relation, item.files
            if Modality.VIDEO in files:
                with av.open(str(files[Modality.VIDEO])) as container:
                    assert bool(container.streams.audio) == (relation is Relation.BOTH)
            assert (Modality.AUDIO in files) == (
                relation is Relation.AUDIO or (relation is Relation.BOTH and Modality.IMAGE in files)
            )


def test_what_is_seen_and_heard_changes_halfway(tmp_path):
    item = next(iter(NanoEvents(clips=1).items(tmp_path)))
    again = next(iter(NanoEvents(clips=1).items(tmp_path / "again")))
    path = item.files[Modality.VIDEO]
    assert path.read_bytes() == again.files[Modality.VIDEO].read_bytes()
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24").astype(float) for frame in container.decode(video=0)]
    assert len(frames) == 16
    steps = [abs(b - a).mean() for a, b in pairwise(frames)]
    assert max(range(15), key=steps.__getitem__) == 7
    files = next(iter(NanoStills(clips=1).items(tmp_path))).files
    assert decode_image(str(files[Modality.IMAGE])).shape == (3, 64, 64)
    assert soundfile.info(files[Modality.AUDIO]).duration == pytest.approx(2.0)
