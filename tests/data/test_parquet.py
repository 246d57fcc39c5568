"""Shards as Parquet and as a data set, and back again: nothing is lost; rows of others become shards."""

import json
from dataclasses import replace

import pyarrow.parquet
import pytest

from avrt.commands import shards as shards_command
from avrt.data.shards import parquet
from avrt.data.shards.manifest import Manifest
from avrt.data.shards.reader import ShardSet
from avrt.errors import AvrtError, NothingUsableError
from tests.conftest import make_clip

ROW = {"question": "Which?", "choices": ["a", "b"], "answer": "B", "trace": "<think>So.</think><answer>B</answer>"}


def content(folder):
    shards = ShardSet(folder)
    read = [shards.read(i) for i in range(len(shards))]
    return [{name: value for name, value in raw.items() if not name.startswith("__")} for raw in read]


def test_a_parquet_file_has_all_of_the_shards(world, tmp_path, capsys):
    file, again = tmp_path / "made" / "test.parquet", tmp_path / "again"
    shards_command.main(["to_parquet", str(world / "test"), "--out", str(file)])
    assert f"8 rows: {file}\nnext: avrt shards from_parquet" in capsys.readouterr().out
    row = pyarrow.parquet.read_table(file).to_pylist()[0]
    sample = ShardSet(world / "test").sample(0)
    assert (row["id"], row["answer"], tuple(row["choices"])) == (sample.id, sample.answer_letter, sample.choices)
    assert len(row["frames"]) == 8
    shards_command.main(["from_parquet", str(file), "--out", str(again)])
    assert "8 samples (8 with audio, 8 with video), 0 left out" in capsys.readouterr().out
    assert content(again) == content(world / "test")
    first, second = Manifest.load(world / "test"), Manifest.load(again)
    assert (second.spec, second.recipe, second.counts) == (first.spec, first.recipe, first.counts)


def test_a_data_set_has_all_of_the_shards(world, tmp_path):
    datasets = pytest.importorskip("datasets")
    found = parquet.to_dataset(world / "test")
    assert isinstance(found, datasets.Dataset)
    manifest = parquet.from_rows(found, tmp_path / "again")
    assert manifest.samples == len(found) == 8
    assert content(tmp_path / "again") == content(world / "test")
    # what was changed in a column is changed in the shards
    changed = found.select([0]).map(lambda row: {"question": "Say which?"})
    parquet.from_rows(changed, tmp_path / "changed")
    before = ShardSet(world / "test").sample(0)
    assert ShardSet(tmp_path / "changed").sample(0) == replace(before, question="Say which?")
    # so is one that was emptied, as the answers of a hidden test set are
    hidden = [{**row, "answer": None, "trace": None} for row in found.select([0])]
    parquet.from_rows(hidden, tmp_path / "hidden")
    assert ShardSet(tmp_path / "hidden").sample(0) == replace(before, answer=None, trace=None)


def test_rows_of_others_become_shards(tmp_path):
    clip = make_clip(tmp_path / "media" / "a.mp4") if (tmp_path / "media").mkdir() is None else None
    (tmp_path / "secret.mp4").write_bytes(clip.read_bytes())
    rows = [
        {"id": "path", **ROW, "video": "a.mp4"},
        {"id": "bytes", **ROW, "answer": 0, "video": {"bytes": clip.read_bytes(), "path": None}},
        {"id": "outside", **ROW, "video": "../secret.mp4"},
        {"id": "zero", **ROW, "video": "a\0b.mp4"},
        {"id": "letters", **ROW, "answer": "maybe", "video": "a.mp4"},
        {"id": "nothing", **ROW},
        {"id": "broken", **ROW, "audio": b"no sound"},
        {"id": "mute", "choices": ["a", "b"], "video": "a.mp4"},
    ]
    manifest = parquet.from_rows(rows, tmp_path / "shards", root=tmp_path / "media")
    shards = ShardSet(tmp_path / "shards")
    told = [(s.id, s.answer, s.trace, len(s.media)) for s in shards.samples()]
    assert told == [("path", 1, ROW["trace"], 2), ("bytes", 0, ROW["trace"], 2)]
    assert content(tmp_path / "shards")[0]["0.jpg"] == content(tmp_path / "shards")[1]["0.jpg"]
    why = manifest.skipped
    assert list(why) == ["outside", "zero", "letters", "nothing", "broken", "mute"]
    assert "column 'video' leaves" in why["outside"]
    assert "column 'video' is no path" in why["zero"]
    assert "column 'answer' is 'maybe'" in why["letters"]
    assert "has no clip" in why["nothing"]
    assert "field 'question'" in why["mute"]
    with pytest.raises(NothingUsableError, match="no row can be used; path: column 'video' names a file"):
        parquet.from_rows(rows[:1], tmp_path / "none")
    (tmp_path / "x.parquet").write_text("no")
    with pytest.raises(AvrtError, match="is no Parquet file"):
        parquet.read_parquet(tmp_path / "x.parquet")
    assert json.loads(json.dumps(manifest.counts)) == {"video": 2, "audio": 2}
