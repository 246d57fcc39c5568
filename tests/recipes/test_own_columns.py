"""Tables as people write them: names of columns, forms of answers, files beside clips; nothing unclear is guessed."""

import json
import re

import pytest

from avrt.commands import shards as shards_command
from avrt.data.shards.source import SourceItem
from avrt.data_recipes.folder import Folder
from avrt.data_recipes.parts import Division, read_shares
from avrt.errors import AvrtError, BadSampleError
from tests.conftest import make_clip

ROW = {"question": "What?", "choices": ["a dog", "a cat"], "answer": "B", "video": "clips/v.mp4"}
BARE = {"question": "What?", "video": "clips/v.mp4"}
NO_ANSWER = {key: value for key, value in ROW.items() if key != "answer"}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "v.mp4").touch()
    (tmp_path / "clips" / "w.wav").touch()
    return tmp_path


def read(root, rows, name="q.json", **options):
    """The samples and the reasons against the others."""
    (root / name).write_text(rows if isinstance(rows, str) else json.dumps(rows))
    found = list(Folder(**options).items(root))
    return [i.sample for i in found if isinstance(i, SourceItem)], [str(i) for i in found if not hasattr(i, "sample")]


@pytest.mark.parametrize(
    "row",
    [
        {"Prompt": "What?", "Options": "a dog|a cat", "Label": "Option B", "File Name": "v.mp4"},
        {
            "problem": "What?",
            "candidates": "A. a dog\nB. a cat",
            "solution": "<answer>B</answer>",
            "path": "clips/v.mp4",
        },
        {"query": "What?", "option_a": "a dog", "option_b": "a cat", "correct": "option_b", "clip": "v"},
        {"q": "What?", "A": "a dog", "B": "a cat", "gt": "(b)", "mp4": "clips\\v.mp4"},
        {"Question": "What?", "choice 1": "a dog", "choice 2": "a cat", "answer": 2, "file": "v.mp4"},
        {"questionText": "What?", "a0": "a dog", "a1": "a cat", "answer_idx": 1, "video_id": "v"},
        {"question": "What?", "opa": "a dog", "opb": "a cat", "answer": "B. a cat", "video_path": "clips/v.mp4"},
        {"question": "What?", "choices": "a dog; a cat", "answer": '["b"]', "video": "clips/v.mp4"},
        {"question": "What?", "answer_1": "a dog", "answer_2": "a cat", "answer": "A CAT", "media": "clips/v.mp4"},
    ],
    ids=lambda row: next(iter(row)),
)
def test_usual_names_are_recognised(root, row):
    [sample], [] = read(root, [row])
    assert (sample.question, sample.choices, sample.answer, sample.several) == ("What?", ("a dog", "a cat"), 1, False)
    assert sample.metadata == {}


def test_further_fields_under_usual_names(root):
    more = {"qid": 7, "Category": "pets", "sense": "Sound", "reasoning": "It meows.", "note": "kept", "tags": ["x"]}
    [sample], [] = read(root, [{**ROW, **more}])
    assert (sample.id, sample.question_type, sample.relation, sample.metadata) == (
        "7",
        "pets",
        "audio",
        {"note": "kept"},
    )
    assert sample.trace == "<think>It meows.</think><answer>B</answer>"


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{**NO_ANSWER, "label": "A", "solution": "B"}], "may both be the answer (add --columns.answer label or"),
        ([{**ROW, "type": "x", "task": "y"}], "may both be the question_type (add --columns.question_type"),
        ([{**BARE, "a0": "x", "a1": "y", "choice_a": "x", "choice_b": "y"}], "may both be the choices"),
        ([{"frage": "x", "choices": ["a", "b"], "video": "v"}], "hold the question (add --columns.question NAME; its"),
        ([{**BARE, "answer": "perhaps"}], "hold the choices (name the columns of the choices A, B, ..."),
        ([{"question": "x", "choices": ["a", "b"], "url": "v"}], "hold the clips (add --columns.media NAME"),
    ],
)  # fmt: skip
def test_what_is_not_clear_is_one_line_that_names_the_option(root, rows, told):
    with pytest.raises(AvrtError) as error:
        read(root, rows)
    assert told in str(error.value)


def test_the_user_decides(root):
    row = {**NO_ANSWER, "label": "A", "solution": "B", "sense": "many"}
    [sample], [] = read(root, [row], columns={"answer": "solution", "relation": "none"})
    assert (sample.answer, sample.relation, sample.metadata) == (1, None, {"label": "A", "sense": "many"})
    [sample], [] = read(root, [{**NO_ANSWER, "label": "A", "solution": None}])  # an empty column is no rival
    assert sample.answer == 0
    for columns in ({"answer": "gone"}, {"answr": "label"}):
        with pytest.raises(AvrtError, match=r"no column 'gone'|no such field"):
            read(root, [row], columns=columns)
    [sample], [] = read(root, [{**ROW, "choices": "a dog, a cat"}], separator=",")
    assert sample.choices == ("a dog", "a cat")


def test_numbered_columns_and_numbers_that_disagree_are_not_guessed(root):
    numbered = {**BARE, "option1": "a dog", "option2": "a cat"}
    [], reasons = read(root, [{**numbered, "answer": 0}, {**numbered, "answer": 1}])
    assert all("count from 0 (add --count_from 1 or --count_from 0)" in reason for reason in reasons)
    samples, [] = read(root, [{**numbered, "answer": 0}, {**numbered, "answer": 1}], count_from=0)
    assert [sample.answer for sample in samples] == [0, 1]


def test_several_answers_and_yes_or_no(root):
    samples, [] = read(root, [{**ROW, "answer": '["A", "b"]'}, {**ROW, "answer": ["B"]}, ROW])
    assert [(sample.answer, sample.several) for sample in samples] == [((0, 1), True), ((1,), True), (1, False)]
    [sample], [] = read(root, [{**ROW, "answer": "A,B"}], several=True)
    assert sample.answer == (0, 1)
    samples, [] = read(root, [{**BARE, "answer": "no"}, {**BARE, "answer": "Yes"}])
    assert [(sample.choices, sample.answer) for sample in samples] == [(("Yes", "No"), 1), (("Yes", "No"), 0)]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"video": "https://host/v.mp4"}, "is an address"),
        ({"video": "gone.mp4"}, None),
        ({"video": "two.mp4"}, "may be 'clips/two.mp4' or 'more/two.mp4'"),
        ({"relation": "smell"}, "needs both, audio or vision"),
        ({"choices": "a dog, a cat"}, "add --separator ,"),
        ({"choices": None}, "is missing or empty"),
    ],
)
def test_rows_that_are_refused_say_what_to_do(root, change, told):
    (root / "more").mkdir()
    for folder in ("clips", "more"):
        (root / folder / "two.mp4").touch()
    samples, reasons = read(root, [{**ROW, **change}, ROW])
    if told is None:  # conversion reports files that are not there
        assert len(samples) == 2
    else:
        assert told in reasons[0]
        assert "(" in reasons[0]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("q.json", "question,A,B,clip\nx,a,b,v.mp4\n", "not JSON, it looks like CSV (name the file .csv)"),
        ("q.jsonl", "question\tA\tB\nx\ta\tb\n", "it looks like a table with tabs (name it .tsv)"),
        ("q.csv", json.dumps([ROW]), "not a table, it looks like a JSON list (name the file .json)"),
        ("q.json", json.dumps(ROW) + "\n" + json.dumps(ROW), "it looks like JSON lines (name the file .jsonl)"),
        ("q.csv", "PK\x03\x04", "is an Excel workbook or a zip, not csv (save it as CSV in UTF-8)"),
    ],
)
def test_a_file_of_another_kind_says_what_it_is(root, name, text, told):
    with pytest.raises(AvrtError) as error:
        read(root, text, name)
    assert told in str(error.value)


def test_the_file_of_questions_is_found_or_asked_for(root):
    with pytest.raises(AvrtError, match="2 clips but no questions"):
        list(Folder().items(root))
    [sample], [] = read(root, json.dumps([ROW], indent=1), "mine.jsonl")  # a list on many lines
    assert sample.answer == 1
    (root / "other.csv").write_text("x\n")
    with pytest.raises(AvrtError, match=r"choose one: --questions mine.jsonl, --questions other.csv"):
        list(Folder().items(root))
    with pytest.raises(AvrtError, match=r"no such file \(choose one: --questions other.csv\)"):
        list(Folder("othr.csv").items(root))


def test_a_file_beside_each_clip(root):
    text = (
        "What makes\nthe sound?\nA. a dog\nB) a drum\n  with sticks\nAnswer: b\nType: music\n\nWho?\n(A) me\n(B) you\n"
    )
    (root / "clips" / "w.txt").write_text(text)
    (root / "clips" / "v.json").write_text(json.dumps({"questions": [NO_ANSWER, {**ROW, "video": None}]}))
    (root / "x.mp4").touch()
    (root / "x.txt").write_text("a transcript of what is said")
    found = list(Folder().items(root))
    samples = {item.sample.id: item for item in found if isinstance(item, SourceItem)}
    assert set(samples) == {"clips/v-1", "clips/v-2", "clips/w-1", "clips/w-2"}
    first = samples["clips/w-1"].sample
    assert (first.question, first.choices) == ("What makes the sound?", ("a dog", "a drum with sticks"))
    assert (first.answer, first.question_type, samples["clips/w-2"].sample.answer) == (1, "music", None)
    assert {str(kind): path.name for kind, path in samples["clips/v-2"].files.items()} == {"video": "v.mp4"}
    [bad] = [item for item in found if isinstance(item, BadSampleError)]
    assert str(bad).startswith("x: field 'choices' is missing")


def test_parts_share_no_clip_and_nothing_that_stays_together(root):
    rows = []
    for i in range(40):
        (root / "clips" / f"{i}.mp4").touch()
        rows += [{**ROW, "video": f"{i}.mp4", "day": i // 2}] * (1 + i % 2)
    rows = [{**row, "id": number} for number, row in enumerate(rows)]
    (root / "q.json").write_text(json.dumps(rows))
    items = list(Folder().items(root))
    for together, key in ((None, lambda i: i.files["video"]), ("day", lambda i: i.sample.metadata["day"])):
        division = Division(items, read_shares("80/10/10"), root, together)
        parts: dict = {}
        for item in items:
            parts.setdefault(division.part(item), set()).add(key(item))
        sizes = {part: len(keys) for part, keys in parts.items()}
        whole = len(set.union(*parts.values()))
        assert sizes == {"train": whole * 8 // 10, "val": whole // 10, "test": whole // 10} == division.clips
    with pytest.raises(AvrtError, match="no question has the field gone"):
        Division(items, read_shares("80/10/10"), root, "gone")
    with pytest.raises(AvrtError, match="has 2 groups of clips that must stay together, too few for 3 parts"):
        Division(items[:3], read_shares("80/10/10"), root)
    for shares in ("80/20", "50/50/50", "a/b/c", "120/-10/-10"):
        with pytest.raises(AvrtError, match="not three shares"):
            read_shares(shares)


def test_explain_tells_of_pictures_sounds_and_what_is_missing(root, capsys):
    from PIL import Image

    make_clip(root / "clips" / "v.mp4")
    Image.new("RGB", (64, 48)).save(root / "p.png")
    rows = [{**ROW, "id": i, "source": "me"} for i in range(2)] + [{**ROW, "id": 2, "choices": 5}]
    for media, told in (
        ({}, "video: 4.0 s, 96x64, 10 frames a second; taken: 8 frames, one every 0.50 s"),
        ({"video": "gone.mp4"}, "is missing: this question would be left out"),
        ({"video": "clips/w.wav"}, "is empty: this question would be left out"),
        ({"video": None, "image": "p.png"}, "picture: 64x48"),
    ):
        (root / "q.json").write_text(json.dumps([{**row, **media} for row in rows]))
        shards_command.main(["folder", "--root", str(root), "--explain"])
        printed = capsys.readouterr().out
        assert told in printed
        assert re.search(r"^source +metadata +me *$", printed, re.MULTILINE)
        assert "B. a cat   <- right" in printed
        opened = "would be left out" not in told
        assert ("2 of 3 can be read" in printed, "the first cannot be opened" in printed) == (opened, not opened)
        assert printed.endswith(f"\nnext: avrt shards folder --root {root} --dry_run\n")
    with pytest.raises(AvrtError, match=r"no such recipe \(did you mean folder\?"):
        shards_command.main(["foldr"])
