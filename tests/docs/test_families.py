"""docs/families.md: what it says of each family is what the code does, and each proof that it names is a test."""

import re
from pathlib import Path

from avrt.data.media.student_frames import STUDENTS
from avrt.models.families import FAMILIES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "families.md").read_text()


def table(after: str) -> tuple[list[str], dict[str, list[str]]]:
    """Head, and rows by their first cell, of the first table behind a heading."""
    lines = PAGE.split(after, 1)[1].splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    assert len({row[0] for row in rows}) == len(rows), "two rows say the same"
    return rows[0][1:], {row[0]: row[1:] for row in rows[2:]}


def test_what_families_are():
    names, rows = table("# Model families")
    assert names == [family.name for family in FAMILIES]
    for at, family in enumerate(FAMILIES):
        assert rows["`model_type`"][at] == ", ".join(family.model_types)
        assert rows["nano preset"][at] == f"`{family.nano}`"
        student = rows["shards are made with `--student`"][at]
        assert rows["pixels along one token of a picture"][at] == str(STUDENTS[student].side)
        assert rows["sound inside video"][at].startswith("yes" if family.interleaves else "no")
        for configuration in re.findall(r"`(\w+\.yaml)`", rows["a first configuration"][at]):
            assert (ROOT / "configs" / configuration).is_file()


def test_each_proof_is_a_test_and_has_a_figure_for_each_family():
    names, rows = table("## What was shown")
    assert names[:-1] == [family.name for family in FAMILIES]
    assert names[-1] == "test"
    assert len(rows) >= 10
    for proof, (*figures, test) in rows.items():
        assert len(figures) == len(FAMILIES), proof
        assert all(figures), proof
        for place, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", test):
            assert (ROOT / place).is_file(), test
            assert not name or f"def {name}(" in (ROOT / place).read_text(), test
        assert "`tests/" in test or "`benchmarks/" in test or "`avrt demo" in test, proof
