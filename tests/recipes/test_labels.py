"""One function reads options and answers for all recipes: each spelling gives an index, or a refusal that names it."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from avrt.data.shards.conversion import SourceItem
from avrt.data_recipes.avqa import AVQA
from avrt.data_recipes.avqa_r1 import AVQAR1
from avrt.data_recipes.dailyomni import DailyOmni
from avrt.data_recipes.folder import Folder
from avrt.data_recipes.intentbench import IntentBench
from avrt.data_recipes.intenttrain import IntentTrain
from avrt.data_recipes.labels import Answers, read_labels
from avrt.data_recipes.mmar import MMAR
from avrt.data_recipes.mmau import MMAU
from avrt.data_recipes.music_avqa import MusicAVQA
from avrt.data_recipes.omnibench import OmniBench
from avrt.data_recipes.omnivideobench import OmniVideoBench
from avrt.data_recipes.videomme import VideoMME
from avrt.data_recipes.worldsense import WorldSense
from avrt.errors import BadSampleError

D = ["a dog", "a cat", "a car", "rain"]
REFUSED = None
# options, answer, the right choice's text or a refusal
SPELLINGS = [
    # a list of bare texts
    (D, 1, "a cat"), (D, 0, "a dog"), (D, 1.0, "a cat"), (D, "1", "a cat"), (D, "B", "a cat"), (D, "b", "a cat"),
    (D, "(B)", "a cat"), (D, "(b)", "a cat"), (D, "[B]", "a cat"), (D, "B.", "a cat"), (D, "B)", "a cat"),
    (D, " B ", "a cat"), (D, "B) a cat", "a cat"), (D, "(B) a cat", "a cat"), (D, "B. A Cat", "a cat"),
    (D, "B: a cat", "a cat"), (D, "a cat", "a cat"), (D, " a  cat\n", "a cat"), (D, "A CAT", "a cat"),
    (D, ["B"], "a cat"),
    (D, "<answer>B</answer>", "a cat"), (D, "<answer>a cat</answer>", "a cat"), (D, "\uff22", "a cat"),
    (D, "\uff08B\uff09", "a cat"),
    # answers that are none
    (D, "", REFUSED), (D, " \n", REFUSED), (D, "BC", REFUSED), (D, "ABCD", REFUSED), (D, "A,B", REFUSED),
    (D, "A, B", REFUSED), (D, "A and B", REFUSED), (D, "A/C", REFUSED), (D, "B C", REFUSED), (D, "(A)(B)", REFUSED),
    (D, "Both", REFUSED), (D, "all of them", REFUSED), (D, "E", REFUSED), (D, "(E)", REFUSED), (D, "B) a dog", REFUSED),
    (D, "B) a cow", REFUSED), (D, "a dog, a cat", REFUSED), (D, 4, REFUSED), (D, -1, REFUSED), (D, 1.5, REFUSED),
    (D, "4", REFUSED), (D, True, REFUSED), (D, ["A", "B"], REFUSED), (D, [], REFUSED), (D, {"A": "a dog"}, REFUSED),
    (D, b"B", REFUSED), (D, float("nan"), REFUSED), (D, 10**400, REFUSED), (D, "<answer></answer>", REFUSED),
    # lettered lists
    (["A. x", "B. y"], "B", "y"), (["A) x", "B) y"], "B", "y"), (["(A) x", "(B) y"], "b", "y"),
    (["A: x", "B: y"], 1, "y"),
    (["A.x", "B.y"], "B", "y"), (["a. x", "b. y"], "B", "y"), (["A. x", "B. y"], "y", "y"),
    (["A. x", "B. y"], "B. y", "y"),
    (["A. B", "B. A"], "A", "B"), (["U.S. flag", "a dog"], "A", "U.S. flag"), (["A.D. 3", "B.C. 3"], "B", "B.C. 3"),
    (["A. Smith", "J. Doe", "x"], "A. Smith", "A. Smith"), (["J. Smith", "K. Jones"], 1, "K. Jones"),
    (["A:maj", "B:7"], "B:7", "B:7"), (["A", "B", "C"], "C", "C"),
    (["B. x", "A. y"], "A", REFUSED), (["A. x", "A. y"], 0, REFUSED), (["A. x", "B. y", "D. z"], 1, REFUSED),
    (["B. x", "A. y", "none"], "A", REFUSED),
    # objects, and lists that were written as text
    ({"A": "x", "B": "y"}, "B", "y"), ({"b": "y", "a": "x"}, "A", "x"), ({"1": "x", "2": "y"}, 2, "y"),
    ({"1": "x", "2": "y"}, "2", "y"), ({"0": "x", "1": "y"}, 1, "y"), ({"A": "x", "B": "y"}, "x", "x"),
    ({"A": "x", "B": "y", "C": None}, "B", "y"), ({"label": ["A", "B"], "text": ["x", "y"]}, "B", "y"),
    ('["x", "y"]', "y", "y"), ("['x', 'y']", "B", "y"), ('{"A": "x", "B": "y"}', "B", "y"),
    ({"10": "j", **{str(i): f"t{i}" for i in range(1, 10)}}, "10", "j"),
    ({"A": "x", "C": "y"}, "A", REFUSED), ({"A": "x", "a": "y"}, "A", REFUSED),
    ({"foo": "x", "bar": "y"}, "x", REFUSED),
    ({"1": "x", "3": "y"}, 1, REFUSED), ('{"A": "x", "A": "y", "B": "z"}', "A", REFUSED),
    ("ab", "a", REFUSED), ("A. x B. y", "A", REFUSED), ("[", 0, REFUSED), ("[" * 5000, 0, REFUSED), (5, 0, REFUSED),
    (None, 0, REFUSED), ([1, 2], 0, REFUSED), ([b"x", "y"], "y", REFUSED), ([["x"], "y"], "y", REFUSED),
    ([], 0, REFUSED), (["x"], 0, REFUSED), ([str(i) + "t" for i in range(27)], 0, REFUSED),
    # choices that are none
    (["x", None, "y"], 2, "y"), (["x", None, "y"], 1, REFUSED), (["x", None, "y"], "C", "y"),
    (["x", "y", " "], "y", "y"),
    (["x", "y", ""], "C", REFUSED), (["x", None], 0, REFUSED),
    # an answer that can be read in two ways
    (["B", "A"], "A", REFUSED), (["1", "2", "3"], 2, REFUSED), (["1", "2", "3"], "2", "2"), (["1", "2", "3"], 0, "1"),
    (["10", "20", "30"], "1", REFUSED), (["10", "20", "30"], 1, "20"), (["1. x", "2. y", "3. z"], 1, REFUSED),
    (["AC", "BC"], "BC", "BC"), (["m", "M"], "M", "M"), (["b", "x"], "B", REFUSED),
    # equal choices
    (["one", "three", "two", "three"], 3, "three"), (["one", "three", "two", "three"], "D", "three"),
    (["one", "three", "two", "three"], "three", "three"), (["Yes", "no", "yes "], "C", "yes"), (["x", "x"], 0, REFUSED),
    (["caf\u00e9", "cafe\u0301", "tea"], 1, "caf\u00e9"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "answer", "right"), SPELLINGS, ids=range(len(SPELLINGS)))
def test_a_spelling_is_an_index_or_a_refusal(options, answer, right):
    if right is REFUSED:
        with pytest.raises(BadSampleError, match=r"^row 7: field '(Opts|Ans)' ") as told:
            read_labels(options, answer, where="row 7", fields=("Opts", "Ans"))
        assert len(str(told.value)) < 320
        return
    labels = read_labels(options, answer, where="row 7")
    from unicodedata import normalize

    assert normalize("NFC", labels.choices[labels.answer]) == right
    assert len(set(labels.choices)) == len(labels.choices)


def test_there_are_enough_spellings():
    assert len(SPELLINGS) >= 120


def test_choices_keep_their_order_and_all_that_is_left_out_is_told():
    labels = read_labels(["x", None, "y", "X.", "y", ""], 4, where="r")
    assert (labels.choices, labels.answer, labels.moved) == (("x", "y", "X."), 1, True)
    assert labels.notes[0].startswith("2 of its choices are null or empty")
    assert labels.notes[1:] == ("choices C and E say the same ('y'): one left",)
    labels = read_labels({"B": "second", "C": "third", "A": "first"}, None, where="r")
    assert labels == type(labels)(("first", "second", "third"), None)


@pytest.mark.parametrize(
    ("kind", "options", "answer", "index"),
    [
        (Answers.LETTER, ["B", "A"], "A", 0), (Answers.TEXT, ["B", "A"], "A", 1),
        (Answers.INDEX, ["1", "2", "3"], 2, 2),
        (Answers.INDEX, ["1", "2", "3"], "2", 2), (Answers.TEXT, ["1", "2", "3"], 2, 1), (Answers.TEXT, D, "B", 1),
        (Answers.LETTER, D, "a cat", 1),
    ],
)  # fmt: skip
def test_what_the_answers_are_decides(kind, options, answer, index):
    assert read_labels(options, answer, where="r", kind=kind).answer == index


def test_indexes_may_count_from_one():
    assert read_labels(D, 4, where="r", base=1).answer == 3
    with pytest.raises(BadSampleError, match="from 1 to 4"):
        read_labels(D, 0, where="r", base=1)


# each recipe's own row with these options and this answer
def avqa(options, answer):
    return {"id": 1, "video_name": "v", "question_text": "?", "multi_choice": options, "answer": answer,
            "question_relation": "Both", "question_type": "Which"}  # fmt: skip


def avqa_r1(options, answer):
    solution = f"<answer>{answer}</answer>" if isinstance(answer, str) else answer
    return {"problem_id": 1, "problem": "?", "problem_type": "mc", "options": options, "solution": solution,
            "path": {"image": "i.jpg", "audio": "a.wav"}}  # fmt: skip


def dailyomni(options, answer):
    return {"Question": "?", "Choice": options, "Answer": answer, "video_id": "v", "Type": "t"}


def folder(options, answer):
    return {"question": "?", "choices": options, "answer": answer, "media": "v.mp4"}


def mmar(options, answer):
    return {"id": "1", "audio_path": "a.wav", "question": "?", "choices": options, "answer": answer, "category": "c"}


def omnibench(options, answer):
    return {"index": 1, "question": "?", "options": options, "answer": answer, "task type": "t", "audio_path": "a.wav",
            "image_path": "i.jpg"}  # fmt: skip


def mmau(options, answer):
    return {"id": "1", "audio_id": "./a.wav", "question": "?", "choices": options, "answer": answer, "task": "sound"}


def videomme(options, answer):
    return {"videoID": "v", "question": "?", "options": options, "answer": answer, "duration": "short",
            "task_type": "OCR Problems"}  # fmt: skip


def worldsense(options, answer):
    return {"video": "v", "question": "?", "candidates": options, "answer": answer, "task_type": "Event Sorting"}


def omnivideobench(options, answer):
    steps = [{"modality": "audio", "evidence": "a bark", "inference": "a dog"}]
    question = {"question": "?", "question_type": "counting", "options": options, "correct_option": answer,
                "reasoning_steps": steps}  # fmt: skip
    return {"video": "v", "duration": "03:28", "questions": [question]}


def intent(options, answer):
    return {"problem": "?", "problem_type": "multiple choice", "options": options, "answer": answer, "path": "v.mp4"}


RECIPES = {
    "mmau": (MMAU(), mmau, "mmau-test-mini.json"), "videomme": (VideoMME("v.json"), videomme, "v.json"),
    "worldsense": (WorldSense(), worldsense, "worldsense_qa.json"),
    "omnivideobench": (OmniVideoBench(), omnivideobench, "data.json"),
    "intenttrain": (IntentTrain(), intent, "emer_rewrite.json"), "intentbench": (IntentBench(), intent, "qa.json"),
    "avqa": (AVQA(), avqa, "train_qa.json"), "avqa_r1": (AVQAR1(), avqa_r1, "train.json"),
    "dailyomni": (DailyOmni(), dailyomni, "qa.json"), "folder": (Folder("q.json"), folder, "q.json"),
    "mmar": (MMAR(), mmar, "MMAR-meta.jsonl"), "omnibench": (OmniBench("o.json"), omnibench, "o.json"),
}  # fmt: skip


def read_with(name, tmp_path, options, answer):
    recipe, row, file = RECIPES[name]
    (tmp_path / file).write_text(json.dumps([row(options, answer)]))
    [found] = replace(recipe).items(tmp_path)  # a new one, that has read nothing yet
    return found


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_reads_labels_alike(name, tmp_path):
    """The same spellings through each recipe's own layout: the texts, or one refusal that names the row."""
    tried = Counter()
    for options, answer, right in SPELLINGS:
        if isinstance(answer, bytes) or (isinstance(options, list) and any(isinstance(o, bytes) for o in options)):
            continue  # no JSON
        if right is REFUSED and options in (["B", "A"], ["1", "2", "3"], ["b", "x"], ["1. x", "2. y", "3. z"]):
            continue  # what a recipe's answers are decides these
        if name == "avqa" and options in (["1", "2", "3"], ["10", "20", "30"]):
            continue
        if name == "avqa_r1" and (not isinstance(answer, str) or "answer>" in answer):
            continue  # its answers are always text within tags
        if name == "folder" and answer in (4, "4", 2) and isinstance(options, list) and len(options) == answer:
            continue
        if name == "folder" and answer == ["A", "B"]:
            continue  # a list of several in a file of your own says that several are right
        found = read_with(name, tmp_path, options, answer)
        tried[right is REFUSED] += 1
        if right is REFUSED:
            assert isinstance(found, BadSampleError), (options, answer, found)
            assert "-00000: field '" in str(found)
        else:
            assert isinstance(found, SourceItem), (options, answer, str(found))
            assert found.sample.choices[found.sample.answer] in (right, "cafe\u0301")
    assert tried[True] > 25
    assert tried[False] > 30


@pytest.mark.parametrize("name", RECIPES)
def test_a_row_without_an_answer_can_be_asked(name, tmp_path):
    found = read_with(name, tmp_path, D, None)
    assert found.sample.answer is None
    assert found.sample.choices == tuple(D)


def test_music_avqa_refuses_what_is_no_answer(tmp_path):
    row = {"video_id": "v", "question_id": 1, "type": '["Audio", "Counting"]', "question_content": "How many?",
           "templ_values": "[]", "question_deleted": 0}  # fmt: skip
    rows = [{**row, "question_id": i, "anser": a} for i, a in enumerate(["one", "two", "", None, ["one"], "two "])]
    rows += [{**row, "question_id": 7.5, "anser": "one"}, {**row, "question_id": 8, "anser": "one", "type": "nothing"}]
    (tmp_path / "avqa-train.json").write_text(json.dumps(rows))
    found = list(MusicAVQA().items(tmp_path))
    right = [i.sample.choices[i.sample.answer] for i in found if isinstance(i, SourceItem)]
    assert right == ["one", "two", "two"]
    assert sum("field 'anser'" in str(i) for i in found) == 3
    assert sum("field 'question_id' is '7.5', needs a number" in str(i) for i in found) == 1
    assert sum("field 'type' is 'nothing', not JSON" in str(i) for i in found) == 1


def test_all_of_mmau_can_be_used(shared_data):
    path = shared_data / "mmau" / "mmau-test-mini.json"
    rows = json.loads(path.read_text())
    for spelled in (lambda c: c, json.dumps):  # the hub's Parquet has the choices as JSON
        noted = Counter()
        for row in rows:
            labels = read_labels(spelled(row["choices"]), row["answer"], where=row["id"], kind=Answers.TEXT)
            assert labels.choices[labels.answer] == row["answer"].strip()
            assert len(labels.choices) == len({c.strip() for c in row["choices"]})
            if labels.notes:
                noted["repeat a choice"] += 1
                noted["the right one"] += row["choices"].count(row["answer"]) > 1
        assert len(rows) == 1000
        assert noted == {"repeat a choice": 27, "the right one": 16}


@pytest.mark.parametrize(
    ("options", "answer", "right"),
    [
        (D, "A,C", (0, 2)), (D, "C, A", (0, 2)), (D, "AC", (0, 2)), (D, "A and C", (0, 2)), (D, "B", (1,)),
        (D, "a car", (2,)),
        (D, ["A", "C"], (0, 2)), (D, [0, 2], (0, 2)), (D, ["a car", "rain"], (2, 3)), (D, 1, (1,)),
        (D, ["(B)", "D."], (1, 3)),
        (D, "<answer>A,C</answer>", (0, 2)), (["A. x", "B. y", "C. z"], "B,C", (1, 2)), (D, "\uff21\uff0c\uff23",
        (0, 2)),
        ({"A": "x", "B": "y", "C": "z"}, "A,B", (0, 1)), (["AB", "BA", "C"], "AB", (0,)),
        # both say the same: one choice, right once; an empty option before a right one moves its letter
        (["xx", "XX", "y"], "A,B", (0,)), (["x", None, "y", "z"], "C,D", (1, 2)),
        (D, "A,E", REFUSED), (D, "A,A", REFUSED), (D, ["A", 0], REFUSED), (D, [], REFUSED), (D, "", REFUSED),
        (D, "A or C", REFUSED),
        (D, ["A", ["B"]], (0, 1)), (D, ["A", None], REFUSED), (D, {"A": 1}, REFUSED), (D, ["A", "a cow"], REFUSED),
        (["x", None, "y"], "A,B", REFUSED), (D, True, REFUSED),
    ],
)  # fmt: skip
def test_several_right_options(options, answer, right):
    if right is REFUSED:
        with pytest.raises(BadSampleError, match=r"^row 7: field '(Opts|Ans)' "):
            read_labels(options, answer, where="row 7", fields=("Opts", "Ans"), several=True)
        return
    labels = read_labels(options, answer, where="row 7", kind=Answers.LETTER, several=True)
    assert labels.answer == right
    assert read_labels(options, None, where="row 7", several=True).answer is None


def test_several_letters_stay_refused_where_one_is_right(tmp_path):
    row = {"question": "?", "choices": D, "answer": "A,C", "media": "v.mp4"}
    rows = [
        row,
        {**row, "several": True},
        {**row, "several": "false"},
        {**row, "several": "maybe"},
        {**row, "several": True, "answer": ["a cat"]},
    ]
    (tmp_path / "q.json").write_text(json.dumps(rows))
    one, several, false, maybe, listed = Folder("q.json").items(tmp_path)
    assert "several letters, needs one" in str(one)
    assert (several.sample.answer, several.sample.several) == ((0, 2), True)
    assert "several letters, needs one" in str(false)
    assert "field 'several' is 'maybe', needs true or false" in str(maybe)
    assert listed.sample.answer == (1,)


def test_lists_of_indexes_that_count_from_one_are_not_trusted(tmp_path):
    row = {"question": "?", "choices": D, "media": "v.mp4", "several": True}
    (tmp_path / "q.json").write_text(
        json.dumps([{**row, "answer": [1, 4]}, {**row, "answer": [2]}, {**row, "answer": "A"}])
    )
    first, second, letter = Folder("q.json").items(tmp_path)
    assert "seem to count from 1" in str(first)
    assert "seem to count from 1" in str(second)
    assert letter.sample.answer == (0,)
    first, second, letter = Folder("q.json", count_from=1).items(tmp_path)
    assert [i.sample.answer for i in (first, second, letter)] == [(0, 3), (1,), (0,)]
