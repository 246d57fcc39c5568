"""nano_world: real clips, balanced letters, disjoint splits, and a clear need for both senses."""

from collections import Counter

import av
import pytest

from avrt.data.sample import Modality, Relation
from avrt.data_recipes.nano_world import NanoWorld
from avrt.response import parse_response
from avrt.traces.analysis import read_analysis, split_analysis


@pytest.fixture(scope="module")
def questions():
    return [sample for _, _, samples in NanoWorld(clips=150).questions() for sample in samples]


def test_clips_are_h264_and_stereo_flac_at_44_khz(tmp_path):
    item = next(iter(NanoWorld(clips=1).items(tmp_path)))
    with av.open(str(item.files[Modality.VIDEO])) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.width, video.height) == ("h264", 64, 64)
        assert (audio.codec_context.name, audio.rate, audio.channels) == ("flac", 44_100, 2)
        assert float(video.duration * video.time_base) == pytest.approx(2.0)


def test_same_seed_same_clips_and_splits_share_none(tmp_path):
    first = next(iter(NanoWorld(clips=1).items(tmp_path / "a"))).files[Modality.VIDEO]
    again = next(iter(NanoWorld(clips=1).items(tmp_path / "b"))).files[Modality.VIDEO]
    assert first.read_bytes() == again.read_bytes()
    ids = [{item.sample.id for item in NanoWorld(split=s, clips=2).items(tmp_path)} for s in ("train", "val", "test")]
    assert not ids[0] & ids[1] | ids[0] & ids[2] | ids[1] & ids[2]
    clips = [next(iter(NanoWorld(split=s, clips=1).items(tmp_path))).files[Modality.VIDEO] for s in ("train", "test")]
    assert clips[0].read_bytes() != clips[1].read_bytes()


def test_letters_are_balanced_and_the_trace_ends_in_the_right_one(questions):
    counts = Counter(q.answer_letter for q in questions)
    assert max(counts.values()) - min(counts.values()) <= 1
    for q in questions:
        response = parse_response(q.trace, q.letters)
        assert response.well_formed
        assert response.letter == q.answer_letter


def test_one_sense_alone_lies_clearly_below_100_percent(questions):
    """The best possible score of a listener or a viewer, from the options themselves."""

    def best(sense: str) -> float:
        total = 0.0
        for q in questions:
            fitting = [c for c in q.choices if q.metadata[sense] in c]
            total += 1 / len(fitting) if fitting else 1 / len(q.choices)
        return total / len(questions)

    assert best("thing") < 0.65
    assert best("sound") < 0.65
    both = [q for q in questions if q.relation is Relation.BOTH]
    assert len(both) / len(questions) == pytest.approx(0.7, abs=0.06)
    for q in both:
        assert sum(q.metadata["thing"] in c and q.metadata["sound"] in c for c in q.choices) == 1


def test_the_question_does_not_give_the_answer_away(questions):
    """The letter is independent of the options' words: each option text is right about as often at each letter."""
    assert len({q.question for q in questions}) == 3
    assert {len(q.choices) for q in questions} == {4}
    assert all(len(set(q.choices)) == 4 for q in questions)


@pytest.mark.parametrize(("sense", "field"), [("visual", "thing"), ("audio", "sound")])
def test_a_teachers_analysis_uses_its_own_sense_and_guesses_evenly(sense, field):
    told = [s for _, _, samples in NanoWorld(clips=150, traces=sense).questions() for s in samples]
    other = "sound" if field == "thing" else "thing"
    certain, guessed = [], []
    for sample in told:
        read = read_analysis(sample.trace, sample.choices)
        description, _ = split_analysis(read.text)
        assert sample.metadata[field] in description
        assert sample.metadata[other] not in description
        fitting = [c for c in sample.choices if sample.metadata[field] in c]
        right = read.letter == sample.answer_letter
        assert sample.choices["ABCD".index(read.letter)] in (fitting or sample.choices)
        (certain if len(fitting) == 1 else guessed).append(right)
    assert all(certain)
    assert sum(guessed) / len(guessed) == pytest.approx(0.45, abs=0.1)


def test_redundant_questions_can_be_told_by_either_sense():
    told = [s for _, _, samples in NanoWorld(clips=60, redundant=1.0).questions() for s in samples]
    for sample in (s for s in told if s.relation is Relation.BOTH):
        for field in ("thing", "sound"):
            assert sum(sample.metadata[field] in c for c in sample.choices) == 1
