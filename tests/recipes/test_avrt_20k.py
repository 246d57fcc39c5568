"""AVRT-20K: rows in the card's schema, with what their two open fields may hold, become shards with traces."""

import json
from collections import Counter

import pytest

from avrt.data.shards.reader import ShardSet
from avrt.data_recipes.avrt_20k import AVRT20K
from avrt.errors import BadSampleError
from tests.conftest import avrt, make_clip

THINK = "A motor hums while a boat leaves the pier."
WHOLE = f"<think>{THINK}</think><answer>B</answer>"


def row(number=0, **changes):
    return {
        "id": number,
        "video_name": f"clip_{number:06d}",
        "video_id": 900 + number,
        "question": "What is the sound in the video?",
        "choices": ["train", "motorboat", "car", "bicycle"],
        "answer": "motorboat",
        "question_relation": "Both",
        "question_type": "Which",
        "av_reasoning": WHOLE,
        **changes,
    }


def one(tmp_path, **changes):
    """What becomes of a single row: its sample, or why it cannot be used."""
    (tmp_path / "t.jsonl").write_text(json.dumps(row(**changes)) + "\n")
    (item,) = AVRT20K(traces="t.jsonl").items(tmp_path)
    return str(item) if isinstance(item, BadSampleError) else item.sample


@pytest.mark.parametrize(
    "told",
    [
        WHOLE,
        f"<think>{THINK}</think>\n<answer>B</answer>\n",
        f"<think>\n{THINK}\n</think>",
        THINK,
        f"{THINK}</think><answer>B</answer>",  # the chat template opened it
        f"{THINK}\n<answer>B</answer>",
        f"<think>{THINK}</think><answer>(B) motorboat</answer>",
        f"<think>{THINK}</think><answer>motorboat</answer>",
        f"<think>{THINK}</think> B",
        f"<think>{THINK}</think>\nAnswer: (B) motorboat",
        f"{THINK}\nAnswer: (B) motorboat",
        f"{THINK}\n**Final Answer:** B",
        f"{THINK} The answer is: B",
        f"<THINK>{THINK}</THINK><Answer>B</Answer>",
        f"◁think▷{THINK}◁/think▷<answer>B</answer>",
    ],
)
def test_every_spelling_of_a_trace_becomes_the_target_format(tmp_path, told):
    assert one(tmp_path, av_reasoning=told).trace == WHOLE


@pytest.mark.parametrize("answer", ["motorboat", "Motorboat ", "B", "(B)", "B. motorboat", "1", 1, 1.0])
def test_every_spelling_of_the_answer(tmp_path, answer):
    sample = one(tmp_path, answer=answer)
    assert (sample.answer, sample.trace) == (1, WHOLE)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"av_reasoning": None}, "is empty"),
        ({"av_reasoning": "  \n"}, "is empty"),
        ({"av_reasoning": ["a"]}, "needs a text"),
        ({"av_reasoning": "<think></think><answer>B</answer>"}, "has no reasoning"),
        ({"av_reasoning": f"<think>{THINK}</think><answer>C</answer>"}, "another answer than the row's"),
        ({"av_reasoning": f"{THINK}\nAnswer: (C) car"}, "another answer than the row's"),
        ({"av_reasoning": f"<think>{THINK}</think><answer>B or C</answer>"}, "an answer that is not a choice"),
        ({"av_reasoning": f"<think>{THINK}</think><answer>E</answer>"}, "an answer that is not a choice"),
        ({"av_reasoning": f"<think>{THINK}</think><answer>BC</answer>"}, "an answer that is not a choice"),
        ({"av_reasoning": f"<think>{THINK}</think><answer></answer>"}, "an answer that is not a choice"),
        ({"choices": ["B", "motorboat"], "av_reasoning": WHOLE}, "an answer that is not a choice"),
        ({"av_reasoning": f"<think>{THINK}"}, "is cut off"),
        ({"av_reasoning": f"<think>{THINK} <answer>B</answer>"}, "is cut off"),
        ({"av_reasoning": f"<think>{THINK}</think><answer>B"}, "is cut off"),
        ({"av_reasoning": WHOLE + WHOLE}, "several traces"),
        ({"av_reasoning": f"Sure. {WHOLE}"}, "words before"),
        ({"av_reasoning": f"{WHOLE} Hope it helps."}, "continues after its answer"),
        ({"av_reasoning": f"<think>{THINK}</think>So<answer>B</answer>"}, "words between"),
        ({"choices": [None, "motorboat", "car", "bicycle"]}, "letters that have changed"),
        ({"answer": "ship"}, "field 'answer' is"),
        ({"answer": None}, "no trace can be made: field 'answer' is empty"),
        ({"video_name": "../x"}, "needs a plain name"),
    ],
)
def test_a_row_without_a_trace_is_named(tmp_path, changes, why):
    told = one(tmp_path, **changes)
    assert isinstance(told, str)
    assert why in told
    assert "avrt_20k-00000" in told


def test_what_reasoning_says_of_answers_within_it_stays(tmp_path):
    told = "One answer: the boat, says the hum. Another answer: the car. The waves rule it out."
    assert one(tmp_path, av_reasoning=told).trace == f"<think>{told}</think><answer>B</answer>"


def test_indexes_from_one_are_not_guessed(tmp_path):
    rows = [row(i, answer=i % 4 + 1) for i in range(8)]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    assert all(isinstance(item, BadSampleError) for item in AVRT20K(traces="t.json").items(tmp_path))
    made = list(AVRT20K(traces="t.json", count_from=1).items(tmp_path))
    found = Counter("used" if not isinstance(item, BadSampleError) else "refused" for item in made)
    assert found == {"used": 2, "refused": 6}  # those whose trace ends in the row's answer


@pytest.mark.parametrize("form", ["parquet", "json", "jsonl"])
def test_from_published_rows_to_shards(tmp_path, form):
    """The command, over clips in AVQA's layout: what can be used is, the rest is counted and named."""
    (tmp_path / "videos").mkdir()
    for number in range(3):
        make_clip(tmp_path / "videos" / f"clip_{number:06d}.mp4")
    rows = [row(0), row(1, av_reasoning=THINK), row(2, av_reasoning=None), row(3), row(0, question="Another?", id=9)]
    options = () if form == "parquet" else ("--traces", f"traces.{form}")
    if form == "parquet":
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        (tmp_path / "data").mkdir()
        for part, some in enumerate((rows[:2], rows[2:])):
            table = pyarrow.Table.from_pylist(some)
            parquet.write_table(table, tmp_path / "data" / f"af3_kimivl-0000{part}-of-00002.parquet")
    elif form == "json":
        (tmp_path / "traces.json").write_text(json.dumps(rows))
    else:
        (tmp_path / "traces.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    told = avrt("shards", "avrt_20k", "--root", tmp_path, "--out", tmp_path / "out", "--workers", 1, *options).stdout
    shards = ShardSet(tmp_path / "out")
    assert {s.id: s.trace for s in shards.samples()} == {f"avrt_20k-{i}": WHOLE for i in (0, 1, 9)}
    assert shards.manifest.labels["trace"] == 3
    assert "2 left out (see skipped in manifest.json)" in told
    assert any("no trace can be made: field 'av_reasoning' is empty" in why for why in shards.manifest.skipped.values())
    sample = next(s for s in shards.samples() if s.id == "avrt_20k-0")
    assert (sample.relation, sample.question_type, sample.metadata["video_id"]) == ("both", "Which", 900)


def test_the_teachers_clip_is_the_default():
    assert (AVRT20K.clip.frames, AVRT20K.clip.audio_seconds) == (8, 10.0)
