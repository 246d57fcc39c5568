"""Predictions and their journal: nothing lost, nothing twice, torn lines ignored, another protocol refused."""

import json

import pytest

from avrt.errors import AvrtError
from avrt.evaluation.predictions import Prediction, PredictionWriter, read_predictions
from tests.conftest import make_sample


def answers(*positions: int) -> list[Prediction]:
    return [Prediction.from_sample(make_sample(f"q{i}"), i, responses=("B",), finished=(True,)) for i in positions]


def test_predictions_survive_json():
    [prediction] = answers(3)
    assert Prediction.from_record(json.loads(prediction.to_json())) == prediction


def test_two_processes_and_a_torn_line_merge_to_each_question_once(tmp_path):
    protocol = {"prompt.system_prompt": "x"}
    first, second = PredictionWriter(tmp_path, protocol), PredictionWriter(tmp_path, protocol)
    first.add(answers(0, 1))
    second.add(answers(3, 1))
    with pytest.raises(AvrtError, match=r"1 of 4 questions have no answer"):
        first.merge(4)
    path = next((tmp_path / "journal").glob("*.jsonl"))
    path.write_text(path.read_text() + answers(2)[0].to_json()[:40])
    again = PredictionWriter(tmp_path, protocol)
    assert sorted(again.answered()) == [0, 1, 3]
    again.add(answers(2))
    merged = again.merge(4)
    assert [p.index for p in merged] == [0, 1, 2, 3]
    again.write(merged)
    assert [p.id for p in read_predictions(tmp_path / "predictions.jsonl")] == ["q0", "q1", "q2", "q3"]


def test_answers_under_another_protocol_are_not_mixed_in(tmp_path):
    PredictionWriter(tmp_path, {"prompt.system_prompt": "x", "samples": 1}).add(answers(0))
    with pytest.raises(AvrtError, match=r"prompt.system_prompt was 'x', now 'y'"):
        PredictionWriter(tmp_path, {"prompt.system_prompt": "y", "samples": 1})


def test_odd_texts_are_journaled_and_read_back(tmp_path):
    odd, clean = "half \ud83d, line\u2028end\x85nul\0", "half \ufffd, line\u2028end\x85nul\ufffd"
    sample = make_sample(odd, question=odd, choices=(odd, "b", "c"), metadata={"title": odd})
    journal = PredictionWriter(tmp_path, {"prompt.system_prompt": odd})
    journal.add([Prediction.from_sample(sample, 0, responses=(odd,), finished=(True,))])
    again = PredictionWriter(tmp_path, {"prompt.system_prompt": odd})
    [merged] = again.merge(1)
    again.write([merged])
    assert [merged] == read_predictions(tmp_path / "predictions.jsonl")
    assert (merged.id, merged.question, merged.choices[0]) == (clean, clean, clean)
    assert (merged.responses, merged.metadata) == ((clean,), {"title": clean})
    path = tmp_path / "predictions.jsonl"
    path.write_text("\ufeff" + path.read_text("utf-8").replace("\ufffd,", r"\ud83d,") + "\n\n", "utf-8")
    assert [merged] == read_predictions(path)
    path.write_text("[]\n")
    with pytest.raises(AvrtError, match="line 1 is not a prediction: the fields id and responses are missing"):
        read_predictions(path)
    path.write_text("\n{")
    with pytest.raises(AvrtError, match="line 2 is not JSON"):
        read_predictions(path)


def test_a_prediction_of_several_letters_gives_back_its_question(tmp_path):
    sample = make_sample(answer=(0, 2), several=True, trace=None)
    prediction = Prediction.from_sample(sample, 4, responses=("<answer>A</answer>",), finished=(True,))
    assert (prediction.answer, prediction.several) == ("A,C", True)
    path = tmp_path / "predictions.jsonl"
    record = json.loads(prediction.to_json())
    path.write_text(json.dumps(record) + "\n")
    [again] = read_predictions(path)
    assert again == prediction
    assert again.sample() == sample
    # as earlier versions wrote them
    del record["several"]
    path.write_text(json.dumps({**record, "answer": "C"}) + "\n")
    assert read_predictions(path)[0].sample() == make_sample(answer=2, trace=None)
    path.write_text(json.dumps({**record, "answer": None, "several": True}) + "\n")
    assert read_predictions(path)[0].sample().answer is None


def test_a_line_says_what_the_first_answer_chooses_and_reading_it_ignores_that(tmp_path):
    right = "<think>I see it.</think><answer>B</answer>"
    predictions = [
        Prediction.from_sample(make_sample("q0", answer=1), 0, responses=(right, "C"), finished=(True, False)),
        Prediction.from_sample(make_sample("q1", answer=0), 1, responses=("<answer>B</answer>",), finished=(True,)),
        Prediction.from_sample(make_sample("q2", answer=None, trace=None), 2, responses=(right,), finished=(True,)),
        Prediction.from_sample(make_sample("q3"), 3, error="cannot be decoded"),
    ]
    writer = PredictionWriter(tmp_path)
    writer.add(predictions[2:])
    writer.add(predictions[:2])
    gathered = writer.gather()
    assert gathered == predictions  # in the order of the shards
    assert writer.gather() == []
    writer.write(gathered)
    records = [json.loads(line) for line in writer.path.read_text().splitlines()]
    assert [(r["choice"], r["correct"], r["well_formed"]) for r in records] == [
        ("B", True, True), ("B", False, False), ("B", None, True), (None, None, None)
    ]  # fmt: skip
    assert read_predictions(writer.path) == predictions
