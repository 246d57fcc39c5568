"""Faults that a person found unnoticed once: text of a module, and what it was changed to, one a line in `once.tsv`."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.mutation.modules import MODULES
from tests.mutation.mutants import Mutant
from tests.mutation.running import module_path

LIST = Path(__file__).with_name("once.tsv")


def once_unnoticed(modules: list[str]) -> tuple[list[Mutant], list[str]]:
    """The faults of some modules that can still be made, and those whose line has been rewritten since."""
    faults, gone = [], []
    for line in LIST.read_text().split("\n"):
        module, before, after = line.split("\t") if line else ("", "", "")
        if module not in modules:
            continue
        source = module_path(module).read_text()
        text = f"once: {before} -> {after}"
        if source.count(before) != 1:
            gone.append(f"{module} {text}")
            continue
        number = source[: source.index(before)].count("\n") + 1
        faults.append(Mutant(module, number, text, ast.parse(source.replace(before, after))))
    assert all(fault.module in MODULES for fault in faults)
    return faults, gone
