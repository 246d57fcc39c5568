"""Verdicts from real result files: what was planted is found, what is not there is not, and the page says both."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest

from avrt.errors import AvrtError
from avrt.evaluation.power import PowerSpec
from avrt.study import page
from avrt.study.analysis import analyze, report_spec
from avrt.study.cells import read_cells
from avrt.study.claims import CellSpec, SensitivitySpec, TablesSpec
from avrt.study.declaration import AskedSpec, BenchmarkSpec, Declaration, ShardsSpec, StudentSpec, TracesSpec
from avrt.study.statement import state_power
from avrt.study.verdicts import comparable, stated_power
from tests.browser import assert_readable, browsing, needs_browser
from tests.study.made import SEEDS, answered, claim, make_cell, make_study, questions, spec


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    return out, analyze(make_study(out), out)


@pytest.fixture(scope="module")
def written(study):
    out, analysis = study
    return page.write(analysis, out)


def declared(**changes):
    """A declaration whose report is that of `spec`."""
    of_spec = {name: getattr(spec(), name) for name in ("title", "seeds", "claims", "tables", "sensitivity", "power")}
    fields = {
        "shards": {"test": ShardsSpec("nano_stills"), "found": ShardsSpec("folder")},
        "students": {"base": StudentSpec("sft", "nano", "test", once=True), "sft": StudentSpec("sft", "base", "test")},
        "traces": {"labels": TracesSpec("test", "stills")},
        "benchmarks": {
            "stills": BenchmarkSpec("test", ["avqa.yaml"], "labels"), "video": BenchmarkSpec("found", ["avqa.yaml"]),
        },
        "asked": [AskedSpec(["base", "sft"], ["stills"])],
    }  # fmt: skip
    return Declaration(**{**of_spec, **fields, **changes})


def verdicts(analysis):
    return {r.claim.id: r.verdict for r in analysis.claims}


def test_what_was_planted_is_found(study):
    _, analysis = study
    assert verdicts(analysis) == {
        "rl": "holds", "sft": "holds", "twins": "cannot be told", "turned": "does not hold", "senses": "holds",
        "easy": "holds", "levels": "cannot be told",
    }  # fmt: skip
    by_id = {r.claim.id: r for r in analysis.claims}
    assert by_id["rl"].effect.low < 0.2 < by_id["rl"].effect.high
    assert (by_id["rl"].effect.seeds, by_id["rl"].effect.questions) == (3, 240)
    assert by_id["easy"].effect.questions == 80
    assert by_id["levels"].effect.questions == 80


def test_the_verdicts_are_on_disk_in_points(study):
    out, _ = study
    analysis = analyze(spec(), out)
    records = {r["id"]: r for r in json.loads((out / "report" / "verdicts.json").read_text())}
    assert records["rl"]["difference"] == pytest.approx(100 * analysis.claims[0].effect.difference, abs=1e-3)
    assert records["rl"]["first"] - records["rl"]["second"] == pytest.approx(records["rl"]["difference"], abs=1e-3)
    assert records["rl"]["published"] == 4.2
    assert all(r["p"] <= r["p_corrected"] for r in records.values())
    assert (
        min(r["p_corrected"] / r["p"] for r in records.values())
        >= 1
        < max(r["p_corrected"] / r["p"] for r in records.values())
    )


def test_shuffled_answers_turn_a_verdict(study, tmp_path):
    """Answers that belong to other questions: what was better than the base is now worse."""
    out, _ = study
    shutil.copytree(out, tmp_path / "study")
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        given = answered(0.75, rng)
        texts = [given(i, s) for i, s in enumerate(questions())]
        shuffled = [texts[i] for i in rng.permutation(len(texts))]
        shutil.rmtree(tmp_path / "study" / "benchmarks" / "sft_rl" / f"seed-{seed}" / "stills" / "av")
        make_cell(tmp_path / "study", "sft_rl", seed, "av", lambda i, s, texts=shuffled: texts[i])
    turned = verdicts(analyze(spec(), tmp_path / "study"))
    assert turned["rl"] == "does not hold"
    assert turned["turned"] != "does not hold"
    assert turned["sft"] == "holds"


def test_a_small_difference_for_sure_does_not_hold(study):
    """The twin is no better: with a difference of 15 points as the least that counts, that can be told."""
    out, _ = study
    claims = [claim("twins", "sft_rl", "twin"), *(c for c in spec().claims if c.id != "twins")]
    sure = analyze(spec(power=PowerSpec(least=20.0), claims=claims), out)
    assert verdicts(sure)["twins"] == "does not hold"
    assert verdicts(sure)["rl"] == "holds"
    assert verdicts(analyze(spec(power=PowerSpec(least=20.0)), out))["twins"] == "cannot be told"  # published: +1.0
    worse = analyze(spec(claims=[claim("worse", "base", "sft_rl", published=-1.5), *spec().claims]), out)
    assert (verdicts(worse)["worse"], verdicts(worse)["turned"]) == ("holds", "does not hold")


def test_one_model_for_all_seeds_is_counted_as_one(study):
    out, _ = study
    once = analyze(spec(once=frozenset({"base", "sft"})), out)
    by_id = {r.claim.id: r for r in once.claims}
    assert by_id["sft"].effect.seeds == 1
    assert by_id["turned"].effect.seeds == 3
    assert by_id["sft"].shared == "sft and base: one model for all seeds"


def test_tables_keep_the_published_figures_apart(study):
    _, analysis = study
    tables = {table.id: table for table in analysis.tables}
    assert list(tables) == ["apart", "table4_miniature", "table7_miniature", "table8_miniature", "extra-1", "form"]
    four = {row[0]: row for row in tables["table4_miniature"].rows}
    assert set(four) == {"base", "sft", "sft_rl"}
    assert four["sft_rl"][4:] == ["SFT + RL", "41.9", "45.8", "56.3"]
    assert all(re.fullmatch(r"\d+\.\d \[\d+\.\d, \d+\.\d\]", cell) for cell in four["sft_rl"][1:4])
    assert tables["table4_miniature"].head[1:4] == ["stills A", "stills V", "stills AV"]
    assert tables["table7_miniature"].head == ["student", "stills", "the paper's row", "published: OmniBench"]
    assert "-" not in tables["table8_miniature"].rows[0]
    form = {row[0]: dict(zip(tables["form"].head, row, strict=True)) for row in tables["form"].rows}
    assert form["sft"]["in the asked form"].startswith("90.0 [8")
    assert form["sft"]["words of reasoning"] == "5"
    assert form["sft"]["seeds"] == "3"


def test_settings_curves_and_questions(study):
    _, analysis = study
    assert analysis.main == "sft_rl"
    low, main = analysis.settings["lr"]
    assert (low.value, main.main, main.effect) == ("1e-5", True, None)
    assert low.effect.high < 0
    assert set(analysis.curves) == {"rewards/total/mean", "policy/kl"}
    assert len(analysis.curves["policy/kl"]["sft_rl"][2]) == 100
    [question] = analysis.questions
    right = {side.mask: side.answers[0].right for side in question.sides}
    assert right == {"av": True, "a": False, "v": False}


def test_power_is_stated_without_any_answer(study, tmp_path):
    _, analysis = study
    other = dataclasses.replace(claim("x", "a", "b"), benchmark="video")
    shards = {"test": ShardsSpec("nano_stills", {"clips": 60, "questions_per_clip": 4}), "found": ShardsSpec("folder")}
    names = ("base", "sft", "sft_rl", "twin", "a", "b")
    students = {name: StudentSpec("sft", "nano", "test") for name in names}
    whole = declared(shards=shards, claims=[*spec().claims, other], students=students)
    table = state_power(whole, tmp_path)
    students["twin"] = dataclasses.replace(students["twin"], seeds=2)
    fewer = dataclasses.replace(whole, students=students)
    assert report_spec(fewer).fewer["twin"] == 2
    seeds = [row[2] for row in state_power(fewer, tmp_path / "fewer").rows]
    assert seeds == ["2" if "twins" in row[0] else "3" for row in table.rows]
    assert [row[4] for row in table.rows] == [f"{r.stated.smallest:.1f}" for r in analysis.claims]
    assert "smallest difference found" in (tmp_path / "report" / "power.md").read_text()
    stated = stated_power(spec().claims, {"stills": (60, 240)}, 3, {}, frozenset(), PowerSpec())
    assert [r.stated for r in analysis.claims] == stated
    assert 0 < stated[0].published < 1
    assert stated[1].published is None


def test_what_was_stated_before_the_answers_stays(tmp_path):
    path = tmp_path / "report" / "power.md"
    shards = {"test": ShardsSpec("nano_stills", {"clips": 60, "questions_per_clip": 4}), "found": ShardsSpec("folder")}
    names = ("base", "sft", "sft_rl", "twin", "a", "b")
    first, second, third = (
        declared(
            shards=shards, claims=spec().claims, power=PowerSpec(seed_sd=sd),
            students={name: StudentSpec("sft", "nano", "test") for name in names},
        )
        for sd in (2.0, 5.0, 9.0)
    )  # fmt: skip
    state_power(first, tmp_path)
    state_power(second, tmp_path)
    stated = path.read_text()
    assert stated.count("Power, stated") == 1, "nothing has been answered yet"
    (tmp_path / "benchmarks" / "sft" / "stills").mkdir(parents=True)
    (tmp_path / "benchmarks" / "sft" / "stills" / "result.json").write_text("{}")
    state_power(second, tmp_path)
    assert path.read_text() == stated
    for _ in range(2):
        state_power(third, tmp_path)
        assert path.read_text().startswith(stated)
        assert path.read_text().count("stated again when 1 cell had been answered") == 1
    state_power(second, tmp_path)
    assert path.read_text().count("stated again") == 2


def test_a_student_of_fewer_seeds_is_compared_over_these(study):
    out, analysis = study
    found = analyze(spec(fewer={"twin": 2}), out)
    assert [s.effect.seeds for s in found.settings["G"] if s.effect] == [2]
    fewer, whole = ({r.claim.id: r for r in a.claims} for a in (found, analysis))
    assert (fewer["twins"].effect.seeds, fewer["rl"].effect.seeds) == (2, 3)
    assert fewer["twins"].first != whole["twins"].first, "the accuracies are those of the same seeds"
    assert fewer["twins"].first - fewer["twins"].second == pytest.approx(fewer["twins"].effect.difference)
    assert fewer["twins"].stated.smallest > whole["twins"].stated.smallest
    assert fewer["rl"].stated == whole["rl"].stated


def test_answers_to_other_questions_are_not_paired(tmp_path):
    rng = np.random.default_rng(0)
    for student, asked in (("sft_rl", questions()), ("sft", questions()[4:])):
        for seed in SEEDS:
            make_cell(tmp_path, student, seed, "av", answered(0.5, rng), samples=asked)
    cells = read_cells(tmp_path / "benchmarks", SEEDS, (), {})
    with pytest.raises(AvrtError, match="claim rl: 240 and 236 answers, which are not to the same questions"):
        comparable(cells, spec().claims[:1])


def test_a_group_without_questions_leaves_its_claim_out(study):
    """Which difficulties occur is the teachers' doing: a study does not end without its page for it."""
    out, _ = study
    never = {"difficulty": "never"}
    empty = claim("empty", CellSpec("sft_rl", group=never), CellSpec("base", group=never), published=6.5)
    found = analyze(spec(claims=[empty, *spec().claims], tables=TablesSpec({"omnibench": "stills"}, ["table8"])), out)
    assert found.left_out == {empty.text: "no question of the group {'difficulty': 'never'}"}
    assert [r.claim.id for r in found.claims] == [c.id for c in spec().claims]
    assert "Not compared: empty: first over second (no question" in page.markdown(found)
    last = json.loads((out / "report" / "verdicts.json").read_text())[-1]
    assert (last["id"], last["difference"], last["verdict"]) == ("empty", None, "cannot be told")


def test_what_is_missing_is_named(study, tmp_path):
    out, _ = study
    with pytest.raises(AvrtError, match="no results of nobody on stills under av"):
        analyze(spec(claims=[claim("x", "nobody", "base")]), out)
    with pytest.raises(AvrtError, match=r"no result\.json of these seeds"):
        read_cells(tmp_path, SEEDS, (), {})
    with pytest.raises(AvrtError, match=r"name it as sensitivity\.main"):
        SensitivitySpec("stills", {"a": {"1": "x"}, "b": {"1": "y"}}).main_student()
    with pytest.raises(AvrtError, match=r"power\.level"):
        PowerSpec(level=5)


def test_the_text_and_the_page_say_the_same(study, written):
    out, analysis = study
    text, html = (out / "report" / "report.md").read_text(), written.read_text()
    for r in analysis.claims:
        row = next(line for line in text.splitlines() if line.startswith(f"| {r.claim.text} |"))
        assert f"| {r.verdict} |" in row
        assert html.count(r.claim.text) >= 3  # table, plot, power
    assert html.count("<svg") == 4
    assert text.index("# The paper's orderings") < text.index("Table 4 in miniature") < text.index("Power, as stated")
    assert 'aria-label="Differences. Table 4, rl: first over second: +' in html


def test_what_the_report_reads_of_a_declaration():
    read = report_spec(declared())
    assert (read.once, read.difficulty) == ({"base"}, {"stills": "traces/stills"})
    assert read.asked == {("base", "stills", "av"), ("sft", "stills", "av")}


def test_cells_of_an_earlier_declaration_are_not_read(study):
    out, _ = study
    asked = [("base", "stills", "av"), ("sft", "stills", "av")]
    assert set(read_cells(out / "benchmarks", SEEDS, (), {}, asked).runs) == set(asked)
    assert len(read_cells(out / "benchmarks", SEEDS, (), {}).runs) > 2


@needs_browser
def test_the_page_can_be_read_by_everybody(written):
    with browsing() as browser:
        assert_readable(browser, written)
