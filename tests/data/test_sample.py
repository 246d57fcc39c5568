"""The record refuses bad fields by name and survives JSON unchanged."""

import json

import pytest

from avrt.data.sample import Modality, Relation, Sample
from avrt.errors import BadSampleError
from tests.conftest import make_sample


def test_json_round_trip():
    sample = make_sample(
        media=("audio", "video"), relation="sound", question_type="Which", metadata={"duration": 10.0, "ü": [1, None]}
    )
    assert Sample.from_json(sample.to_json()) == sample
    assert sample.media == (Modality.VIDEO, Modality.AUDIO)  # canonical order
    assert sample.relation is Relation.SOUND
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
