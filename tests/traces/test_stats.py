"""Statistics of traces as in AVRT Tables 2 and 9: by split, in tokens, beside the published ones."""

import json
import shutil
import statistics
from pathlib import Path

import pytest
import tokenizers

from avrt.traces.published import TRACES, side_by_side
from avrt.traces.stats_page import page
from tests.browser import assert_readable, browsing, needs_browser, show, shown_cards
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


def test_no_table_needs_the_questions_shards_or_the_working_directory(out, tmp_path):
    """Durations and resolutions are those of the exported traces, so a folder can be moved alone."""
    complete = avrt("traces", "stats", out).stdout
    shutil.copytree(out, tmp_path / "moved")
    record = json.loads((tmp_path / "moved" / "run.json").read_text())
    (tmp_path / "moved" / "run.json").write_text(json.dumps({**record, "data": "shards/that/are/gone"}))
    done = avrt("traces", "stats", "moved", cwd=tmp_path)
    assert "1280x720" in complete
    assert done.stdout.partition("lengths are")[0] == complete.partition("lengths are")[0]
    assert "warning" not in done.stderr
    here, moved = (json.loads((folder / "stats.json").read_text()) for folder in (out, tmp_path / "moved"))
    assert here["splits"] == moved["splits"]
    assert here["clips"] == moved["clips"]
    for one, other in zip(here["examples"], moved["examples"], strict=True):
        assert one["question"].split("?")[0] in other["question"]


def test_traces_to_read_have_the_teachers_replies_and_the_reason(out):
    avrt("traces", "stats", out)
    stats = json.loads((out / "stats.json").read_text())
    assert list(stats["outcomes"]) == ["kept", "dropped"]
    assert list(stats["difficulty"]) == ["easy", "medium", "hard"]
    samples, written = stats["examples"], {r["id"]: r for r in map(json.loads, (out / "traces.jsonl").open())}
    assert {s["status"] for s in samples} == {"kept", "dropped"}
    for sample in samples:
        visual, audio = sample["replies"]
        assert (visual["role"], audio["role"]) == ("visual", "audio")
        assert visual["text"].startswith("Visual Description:")
        assert len(sample["choices"]) == 4
        if sample["status"] == "kept":
            assert sample["trace"] == written[sample["id"]]["trace"]
            assert visual["right"] is audio["right"] is True
        else:
            assert sample["category"] in stats["reasons"]
            wrong = [r["role"] for r in sample["replies"] if not r["right"]]
            assert sample["reason"] == f"filter: {' and '.join(wrong)} wrong"
    assert {s["category"] for s in samples if s["category"]} == set(stats["reasons"])


EVIL = "</script></title><img src=x onerror=alert(1)><script>document.title='taken'</script> \"'>"


@needs_browser
def test_the_page_can_be_read_by_everybody_and_filtered(out, tmp_path):
    avrt("traces", "stats", out)
    stats = json.loads((out / "stats.json").read_text())
    with browsing() as browser:
        assert_readable(browser, out / "stats.html")
        show(browser, out / "stats.html", scripts=False)
        assert len(shown_cards(browser)) == len(stats["examples"])
        show(browser, out / "stats.html")
        browser.find_element("css selector", ".filters [name=status]").send_keys("dropped")
        dropped = [s for s in stats["examples"] if s["status"] == "dropped"]
        output = browser.find_element("css selector", ".filters output").text
        assert output == f"{len(dropped)} of {len(stats['examples'])} shown"
        for card, sample in zip(shown_cards(browser), dropped, strict=True):
            assert sample["reason"] in card
            assert all(line in card for reply in sample["replies"] for line in reply["text"].splitlines())
        # Foreign HTML stays text.
        evil = {
            **stats["examples"][0],
            "id": EVIL,
            "question": EVIL,
            "trace": EVIL,
            "category": EVIL,
            "choices": [EVIL],
        }
        evil["choices"] = [EVIL]
        evil["replies"] = [{**reply, "text": EVIL, "model": EVIL} for reply in evil["replies"]]
        (tmp_path / "evil.html").write_text(page({**stats, "examples": [evil], "keep_rate": {EVIL: 1.0}}))
        show(browser, tmp_path / "evil.html")
        assert browser.title == "Reasoning traces: 40 samples"
        assert browser.find_elements("css selector", "img") == []
        assert len(browser.find_elements("css selector", "script")) == 1
        assert shown_cards(browser)[0].count(EVIL) >= 6


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
