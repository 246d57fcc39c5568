"""The record refuses bad fields by name and survives JSON unchanged."""

import json

import pytest

from avrt.data.sample import Evidence, Modality, Relation, Sample
from avrt.errors import BadSampleError
from tests.conftest import make_sample


def test_json_round_trip():
    sample = make_sample(
        media=("audio", "video"), relation="audio", question_type="Which", metadata={"duration": 10.0, "ü": [1, None]}
    )
    assert Sample.from_json(sample.to_json()) == sample
    assert sample.media == (Modality.VIDEO, Modality.AUDIO)  # canonical order
    assert sample.relation is Relation.AUDIO
    assert sample.answer_letter == "B"
    assert sample.letters == "ABC"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"id": ""}, "id"),
        ({"question": "  "}, "question"),
        ({"choices": ("one",)}, "choices"),
        ({"choices": (*"abcdefghijklmnopqrstuvwxyz", "27th")}, "choices"),
        ({"choices": ("a", "")}, "choices"),
        ({"choices": ("a", None)}, "choices"),
        ({"answer": 3}, "answer"),
        ({"answer": -1}, "answer"),
        ({"answer": True}, "answer"),
        ({"answer": "B"}, "answer"),
        ({"media": ("smell",)}, "media"),
        ({"relation": "taste"}, "relation"),
    ],
)
def test_bad_field_is_named(changes, field):
    with pytest.raises(BadSampleError, match=field):
        make_sample(**changes)


def test_record_without_field_or_of_another_version_is_refused():
    record = json.loads(make_sample().to_json())
    del record["choices"]
    with pytest.raises(BadSampleError, match="choices"):
        Sample.from_json(json.dumps(record))
    with pytest.raises(BadSampleError, match="version 99"):
        Sample.from_json(json.dumps({**record, "version": 99}))
    with pytest.raises(BadSampleError, match="not a sample record"):
        Sample.from_json(b"\x00nonsense")


def test_several_right_choices_are_kept_in_order():
    sample = make_sample(answer=[2, 0], several=True)
    assert (sample.answer, sample.right, sample.answer_letter) == ((0, 2), (0, 2), "A,C")
    assert Sample.from_json(sample.to_json()) == sample
    alone = make_sample(answer=1, several=True)
    assert (alone.answer, alone.answer_letter) == ((1,), "B")
    unknown = make_sample(answer=None, several=True)
    assert (unknown.answer, unknown.right, unknown.answer_letter) == (None, (), None)
    assert Sample.from_json(unknown.to_json()).several
    one = make_sample()
    assert (one.answer, one.right, one.several) == (1, (1,), False)


@pytest.mark.parametrize("answer", [(), (0, 0), (0, 3), (0, -1), (0, True), (0, "B"), "AB", {0, 1}, 3])
def test_several_right_choices_are_different_indexes(answer):
    with pytest.raises(BadSampleError, match=r"field 'answer' is .*, needs different indexes below 3"):
        make_sample(answer=answer, several=True)


def test_a_question_with_one_right_choice_has_no_list_of_answers():
    with pytest.raises(BadSampleError, match=r"field 'answer' is .*, needs an index below 3"):
        make_sample(answer=(1,))
    with pytest.raises(BadSampleError, match=r"field 'several' is '?yes'?, needs true or false"):
        make_sample(several="yes")


@pytest.mark.parametrize(
    ("choices", "is_one"),
    [
        (("Yes", "No"), True),
        (("no", "YES "), True),
        (("Yes", "No", "Unsure"), False),
        (("Yes", "Not"), False),
        (("Yes", "yes"), False),
    ],
)
def test_a_yes_no_question_is_told_by_its_choices(choices, is_one):
    assert make_sample(choices=choices, answer=0, trace=None).yes_no is is_one


def test_evidence_by_sense_survives_json_and_is_checked():
    steps = (
        Evidence(Relation.VISION, "a dog at 0:03"),
        Evidence(Relation.AUDIO, "a bark\0", "it is angry"),
        Evidence(None, "x"),
    )
    sample = make_sample(evidence=steps)
    assert sample.evidence[1].evidence == "a bark\ufffd"
    again = Sample.from_json(sample.to_json())
    assert again == sample
    assert [step.sense for step in again.evidence] == [Relation.VISION, Relation.AUDIO, None]
    for bad in ("x", [3], [{"sense": "smell", "evidence": "x"}], [{"sense": None, "evidence": 3}]):
        with pytest.raises(BadSampleError, match="field 'evidence"):
            make_sample(evidence=bad)


def test_records_of_another_version_or_without_a_field_are_refused():
    record = json.loads(make_sample().to_json())
    with pytest.raises(BadSampleError, match=r"schema version 1, this avrt reads 3 \(make the shards again\)"):
        Sample.from_json(json.dumps({**record, "version": 1}))
    del record["several"]
    with pytest.raises(BadSampleError, match="'several' is missing"):
        Sample.from_json(json.dumps(record))
