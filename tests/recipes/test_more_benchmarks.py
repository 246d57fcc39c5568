"""Recipes of MMAU, Video-MME, WorldSense, AVHBench and OmniVideoBench: rows in the real schemas, media of our own."""

import io
import json
import re
import sys
from collections import Counter

import numpy as np
import pytest
import soundfile

from avrt.data.sample import Modality, Relation
from avrt.data.shards.conversion import SourceItem
from avrt.data_recipes.avhbench import AVHBench
from avrt.data_recipes.intentbench import IntentBench
from avrt.data_recipes.intenttrain import IntentTrain
from avrt.data_recipes.mmau import MMAU
from avrt.data_recipes.omnivideobench import OmniVideoBench
from avrt.data_recipes.videomme import VideoMME
from avrt.data_recipes.worldsense import WorldSense
from avrt.errors import AvrtError
from tests.recipes.converting import convert, parts, put

MMAU_ROW = {
    "id": "ab-1", "audio_id": "./test-mini-audios/ab-1.wav", "question": "Who speaks?", "choices": ["Man", "Woman",
    "Child"],
    "answer": "Woman", "dataset": "AudioSet", "task": "speech", "split": "test-mini", "category": "Reasoning",
    "sub-category": "Acoustic Source Inference", "difficulty": "hard",
}  # fmt: skip


def test_mmau_sound_is_whole(tmp_path):
    rows = [
        MMAU_ROW,
        {**MMAU_ROW, "id": "ab-2", "choices": ["one", "three", "two", "three"], "answer": "three"},
        {**MMAU_ROW, "id": "ab-3", "answer": "A cow"},
        {**MMAU_ROW, "id": "ab-4", "audio_id": "./test-mini-audios/gone.wav"},
    ]
    put(tmp_path, "mmau-test-mini.json", rows)
    (tmp_path / "test-mini-audios").mkdir()
    soundfile.write(tmp_path / "test-mini-audios" / "ab-1.wav", np.sin(np.arange(12 * 8000) / 9) * 0.3, 8000)
    shards = convert("mmau", tmp_path)
    first, second = shards.samples()
    assert (first.answer_letter, first.question_type, first.relation) == ("B", "speech", Relation.AUDIO)
    assert first.metadata["mmau_difficulty"] == "hard"
    assert "difficulty" not in first.metadata  # that is the teachers'
    assert (second.choices, second.answer_letter) == (("one", "three", "two"), "B")
    heard, rate = soundfile.read(io.BytesIO(shards.read(0)["flac"]))
    assert (heard.size, rate) == (12 * 16_000, 16_000)
    assert shards.manifest.spec["audio_seconds"] is None
    assert len(shards.manifest.notes) == 1
    assert len(shards.manifest.skipped) == 2


def test_mmau_of_the_hub_has_its_choices_as_text(tmp_path):
    pyarrow, parquet = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    attributes = {key: MMAU_ROW[key] for key in ("id", "task", "category", "sub-category", "difficulty", "dataset")}
    lettered = ["(A) Man", "(B) Woman"]
    rows = [
        {"instruction": "Who speaks?", "choices": json.dumps(lettered), "answer": "(B) Woman",
         "other_attributes": json.dumps(attributes)},
        {"instruction": "Who speaks?", "choices": json.dumps(["Man", "Woman"]), "answer": "Man",
         "other_attributes": json.dumps({**attributes, "id": "../x"})},
    ]  # fmt: skip
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "test_mini.parquet")
    good, bad = parts(MMAU("test_mini.parquet").items(tmp_path))
    [item] = good
    assert (item.sample.choices, item.sample.answer) == (("Man", "Woman"), 1)
    assert item.files == {Modality.AUDIO: tmp_path / "test-mini-audios" / "ab-1.wav"}
    assert item.sample.metadata["category"] == "Reasoning"
    assert "needs a plain name" in bad[0]


def test_all_of_mmaus_released_rows_are_read(shared_data):
    good, bad = parts(MMAU().items(shared_data / "mmau"))
    assert (len(good), bad) == (1000, [])
    rows = json.loads((shared_data / "mmau" / "mmau-test-mini.json").read_text())
    assert Counter(len(row["choices"]) for row in rows) == {4: 948, 2: 27, 5: 24, 8: 1}
    assert sum(bool(item.notes) for item in good) == 27
    assert Counter(item.sample.question_type for item in good) == {"sound": 333, "music": 334, "speech": 333}
    assert Counter(i.sample.metadata["mmau_difficulty"] for i in good) == {"easy": 224, "medium": 540, "hard": 236}
    by_id = {row["id"]: row for row in rows}
    for item in good:
        row = by_id[item.sample.metadata["mmau_id"]]
        assert item.sample.choices[item.sample.answer] == row["answer"].strip()
        assert item.files[Modality.AUDIO].name == f"{row['id']}.wav"


def generated_mmau(count=1000, seed=0):
    """A twin of the released file: as many rows, with as many choices, of which some say the same."""
    rng = np.random.default_rng(seed)
    sizes = [8] + [2] * 27 + [5] * 24 + [4] * (count - 52)
    rows = []
    for number, size in enumerate(sizes):
        choices = [f"thing {number} {i}" for i in range(size)]
        if 100 <= number < 127:
            choices[3] = choices[1]
        answer = choices[int(rng.integers(size))]
        task = ("sound", "music", "speech")[number % 3]
        audio = f"./test-mini-audios/{number}.wav"
        rows.append(
            {**MMAU_ROW, "id": str(number), "audio_id": audio, "choices": choices, "answer": answer, "task": task}
        )
    return rows


def test_a_thousand_generated_rows_in_mmaus_schema(tmp_path):
    rows = generated_mmau()
    put(tmp_path, "mmau-test-mini.json", rows)
    good, bad = parts(MMAU().items(tmp_path))
    assert (len(good), bad, sum(bool(item.notes) for item in good)) == (1000, [], 27)
    by_id = {row["id"]: row for row in rows}
    assert all(i.sample.choices[i.sample.answer] == by_id[i.sample.metadata["mmau_id"]]["answer"] for i in good)
    assert Counter(len(i.sample.choices) for i in good) == {4: 921, 3: 27, 2: 27, 5: 24, 8: 1}


def test_videomme(tmp_path, clip):
    pyarrow, parquet = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    row = {
        "video_id": "001", "duration": "short", "domain": "Knowledge", "sub_category": "Geography",
        "url": "https://www.youtube.com/watch?v=fFjv93ACGo8", "videoID": "fFjv93ACGo8", "question_id": "001-1",
        "task_type": "Counting Problem", "question": "How many?", "options": ["A. 1.", "B. 2.", "C. 3.", "D. 4."],
        "answer": "C",
    }  # fmt: skip
    rows = [
        row,
        {**row, "question_id": "301-1", "videoID": "-long_one", "duration": "long", "answer": "A"},
        {**row, "question_id": "301-2", "videoID": "-long_one", "duration": "long", "answer": "E"},
    ]
    (tmp_path / "videomme").mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "videomme" / "test-00000-of-00001.parquet")
    put(tmp_path, "data/fFjv93ACGo8.mp4", clip)
    put(tmp_path, "data/-long_one.mkv", clip)
    shards = convert("videomme", tmp_path)
    long, short = sorted(shards.samples(), key=lambda s: s.metadata["duration"])
    assert (short.choices, short.answer_letter, short.question_type) == (
        ("1.", "2.", "3.", "4."),
        "C",
        "Counting Problem",
    )
    assert (long.metadata["duration"], long.answer_letter, set(long.media)) == ("long", "A", {"video", "audio"})
    assert "'E', needs a letter from A to D" in str(shards.manifest.skipped)
    assert VideoMME.clip.frames == 64
    assert VideoMME.clip.audio_seconds is None


def test_worldsense_as_an_object_of_videos_and_as_a_list(tmp_path, clip):
    task = {"task_domain": "Recognition", "task_type": "Audio Recognition", "question": "What begins?", "answer": "B",
            "candidates": ["A. A violin", "B. A piano", "C. A drum"]}  # fmt: skip
    video = {"video_id": "JlfMLFfm", "video_duration": "60s", "duration": "<1min", "domain": "Music",
    "sub_category": "Covers",
             "audio_class": ["Speech", "Music"], "video_caption": "long"}  # fmt: skip
    whole = {
        "JlfMLFfm": {**video, "task0": task, "task1": {**task, "answer": "C"}, "task2": {**task, "answer": "D"}},
        "gone": {**video, "task0": task},
        "empty": video,
        "../x": {**video, "task0": task},
        "odd": 3,
    }
    put(tmp_path, "worldsense_qa.json", whole)
    put(tmp_path, "videos/JlfMLFfm.mp4", clip)
    shards = convert("worldsense", tmp_path)
    first, second = shards.samples()
    assert [first.answer_letter, second.answer_letter] == ["B", "C"]
    assert first.metadata["audio_class"] == ["Speech", "Music"]
    assert (first.metadata["duration"], first.question_type) == ("<1min", "Audio Recognition")
    skipped = " ".join(shards.manifest.skipped.values())
    for told in ("'D', needs a letter from A to C", "missing: gone.mp4", "'empty' has no questions", "'odd' has no q",
                 "needs a plain name"):  # fmt: skip
        assert told in skipped
    put(tmp_path, "list.json", [{**video, **task, "video": "JlfMLFfm"}])
    good, bad = parts(WorldSense("list.json").items(tmp_path))
    assert (good[0].sample.answer_letter, good[0].sample.metadata, bad) == ("B", first.metadata, [])


def test_worldsense_at_its_full_size(tmp_path):
    """1,662 videos with one to five questions each, as many as in the released file."""
    counts = [1662, 994, 422, 85, 9]
    task = {"task_domain": "Recognition", "task_type": "Event Sorting", "question": "?", "candidates": ["A. x", "B. y"]}
    whole = {
        f"v{number:05d}": {
            "duration": "<1min",
            **{f"task{i}": {**task, "answer": "AB"[number % 2]} for i in range(5) if number < counts[i]},
        }
        for number in range(1662)
    }
    put(tmp_path, "worldsense_qa.json", whole)
    good, bad = parts(WorldSense().items(tmp_path))
    assert (len(good), bad, len({i.sample.id for i in good})) == (3172, [], 3172)
    assert len({i.sample.metadata["video_id"] for i in good}) == 1662


AVH = [
    {
        "video_id": "00191",
        "task": "Video-driven Audio Hallucination",
        "text": "Is the man making sound?",
        "label": "Yes",
    },
    {"video_id": "00191", "task": "Audio-driven Video Hallucination", "text": "Is the dog visible?", "label": "No"},
    {"video_id": "00191", "task": "AV Matching", "text": "Are the contexts matching?", "label": "yes"},
    {"video_id": "00191", "task": "AV Captioning", "text": "Describe it.", "label": "A man is in bed, snoring."},
]


def test_avhbench_with_a_file_for_each_video(tmp_path, clip):
    put(tmp_path, "json/00191.json", AVH)
    swap = {**AVH[2], "video_id": "00006_swap", "label": "No"}
    put(tmp_path, "json/00006.json", [swap, {**swap, "label": "Maybe"}, {**swap, "task": "Singing"}])
    put(tmp_path, "video/00191.mp4", clip)
    put(tmp_path, "video/00006_swap.mp4", clip)
    shards = convert("avhbench", tmp_path)
    samples = list(shards.samples())
    assert [s.choices for s in samples] == [("Yes", "No")] * 4
    assert all(s.yes_no for s in samples)
    assert Counter((s.question_type, s.answer_letter, str(s.relation)) for s in samples) == {
        ("Video-driven Audio Hallucination", "A", "audio"): 1, ("Audio-driven Video Hallucination", "B", "vision"): 1,
        ("AV Matching", "A", "both"): 1, ("AV Matching", "B", "both"): 1,
    }  # fmt: skip
    assert [s.metadata["swapped"] for s in samples].count(True) == 1
    skipped = list(shards.manifest.skipped.values())
    assert sum("a captioning row" in why for why in skipped) == 1
    assert sum("field 'label' is 'Maybe', which no choice says" in why for why in skipped) == 1
    assert sum("field 'task' is 'Singing'" in why for why in skipped) == 1
    assert [path.name for path in AVHBench().annotations(tmp_path)] == ["00006.json", "00191.json"]


def test_avhbench_in_one_file_at_its_full_size(tmp_path):
    """5,302 yes/no questions are used and 1,106 captioning rows are left out by name."""
    yes_no = [{**AVH[n % 3], "video_id": f"{n // 3:05d}", "label": ("Yes", "No")[n % 2]} for n in range(5302)]
    captions = [{**AVH[3], "video_id": f"{n:05d}"} for n in range(1106)]
    put(tmp_path, "json/qa.json", [*yes_no, *captions])
    put(tmp_path, "json/00000.json", yes_no[:3])  # beside it: not read twice
    good, bad = parts(AVHBench().items(tmp_path))
    assert (len(good), len(bad)) == (5302, 1106)
    assert all("a captioning row" in why for why in bad)
    assert Counter(i.sample.answer_letter for i in good) == {"A": 2651, "B": 2651}
    with pytest.raises(AvrtError, match="no such file"):
        list(AVHBench().items(tmp_path / "video"))


def omni(video="video_1", duration="03:28", steps=(), **changes):
    question = {
        "question": "How many?", "question_type": "counting", "audio_type": "Speech", "reasoning_steps": list(steps),
        "answer": "2", "options": ["A.0", "B.1", "C.2", "D.3"], "correct_option": "C", **changes,
    }  # fmt: skip
    return {"video": video, "video_type": "Vlog", "duration": duration, "questions": [question]}


def test_omnivideobench_keeps_evidence_by_sense(tmp_path, clip):
    heard = {"modality": "audio", "evidence": "At 0:35, they talk.", "inference": "There."}
    seen = {"modality": "vision", "evidence": "two cars", "inference": "2."}
    unsaid = {"evidence": "a sign", "inference": "x"}
    two = omni(steps=[heard, seen])
    two["questions"] += omni(steps=[heard], correct_option="A")["questions"]
    videos = [
        two,
        omni("video_2", "29:59", [seen, unsaid]),
        omni("video_3", "1:02:03", [{"modality": "audio & vision", "evidence": "both"}]),
        omni("video_4", "soon", []),
        omni("video_5", None, [heard, seen, unsaid]),
        omni("video_6", "00:59", ["no step"]),
        omni("video_8", "00:59", answer="3"),
        {"video": "video_7"},
        5,
    ]
    put(tmp_path, "data.json", videos)
    good, bad = parts(OmniVideoBench().items(tmp_path))
    samples = {i.sample.id: i.sample for i in good}
    kept = [samples[name] for name in sorted(samples)]
    assert [s.relation for s in kept] == ["both", "audio", None, "both", None, "both", None]
    assert [[step.sense for step in s.evidence] for s in kept[:3]] == [["audio", "vision"], ["audio"], ["vision", None]]
    assert kept[0].evidence[0].evidence == "At 0:35, they talk."
    assert kept[0].evidence[1].inference == "2."
    assert [s.metadata["seconds"] for s in kept] == [208, 208, 1799, 3723, None, None, 59]
    assert [s.metadata["length"] for s in kept][:4] == ["<=5 min", "<=5 min", ">10 min", ">10 min"]
    assert (kept[0].choices, kept[0].answer_letter, kept[1].answer_letter) == (("0", "1", "2", "3"), "C", "A")
    notes = [note for item in good for note in item.notes]
    assert sum("1 of its reasoning steps name no sense" in note for note in notes) == 2
    assert sum("'soon', not MM:SS" in note for note in notes) == 1
    assert sum("field 'answer' is '3', its option 'C' another text" in note for note in notes) == 1
    assert len(bad) == 3
    assert any("'video_7' has no list of questions" in why for why in bad)
    put(tmp_path, "videos/video_1.mp4", clip)
    first, _ = convert("omnivideobench", tmp_path).samples()
    assert first.evidence == kept[0].evidence  # from the shard
    assert (OmniVideoBench.clip.fps, OmniVideoBench.clip.max_frames) == (2.0, 128)


FILES = {
    MMAU: "mmau-test-mini.json", VideoMME: "v.json", WorldSense: "worldsense_qa.json", AVHBench: "json/qa.json",
    OmniVideoBench: "data.json", IntentTrain: "emer_rewrite.json", IntentBench: "qa.json",
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_the_example_row_in_the_docstring_is_one(kind, tmp_path):
    about = sys.modules[kind.__module__].__doc__
    for told in ("Homepage: http", "Paper: ", "Licence: "):
        assert told in about
    example = json.loads(re.search(r"\n(?:A row|An entry):\n\n(.*)\Z", about, re.DOTALL)[1])
    listed = kind is not WorldSense
    put(tmp_path, FILES[kind], [example] if listed else example)
    recipe = VideoMME("v.json") if kind is VideoMME else kind()
    [item] = recipe.items(tmp_path)
    assert isinstance(item, SourceItem), str(item)
    assert item.sample.answer is not None
    assert not item.notes


@pytest.mark.parametrize("kind", FILES)
def test_these_benchmarks_hear_the_whole_sound(kind):
    assert kind.clip.audio_seconds is None
