"""Your own data where a table can be read in two ways, or names what it should not: refused, or read as it says."""

import json

import pytest

from avrt.commands import shards as shards_command
from avrt.data.shards.source import SourceItem
from avrt.data_recipes.folder import Folder
from avrt.data_recipes.media_paths import OutsideRootError
from avrt.data_recipes.parts import Division, read_shares
from avrt.errors import AvrtError, BadSampleError, NothingUsableError
from tests.conftest import make_clip
from tests.recipes.test_own_columns import BARE, ROW, read

NO_CLIP = {key: value for key, value in ROW.items() if key != "video"}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "v.mp4").touch()
    (tmp_path / "clips" / "w.wav").touch()
    return tmp_path


def test_a_bare_name_does_not_lead_out_of_the_folders_by_a_link(root, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.mp4").touch()
    (root / "clips" / "secret.mp4").symlink_to(outside / "secret.mp4")
    (root / "q.json").write_text(json.dumps([{**ROW, "video": "secret"}]))
    [error] = Folder().items(root)
    assert isinstance(error, OutsideRootError)
    assert "leads out of the dataset through a link: 'clips/secret.mp4'" in str(error)
    [item] = Folder(media_root=str(outside)).items(root)
    assert item.files["video"].name == "secret.mp4"


@pytest.mark.parametrize(
    ("media", "named"),
    [
        ({"clip": "v.mp4", "audio_path": "w.wav"}, ("audio_path", "clip")),
        ({"file": "v.mp4", "photo": "p.png"}, ("photo", "file")),
    ],
)
def test_a_clip_is_not_dropped_beside_a_sound_or_a_picture(root, media, named):
    (root / "p.png").touch()
    rows = [{**NO_CLIP, **media}]
    with pytest.raises(AvrtError) as error:
        read(root, rows)
    assert f"the columns '{named[0]}' and '{named[1]}' may both be the media" in str(error.value)
    assert f"--columns.media {named[1]} to use it too, --columns.media none" in str(error.value)
    [item] = Folder(columns={"media": named[1]}).items(root)
    assert sorted(path.name for path in item.files.values()) == sorted(media.values())
    [item] = Folder(columns={"media": "none"}).items(root)
    assert [path.name for path in item.files.values()] == [media[named[0]]]
    # a name of the clip, and a column that is empty, are no rivals
    [sample], [] = read(root, [{**NO_CLIP, "video_id": "v", "audio_path": "w.wav"}])
    assert sample.metadata == {"video_id": "v"}
    [sample], [] = read(root, [{**NO_CLIP, "clip": "v.mp4", "audio_path": None}])
    assert sample.metadata == {}
    [], [reason] = read(root, [{**ROW, "clip": "two.mp4"}], columns={"media": "clip"})
    assert "fields 'video' and 'clip' both name its video" in reason


def test_two_sets_of_choices_are_refused_until_one_is_named(root):
    row = {**BARE, "options": "a dog|a cat", "answer": "a cat"}
    for family in (
        {"a": "1.5", "b": "2.5"},
        {"option_a": "x", "option_b": "y"},
        {"a0": "x", "a1": "y", "a": "x", "b": "y"},
    ):
        with pytest.raises(AvrtError, match="may both be the choices"):
            read(root, [{**row, **family}])
        [sample], [] = read(root, [{**row, **family}], columns={"choices": "options"})
        assert (sample.choices, sample.answer, sample.metadata) == (("a dog", "a cat"), 1, family)
    lacking = {**row, "options": "", "A": "a dog", "B": "a cat"}
    samples, [] = read(root, [{**row, "A": "", "B": ""}, lacking], columns={"choices": "options"})
    assert [sample.choices for sample in samples] == [("a dog", "a cat")] * 2


@pytest.mark.parametrize(
    ("cell", "separator", "choices"),
    [
        ("orange or pear", " or ", ("orange", "pear")),
        ("a dog|a cat|", None, ("a dog", "a cat")),
        ("\na dog\na cat\n", None, ("a dog", "a cat")),
    ],
)
def test_choices_in_one_cell_keep_their_letters_and_places(root, cell, separator, choices):
    [sample], [] = read(root, [{**ROW, "choices": cell}], separator=separator)
    assert (sample.choices, sample.answer) == (choices, 1)


def test_an_empty_choice_keeps_its_place(root):
    [sample], [] = read(root, [{**ROW, "choices": ";a dog;a cat"}])
    assert (sample.choices, sample.choices[sample.answer]) == (("a dog", "a cat"), "a dog")
    whole = {**BARE, "option0": "a dog", "option1": "a cat", "option2": "a cow", "answer": 0}
    samples, [] = read(root, [whole, {**BARE, "option0": "a dog", "option2": "a cow", "answer": 2}])
    assert samples[1].choices[samples[1].answer] == "a cow"


@pytest.mark.parametrize("names", [("A)", "B)"), ("Option (A)", "Option (B)"), ("a.", "b.")])
def test_brackets_in_the_names_of_choices_are_not_their_letters(root, names):
    [sample], [] = read(root, [{**BARE, names[0]: "a dog", names[1]: "a cat", "answer": "B"}])
    assert (sample.choices, sample.answer) == (("a dog", "a cat"), 1)


def test_a_clip_and_links_to_it_are_in_one_part(root):
    (root / "linked").symlink_to(root / "clips")
    for i in range(20):
        (root / "clips" / f"{i}.mp4").touch()
    rows = [{**ROW, "id": f"{at}{i}", "video": f"{at}/{i}.mp4"} for at in ("clips", "linked") for i in range(20)]
    (root / "q.json").write_text(json.dumps(rows))
    items = [item for item in Folder().items(root) if isinstance(item, SourceItem)]
    division = Division(items, read_shares("50/25/25"), root)
    assert sum(division.clips.values()) == 20
    part = {item.sample.id: division.part(item) for item in items}
    assert all(part[f"clips{i}"] == part[f"linked{i}"] for i in range(20))


@pytest.mark.parametrize(
    ("trace", "told"),
    [
        ("<think>It barks.</think><answer>A</answer>", "ends in another answer than the row's: A, not B"),
        ("<think>It barks.</think><answer>a cat</answer>", "is not reasoning with an answer behind it"),
        ("It barks.</think>", "is not reasoning with an answer behind it"),
        ("<think>It mews.</think><answer>B</answer>\n", None),
        ("<think>It mews.</think>", None),
    ],
)
def test_a_trace_ends_in_the_answer_of_its_row(root, trace, told):
    samples, reasons = read(root, [{**ROW, "trace": trace}])
    if told is None:
        assert samples[0].trace == "<think>It mews.</think><answer>B</answer>"
    else:
        assert told in reasons[0]


def test_a_number_among_numbers_is_the_choice_that_says_it(root):
    table = "video,question,choices,answer\nclips/v.mp4,What?,10|20|30|40,{}\n"
    [sample], [] = read(root, table.format(20), "q.csv")
    assert sample.answer == 1
    [], [reason] = read(root, table.format(25), "q.csv")
    assert "needs an index from 0 to 3" in reason
    assert "--answers index, letter or text" in reason
    # 4 may be the choice that says it, or the last one
    [], [reason] = read(root, table.replace("10|20|30|40", "5|4|9|8").format(4), "q.csv", count_from=0)
    assert "--answers index, letter or text" in reason


def test_explain_ends_with_the_options_that_were_typed(root, capsys):
    make_clip(root / "clips" / "v.mp4")
    (root / "mine.json").write_text(json.dumps([{**NO_CLIP, "Which clip": "v.mp4"}]))
    (root / "other.json").write_text("[]")
    typed = ["folder", "--root", str(root), "--questions", "mine.json", "--columns.media", "Which clip"]
    for flag in (["--explain"], ["--explain", "true"], ["--explain=true"]):
        shards_command.main([*typed[:3], *flag, *typed[3:]])
        told = capsys.readouterr().out
        rest = "--questions mine.json --columns.media 'Which clip' --out shards"
        assert told.endswith(f"questions: 1 of 1 can be read\nnext: avrt shards folder --root {root} {rest}\n")


def test_all_missing_files_of_a_question_are_counted(root, capsys):
    rows = [{**NO_CLIP, "image": "gone.png", "audio": "gone.wav"}]
    (root / "q.json").write_text(json.dumps(rows))
    with pytest.raises(NothingUsableError):
        shards_command.main(["folder", "--root", str(root), "--dry_run"])
    assert "1 questions lack 2 media files: gone.png, gone.wav" in capsys.readouterr().out


def test_a_table_is_read_once_until_it_changes(root, monkeypatch):
    from avrt.data_recipes import question_files

    read_files = []
    monkeypatch.setattr(
        question_files, "read_rows", lambda path, real=question_files.read_rows: read_files.append(path) or real(path)
    )
    (root / "q.json").write_text(json.dumps([ROW]))
    recipe = Folder()
    assert recipe.annotations(root) == (root / "q.json",)
    first = [*recipe.items(root), recipe.first(root)]
    assert [*recipe.items(root), recipe.first(root)] == first
    assert recipe.meanings(root)
    assert len(read_files) == 1
    (root / "q.json").write_text(json.dumps([ROW, {**ROW, "question": "And now?"}]))
    assert [i.sample.question for i in recipe.items(root)] == ["What?", "And now?"]
    assert all(not isinstance(i, BadSampleError) for i in first)
