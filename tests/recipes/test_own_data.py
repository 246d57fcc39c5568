"""The recipes `folder` and MUSIC-AVQA: rows of every kind, real media, hostile paths."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from avrt.commands import shards as shards_command
from avrt.data.sample import Modality, Relation
from avrt.data.shards.conversion import SourceItem
from avrt.data.shards.reader import ShardSet
from avrt.data_recipes.folder import Folder
from avrt.data_recipes.music_avqa import MusicAVQA
from avrt.errors import AvrtError, BadSampleError
from tests.conftest import make_clip
from tests.recipes.test_benchmarks import convert, picture, sound

ROW = {"question": "What is it?", "choices": ["a dog", "a cat", "a car"], "answer": "B", "media": "clips/1.mp4"}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "clips").mkdir()
    make_clip(tmp_path / "clips" / "1.mp4")
    sound(tmp_path / "clips" / "2.wav")
    picture(tmp_path / "clips" / "3.jpg")
    return tmp_path


def write(root, rows, name="questions.jsonl"):
    (root / name).write_text("\n".join(map(json.dumps, rows)))


def test_media_and_answers_of_every_kind(root):
    write(root, [
        ROW,
        {**ROW, "id": "mine", "answer": 2, "media": "clips/2.wav", "relation": "audio", "question_type": "Which"},
        {**ROW, "answer": "a dog", "media": "clips/3.jpg", "source": "me", "tags": ["x"]},
        {**ROW, "answer": None, "media": None, "image": "clips/3.jpg", "audio": "clips/2.wav"},
        {**ROW, "trace": "<think>It barks.</think><answer>B</answer>"},
    ])  # fmt: skip
    samples = {sample.id: sample for sample in convert("folder", root).samples()}
    assert {i: (s.answer_letter, s.media) for i, s in samples.items()} == {
        "q-00000": ("B", (Modality.VIDEO, Modality.AUDIO)),
        "mine": ("C", (Modality.AUDIO,)),
        "q-00002": ("A", (Modality.IMAGE,)),
        "q-00003": (None, (Modality.IMAGE, Modality.AUDIO)),
        "q-00004": ("B", (Modality.VIDEO, Modality.AUDIO)),
    }
    assert samples["mine"].relation is Relation.AUDIO
    assert samples["q-00002"].metadata == {"source": "me"}
    assert samples["q-00004"].trace


def test_what_an_answer_is_decides_where_it_can_be_read_in_two_ways(root):
    write(root, [
        {**ROW, "choices": ["C", "B", "A"], "answer": "A"},
        {**ROW, "choices": ["1", "2", "3"], "answer": 2},
        {**ROW, "choices": ["1", "2", "3"], "answer": "2"},
    ])  # fmt: skip

    def read(answers):
        found = [*Folder(answers=answers).items(root)]
        return [i.sample.answer if isinstance(i, SourceItem) else None for i in found]

    assert read("auto") == [None, None, 1]
    assert read("text") == [2, 1, 1]
    assert read("letter")[0] == 0
    assert read("index")[1:] == [2, 2]
    told = [str(i) for i in Folder().items(root) if isinstance(i, BadSampleError)]
    assert all("--answers" in reason for reason in told)


def test_parquet_and_json_read_the_same(root):
    rows = [{**ROW, "id": f"{i}"} for i in range(3)]
    (root / "q.json").write_text(json.dumps(rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), root / "q.parquet")
    assert list(Folder("q.json").items(root)) == list(Folder("q.parquet").items(root))
    (root / "bad.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(AvrtError, match=r"bad\.parquet: not a Parquet table"):
        list(Folder("bad.parquet").items(root))
    with pytest.raises(AvrtError, match="no such file"):
        list(Folder("gone.jsonl").items(root))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"media": "../secret.mp4"}, "leads out of the dataset"),
        ({"media": "/etc/passwd"}, "leads out of the dataset"),
        ({"media": "a\\..\\b.mp4"}, "leads out of the dataset"),
        ({"media": None}, "has no media"),
        ({"media": 7}, "needs a path"),
        ({"answer": "D"}, "'answer' is 'D'"),
        ({"answer": 3}, "field 'answer'"),
        ({"choices": ["one"], "answer": 0}, "field 'choices'"),
        ({"choices": 5}, "'choices' is 5, needs a list"),
        ({"question": None}, "field 'question'"),
        ({"relation": "smell"}, "relation"),
    ],
)
def test_unusable_rows_are_named_and_the_others_go_on(root, change, told):
    write(root, [{**ROW, **change}, ROW])
    found = list(Folder().items(root))
    assert sum(isinstance(item, SourceItem) for item in found) == 1
    [error] = [item for item in found if isinstance(item, BadSampleError)]
    assert told in str(error)
    assert "q-00000" in str(error)


def music(number, video, content, right, sense="Audio-Visual", kind="Location", values=(), **other):
    return {
        "video_id": video, "question_id": number, "type": json.dumps([sense, kind]), "question_content": content,
        "templ_values": json.dumps(list(values)), "question_deleted": 0, "anser": right, **other,
    }  # fmt: skip


def test_music_avqa(tmp_path):
    where = "Where is the <Object> sound?"
    rows = [
        music(1, "00000001", where, "left", values=["flute"]),
        *[music(2 + i, "00000001", where, answer, values=["tuba"]) for i, answer in enumerate(("right", "middle"))],
        music(4, "00000001", "Is there a voiceover?", "yes", "Audio", "Existential"),
        music(5, "00000001", "How many instruments are there?", "two", "Visual", "Counting"),
        music(6, "00000001", "How many instruments are there?", "three", "Visual", "Counting"),
        music(7, "00000001", where, "left", values=["flute"], question_deleted=1),
        music(8, "00000001", where, "left"),
        music(9, "../secret", where, "left", values=["flute"]),
        music(10, "gone", where, "left", values=["flute"]),
        music(11, "00000001", "Which one?", "violin"),
    ]
    (tmp_path / "avqa-train.json").write_text(json.dumps(rows))
    (tmp_path / "videos").mkdir()
    make_clip(tmp_path / "videos" / "00000001.mp4")
    shards = convert("music_avqa", tmp_path)
    samples = {s.id.rsplit("-", 1)[1]: s for s in shards.samples()}
    assert set(samples) == {"1", "2", "3", "4", "5", "6"}
    assert samples["1"].question == "Where is the flute sound?"
    assert sorted(samples["1"].choices) == ["left", "middle", "right"]
    assert samples["1"].choices[samples["1"].answer] == "left"
    assert (samples["4"].choices, samples["4"].answer, samples["4"].relation) == (("no", "yes"), 1, Relation.AUDIO)
    assert (sorted(samples["5"].choices), samples["5"].relation) == (["three", "two"], Relation.VISION)
    reasons = " ".join(shards.manifest.skipped.values())
    for told in (
        "deleted",
        "1 blanks and 0 values",
        "needs a plain name",
        "missing: gone.mp4",
        "'choices' has 1 different text",
    ):
        assert told in reasons
    assert [i.sample.choices for i in MusicAVQA().items(tmp_path) if isinstance(i, SourceItem)] == [
        i.sample.choices for i in MusicAVQA().items(tmp_path) if isinstance(i, SourceItem)
    ]


def test_verify_finds_every_fault(root, tmp_path, capsys):
    write(root, [{**ROW, "id": f"q{i}"} for i in range(4)])
    shards_command.main(["folder", "--root", str(root), "--out", str(root / "out"), "--samples-per-shard", "2"])
    shards_command.main(["verify", str(root / "out")])
    assert "4 of 4 samples are intact (4 with audio, 4 with video), 0 faults" in capsys.readouterr().out
    tar = root / "out" / "shard-000001.tar"
    shards = ShardSet(root / "out")
    offset, size = shards._locate(3)[2]["5.jpg"]
    with tar.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(size))
    with pytest.raises(SystemExit) as ended:
        shards_command.main(["verify", str(root / "out")])
    told = capsys.readouterr().out
    assert ended.value.code == 1
    assert "is not the file that the manifest describes" in told
    assert "shard-000001.tar, sample 00000003" in told
    assert "3 of 4 samples are intact" in told


def test_show_writes_a_contact_sheet_and_the_sound(root, capsys):
    from PIL import Image

    write(root, [{**ROW, "id": "../../evil id"}, {**ROW, "media": "clips/2.wav"}])
    shards = convert("folder", root)
    shown = root / "shown"
    shards_command.main(["show", str(root / "out"), "--id", "../../evil id", "--out", str(shown)])
    told = capsys.readouterr().out
    assert "B. a cat  <- right" in told
    assert sorted(path.name for path in shown.iterdir()) == ["_evil_id.flac", "_evil_id.png"]
    with Image.open(shown / "_evil_id.png") as sheet:
        height, width = shards.manifest.spec["budget"]["min_pixels"], sheet.size
        assert width[0] % 4 == 0
        assert width[0] * width[1] >= 8 * height
    with pytest.raises(AvrtError, match="no sample q9"):
        shards_command.main(["show", str(root / "out"), "--id", "q9"])
