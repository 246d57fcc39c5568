"""The teachers' own rows: verdicts of a trace run over a benchmark's shards, each teacher by the name of its model."""

import csv
import hashlib
import json

import pytest

from avrt.commands.teachers import teacher_runs
from tests.conftest import avrt
from tests.evaluation.made import make_run, questions
from tests.traces.servers import serving, write_config, write_questions

COUNT = 20


def right(model: str) -> int:
    """How often the tests' server is right in this name; see `teacher_server.reply_to`."""
    asked = (f"{model}What is number {i}?" for i in range(COUNT))
    return sum(int(hashlib.md5(text.encode()).hexdigest(), 16) % 10 < 7 for text in asked)


def traced(folder, benchmark, visual, audio):
    """A trace run of two teachers over shards that a recipe of this name made."""
    shards = write_questions(folder / "shards", COUNT)
    manifest = json.loads((shards / "manifest.json").read_text())
    manifest["recipe"] = {"name": benchmark}
    (shards / "manifest.json").write_text(json.dumps(manifest))
    with serving(folder, "--models", visual, audio, "merger") as server:
        config = write_config(folder / "c.yaml", server.url)
        avrt(
            "traces", "run", "--config", config, "--data", shards, "--out", folder / "traces", "--stages", "[teach]",
            "--visual.backend.init_args.model", visual, "--audio.backend.init_args.model", audio,
        )  # fmt: skip
    return folder / "traces"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    root = tmp_path_factory.mktemp("teachers")
    traces = traced(root, "omnibench", "visual/Kimi-VL-A3B-Thinking", "nvidia/audio-flamingo-3-hf")
    make_run(root / "runs", "base", lambda i, s: "B", samples=questions(4), name="omnibench", expected=4)
    avrt("report", root / "runs", "--out", root / "out", "--teachers", traces)
    return root


def test_a_teacher_has_a_row_by_its_models_name(report):
    table = list(csv.DictReader((report / "out" / "table3.csv").open()))
    [visual] = [row for row in table if row[""] == "Kimi-VL (visual teacher)" and row["asked by"] == "traces"]
    share = 100 * right("visual/Kimi-VL-A3B-Thinking") / COUNT
    assert visual["OmniBench (ours)"].startswith(f"{share:.1f} [")
    assert visual["OmniBench (ours)"].endswith(", teachers' rule")
    assert visual["OmniBench (published)"] == "differs: 20 of 1,142 questions"
    # without its think adapter it is not the teacher of the paper
    [audio] = [row for row in table if row[""].startswith("nvidia/audio-flamingo-3-hf")]
    assert audio[""] == "nvidia/audio-flamingo-3-hf (audio teacher)"
    assert audio["OmniBench (ours)"].startswith(f"{100 * right('nvidia/audio-flamingo-3-hf') / COUNT:.1f} [")
    [published] = [row for row in table if row[""] == "Audio Flamingo 3 (audio teacher)"]
    assert (published["OmniBench (published)"], published["OmniBench (ours)"]) == ("28.9", "-")


def test_teachers_of_a_miniature_stay_out_of_the_papers_tables(tmp_path):
    traces = traced(tmp_path, "nano_world", "visual", "audio")
    make_run(tmp_path / "runs", "base", lambda i, s: "B", samples=questions(4), name="omnibench", expected=4)
    assert [run.result.miniature for run in teacher_runs(traces)] == [True, True]
    avrt(
        "report", tmp_path / "runs", "--out", tmp_path / "out", "--teachers", traces,
        "--stand_in", '{"omnibench": "nano_world"}',
    )  # fmt: skip
    assert "teachers' rule" not in (tmp_path / "out" / "table3.csv").read_text()
    table = list(csv.DictReader((tmp_path / "out" / "table3_stand_in.csv").open()))
    assert [row[""] for row in table] == ["visual (visual teacher)", "audio (audio teacher)"]
    assert table[0]["nano_world"].startswith(f"{100 * right('visual') / COUNT:.1f} [")


def test_a_folder_without_traces_is_refused(report, tmp_path):
    done = avrt("report", report / "runs", "--out", tmp_path, "--teachers", tmp_path, check=False)
    assert done.returncode == 2
    assert "holds no traces" in done.stderr
