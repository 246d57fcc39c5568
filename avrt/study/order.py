"""The order in which what a study declares can be made: what is needed comes first, else as declared."""

from __future__ import annotations

from avrt.errors import AvrtError
from avrt.study.declaration import Declaration, references


def needed_first(study: Declaration) -> list[str]:
    """Everything that is made, as `section.name`, each after what it needs.

    Raises:
        AvrtError: If something needs itself, directly or not, or traces that are made once need a student of each seed.
    """
    order: list[str] = []

    def visit(name: str, way: tuple[str, ...]) -> None:
        if name in way:
            circle = " -> ".join((*way[way.index(name) :], name))
            raise AvrtError(f"needs itself: {circle}", where=name, remedy="change its source, its data or an argument")
        if name not in order:
            for needed in _needs(study, name):
                visit(needed, (*way, name))
            order.append(name)

    for section in ("shards", "traces", "students"):
        for name in getattr(study, section):
            visit(f"{section}.{name}", ())
    return order


def _needs(study: Declaration, name: str) -> list[str]:
    section, _, name = name.partition(".")
    if section == "shards":
        return _referred(study, f"shards.{name}", study.shards[name].arguments, once=True)
    if section == "traces":
        spec = study.traces[name]
        names = list(study.traces)
        before = [n for n in names[: names.index(name)] if study.traces[n].folder == spec.folder]
        referred = _referred(study, f"traces.{name}", spec.arguments, once=True)
        return [f"shards.{spec.data}", *(f"traces.{n}" for n in before), *referred]
    student = study.students[name]
    common = study.training.get(student.stage)
    arguments = {**(common.arguments if common else {}), **student.arguments}
    source = [student.source] if student.source in study.students else []
    if student.once:
        _refuse_seeds(study, f"students.{name}", source)
    data = "shards" if student.data in study.shards else "traces"
    return [
        f"{data}.{student.data}",
        *(f"students.{n}" for n in source),
        *_referred(study, f"students.{name}", arguments, once=student.once),
    ]


def _referred(study: Declaration, where: str, arguments: dict[str, object], *, once: bool) -> list[str]:
    found = references(arguments)
    if once:
        _refuse_seeds(study, where, [name for section, name in found if section == "students"])
    return [f"{section}.{name}" for section, name in found]


def _refuse_seeds(study: Declaration, where: str, students: list[str]) -> None:
    for name in students:
        if not study.students[name].once:
            raise AvrtError(
                f"is made once, and {name} is trained with each seed",
                where=where,
                remedy=f"set students.{name}.once to true",
            )
