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
