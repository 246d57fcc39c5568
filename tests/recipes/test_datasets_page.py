"""The page of data sets names every recipe, with rules that exist and sizes that the declarations have."""

from pathlib import Path

import yaml

from avrt.commands.recipe_names import recipes
from avrt.evaluation.scorers import SCORERS

ROOT = Path(__file__).parents[2]


def table():
    text = (ROOT / "docs" / "datasets.md").read_text()
    rows = [line for line in text.split("\n## ")[0].split("\n") if line.startswith("| `")]
    return {cells[0].strip("`"): cells for cells in ([c.strip() for c in row.strip("|").split("|")] for row in rows)}


def test_every_recipe_has_its_row():
    rows = table()
    assert set(recipes()) <= set(rows)
    assert all(len(cells) == 8 and all(cells) for cells in rows.values())


def test_sizes_and_rules_are_those_of_the_declarations():
    seen = 0
    for name, cells in table().items():
        rule = cells[6].strip("`")
        assert rule == "none" or rule in SCORERS
        path = ROOT / "configs" / f"{name}.yaml"
        if rule == "none" or not path.is_file():
            continue
        declared = yaml.safe_load(path.read_text())["model"]["init_args"]["benchmark"]
        assert declared["official"] == rule
        assert f"{declared['expected']:,}" == cells[2]
        seen += 1
    assert seen == 9


def test_frames_and_sound_are_those_of_the_recipes():
    for name, kind in recipes().items():
        told, clip = table()[name][3], kind.clip
        frames, sound = told.rsplit(", ", 1)
        assert sound == ("whole" if clip.audio_seconds is None else f"{clip.audio_seconds:g} s"), name
        if frames not in ("none", "a still"):
            taken = f"{clip.frames}" if clip.fps is None else f"{clip.fps:g} a second, at most {clip.max_frames}"
            assert frames == taken, name
