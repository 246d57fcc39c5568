"""Imports point one way: each part of the package may use only parts of lower rank."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A module's rank is that of the longest prefix that matches its name.
RANKS = {
    "avrt": 0,
    "avrt.cores": 0,
    "avrt.errors": 0,
    "avrt.arguments": 0,
    "avrt.data.sample": 0,
    "avrt.prompts": 0,
    "avrt.choices": 0,
    "avrt.response": 0,
    "avrt.run_folder": 0,
    "avrt.text": 0,
    "avrt.files": 0,
    "avrt.remote": 0,
    "avrt.transfer": 0,
    "avrt.html": 0,
    "avrt.terminal_tables": 0,
    "avrt.distributed": 0,
    "avrt.wordings": 0,
    "avrt.data": 1,
    "avrt.metrics": 1,
    "avrt.objectives": 2,
    "avrt.models": 3,
    "avrt.rollout": 4,
    "avrt.policy": 5,
    "avrt.library": 7.5,
    "avrt.algorithms": 6,
    "avrt.evaluation": 6,
    "avrt.training": 7,
    "avrt.traces": 7,
    "avrt.data_recipes": 7,
    "avrt.chat": 8,
    "avrt.study": 8,
    "avrt.commands": 9,
    "avrt.cli": 10,
    "avrt.__main__": 11,
}
# Neither link is followed from above; see setup.cfg.
FILES = sorted([*(ROOT / "avrt").rglob("*.py"), *(ROOT / "avrt" / "data_recipes").glob("*.py")])


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def rank_and_part(module: str) -> tuple[int, str]:
    part = max((p for p in RANKS if module == p or module.startswith(p + ".")), key=len)
    return RANKS[part], part


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] == "avrt"}


# The front door imports the library when it is asked for (tests/test_core.py).
@pytest.mark.parametrize("path", [path for path in FILES if path != ROOT / "avrt" / "__init__.py"], ids=module_name)
def test_imports_point_down(path):
    rank, part = rank_and_part(module_name(path))
    for imported in imports(path):
        other_rank, other_part = rank_and_part(imported)
        assert other_part == part or other_rank < rank or rank == other_rank == 0, f"{path} imports {imported}"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_modules_are_short_and_say_what_they_own(path):
    assert len(path.read_text().splitlines()) <= 400
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_module_and_data_module_meet_in_one_place():
    """A circle through the trainer's attributes is one that imports do not show."""
    for path in FILES:
        text = path.read_text()
        assert "lightning_module" not in text or path.name == "strategy.py", path
        reads_data = "trainer.datamodule" in text or 'trainer, "datamodule"' in text
        assert not reads_data or path.name == "connect.py", path


def test_no_module_imports_itself_in_a_circle():
    """Also not within a part, and not by imports inside functions; the package's front door aside."""
    graph = {module_name(path): imports(path) - {"avrt"} for path in FILES}
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way[way.index(module) :], module))
        if module not in done:
            for imported in graph.get(module, ()):
                visit(imported, (*way, module))
            done.add(module)

    for module in graph.keys() - {"avrt"}:
        visit(module, ())
