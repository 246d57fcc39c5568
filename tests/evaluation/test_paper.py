"""The paper's tables: who asked, by which rule a figure is, what stands beside it, and that nothing is overwritten."""

import csv
import json

import pytest

from avrt.errors import AvrtError
from avrt.evaluation.benchmark_options import BenchmarkOptions
from avrt.evaluation.benchmark_runs import read_runs
from avrt.evaluation.cards import Card, shard_mismatches
from avrt.evaluation.comparison_tables import comparisons, errors, modality_ablation, overview, protocols, yes_no
from avrt.evaluation.paper import paper_tables, published, sizes
from avrt.evaluation.result import Result
from tests.conftest import avrt, make_sample
from tests.evaluation.made import QWEN_7B, make_run, questions

COUNT = 12
SAMPLES = questions(COUNT)


def bare(i, sample):
    """A base model that answers with a bare letter, 8 of 12 times the right one, and twice with prose."""
    return "I cannot tell." if i % 6 == 5 else "B" if i % 6 == 3 and sample.answer == 0 else sample.answer_letter


def tagged(i, sample):
    letter = sample.answer_letter if i % 4 else "C"
    return f"<think>I see it.</think><answer>{letter}</answer>"


def rows(root, name):
    return list(csv.DictReader((root / "out" / f"{name}.csv").open()))


THREE = {
    "avrt": {},
    "authors": {"headline": "official", "protocol": "authors", "prompt": {"system_prompt": "You are Qwen"}},
    "nemo_rl": {
        "headline": "nemo_rl", "protocol": "nemo_rl", "needs": {"frames": 32, "audio_seconds": None},
        "prompt": {"audio_in_video": False}, "clips": {"frames": 32, "fps": None, "audio_seconds": None},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    root = tmp_path_factory.mktemp("paper")
    for name, settings in THREE.items():
        answer = tagged if name == "nemo_rl" else bare
        make_run(
            root / "runs" / "base" / name, "base", answer, samples=SAMPLES, official="dailyomni", expected=COUNT,
            **settings,
        )  # fmt: skip
    make_run(
        root / "runs" / "sft_rl", "sft_rl", tagged, samples=SAMPLES, official="dailyomni", expected=COUNT, weights="v"
    )
    make_run(
        root / "runs" / "nano", "base", tagged, samples=SAMPLES, official="dailyomni", expected=COUNT, parameters=1.5e6
    )
    make_run(root / "runs" / "world", "sft_rl", tagged, samples=SAMPLES, name="nano_world", parameters=1.5e6)
    avrt("report", root / "runs", "--out", root / "out", "--stand_in", '{"omnibench": "nano_world"}')
    return root


def test_a_base_model_asked_by_three_is_told_with_each_ones_rule(report):
    base = [row for row in rows(report, "table3") if row[""] == "Qwen2.5-Omni-3B"]
    right = sum(bare(i, s) == s.answer_letter for i, s in enumerate(SAMPLES))
    assert 0 < right < COUNT
    told = {row["asked by"]: row["DailyOmni (ours)"] for row in base}
    assert list(told) == ["as published", "authors", "avrt", "nemo_rl"]
    assert told["avrt"] == "0.0 [0.0, 0.0], strict rule"
    assert told["authors"].startswith(f"{100 * right / COUNT:.1f} [")
    assert told["authors"].endswith(", dailyomni rule")
    assert told["nemo_rl"].startswith("75.0 [")
    assert told["nemo_rl"].endswith(", nemo_rl rule")
    # What the paper's card does not assert, such as the rule, does not keep its figure away.
    assert {row["DailyOmni (published)"] for row in base} == {"43.1"}
    assert [row["OmniBench (published)"] for row in base] == ["50.2", "-", "-", "-"]
    for ending in ("md", "html"):
        text = (report / "out" / f"report.{ending}").read_text()
        assert all(f", {rule} rule" in text for rule in ("strict", "dailyomni", "nemo_rl"))
    note = (report / "out" / "report.md").read_text()
    assert (
        "(known: all questions, all of the audio; not known: wording of the prompt, number of frames, scoring rule)"
        in note
    )


def test_every_figure_of_ours_in_a_paper_table_names_its_rule(report):
    for path in (report / "out").glob("*.csv"):
        if path.stem not in {p["id"] for p in published()} | {f"{p['id']}_stand_in" for p in published()}:
            continue
        for row in csv.DictReader(path.open()):
            for head, cell in row.items():
                if head not in ("", "asked by") and "(published)" not in head:
                    assert cell == "-" or cell.endswith(" rule")


def test_a_miniature_goes_by_its_own_name_in_every_format(report):
    out = report / "out"
    [row] = rows(report, "table4_stand_in")
    assert row[""] == "sft_rl (nano student)"
    assert row["nano_world AV"].startswith("75.0")
    [daily] = rows(report, "table10_stand_in")[:1]
    assert daily[""] == "base (nano student)"
    assert daily["nano student on questions of dailyomni"].startswith("75.0")
    for stem in ("table3", "table4", "table7", "table10", "project_page", "nemo_rl"):
        if (out / f"{stem}.csv").exists():  # a real table knows nothing of the miniature
            assert "nano" not in (out / f"{stem}.csv").read_text() + (out / f"{stem}.tex").read_text()
        if (out / f"{stem}_stand_in.csv").exists():
            for ending in ("csv", "tex"):
                text = (out / f"{stem}_stand_in.{ending}").read_text()
                assert "(nano student)" in text
                assert not [word for word in ("Qwen", "AVRT", "DailyOmni", "published)") if word in text]
    for ending in ("md", "html"):
        text = (out / f"report.{ending}").read_text()
        assert "base (nano student) / dailyomni / av" in text
        assert "sft_rl (nano student) / nano_world / av" in text
        miniature = [line for line in text.splitlines() if "base (nano student)" in line]
        assert miniature
        assert not [line for line in miniature if "Qwen2.5" in line or "43.1" in line]
    assert not (out / "table4.csv").exists()  # nobody asked OmniBench


def test_others_figures_stand_beside_ours_only_where_the_card_is_the_same(tmp_path):
    nemo = {"samples": SAMPLES, "expected": COUNT, **THREE["nemo_rl"]}
    nemo["parameters"] = QWEN_7B
    make_run(tmp_path / "same", "base_7b", tagged, **nemo)
    make_run(tmp_path / "few", "intent_grpo", tagged, **{**nemo, "clips": {"frames": 8, "audio_seconds": 10.0}})
    make_run(tmp_path / "other", "intent_grpo", tagged, samples=SAMPLES, parameters=QWEN_7B)
    [table] = [t for t in paper_tables(read_runs(tmp_path), {}) if t.id == "nemo_rl"]
    told = [dict(zip(table.head, row, strict=True)) for row in table.rows]
    assert [(t[""], t["asked by"], t["all (published)"]) for t in told] == [
        ("Qwen2.5-Omni-7B", "as published", "49.8"),  # its figures by type, which no run of ours has
        ("Qwen2.5-Omni-7B", "nemo_rl", "49.8"),
        ("Qwen2.5-Omni-7B, GRPO on IntentTrain", "as published", "59.0"),
        (
            "Qwen2.5-Omni-7B, GRPO on IntentTrain", "nemo_rl (8 frames, not 32 frames; 10 s of audio, not all)",
            "differs: 8 frames, not 32 frames; 10 s of audio, not all",
        ),
        (
            "Qwen2.5-Omni-7B, GRPO on IntentTrain", "avrt",
            "differs: 12 of 1,197 questions; asked by avrt, not nemo_rl; 8 frames, not 32 frames; "
            "audio inside the video, not as a separate item; strict rule, not nemo_rl",
        ),
    ]  # fmt: skip


def test_several_results_for_one_cell_are_all_told_and_named(tmp_path):
    make_run(tmp_path / "early", "sft_rl", bare, samples=SAMPLES, weights="1")
    make_run(tmp_path / "late", "sft_rl", tagged, samples=SAMPLES, weights="2")
    runs = read_runs(tmp_path)
    assert [run.subject for run in runs] == ["sft_rl [early]", "sft_rl [late]"]
    [table] = [t for t in paper_tables(runs, {}) if t.id == "table7"]
    [row] = [r for r in table.rows if r[0] == "accuracy + format + length" and r[1] == "avrt"]
    assert row[2].startswith("0.0 [0.0, 0.0], strict rule [early]; 75.0 [")
    assert row[2].endswith(", strict rule [late]")


def test_a_student_of_another_size_does_not_go_by_the_declared_name(tmp_path):
    make_run(tmp_path, "base", tagged, samples=SAMPLES, parameters=QWEN_7B)
    tables = {t.id: t for t in paper_tables(read_runs(tmp_path), {})}
    for name in ("table3", "table10", "project_page"):
        [row] = [row for row in tables[name].rows if row[1] == "avrt"]
        assert row[0] == "base (8.9 billion parameters)"
    assert [row[0] for row in tables["table7"].rows if row[1] == "avrt"] == ["base"]  # which names no size


def test_students_are_compared_only_where_they_were_asked_alike(report):
    runs = read_runs(report / "runs")
    table = comparisons(runs)
    [row] = [dict(zip(table.head, r, strict=True)) for r in table.rows if "nano" not in r[0]]
    assert (row["students"], row["rule"]) == ("base - sft_rl", "strict")  # not the base as others ask it
    assert row["only second right"] == str(sum(i % 4 > 0 for i in range(COUNT)))
    assert table.note.startswith("Not compared: 7 pairs of runs of one benchmark and mask that differ in protocol")


def test_answers_of_another_engine_have_rows_of_their_own_and_are_not_compared(tmp_path):
    """A result without the field is one of the native engine, which earlier versions did not name."""
    by_vllm = {"name": "vllm", "version": "0.32.0"}
    for name, engine in (("earlier", None), ("native", {"name": "native"}), ("vllm", by_vllm)):
        make_run(tmp_path / "runs" / name, "base", bare, samples=SAMPLES, weights=name, engine=engine)
    runs = read_runs(tmp_path / "runs")
    compared = comparisons(runs)
    assert len(compared.rows) == 1
    assert "vllm" not in compared.rows[0][0]
    assert compared.note.startswith("Not compared: 2 pairs")
    assert [row[2] for row in overview(runs).rows] == ["native", "native", "vllm 0.32.0"]
    assert [row[1:] for row in protocols(runs).rows] == [
        ["engine.name", "native", "vllm"], ["engine.version", "None", "0.32.0"]
    ]  # fmt: skip
    [table] = [t for t in paper_tables(runs, {}) if t.id == "table7"]
    assert {row[1] for row in table.rows} >= {"avrt", "avrt, answered by vllm 0.32.0"}


def test_the_modality_ablation_keeps_protocols_apart(tmp_path):
    for mask in ("av", "a", "v"):
        make_run(tmp_path / "ours" / mask, "base", bare, samples=SAMPLES, mask=mask)
        make_run(
            tmp_path / "theirs" / mask, "base", bare, samples=SAMPLES, mask=mask, official="dailyomni",
            **THREE["authors"],
        )  # fmt: skip
    table = modality_ablation(read_runs(tmp_path))
    assert [row[:2] for row in table.rows] == [
        ["base / dailyomni", "strict"], ["base, asked by authors / dailyomni", "dailyomni"]
    ]  # fmt: skip
    assert [row[3].split(" ")[0] for row in table.rows] == ["0.0", "66.7"]


def test_errors_are_split_into_invalid_format_and_wrong_answer(report):
    table = errors(read_runs(report / "runs"))
    told = {row[0]: row[1:] for row in table.rows}
    assert told["base / dailyomni / av"] == ["strict", "0.0", "100.0", "0.0", "0.0"]
    right = sum(bare(i, s) == s.answer_letter for i, s in enumerate(SAMPLES))
    prose = sum(bare(i, s)[0] == "I" for i, s in enumerate(SAMPLES))
    assert told["base, asked by authors / dailyomni / av"] == [
        "dailyomni", *(f"{100 * n / COUNT:.1f}" for n in (right, prose, COUNT - right - prose)), "0.0"
    ]  # fmt: skip
    assert told["sft_rl / dailyomni / av"] == ["strict", "75.0", "0.0", "25.0", "0.0"]
    [row] = [r for r in overview(read_runs(report / "runs")).rows if r[0] == "base, asked by authors / dailyomni / av"]
    assert row[1] == "authors"


def test_yes_no_figures_are_told_by_the_runs_rule(tmp_path):
    samples = [make_sample(f"q{i}", choices=("Yes", "No"), answer=i % 2, question_type="t") for i in range(6)]
    make_run(
        tmp_path, "base", lambda i, s: "Yes" if i < 4 else "No", samples=samples, name="avhbench", official="avhbench",
        headline="official", protocol="yes_no", group_by=[],
    )  # fmt: skip
    table = yes_no(read_runs(tmp_path))
    told = ["avhbench", "6", "50.0", "50.0", "66.7", "57.1", "66.7", "0"]
    assert [row[1:2] + row[3:] for row in table.rows] == [told, told]
    assert [row[2] for row in table.rows] == ["all", "t"]


def test_difficulty_counts_by_the_runs_own_rule(tmp_path):
    make_run(
        tmp_path / "runs", "base", bare, samples=SAMPLES, name="omnibench", official="dailyomni", headline="official",
        protocol="authors",
    )  # fmt: skip
    labels = [{"id": s.id, "difficulty": "easy" if i < 6 else "hard"} for i, s in enumerate(SAMPLES)]
    (tmp_path / "difficulty.jsonl").write_text("\n".join(map(json.dumps, labels)))
    avrt(
        "report", tmp_path / "runs", "--out", tmp_path / "out", "--difficulty", tmp_path / "difficulty.jsonl"
    )  # fmt: skip
    row = next(r for r in rows(tmp_path, "table8") if r["asked by"] == "authors")
    assert row["easy (ours)"].startswith("66.7 [")
    assert row["easy (ours)"].endswith("dailyomni rule")
    assert row["medium (ours)"] == "-"
    assert "sum to 1,139" in (tmp_path / "out" / "report.md").read_text()
    assert r"sum to 1,139" in (tmp_path / "out" / "table8.tex").read_text()


def test_published_groups_do_not_add_up_as_the_note_says():
    easy, medium, hard = 64, 456, 619
    assert easy + medium + hard == 1139 != sizes()["omnibench"]
    assert 2 * easy + medium == 584
    assert round((0.335 + 0.289) * sizes()["omnibench"]) == 713


def test_the_headline_is_a_rule_that_is_reported():
    assert BenchmarkOptions(official="omnibench", headline="official").headline_scorer == "omnibench"
    assert BenchmarkOptions(headline="official").headline_scorer == "lenient"
    assert BenchmarkOptions(headline="mmar").scorers == ["strict", "mmar", "lenient"]
    with pytest.raises(AvrtError, match="no such scorer"):
        BenchmarkOptions(headline="nonsense")


def test_a_result_without_its_headlines_score_is_refused(tmp_path):
    make_run(tmp_path, "base", bare, samples=SAMPLES)
    path = tmp_path / "result.json"
    record = json.loads(path.read_text())
    del record["headline"], record["asked_by"], record["shard_mismatches"]  # as an earlier version wrote it
    path.write_text(json.dumps(record))
    assert (Result.load(path).headline, Result.load(path).asked_by) == ("strict", "avrt")
    path.write_text(json.dumps({**record, "headline": "mmar"}))
    with pytest.raises(AvrtError, match="has no score by its headline scorer, mmar"):
        Result.load(path)


@pytest.mark.parametrize(
    ("needs", "spec", "told"),
    [
        ({"frames": 32}, {"frames": 32, "fps": None}, []),
        ({"frames": 32}, {"frames": 32}, []),  # shards older than frames a second
        ({"frames": 32}, {"frames": 32, "fps": 2.0}, ["2 frames a second, not 32 frames"]),
        ({"fps": 2.0}, {"frames": 8}, ["8 frames, not 2 frames a second"]),
        ({"fps": 2}, {"frames": 8, "fps": 2.0}, []),
        ({"audio_seconds": None}, {"audio_seconds": 10.0}, ["10 s of audio, not all"]),
        ({"audio_seconds": 10}, {"audio_seconds": None}, ["all of audio, not 10 s"]),
        ({"audio_seconds": None}, {}, ["an unrecorded length of audio, not all"]),
        ({}, {"frames": 1}, []),
    ],
)
def test_what_shards_lack_for_a_way_of_asking_is_told(needs, spec, told):
    assert shard_mismatches(needs, {f"clips.{key}": value for key, value in spec.items()}) == told


def test_a_card_asserts_nothing_but_what_it_says(tmp_path):
    result = make_run(tmp_path, "base", bare, samples=SAMPLES, expected=1197)
    assert Card("any", "somebody").differences(result) == []
    assert Card("whole", "somebody", {"complete": True}).differences(result) == ["12 of 1,197 questions"]
    assert Card("whole", "somebody", {"complete": True}).differences(result, ("complete",)) == []


def test_one_question_stands_side_by_side_under_its_masks(tmp_path):
    odd = "<think>I hear a | bell.</think>\n<answer>A</answer>"
    for mask in ("v", "av", "text"):
        make_run(
            tmp_path / "runs" / mask, "base", lambda i, s: odd if i == 1 else "B", samples=SAMPLES, mask=mask
        )  # fmt: skip
    avrt("report", tmp_path / "runs", "--out", tmp_path / "out", "--figure3", "q1", "q4")
    text = (tmp_path / "out" / "report.md").read_text()
    head = "| student | av: video and audio | v: video only | text: question only |"
    assert text.count(head) == 2
    table = text[text.index(head) :].splitlines()
    claim = r"**right (strict rule); hallucinates a masked sense** <think>I hear a \| bell.</think> <answer>A</answer>"
    assert table[2] == (
        rf"| base | **right (strict rule)** <think>I hear a \| bell.</think> <answer>A</answer> | {claim} | {claim} |"
    )
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count('class="side"') == 6
    assert "right (strict rule); hallucinates a masked sense" in page
    done = avrt("report", tmp_path / "runs", "--out", tmp_path / "out", "--figure3", "q99", check=False)
    assert done.returncode == 2
    assert "--figure3 q99: no run has a question with this id (such as q0, q1)" in done.stderr
