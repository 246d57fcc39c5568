"""The report: figures beside the published ones, every format, and the page in a real browser."""

import base64
import csv
import io
import json
import re

import av
import pytest
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from avrt.data.shards.reader import ShardSet
from avrt.evaluation.benchmark_options import BenchmarkOptions
from avrt.evaluation.benchmark_runs import read_runs
from avrt.evaluation.comparison_tables import scorers
from avrt.evaluation.paper import published
from avrt.evaluation.predictions import Prediction, PredictionWriter
from avrt.evaluation.protocol import flatten
from avrt.evaluation.questions import side_by_side
from avrt.evaluation.report_plots import accuracy_plots
from avrt.evaluation.result import Result, in_group_order, result_fields
from tests.browser import assert_readable, browsing, needs_browser, show, shown_cards
from tests.conftest import avrt, make_sample
from tests.evaluation.made import write_answers
from tests.traces.servers import serving


def make_run(folder, world, student, mask, answer, **protocol):
    """A run whose answers are made by a rule, written by the code that writes real ones."""
    shards = ShardSet(world / "test")
    senses = {"av": "both", "a": "audio", "v": "vision", "text": "none", "shuffled": "both"}[mask]
    record = flatten({
        "prompt": {"senses": senses, "masked": "absent", "system_prompt": "", **protocol},
        "shuffle_audio": mask == "shuffled",
    })  # fmt: skip
    predictions = write_answers(folder, list(shards.samples()), answer, record)
    found = result_fields(predictions, BenchmarkOptions(name="nano_world", official="omnibench"), record, mask)
    Result(student=student, environment={"shards": str(world / "test")}, **found).save(folder)


def right(i, sample):
    return f"<think>The frames show it, and I hear it.</think><answer>{sample.answer_letter}</answer>"


def half(i, sample):
    return right(i, sample) if i % 2 else "The answer is (A)"


@pytest.fixture(scope="module")
def report(world, tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    for mask, answer in {"av": right, "a": half, "v": half, "text": half, "shuffled": half}.items():
        make_run(root / "runs" / "sft_rl" / mask, world, "sft_rl", mask, answer)
    make_run(root / "runs" / "base" / "av", world, "base", "av", half, system_prompt="Other")
    labels = [
        {"id": s.id, "difficulty": "easy" if i % 2 else "hard"}
        for i, s in enumerate(ShardSet(world / "test").samples())
    ]
    (root / "difficulty.jsonl").write_text("\n".join(map(json.dumps, labels)))
    avrt(
        "report", root / "runs", "--out", root / "out", "--stand_in", '{"omnibench": "nano_world"}',
        "--difficulty", root / "difficulty.jsonl", "--examples", 4,
    )  # fmt: skip
    return root


def rows(report, name):
    return list(csv.DictReader((report / "out" / f"{name}.csv").open()))


def test_a_stand_in_fills_tables_of_its_own(report):
    table = rows(report, "table4_stand_in")
    assert [(row[""], row["asked by"]) for row in table] == [("base", "avrt"), ("sft_rl", "avrt")]
    assert table[1]["nano_world AV"] == "100.0 [100.0, 100.0], strict rule"
    assert table[0]["nano_world AV"].startswith("50.0 [")
    easy, hard = (rows(report, "table8_stand_in")[0][f"nano_world {level}"] for level in ("easy", "hard"))
    assert easy.startswith("100.0 [")
    assert hard.startswith("0.0 [")
    assert not (report / "out" / "table4.csv").exists()
    assert "\\toprule" in (report / "out" / "table4_stand_in.tex").read_text()
    assert {p["id"] for p in published()} == {
        *(f"table{n}" for n in (3, 4, 5, 6, 7, 8, 10)), "project_page", "nemo_rl"
    }  # fmt: skip


REAL = ("Qwen", "AVRT", "OmniBench (", "DailyOmni", "SFT + RL", "Kimi", "as published")


def test_a_stand_in_never_goes_by_the_name_of_what_it_stands_in_for(report):
    for name in ("table3", "table4", "table8"):
        head, *lines = (report / "out" / f"{name}_stand_in.csv").read_text().splitlines()
        assert all(column.startswith("nano_world") for column in head.split(",")[2:])
        assert {line.partition(",")[0] for line in lines} <= {"base", "sft_rl"}
        tex = (report / "out" / f"{name}_stand_in.tex").read_text()
        assert r"nano\_world in place of omnibench" in tex
        assert r"omnibench was not run: nano\_world stands in for it." in tex
        assert not [word for word in REAL if word in tex]
    for name in ("report.html", "report.md"):
        assert not [word for word in REAL if word in (report / "out" / name).read_text()]


def streams(media):
    with av.open(io.BytesIO(base64.b64decode(media))) as container:
        return sorted(stream.type for stream in container.streams)


def test_a_question_is_shown_with_what_each_mask_leaves_of_its_clip(report, world):
    first = next(ShardSet(world / "test").samples())
    [question] = side_by_side(read_runs(report / "runs"), [first.id])
    assert question.question == first.question
    sides = {side.mask: side for side in question.sides}
    assert list(sides) == ["av", "a", "v", "text", "shuffled"]
    assert (sides["a"].tag, streams(sides["a"].media)) == ("audio", ["audio"])
    assert (sides["av"].tag, streams(sides["av"].media)) == ("video", ["audio", "video"])
    # The sound of another clip is not shown.
    assert streams(sides["v"].media) == streams(sides["shuffled"].media) == ["video"]
    assert (sides["text"].media, sides["text"].why) == ("", "nothing is shown")
    assert [answer.subject for answer in sides["av"].answers] == ["base", "sft_rl"]
    assert sides["a"].answers[0].hallucinated == ()  # question 0 is answered without any reasoning


ODD = "half \ud83d, line\u2028para\u2029next\x85nul\0 bom\ufeff a$b$ {x} \\frac | <b>"


def test_odd_texts_reach_every_format(tmp_path):
    options, record = BenchmarkOptions(name=ODD), {"prompt.system_prompt": ODD}
    record |= {"prompt.senses": "audio", "prompt.masked": "absent", "shuffle_audio": False}
    sample = make_sample(ODD, question=ODD, choices=(ODD, "b", "c"), question_type=ODD, metadata={ODD: [ODD]})
    predictions = write_answers(tmp_path / "runs", [sample], lambda i, s: ODD, record)
    assert set(PredictionWriter(tmp_path / "runs", record).answered()) == {0}  # the same protocol, not another one
    found = result_fields(predictions, options, record, "a")
    Result(student=ODD, environment={"shards": str(tmp_path)}, **found).save(tmp_path / "runs")
    # As another program may write it: with the half as an escape, and with an empty line at the end.
    file = tmp_path / "runs" / "predictions.jsonl"
    file.write_text(file.read_text("utf-8").replace("\ufffd,", r"\ud83d,") + "\n", encoding="utf-8")
    (tmp_path / "difficulty.jsonl").write_text(json.dumps({"id": ODD, "difficulty": "ea\u2028sy"}))
    avrt("report", tmp_path / "runs", "--out", tmp_path / "out", "--difficulty", tmp_path / "difficulty.jsonl")
    clean = "half \ufffd, line para next nul\ufffd bom\ufeff a$b$ {x} \\frac | <b>"
    [row] = rows(tmp_path, "runs")
    assert row["run"] == f"{clean} / {clean} / a"
    assert [r["group"] for r in rows(tmp_path, "groups")] == [clean, "ea sy"]
    for name in ("report.html", "report.md", "runs.tex"):
        assert "half \ufffd, line" in (tmp_path / "out" / name).read_bytes().decode()
    assert r"a\$b\$ \{x\} \textbackslash{}frac" in (tmp_path / "out" / "runs.tex").read_text()
    table = (tmp_path / "out" / "report.md").read_text().partition("## All runs")[2].split("\n")[2:5]
    assert [line[0] + line[-1] for line in table] == ["||"] * 3
    assert clean.replace("|", r"\|") in table[2]


def test_a_report_of_nothing_but_failures_is_a_failure(tmp_path):
    predictions = [Prediction.from_sample(make_sample(f"q{i}"), i, error="cannot be decoded") for i in range(2)]
    PredictionWriter(tmp_path / "runs").write(predictions)
    found = result_fields(predictions, BenchmarkOptions(), {}, "av")
    Result(student="x", environment={"shards": str(tmp_path)}, **found).save(tmp_path / "runs")
    done = avrt("report", tmp_path / "runs", "--out", tmp_path / "out", check=False)
    assert done.returncode == 1
    assert "no run has a question with a known answer that could be asked" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_protocol_difference_is_shown(report):
    table = rows(report, "protocols")
    assert len(table) == 5  # every run but the first of the benchmark
    for row in table:
        assert row["field"] == "prompt.system_prompt"
        assert (row["first run of the benchmark"], row["this run"]) == ("Other", "")


def test_the_modality_ablation_counts_questions_that_need_both_senses(report, world):
    [row] = rows(report, "modality_ablation")
    samples = list(ShardSet(world / "test").samples())
    alone = {i for i, s in enumerate(samples) if i % 2}
    assert row["questions"] == str(len(samples))
    expected = 100 * (len(samples) - len(alone)) / len(samples)
    assert row["right only with both"].startswith(f"{expected:.1f}")
    assert row["right from text alone"].startswith(f"{100 * len(alone) / len(samples):.1f}")


def test_the_same_answers_differ_by_scorer(report):
    table = scorers(read_runs(report / "runs"))
    row = next(r for r in table.rows if r[0].startswith("base"))
    cells = dict(zip(table.head, row, strict=True))
    assert cells["strict"] != cells["lenient"]
    assert cells["strict"].endswith("(50.0)")
    assert cells["lenient"].endswith("(0.0)")


def test_a_judge_is_asked_about_masked_senses_only(report, tmp_path):
    with serving(tmp_path, "--models", "judge", "--fail_percent", 20) as server:
        backend = "avrt.traces.openai_backend.OpenAIBackend"
        settings = {"model": "judge", "endpoints": [server.url], "pause": 0.01, "timeout": 2.0, "attempts": 20}
        judge = json.dumps({"class_path": backend, "init_args": settings})
        avrt("report", report / "runs", "--out", tmp_path / "out", "--judge", judge)
        asked = {r["prompt"] for r in server.records("request")}
    table = list(csv.DictReader((tmp_path / "out" / "judge.csv").open()))
    assert [(row["run"], row["masked sense"]) for row in table] == [
        ("sft_rl / nano_world / a", "vision"), ("sft_rl / nano_world / v", "audio"),
        ("sft_rl / nano_world / text", "audio"), ("sft_rl / nano_world / text", "vision"),
    ]  # fmt: skip
    assert all(row["judge: hallucinated %"].startswith("50.0") for row in table)
    assert all(row["agree %"] == "100.0" and row["not judged"] == "0" for row in table)
    assert not any("<answer>" in prompt for prompt in asked)


def test_masks_and_difficulties_stand_in_their_order(report):
    masks = [row["run"].rpartition(" / ")[2] for row in rows(report, "runs") if row["run"].startswith("sft_rl")]
    assert masks == ["av", "a", "v", "text", "shuffled"]
    levels = [r["group"] for r in rows(report, "groups") if r["grouped by"] == "difficulty"]
    assert levels == ["easy", "hard"] * 6
    assert in_group_order(["hard", "medium", "other", "easy"], "difficulty") == ["easy", "medium", "hard", "other"]
    assert in_group_order(["10", "9", "b", "a"], "choices") == ["a", "b", "9", "10"]
    lines = [line for line in (report / "out" / "report.md").read_text().splitlines() if line.startswith("| sft_rl")]
    first = [line.split(" | ")[0].rpartition(" / ")[2] for line in lines if " / " in line][:5]
    assert first == masks


def test_accuracy_has_an_axis_from_0_to_100_with_chance(tmp_path):
    samples = [make_sample(f"q{i}", choices=tuple("abcd"), answer=1) for i in range(4)]
    record = {"prompt.senses": "both", "prompt.masked": "absent", "shuffle_audio": False}
    predictions = write_answers(tmp_path, samples, lambda i, s: "no idea", record)
    found = result_fields(predictions, BenchmarkOptions(name="wrong"), record, "av")
    Result(student="base", environment={"shards": str(tmp_path)}, **found).save(tmp_path)
    [plot] = accuracy_plots(read_runs(tmp_path))
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", plot.svg)
    assert [t for t in texts if t.isdigit()] == ["0", "20", "40", "60", "80", "100"]
    assert {"0.0", "chance 25.0", "accuracy, %"} <= set(texts)
    assert 'aria-label="wrong. base, av: 0.0 [0.0, 0.0] %; chance: 25.0 %"' in plot.svg


@pytest.fixture(scope="module")
def browser():
    with browsing() as opened:
        yield opened


@needs_browser
def test_the_page_renders_and_its_clips_play(report, browser):
    show(browser, report / "out" / "report.html")
    assert browser.get_log("browser") == []
    assert len(browser.find_elements("css selector", "svg")) >= 2
    assert browser.find_element("id", "table4_stand_in").text
    played = browser.execute_async_script("""
        const done = arguments[arguments.length - 1];
        Promise.all([...document.querySelectorAll('video, audio')].map(async m => {
            await m.play();
            await new Promise(r => setTimeout(r, 1500));
            return [m.currentTime, m.duration, m.videoWidth || 0, m.error && m.error.message];
        })).then(done, e => done(String(e)));
    """)
    assert isinstance(played, list), played
    assert len(played) == 4
    for time, duration, width, error in played:
        assert error is None
        assert time > 0.3
        assert duration == pytest.approx(2.0, abs=0.3)
        assert width == 56


@needs_browser
def test_the_page_can_be_read_by_everybody(report, browser):
    assert_readable(browser, report / "out" / "report.html")
    show(browser, report / "out" / "report.html", scheme="light")
    light = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    browser.find_element("css selector", "[data-theme=dark]").send_keys(Keys.ENTER)
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") != light
    browser.find_element("css selector", "[data-theme='']").send_keys(Keys.ENTER)
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == light


@needs_browser
def test_examples_are_filtered_by_keyboard_and_all_shown_without_scripts(report, browser):
    page = report / "out" / "report.html"
    show(browser, page, scripts=False)
    assert len(shown_cards(browser)) == 4
    assert not browser.find_element("css selector", ".filters").is_displayed()
    show(browser, page)
    output = browser.find_element("css selector", ".filters output")
    assert output.text == "4 of 4 shown"

    def choose(name, text):
        field = browser.find_element("css selector", f".filters [name={name}]")
        options = [option.text for option in field.find_elements("tag name", "option")]
        field.send_keys(*([Keys.HOME] + [Keys.DOWN] * options.index(text) if options else [text]))

    choose("verdict", "base: wrong")
    wrong = shown_cards(browser)
    assert output.text == f"{len(wrong)} of 4 shown"
    assert 0 < len(wrong) < 4
    assert all("base: wrong" in text for text in wrong)
    choose("verdict", "sft_rl: right")
    assert len(shown_cards(browser)) == 4
    choose("mask", "text")
    for card in shown_cards(browser):
        assert "question only" in card
        assert "video only" not in card
        assert "sft_rl: right" in card
    assert 0 < len(shown_cards(browser)) < 4
    browser.find_element("css selector", ".filters [type=reset]").send_keys(Keys.ENTER)
    WebDriverWait(browser, 10).until(lambda _: output.text == "4 of 4 shown")
    identity = re.search(r"nano_world, (\S+?)[,\n]", shown_cards(browser)[1])[1]
    choose("text", identity.upper())
    assert [identity in card for card in shown_cards(browser)] == [True]


EVIL = "</script></title><img src=x onerror=alert(1)><script>document.title='taken'</script> \"'><svg onload=alert(2)>"


@needs_browser
def test_foreign_html_stays_text(tmp_path, browser):
    record = {"prompt.senses": "both", "prompt.masked": "absent", "shuffle_audio": False}
    sample = make_sample(EVIL, question=EVIL, choices=(EVIL, "b"), question_type=EVIL)
    answer = f"<think>{EVIL}</think><answer>A</answer>{EVIL}"
    predictions = write_answers(tmp_path / "runs", [sample], lambda i, s: answer, record)
    found = result_fields(predictions, BenchmarkOptions(name=EVIL), record, "av")
    Result(student=EVIL, environment={"shards": EVIL}, **found).save(tmp_path / "runs")
    avrt("report", tmp_path / "runs", "--out", tmp_path / "out", "--figure3", EVIL)
    show(browser, tmp_path / "out" / "report.html")
    assert browser.title == "Evaluation of 1 run"
    assert browser.get_log("browser") == []
    assert browser.find_elements("css selector", "img, svg[onload]") == []
    assert len(browser.find_elements("css selector", "script")) == 1
    assert len(shown_cards(browser)) == 2
    assert all(EVIL in card for card in shown_cards(browser))
