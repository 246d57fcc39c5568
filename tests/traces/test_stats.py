"""Statistics of traces as in AVRT Tables 2 and 9: by split, in tokens, beside the published ones."""

import json
import statistics
from pathlib import Path

import pytest
import tokenizers

from avrt.traces.published import TRACES, side_by_side
from tests.conftest import avrt
from tests.traces.servers import serving, write_config, write_questions

MODEL = "nano/teachers/visual"
TOKENIZER = Path(__file__).parents[2] / "configs" / MODEL / "tokenizer.json"


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with serving(folder) as server:
        config = write_config(folder / "c.yaml", server.url, val_share=0.3)
        data = write_questions(folder / "shards", 40)
        avrt("traces", "run", "--config", config, "--data", data, "--out", folder / "out")
    return folder / "out"


def records(out, split):
    lines = (json.loads(line) for line in (out / "traces.jsonl").read_text().splitlines())
    return [record for record in lines if record["split"] == split]


def test_lengths_in_tokens_by_split(out):
    told = avrt("traces", "stats", out, "--tokenizer", MODEL).stdout
    stats = json.loads((out / "stats.json").read_text())
    tokenizer = tokenizers.Tokenizer.from_file(str(TOKENIZER))
    for split in ("train", "val"):
        found = stats["splits"][split]
        traces = [record["trace"] for record in records(out, split)]
        thoughts = [trace.partition("<think>")[2].partition("</think>")[0] for trace in traces]
        lengths = [len(tokenizer.encode(thought, add_special_tokens=False).ids) for thought in thoughts]
        assert found["unit"] == "tokens"
        assert found["think_length"]["n"] == len(lengths) > 0
        assert found["think_length"]["mean"] == round(statistics.fmean(lengths), 2)
        assert found["think_length"]["std"] == round(statistics.pstdev(lengths), 2)
        assert (found["answer_length"]["mean"], found["answer_length"]["std"]) == (1.0, 0.0)
        assert found["clips"]["duration"]["n"] == len(traces)
        assert found["clips"]["resolutions"] == {"1280x720": 100.0}
    assert "165.5 ± 33.9 tokens" in told
    assert "163.4 ± 32.5 tokens" in told
    assert "--tokenizer" not in told
    assert "165.5 ± 33.9 tokens" in (out / "stats.html").read_text()


def test_lengths_in_words(out):
    told = avrt("traces", "stats", out).stdout
    stats = json.loads((out / "stats.json").read_text())
    assert stats["splits"]["train"]["unit"] == "words"
    assert "lengths are in words" in told
    assert "165.5 ± 33.9 tokens" in told  # the published ones are never called by another unit


def test_a_folder_without_a_tokenizer(out, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for name in (tmp_path, tmp_path / "nowhere"):
        told = avrt("traces", "stats", out, "--tokenizer", name, check=False)
        assert told.returncode == 2
        assert "has no tokenizer that can be loaded" in told.stderr
        assert len(told.stderr.strip().splitlines()) == 1


def split(**changes):
    length = {"n": 2, "mean": 3.0, "std": 1.0}
    shares = {"question_types": {}, "answers": {}, "relations": {}}
    return {"traces": 2, "format_compliance": 100.0, "unit": "words", "think_length": length, "answer_length": length,
            **shares, **changes}  # fmt: skip


def test_the_published_columns_stand_beside_their_splits():
    head, rows = side_by_side({"val": split(), "train": split(question_types={"Which": 50.0, "When": 20.0})})
    assert head == ["", "train", "AVRT train", "val", "AVRT val"]
    table = {row[0]: row[1:] for row in rows}
    assert table["traces"] == ["2", "18279", "2", "945"]
    assert table["think"] == ["3.0 ± 1.0 words", "165.5 ± 33.9 tokens", "3.0 ± 1.0 words", "163.4 ± 32.5 tokens"]
    assert table["answer"][1::2] == ["1.0 ± 0.0 tokens"] * 2
    assert table["Which, %"] == ["50.0", "45.2", "0.0", "45.7"]
    assert table["Others, %"] == ["20.0", "0.2", "0.0", "0.3"]  # the paper's name for what is rare in AVQA
    assert table["right letter D, %"] == ["0.0", "25.4", "0.0", "22.3"]
    assert "duration" not in table


def test_types_of_other_data_sets_keep_their_names():
    _, rows = side_by_side({"train": split(question_types={"Counting": 60.0, "When": 40.0})})
    table = {row[0]: row[1:] for row in rows}
    assert table["Counting, %"][0] == "60.0"
    assert table["When, %"][0] == "40.0"


def test_the_published_percentages_add_up():
    for found in TRACES.values():
        for field in ("question_types", "answers", "relations"):
            assert sum(found[field].values()) == pytest.approx(100, abs=0.35)
