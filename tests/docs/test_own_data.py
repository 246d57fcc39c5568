"""docs/own_data.md as a reader follows it, from twelve clips to a report: every file is written, every command typed.

The commands run in forks of a process that has imported everything (`tests.warm`), since there are many.
"""

from __future__ import annotations

import json
import shlex

import pytest

from avrt.commands.recipe_names import recipe_summaries
from avrt.data.shards.reader import ShardSet
from avrt.data_recipes.columns import USUAL_NAMES
from avrt.data_recipes.nano_world import SOUNDS, THINGS, Scene, render
from tests.conftest import avrt
from tests.docs.laptop import cut_down
from tests.docs.pages import ROOT, steps

PAGE = ROOT / "docs" / "own_data.md"


def commands(text: str) -> list[list[str]]:
    """The words of each command in a block of the page."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """(folder, output of each command) of a reader who has typed everything."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "my_clips").mkdir()
    for number in range(12):
        scene = Scene(list(THINGS)[number % len(THINGS)], list(SOUNDS)[number // 2 % len(SOUNDS)], (5, number))
        render(scene, folder / "my_clips" / f"clip{number + 1:02d}.mp4")
    outputs: dict[str, str] = {}
    for step in steps(PAGE):
        if step.file is not None:
            (folder / step.file).write_text(step.text)
            continue
        for program, *words in commands(step.text):
            assert program == "avrt", step.place
            typed = [*words, "--print_config"] if step.needs else cut_down(words, {})
            outputs[" ".join(words)] = avrt(*typed, cwd=folder, timeout=300).stdout
    return folder, outputs


def test_every_command_of_the_page_works_and_the_last_one_makes_the_report(followed):
    folder, outputs = followed
    assert len(outputs) > 12
    assert "my_clips" in (folder / "report" / "report.html").read_text()
    result = json.loads((folder / "runs/my_benchmark/mine/my_clips/av/result.json").read_text())
    assert result["counts"]["questions"] == 3
    assert set(result["groups"]) >= {"question_type", "source"}


def test_the_page_shows_what_explain_prints(followed):
    _, outputs = followed
    [block] = [text for text in PAGE.read_text().split("```") if text.startswith("text\nquestions: my_clips/")]
    printed = [line.rstrip() for line in outputs["shards folder --root my_clips --explain"].rstrip().splitlines()]
    assert block.removeprefix("text\n").rstrip().splitlines() == printed
    assert max(map(len, printed)) <= 80


def test_no_clip_and_no_source_is_in_two_parts(followed):
    folder, _ = followed
    parts = {part: list(ShardSet(folder / "shards" / part).samples()) for part in ("train", "val", "test")}
    assert {part: len(samples) for part, samples in parts.items()} == {"train": 6, "val": 3, "test": 3}
    sources = [{sample.metadata["source"] for sample in samples} for samples in parts.values()]
    assert sum(map(len, sources)) == len(set.union(*sources)) == 4
    right = {s.id: s.choices[s.answer] for samples in parts.values() for s in samples}
    assert [right[f"q-{number:05d}"] for number in range(12)] == [
        "a dog", "rain", "a house", "a horn", "night", "a chair", "steps", "a cat", "a phone", "morning", "a field",
        "a train",
    ]  # fmt: skip


def test_the_page_lists_every_name_that_is_recognised():
    rows = [[cell.strip() for cell in line.replace("\\|", "").split("|")] for line in PAGE.read_text().splitlines()]
    listed = {row[1].strip("`"): row[2] for row in rows if len(row) == 5 and row[1].strip("`") in USUAL_NAMES}
    assert listed.keys() == USUAL_NAMES.keys()
    for field, groups in USUAL_NAMES.items():
        assert listed[field].replace(";", ",").replace("then ", "").split(", ") == " ".join(groups).split(), field


def test_the_help_names_every_recipe_at_once():
    printed = avrt("shards", "--help").stdout
    assert all(f"\n  {name} " in printed for name in recipe_summaries())
    assert max(map(len, printed.splitlines())) <= 80
