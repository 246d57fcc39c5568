"""Exported traces as a table, also of questions with several right choices, and read again as a data set."""

import json

import pytest

from avrt.data_recipes.folder import Folder
from avrt.traces.stats import _split
from avrt.traces.trace_export import TRACES, read_traces, write_parquet

TRACE = {
    "id": "q1", "question": "Which are heard?", "choices": ["a dog", "a cat", "rain"], "answer": "A,C", "several": True,
    "trace": "<think>It barks in the rain.</think><answer>C, A</answer>", "media": ["audio"], "relation": "audio",
    "question_type": "Which", "difficulty": "easy", "metadata": {}, "split": "train",
}  # fmt: skip


def written(folder, *records):
    (folder / TRACES).write_text("".join(json.dumps(record) + "\n" for record in records))


def test_an_exported_table_can_be_read_as_a_data_set(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    old = {key: value for key, value in TRACE.items() if key != "several"}
    old |= {"id": "q2", "answer": "B", "trace": "<think>It meows.</think><answer>B</answer>"}
    written(tmp_path, TRACE, old)
    rows = parquet.read_table(write_parquet(tmp_path)).to_pylist()
    assert [(row["answer"], row["several"]) for row in rows] == [("A,C", True), ("B", False)]
    for row in rows:
        row["media"] = "a.wav"
    (tmp_path / "again.json").write_text(json.dumps([{**row, "metadata": None} for row in rows]))
    first, second = sorted((i.sample for i in Folder("again.json").items(tmp_path)), key=lambda s: s.id)
    assert (first.answer, first.several, second.answer, second.several) == ((0, 2), True, 1, False)


def test_traces_of_several_letters_keep_to_the_format(tmp_path):
    written(tmp_path, TRACE)
    found = _split(read_traces(tmp_path), "words", lambda text: len(text.split()))
    assert found["format_compliance"] == 100.0
    assert found["answers"] == {"A,C": 100.0}
    written(tmp_path, {**TRACE, "several": False})
    assert _split(read_traces(tmp_path), "words", lambda text: len(text.split()))["format_compliance"] == 0.0
