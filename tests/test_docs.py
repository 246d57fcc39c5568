"""What the documents point at is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_and_named_tests_exist(page):
    text = page.read_text()
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / link).exists(), link
    for file, name in re.findall(r"`([\w/]+/test_[a-z]\w*\.py)(?:::(\w+))?`", text):
        path = ROOT / "tests" / file.removeprefix("tests/")
        assert path.is_file(), file
        assert not name or f"def {name}(" in path.read_text(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_named_files_exist(page):
    if page.name == "CHANGELOG.md":
        return  # tells of files that were renamed
    for name in re.findall(
        r"`((?:avrt|configs|data_recipes|benchmarks|examples|tests)/[\w/.-]+\.(?:py|yaml))`", page.read_text()
    ):
        assert "NAME" in name or (ROOT / name).exists(), name


def test_modules_of_the_paper_index_exist():
    text = (ROOT / "docs" / "paper_index.md").read_text()
    named = re.findall(r"`((?!tests/)(?:[a-z_0-9]+/)*[a-z_]+\.py)(?:: (\w+))?`", text)
    assert len(named) > 10
    for file, name in named:
        path = ROOT / "avrt" / file
        assert path.is_file(), file
        assert not name or re.search(rf"(def|class) {name}\b", path.read_text()), name


def test_the_architecture_page_tells_the_way_to_the_four_places_that_readers_look_for():
    text = (ROOT / "docs" / "architecture.md").read_text()
    for question in ("completions are sampled", "the KL penalty is", "a reward is added", "frames are chosen"):
        [row] = [line for line in text.splitlines() if line.startswith("| where") and question in line]
        assert 1 <= len(re.findall(r"`[\w/]+\.py`", row)) <= 3, row
