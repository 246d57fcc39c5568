"""Signatures read from source text are those that Python sees when it imports the classes."""

import dataclasses
import inspect
import types
import typing

import pytest

from avrt.commands.option_table import DATA, MODULES, TRAINER, chosen, leaves, option_table
from avrt.signatures import Expression, module, signature


def imported(path):
    home, _, name = path.rpartition(".")
    return getattr(__import__(home, fromlist=[name]), name)


def defaults(kind):
    """Name -> default of a constructor's arguments, as Python has them."""
    found = {n: p.default for n, p in inspect.signature(kind).parameters.items() if n != "self"}
    if dataclasses.is_dataclass(kind):
        for field in dataclasses.fields(kind):
            if field.default_factory is not dataclasses.MISSING:
                found[field.name] = field.default_factory()
    return found


def check(read, kind, seen):
    """Compare a signature, and those of the dataclasses in it, with the class itself."""
    real = defaults(kind)
    assert list(read.parameters) == list(real), kind
    hints = typing.get_type_hints(kind if dataclasses.is_dataclass(kind) else kind.__init__)
    for name, parameter in read.parameters.items():
        default = real[name]
        union = isinstance(hints[name], types.UnionType)
        kinds = typing.get_args(hints[name]) if union else [hints[name]]
        classes = [kind for kind in kinds if dataclasses.is_dataclass(kind)]
        if parameter.nested is None:
            assert not classes, f"{kind}.{name}"
            if default is inspect.Parameter.empty:
                default = Expression("")
            assert parameter.default == default, f"{kind}.{name}"
            continue
        [nested] = classes
        if dataclasses.is_dataclass(default):
            assert default == nested(**parameter.default), f"{kind}.{name}"
        if nested not in seen:
            seen.add(nested)
            check(parameter.nested, nested, seen)


@pytest.mark.parametrize("path", [*MODULES, DATA, "avrt.training.checkpoints.RunCheckpoint"])
def test_names_and_defaults_are_those_of_the_imported_class(path):
    seen = set()
    check(signature(path), imported(path), seen)
    assert path == "avrt.training.checkpoints.RunCheckpoint" or len(seen) > 3


def test_lightnings_trainer_is_read_too():
    read = signature(TRAINER)
    real = defaults(imported(TRAINER))
    assert {n: p.default for n, p in read.parameters.items()} == {n: real[n] for n in read.parameters}
    assert set(real) - set(read.parameters) <= {"kwargs"}


def test_every_option_says_what_it_is():
    for path in MODULES:
        table = option_table(chosen("fit", ["--model", path]))
        assert [leaf.name for option in table.values() for leaf in leaves(option) if not leaf.text] == []


def test_a_class_that_passes_arguments_on_is_not_judged(tmp_path, monkeypatch):
    (tmp_path / "own_student.py").write_text(
        "from avrt.training.sft_module import SFTModule\n"
        "class Own(SFTModule):\n    def __init__(self, extra: int = 1, **kwargs):\n        pass\n"
        "class Plain:\n    def __init__(self, extra: int = 1):\n        pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert not signature("own_student.Own").complete
    assert signature("own_student.Plain").complete
    assert signature("own_student.Missing") is None
    assert module("nowhere_at_all") is None
