"""What is wrong with a study's declaration before anything runs: names that nothing has, and what is shown unasked."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from avrt.configurations import find_config
from avrt.errors import AvrtError
from avrt.evaluation.protocol import MASKS
from avrt.study.declaration import Declaration, references
from avrt.text import did_you_mean

_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")
_SECTIONS = ("shards", "students", "traces", "benchmarks")


def check(study: Declaration) -> None:
    """Check that every name that is referred to exists, and that what is shown is asked.

    Raises:
        AvrtError: Naming the field, and what there is.
    """
    if not study.seeds or len(set(study.seeds)) < len(study.seeds):
        raise AvrtError("a study needs seeds, and each once", where="seeds", remedy="as in [0, 1, 2, 3]")
    _check_names(study)
    for where, configs, arguments in _commands(study):
        _check_command(study, where, configs, arguments)
    for name, traces in study.traces.items():
        _known(traces.data, study.shards, f"traces.{name}.data")
    for name, student in study.students.items():
        _known(student.data, {**study.shards, **study.traces}, f"students.{name}.data")
        if not _may_be_a_model(student.source):
            _known(student.source, study.students, f"students.{name}.source")
    for name, spec in study.benchmarks.items():
        _known(spec.shards, study.shards, f"benchmarks.{name}.shards")
        if spec.difficulty is not None:
            _known(spec.difficulty, study.traces, f"benchmarks.{name}.difficulty")
    for number, asked in enumerate(study.asked):
        _all_known(asked.students, study.students, f"asked.{number}.students")
        _all_known(asked.benchmarks, study.benchmarks, f"asked.{number}.benchmarks")
        _all_known(asked.masks, MASKS, f"asked.{number}.masks")
    _check_seeds(study)
    _check_claims(study)
    _check_page(study)


def _check_seeds(study: Declaration) -> None:
    """Refuse numbers of seeds that are none, and what needs a student of fewer seeds."""
    for name in study.students:
        _check_seeds_of(study, name)
    for number, asked in enumerate(study.asked):
        for benchmark in asked.benchmarks:
            found = references(study.benchmarks[benchmark].arguments)
            for name in asked.students:
                needed = [other for section, other in found if section == "students"]
                _check_needed_seeds(study, name, needed, f"asked.{number}")


def _check_seeds_of(study: Declaration, name: str) -> None:
    student, where = study.students[name], f"students.{name}.seeds"
    if student.seeds is not None and (student.once or student.seeds < 1):
        what = "is trained once, for all seeds" if student.once else f"is {student.seeds}"
        raise AvrtError(what, where=where, remedy="leave it out, or give a number from 1 up without `once`")
    common = study.training.get(student.stage)
    arguments = {**(common.arguments if common else {}), **student.arguments}
    needed = [student.source, *(other for section, other in references(arguments) if section == "students")]
    _check_needed_seeds(study, name, needed, where)


def _check_needed_seeds(study: Declaration, name: str, needed: Iterable[str], where: str) -> None:
    for other in needed:
        if other not in study.students or study.students[other].once or study.students[name].once:
            continue
        has, needs = len(study.seeds_of(other)), len(study.seeds_of(name))
        if has < needs:
            what = f"{needs} seeds of {name} need {other}, which has {has}"
            raise AvrtError(what, where=where, remedy=f"set students.{name}.seeds to {has}")


def _check_names(study: Declaration) -> None:
    names = [(f"{section}.{name}", name) for section in _SECTIONS for name in getattr(study, section)]
    names += [(f"traces.{name}.folder", spec.folder) for name, spec in study.traces.items()]
    for where, name in names:
        if not _NAME.fullmatch(name):
            remedy = "use letters, digits, _, +, - and dots"
            raise AvrtError(f"{name!r} cannot be the name of a folder", where=where, remedy=remedy)
    if both := sorted(study.shards.keys() & study.traces.keys()):
        raise AvrtError("is the name of shards and of traces", where=both[0], remedy="students name either as `data`")
    _all_known(study.training, ("sft", "grpo"), "training")


def _commands(study: Declaration) -> Iterator[tuple[str, Sequence[str], Mapping[str, Any]]]:
    """(field, configurations, arguments) of everything that becomes commands."""
    for name, shards in study.shards.items():
        yield f"shards.{name}", (), shards.arguments
    for section in ("training", "students", "traces", "benchmarks"):
        for name, spec in getattr(study, section).items():
            yield f"{section}.{name}", spec.config, spec.arguments


def _may_be_a_model(source: str) -> bool:
    """Whether a source is, or may be, a preset, a model on the Hub or at an address, or a folder."""
    return source.startswith("nano") or "/" in source or Path(source).exists()


def _check_command(study: Declaration, where: str, configs: Sequence[str], arguments: Mapping[str, Any]) -> None:
    for config in configs:
        try:
            find_config(config)
        except AvrtError as error:
            raise AvrtError(error.what, where=f"{where}.config: {config}", remedy=error.remedy) from None
    for key, value in arguments.items():
        for section, name in references(value):
            _known(name, getattr(study, section), f"{where}.arguments.{key}")


def _check_claims(study: Declaration) -> None:
    ids = [claim.id for claim in study.claims]
    if repeated := [name for name in ids if ids.count(name) > 1]:
        raise AvrtError(f"two claims have the id {repeated[0]}", where="claims")
    for claim in study.claims:
        for benchmark, cell in claim.cells():
            _asked(study, cell.student, benchmark, cell.mask, f"claims.{claim.id}")
    if (plot := study.sensitivity).parameters:
        for parameter, values in plot.parameters.items():
            for student in values.values():
                _asked(study, student, plot.benchmark, plot.mask, f"sensitivity.parameters.{parameter}")
        _known(plot.main_student(), study.students, "sensitivity.main")


def _asked(study: Declaration, student: str, benchmark: str, mask: str, where: str) -> None:
    _known(student, study.students, where)
    _known(benchmark, study.benchmarks, where)
    if (student, benchmark, mask) not in study.cells():
        what = f"{student} is not asked {benchmark} under the mask {mask}"
        raise AvrtError(what, where=where, remedy="add that to asked, or leave this out")


def _check_page(study: Declaration) -> None:
    for theirs, ours in study.tables.stand_in.items():
        _known(ours, study.benchmarks, f"tables.stand_in.{theirs}")
    for table in study.tables.extra:
        where = f"tables.extra: {table.title}"
        _all_known([row.student for row in table.rows], study.students, where)
        _all_known([column.benchmark for column in table.columns], study.benchmarks, where)
    _all_known(study.curves, study.students, "curves")
    if study.figure3 is not None:
        _known(study.figure3.student, study.students, "figure3.student")
        _known(study.figure3.benchmark, study.benchmarks, "figure3.benchmark")


def _all_known(names: Collection[str], known: Collection[str], where: str) -> None:
    for name in names:
        _known(name, known, where)


def _known(name: str, known: Collection[str], where: str) -> None:
    if name not in known:
        remedy = did_you_mean(name, known) or f"there are: {', '.join(known) or 'none'}"
        raise AvrtError(f"no such name: {name}", where=where, remedy=remedy)
