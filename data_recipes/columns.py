"""Which column of a table of questions means what: by its own name, or by a usual one that no other column has too."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avrt.data.sample import Modality
from avrt.errors import AvrtError
from avrt.messages import short

NO_COLUMN = "none"
MEDIA = (*map(str, Modality), "media")
# Meaning -> usual names, in groups: a later group counts only if no column has a name of an earlier one.
USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "id": ("question_id qid q_id sample_id item_id uid",),
    "question": ("prompt query problem question_text question_content q",),
    "choices": ("options candidates choice option multi_choice answer_choices alternatives",),
    "answer": (
        "label correct solution correct_answer right_answer correct_option correct_choice correct_index answer_index "
        "answer_idx answer_letter answer_key gold gold_answer ground_truth gt target",
    ),
    "video": ("video_path video_file video_filename mp4",),
    "image": ("image_path image_file image_filename picture photo",),
    "audio": ("audio_path audio_file audio_filename sound wav",),
    "media": (
        "clip file path media_path media_file clip_path clip_file filename file_name file_path",
        "video_name clip_name video_id clip_id",
    ),
    "question_type": ("type category question_category task_type task qtype",),
    "relation": ("question_relation sense senses",),
    "trace": ("reasoning rationale chain_of_thought cot thinking",),
    "several": ("multi_select multiple_answers multi_answer",),
}
# `A`, `option_a`, `option1`, `opa`, `a0`: one column for each choice
_FAMILY = re.compile(
    r"(?P<kind>|a(?=_?\d)|option|choice|candidate|alternative|opt|answer|ans|op)_?(?P<mark>[a-z]|\d{1,2})", re.ASCII
)


@dataclass(frozen=True)
class Columns:
    """What the columns of a file of questions mean.

    Attributes:
        taken: Meaning, as in `USUAL_NAMES` -> column.
        choices: The columns that hold one choice each, in order; empty if there are none.
        first: Number of the first choice, where the names of these columns have numbers.
        rest: All other columns, which become metadata.
    """

    taken: Mapping[str, str]
    choices: tuple[str, ...]
    first: int | None
    rest: tuple[str, ...]

    def name(self, meaning: str) -> str:
        """The column of a meaning, for messages: the meaning itself if there is none."""
        return self.taken.get(meaning, meaning)

    def value(self, row: Mapping[str, Any], meaning: str) -> Any:
        """What a row says; None if it has no such column."""
        return row.get(self.taken[meaning]) if meaning in self.taken else None


def recognise(rows: Sequence[Any], wanted: Mapping[str, str], where: Path) -> Columns:
    """Find out what the columns of a file mean.

    Args:
        rows: Its rows.
        wanted: Meaning -> column, where the user has decided; `none` for no column.
        where: The file, for errors.

    Raises:
        AvrtError: If two columns may mean the same, or a wanted column is not there.
    """
    filled: dict[str, bool] = {}
    for row in rows:
        for name, value in row.items() if isinstance(row, Mapping) else ():
            filled[name] = filled.get(name, False) or value not in (None, "")
    _check_wanted(wanted, filled, where)
    free = [name for name in filled if name not in wanted.values()]
    taken = {meaning: name for meaning, name in wanted.items() if name != NO_COLUMN}
    own = {name for name in free if _plain(name) in USUAL_NAMES}
    for meaning in USUAL_NAMES:
        if meaning not in wanted and (name := _own_column(meaning, free)):
            taken[meaning] = name
    choices: tuple[str, ...] = ()
    first: int | None = None
    if wanted.get("choices") != NO_COLUMN:
        kind, choices, first = _families(free, where)
        own |= set(choices)
        if choices and "choices" in taken and kind != "":
            choices, first = (), None  # single letters may stand in for a missing list, row by row
    for meaning, groups in USUAL_NAMES.items():
        no_more_media = meaning == "media" and any(kind in taken for kind in MEDIA)
        if meaning in wanted or meaning in taken or no_more_media or (meaning == "choices" and choices):
            continue
        for group in groups:
            found = [name for name in free if name not in own and _plain(name) in group.split()]
            if name := _only(meaning, found, filled, where):
                taken[meaning] = name
                break
    used = {*taken.values(), *choices}
    return Columns(taken, choices, first, tuple(name for name in filled if name not in used))


def _plain(name: str) -> str:
    """A column's name in lower case with `_` between its words."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", unicodedata.normalize("NFKC", str(name)).strip())
    return re.sub(r"[^\w]+|_+", "_", spaced).strip("_").casefold()


def _own_column(meaning: str, names: Iterable[str]) -> str | None:
    """The column with a meaning's own name, spelled so or else in other capitals."""
    same = [name for name in names if _plain(name) == meaning]
    return meaning if meaning in same else same[0] if len(same) == 1 else None


def _only(meaning: str, found: list[str], filled: Mapping[str, bool], where: Path) -> str | None:
    """The one column that may have a meaning; those that are empty in all rows do not count beside others."""
    if len(found) > 1:
        found = [name for name in found if filled[name]] or found[:1]
    if len(found) > 1:
        shown = " and ".join(short(name, 40) for name in found)
        options = " or ".join(f"--columns.{meaning} {_word(name)}" for name in (*found, NO_COLUMN))
        raise AvrtError(f"the columns {shown} may both be the {meaning}", where=where, remedy=f"add {options}")
    return found[0] if found else None


def _word(name: str) -> str:
    return name if re.fullmatch(r"[\w.-]+", name) else f"'{name}'"


def _check_wanted(wanted: Mapping[str, str], names: Iterable[str], where: Path) -> None:
    for meaning, name in wanted.items():
        if meaning not in USUAL_NAMES:
            raise AvrtError("no such field", where=f"--columns.{meaning}", remedy=f"one of {', '.join(USUAL_NAMES)}")
        if name != NO_COLUMN and name not in names:
            raise AvrtError(
                f"has no column {short(name)}", where=where, remedy=f"--columns.{meaning} takes one of {told(names)}"
            )


def told(names: Iterable[str]) -> str:
    """The names of columns for a message."""
    all_names = [short(name, 30) for name in names]
    return ", ".join(all_names[:12]) + (", ..." if len(all_names) > 12 else "")


def _families(names: Sequence[str], where: Path) -> tuple[str, tuple[str, ...], int | None]:
    """The columns with one choice each: the kind of their names, the columns in order, and the first one's number.

    Raises:
        AvrtError: If there are several families of them.
    """
    found: dict[tuple[str, bool], dict[str, str]] = {}
    for name in names:
        match = _FAMILY.fullmatch(name.strip().lower() if len(name.strip()) == 1 else _plain(name))
        if match is None:
            continue
        kind, mark = match["kind"], match["mark"]
        if kind or mark.isalpha():
            found.setdefault((kind, mark.isdigit()), {}).setdefault(mark, name)
    families = {key: marks for key, marks in found.items() if _begins(marks, key[1])}
    if len(families) > 1:
        shown = " and ".join(told(marks.values()) for marks in families.values())
        raise AvrtError(
            f"the columns {shown} may both be the choices", where=where, remedy="rename those that are not the choices"
        )
    for (kind, numbered), marks in families.items():
        order = sorted(marks, key=int) if numbered else sorted(marks)
        return kind, tuple(marks[mark] for mark in order), int(order[0]) if numbered else None
    return "", (), None


def _begins(marks: Mapping[str, str], numbered: bool) -> bool:
    """Whether these are at least two choices from the first one on."""
    if numbered:
        numbers = sorted(map(int, marks))
        return len(numbers) > 1 and numbers[0] in (0, 1) and numbers == list(range(numbers[0], numbers[0] + len(marks)))
    return "a" in marks and "b" in marks
