"""Trace runs against servers that refuse, cut off, decline or send odd texts, each in a process of its own."""

import json
import os
from collections import Counter

import pytest

from avrt.traces.database import rows
from tests.conftest import avrt
from tests.traces.servers import serving, write_config, write_questions

TRACE = {
    "content": "<think>First a low rumble is heard and then the thing in the picture begins to swing, so that the beat "
    "which follows can only come from it; nothing else is seen or heard.</think><answer>A</answer>"
}
GOOD = {"content": "Description: a thing.\nReasoning: it moves.\nAnswer: (A)"}


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """Questions whose right letters are A, B, C, D, A, ..."""
    return write_questions(tmp_path_factory.mktemp("questions") / "shards", 26, frames=1)


@pytest.fixture
def run(questions, tmp_path):
    """Runs with the given rules for the audio teacher and the merger; every other reply is good."""

    def go(audio=GOOD, merger=TRACE, *arguments, **changes):
        many = [audio] if isinstance(audio, dict) else audio
        rules = {"visual": [GOOD], "audio": [*many, GOOD], "merger": [merger]}
        with serving(tmp_path, "--rules", json.dumps(rules)) as server:
            config = write_config(tmp_path / "c.yaml", server.url, **{"filter": "none", **changes})
            common = ("traces", "run", "--config", config, "--data", questions, "--out", tmp_path / "out")
            done = avrt(*common, *arguments, check=False)
            asked = Counter((r["model"], r["question"]) for r in server.records("request"))
        return done, asked

    return go


def outcomes(out):
    return {r["sample"]: dict(r) for r in rows(out, "SELECT * FROM outcomes")}


FLAGGED = {"error": {"message": "Input flagged by moderation", "code": 403, "metadata": {"reasons": ["violence"]}}}


@pytest.mark.parametrize(
    ("status", "number", "concurrency"),
    [(403, 0, 1), (403, 0, 8), (403, 4, 1), (404, 4, 8), (404, 0, 1), (400, 0, 1), (413, 4, 8), (422, 4, 1)],
)
def test_one_refused_clip_is_one_failed_sample(run, tmp_path, status, number, concurrency):
    flagged = {"when": f"number {number}?", "status": status, "body": FLAGGED}
    done, asked = run(flagged, TRACE, "--limit", 8, backend={"concurrency": concurrency}, stages=["teach"])
    assert done.returncode == 0, done.stderr
    found = outcomes(tmp_path / "out")
    failed = {name: o["reason"] for name, o in found.items() if o["status"] == "failed"}
    told = f'audio: HTTP {status}: Input flagged by moderation {{"reasons": ["violence"]}}'
    assert failed == {f"q{number:05d}": told}
    assert len(found) == 8
    assert asked["audio", f"What is number {number}?"] == 1


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_a_server_that_refuses_everything_ends_the_run(run, status):
    done, asked = run({"status": status, "body": {"error": {"message": "who are you"}}})
    assert done.returncode == 2
    assert f"refuses every call: HTTP {status}: who are you" in done.stderr
    assert "check the" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert sum(n for (model, _), n in asked.items() if model == "audio") <= 10


def test_a_key_that_is_withdrawn_ends_the_run_but_a_long_row_of_flagged_clips_does_not(run, tmp_path):
    rows_of = [{"when": f"number {n}?", "status": 403, "body": FLAGGED} for n in range(1, 25)]
    done, asked = run(rows_of, TRACE, backend={"concurrency": 1}, stages=["teach"])
    assert done.returncode == 0, done.stderr
    assert Counter(o["status"] for o in outcomes(tmp_path / "out").values()) == {"failed": 24, "waiting": 2}
    assert max(asked["audio", f"What is number {n}?"] for n in range(26)) == 1
    assert asked["audio", ""] == 1  # after twenty refusals in a row it asks for a word
    withdrawn = [{"when": f"number {n}?", **GOOD} for n in range(3)] + [{"status": 403, "body": FLAGGED}]
    done, _ = run(withdrawn, TRACE, "--out", tmp_path / "other", backend={"concurrency": 1}, stages=["teach"])
    assert done.returncode == 2
    assert "refuses every call" in done.stderr
    assert "--retry_failed false" in done.stderr


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"content": None, "further": {"refusal": "I can't help with that."}}, "the model declines: I can't help"),
        ({"content": "half", "finish": "content_filter"}, "content filter"),
        ({"body": {"error": {"message": "context length exceeded", "code": 400}}}, "HTTP 400: context length exceeded"),
        ({"body": {"error": "no such thing"}}, "error inside HTTP 200: no such thing"),
        ({"content": [{"type": "image_url"}]}, "holds no text"),
    ],
)
def test_a_run_whose_samples_all_fail_is_a_failure(run, rule, told):
    done, asked = run(rule, TRACE, "--limit", 3)
    assert done.returncode == 1
    assert "no trace from 3 samples (3 failed): 3 audio: " in done.stderr
    assert told in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert {n for (model, _), n in asked.items() if model == "audio"} == {1}


def test_cut_off_replies_have_no_vote_and_do_not_reach_the_merger(run, tmp_path):
    cut = {
        "when": "number 0?",
        "content": "Description: SECRET.\nReasoning: if the answer: (A) were",
        "finish": "length",
    }
    done, _ = run(cut, TRACE, "--limit", 5)
    assert "1 cut off (raise audio.sampling.max_tokens)" in done.stdout
    out = tmp_path / "out"
    verdict = next(rows(out, "SELECT * FROM verdicts WHERE sample = 'q00000' AND teacher = 'audio'"))
    assert (verdict["letter"], verdict["votes"]) == (None, "[null]")
    prompts = [r["prompt"] for r in rows(out, "SELECT prompt FROM calls WHERE role = 'merger'")]
    assert prompts
    assert not any("SECRET" in prompt for prompt in prompts)
    told = avrt("traces", "show", out, "--id", "q00000").stdout
    assert "cut off at its token limit" in told
    assert "undecided, right is A" in told
    avrt("traces", "stats", out)
    stats = json.loads((out / "stats.json").read_text())
    assert {name: calls["cut_off"] for name, calls in stats["calls"].items()} == {
        "audio: audio": 1, "merger: merger": 0, "visual: visual": 0
    }  # fmt: skip
    done, _ = run(cut, TRACE, "--limit", 1, filter="both_correct")
    assert done.returncode == 1
    assert "1 filter: audio cut off" in done.stderr
    done, _ = run(cut, TRACE, "--limit", 1, "--merger.reads", "[audio]", "--merger.template", "merger_any.txt")
    assert "1 filter: every analysis for the merger cut off" in done.stderr


def test_a_merger_that_is_cut_off_has_its_own_reason(run):
    done, _ = run(GOOD, {**TRACE, "finish": "length"}, "--limit", 2)
    assert done.returncode == 1
    assert "2 check: cut off: the merger's reply ended at its limit of tokens" in done.stderr
    done, _ = run(GOOD, {"content": "<think>Hm. <answer>A</answer>"}, "--limit", 2, "--merger.backend.model", "merger")
    assert "check: cut off" in done.stderr  # from the store


def test_one_reason_for_nearly_all_is_a_warning(run):
    done, _ = run(
        [{"when": f"number {n}?", "status": 400, "body": FLAGGED} for n in range(1, 20)], TRACE, "--limit", 20
    )
    assert done.returncode == 0
    assert "20 samples: 19 failed, 1 kept" in done.stdout
    assert "avrt: warning: 19 of 20 samples are not kept for the same reason: audio: HTTP 400" in done.stderr


ODD = "half \ud83d nul \0 line \u2028 escape \x1b[31m bracket [/bold] end"


def test_odd_characters_pass_through_every_output(run, tmp_path):
    trace = {"content": TRACE["content"].replace("nothing", f"{ODD} nothing"), "further": {"reasoning": ODD}}
    flagged = {"when": "number 1?", "status": 400, "body": {"error": {"message": ODD}}}
    done, _ = run([flagged, {"content": f"Description: {ODD}.\nAnswer: (A)"}], trace, "--limit", 8)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    counts = Counter(o["status"] for o in outcomes(out).values())
    assert counts == {"kept": 2, "dropped": 5, "failed": 1}  # A is right twice in eight
    clean = ODD.replace("\ud83d", "\ufffd").replace("\0", "\ufffd")
    lines = [json.loads(line) for line in (out / "traces.jsonl").read_bytes().split(b"\n") if line]
    assert [clean in line["trace"] for line in lines] == [True, True]
    avrt("traces", "stats", out)
    avrt("traces", "export", out)
    pyarrow = pytest.importorskip("pyarrow.parquet")
    assert [row["trace"] for row in pyarrow.read_table(out / "traces.parquet").to_pylist()] == [
        line["trace"] for line in lines
    ]
    assert clean.replace("\x1b", "\x1b") in (out / "stats.html").read_text(encoding="utf-8")
    for name in ("q00000", "q00001"):
        told = avrt("traces", "show", out, "--id", name).stdout
        assert "\x1b" not in told
        assert "\\x1b[31m bracket [/bold] end" in told


def test_export_without_traces_and_damaged_folders_fail(run, tmp_path):
    run(GOOD, {"content": "no"}, "--limit", 2)
    out = tmp_path / "out"
    done = avrt("traces", "export", out, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no trace was kept" in done.stderr
    assert avrt("traces", "stats", out).returncode == 0  # why nothing was kept is what it is for
    (out / "run.json").write_text("{")
    done = avrt("traces", "stats", out, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "run.json: is damaged" in done.stderr
    done = avrt("traces", "stats", tmp_path, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "holds no traces" in done.stderr


def test_statistics_find_the_shards_from_another_folder_and_show_traces(run, questions, tmp_path):
    rules = {"merger": [TRACE]}
    with serving(tmp_path, "--rules", json.dumps(rules)) as server:
        config = write_config(tmp_path / "c.yaml", server.url, filter="none")
        where = ("--data", questions.name, "--out", tmp_path / "out", "--limit", 8)
        avrt("traces", "run", "--config", config, *where, cwd=questions.parent)
    avrt("traces", "stats", tmp_path / "out", cwd=tmp_path)
    stats = json.loads((tmp_path / "out" / "stats.json").read_text())
    assert stats["clips"]["resolutions"] == {"1280x720": 100.0}
    shown = {e["id"]: e for e in stats["examples"]}
    assert [name for name, e in shown.items() if e["status"] == "kept"] == ["q00000", "q00004"]
    [refused] = [e for e in shown.values() if e["category"].startswith("check:")][:1]
    assert refused["trace"] is None
    assert [r["role"] for r in refused["replies"]] == ["visual", "audio", "merger"]
    assert refused["replies"][-1]["text"] == TRACE["content"]
    page = (tmp_path / "out" / "stats.html").read_text()
    assert page.count("First a low rumble is heard") == len(shown)
    assert page.count("(A) the true one of 4") >= 1


@pytest.mark.parametrize(
    ("key", "status", "told"),
    [
        ("", 0, ""),
        (" ", 0, ""),
        ("sk-1\n", 0, ""),
        ("a\nb", 2, "OPENAI_API_KEY"),
        ("a b", 2, "space"),
        ("ключ", 2, "KEY"),
    ],
)
def test_odd_keys(run, monkeypatch, key, status, told):
    monkeypatch.setitem(os.environ, "OPENAI_API_KEY", key)
    done, _ = run(GOOD, TRACE, "--limit", 1)
    assert done.returncode == status, done.stderr
    assert told in done.stderr
    assert done.stderr.count("\n") == (status == 2)


def test_wrong_options_point_to_the_help_of_their_command():
    assert "(see: avrt traces show --help)" in avrt("traces", "show", "x", "--nope", check=False).stderr
    assert "(see: avrt traces run --help)" in avrt("traces", "run", "--nope", "1", check=False).stderr
