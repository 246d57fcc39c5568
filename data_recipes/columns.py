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
_ALL_NAMES = frozenset(word for groups in USUAL_NAMES.values() for group in groups for word in group.split())
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
    own = {name for name in free if plain(name) in USUAL_NAMES}
    for meaning in USUAL_NAMES:
        if meaning not in wanted and (name := _own_column(meaning, free)):
            taken[meaning] = name
    choices: tuple[str, ...] = ()
    first: int | None = None
    if "choices" in taken:
        choices = _stand_ins(taken["choices"], rows, free)
    elif wanted.get("choices") != NO_COLUMN:
        choices, first = _families(free, filled, where)
    own |= set(choices)
    free = [name for name in free if name not in own]
    for meaning in USUAL_NAMES:
        if meaning in wanted or meaning in taken:
            continue
        if meaning == "choices" and choices:
            _refuse_second_choices(choices, _named(meaning, 0, free), filled, where)
            continue
        find = _clip if meaning == "media" else _usual
        if name := find(meaning, taken, free, filled, where):
            taken[meaning] = name
    used = {*taken.values(), *choices}
    return Columns(taken, choices, first, tuple(name for name in filled if name not in used))


def _named(meaning: str, group: int, names: Iterable[str]) -> list[str]:
    """The columns with a usual name of a group."""
    return [name for name in names if plain(name) in USUAL_NAMES[meaning][group].split()]


def _usual(
    meaning: str, taken: Mapping[str, str], names: Sequence[str], filled: Mapping[str, bool], where: Path
) -> str | None:
    """The one column with a usual name for a meaning, by the first group of names that has any."""
    found = (_only(meaning, _named(meaning, group, names), filled, where) for group in range(len(USUAL_NAMES[meaning])))
    return next(filter(None, found), None)


def _clip(
    meaning: str, taken: Mapping[str, str], names: Sequence[str], filled: Mapping[str, bool], where: Path
) -> str | None:
    """The column of clips; None if a column of one kind of media is filled, beside which `video_id` is only a name.

    Raises:
        AvrtError: If there is such a column and one of clips: the row's media may be either or both.
    """
    kinds = [kind for kind in MEDIA if kind in taken]
    clips = [name for name in _named(meaning, 0, names) if filled[name]]
    if not kinds:
        return _usual(meaning, taken, names, filled, where)
    kind = next((kind for kind in kinds if filled[taken[kind]]), None)
    if kind is not None and clips:
        name, clip = taken[kind], clips[0]
        raise AvrtError(
            f"the columns {short(name, 40)} and {short(clip, 40)} may both be the media",
            where=where,
            remedy=f"add --columns.media {_word(clip)} to use it too, --columns.media {NO_COLUMN} to leave it out, or "
            f"--columns.{kind} {NO_COLUMN} to leave out {short(name, 40)}",
        )
    return _only(meaning, clips, filled, where) if kind is None else None


def _refuse_second_choices(
    choices: tuple[str, ...], others: list[str], filled: Mapping[str, bool], where: Path
) -> None:
    """Refuse a column of lists beside columns with one choice each."""
    if (other := next((other for other in others if filled[other]), None)) is not None:
        raise AvrtError(
            f"the columns {told(choices)} and {short(other, 40)} may both be the choices",
            where=where,
            remedy=f"add --columns.choices {_word(other)}, or rename those that are not the choices",
        )


def _stand_ins(lists: str, rows: Sequence[Any], names: Sequence[str]) -> tuple[str, ...]:
    """The columns `A`, `B`, ... if some row has its choices there and none in the column of lists."""
    letters = {plain(name): name for name in reversed(names) if re.fullmatch("[a-z]", plain(name), re.ASCII)}
    if not _begins(letters, numbered=False):
        return ()
    found = tuple(letters[letter] for letter in sorted(letters))
    lacking = [row for row in rows if isinstance(row, Mapping) and row.get(lists) in (None, "")]
    return found if any(row.get(name) not in (None, "") for row in lacking for name in found) else ()


def plain(name: str) -> str:
    """A column's name in lower case with `_` between its words."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", unicodedata.normalize("NFKC", str(name)).strip())
    return re.sub(r"[^\w]+|_+", "_", spaced).strip("_").casefold()


def _own_column(meaning: str, names: Iterable[str]) -> str | None:
    """The column with a meaning's own name, spelled so or else in other capitals."""
    same = [name for name in names if plain(name) == meaning]
    return meaning if meaning in same else same[0] if len(same) == 1 else None


def _only(meaning: str, found: list[str], filled: Mapping[str, bool], where: Path) -> str | None:
    """The one column that may have a meaning; those that are empty in all rows do not count beside others."""
    if len(found) > 1:
        found = [name for name in found if filled[name]] or found[:1]
    if len(found) > 1:
        shown = " and ".join(short(name, 40) for name in found)
        optional = () if meaning in ("question", "choices", "answer", "media") else (NO_COLUMN,)
        options = " or ".join(f"--columns.{meaning} {_word(name)}" for name in (*found, *optional))
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


def _families(names: Sequence[str], filled: Mapping[str, bool], where: Path) -> tuple[tuple[str, ...], int | None]:
    """The columns with one choice each, in order, and the first one's number; those that are all empty do not count.

    Raises:
        AvrtError: If there are several families of them.
    """
    found: dict[tuple[str, bool], dict[str, str]] = {}
    for name in names:
        match = _FAMILY.fullmatch(plain(name))
        if match is None or plain(name) in _ALL_NAMES:
            continue
        kind, mark = match["kind"], match["mark"]
        if kind or mark.isalpha():
            found.setdefault((kind, mark.isdigit()), {}).setdefault(mark, name)
    families = {
        key: marks
        for key, marks in found.items()
        if _begins(marks, key[1]) and any(filled[name] for name in marks.values())
    }
    if len(families) > 1:
        shown = " and ".join(told(marks.values()) for marks in families.values())
        raise AvrtError(
            f"the columns {shown} may both be the choices", where=where, remedy="rename those that are not the choices"
        )
    for (_, numbered), marks in families.items():
        order = sorted(marks, key=int) if numbered else sorted(marks)
        return tuple(marks[mark] for mark in order), int(order[0]) if numbered else None
    return (), None


def _begins(marks: Mapping[str, str], numbered: bool) -> bool:
    """Whether these are at least two choices from the first one on."""
    if numbered:
        numbers = sorted(map(int, marks))
        return len(numbers) > 1 and numbers[0] in (0, 1) and numbers == list(range(numbers[0], numbers[0] + len(marks)))
    return "a" in marks and "b" in marks
