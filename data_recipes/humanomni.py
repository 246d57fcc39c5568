"""What IntentTrain and IntentBench share: HumanOmniV2's rows, whose `problem_type` says how they are answered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from avrt.data.sample import Modality, Sample
from avrt.data.shards.conversion import SourceItem
from avrt.errors import BadSampleError
from avrt.messages import short
from data_recipes.annotations import Row, first_file, plain_metadata
from data_recipes.labels import Answers, Labels, read_labels

ONE, SEVERAL, JUDGE = "multiple choice", "emer_ov_mc", "judge"
KINDS = (ONE, SEVERAL, JUDGE)
_FACTS = ("qid", "Type", "type", "source", "data_source")


def converter(root: Path, kinds: tuple[str, ...]) -> Callable[[str, Row], SourceItem]:
    """A function that converts rows of some kinds and names each other one.

    Args:
        root: The dataset's folder.
        kinds: The values of `problem_type` that are used.
    """

    def convert(name: str, row: Row) -> SourceItem:
        kind = row["problem_type"]
        if kind not in kinds:
            why = "left out as asked" if kind in KINDS else "which has no choices"
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
        return SourceItem(sample, {Modality.VIDEO: first_file(root, places, name, file)}, labels.notes)

    return convert


def _labels(name: str, row: Row, kind: str) -> Labels:
    """Choices and answer by a row's `answer` and its `solution`, `<answer>B</answer>`, which have to say the same."""
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
        raise BadSampleError(f"{both}, which are not the same", where=name)
    return read[0]
