"""Rows of IntentTrain and IntentBench, HumanOmniV2's sets; their `problem_type` says how they are answered."""

from __future__ import annotations

from pathlib import Path

from avrt.data.sample import Modality, Sample
from avrt.data.shards.source import SourceItem
from avrt.data_recipes.annotations import Row, plain_metadata
from avrt.data_recipes.labels import Answers, Labels, read_labels
from avrt.data_recipes.media_paths import first_file
from avrt.errors import BadSampleError
from avrt.messages import short

ONE, SEVERAL, JUDGE = "multiple choice", "emer_ov_mc", "judge"
KINDS = (ONE, SEVERAL, JUDGE)
_FACTS = ("qid", "Type", "type", "source", "data_source")


def convert_row(
    root: Path, name: str, row: Row, kinds: tuple[str, ...] = KINDS, media_root: str | None = None
) -> SourceItem:
    """Make a question of a row.

    Args:
        root: The dataset's folder.
        name: The row's name.
        row: The row.
        kinds: The values of `problem_type` that are used.
        media_root: A further folder that media may be in.

    Raises:
        BadSampleError: If the row has another `problem_type`, or cannot be used.
    """
    kind = row["problem_type"]
    if kind not in kinds:
        why = "left out by --only" if kind in KINDS else "which has no choices"
        raise BadSampleError(f"a row of problem_type {short(kind)}, {why}", where=name)
    if row.get("data_type", "video") != "video":
        raise BadSampleError(f"field 'data_type' is {short(row['data_type'])}, needs video", where=name)
    labels = _labels(name, row, kind)
    file = "video" if row.get("video") else "path"
    path = row[file]
    places = [path, f"videos/{path}"] if isinstance(path, str) else [path]
    sample = Sample(
        id=name,
        question=row["problem"],
        choices=labels.choices,
        answer=labels.answer,
        question_type=kind,
        metadata={
            "video_id": path if isinstance(path, str) else None,
            **plain_metadata({key: row[key] for key in _FACTS if key in row}),
        },
        several=kind == SEVERAL,
    )
    return SourceItem(
        sample, {Modality.VIDEO: first_file(root, places, name, file, media_root=media_root)}, labels.notes
    )


def _labels(name: str, row: Row, kind: str) -> Labels:
    """Choices and answer from a row's `answer` and its `solution`, `<answer>B</answer>`, which must agree."""
    options = ["Yes", "No"] if kind == JUDGE else row["options"]
    given = [field for field in ("answer", "solution") if row.get(field) is not None] or ["answer"]
    read = [
        read_labels(
            options,
            row.get(field),
            where=name,
            fields=("options", field),
            kind=Answers.TEXT if kind == JUDGE else Answers.LETTER,
            several=kind == SEVERAL,
        )
        for field in given
    ]
    if any(labels.answer != read[0].answer for labels in read):
        both = f"field 'answer' is {short(row['answer'])} and 'solution' {short(row['solution'])}"
        raise BadSampleError(f"{both}, which differ", where=name)
    return read[0]
