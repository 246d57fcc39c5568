"""AVRT-20K: the traces that AVRT's authors published, for AVQA's clips; fine-tuning on them needs no teachers.

`root` is AVQA's folder of clips (`<clips>/<video_name>.mp4`); the traces are the hub's Parquet files
`data/af3_kimivl-*.parquet` below it, or what `--traces` names: a file or a pattern, Parquet, JSON or JSON lines.

Homepage: https://huggingface.co/datasets/CVML-TueAI/AVRT-20K (for training only).
Paper: Araujo et al., AVRT: Audio-Visual Reasoning Transfer through Single-Modality Teachers.
Licence: CC BY 4.0 for the traces; questions and clips have those of AVQA and VGG-Sound.

A row (with the fields of the card and invented contents):

    {"id": 183, "video_name": "-HG3Omg_89c_000030", "video_id": 341, "question": "What is the sound in the video?",
     "choices": ["motorboat", "train", "car", "bicycle"], "answer": "motorboat", "question_relation": "Both",
     "question_type": "Which", "av_reasoning": "<think>A motor hums while ...</think><answer>A</answer>"}

The card counts 40,182 rows; the paper trains on 18,279 of 19,224. `av_reasoning` may have reasoning with or without
tags, and an answer after it as a letter, in brackets or as a choice's text; `answer` may be a letter, an index (from 0)
or a text. A row is left out and named if it gives no trace in the target format: if it has no reasoning or several, or
ends with another answer than the row's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from avrt.choices import read_choice
from avrt.data.media.clip_spec import ClipSpec
from avrt.data.sample import LETTERS, Modality, Relation, Sample
from avrt.data.shards.source import SourceItem
from avrt.data_recipes.annotation_tables import read_rows
from avrt.data_recipes.annotations import Row, items, plain_name, row_id
from avrt.data_recipes.labels import Answers, Labels, counts_from_one, index_in, read_labels
from avrt.data_recipes.media_paths import media_file
from avrt.data_recipes.recipe import FileRecipe
from avrt.errors import AvrtError, BadSampleError
from avrt.messages import short
from avrt.response import format_response, parse_response

_RELATIONS = {"both": Relation.BOTH, "sound": Relation.AUDIO, "view": Relation.VISION}
_TAG = re.compile(r"<\s*(/?)\s*(think|answer)\s*>|◁\s*(/?)\s*(think)\s*▷", re.IGNORECASE)
# a last line that is only an answer with its label
_LABELLED = re.compile(
    r"(?i)(?:\n|(?<=[.!?])\s)[\s*#_>]*(?:(?:so|therefore|thus|hence),?\s+)?(?:the\s+)?(?:final\s+|correct\s+)?answer"
    r"(?:\s+is)?[\s*_]*:[\s*_]*(?P<said>[^\n]+)\s*\Z"
)


@dataclass
class AVRT20K(FileRecipe):
    """AVRT-20K: reasoning traces for AVQA's training questions.

    Attributes:
        traces: The file with the traces, or a pattern for several, below the root.
        clips: Folder of the clips, below the root.
        answers: What the rows' answers are. This decides if an answer has two readings.
        count_from: Index of the first choice; by default 0, and refused if the rows seem to count from 1.
    """

    clip: ClassVar[ClipSpec] = ClipSpec(frames=8, audio_seconds=10.0)  # as for the teachers

    traces: str = "data/af3_kimivl-*.parquet"
    clips: str = "videos"
    answers: Literal["auto", "index", "letter", "text"] = "auto"
    count_from: Literal[0, 1] | None = None

    def annotations(self, root: Path) -> tuple[Path, ...]:
        """The files with the traces, sorted."""
        try:
            found = tuple(sorted(path for path in root.glob(self.traces) if path.is_file()))
        except (ValueError, NotImplementedError) as error:
            raise AvrtError(
                f"{self.traces!r} is not a pattern for files below the root: {error}", where="--traces"
            ) from None
        return found or (root / self.traces,)

    def items(self, root: Path) -> Iterator[SourceItem | BadSampleError]:
        """Every row as a question or an error."""
        rows = [row for path in self.annotations(root) for row in read_rows(path)]
        pairs = [(row.get("choices"), row.get("answer")) for row in rows if isinstance(row, dict)]
        unsure = self.count_from is None and self.answers in ("auto", "index") and counts_from_one(pairs)

        def convert(name: str, row: Row) -> SourceItem:
            video = plain_name(row["video_name"], name, "video_name")
            if unsure and index_in(row["choices"], row["answer"]) is not None:
                raise BadSampleError(
                    f"field 'answer' is {short(row['answer'])}; indexes of these rows seem to count from 1",
                    where=name,
                    remedy="add --count_from 1 or --count_from 0",
                )
            kind, base = Answers(self.answers), self.count_from or 0
            labels = read_labels(row["choices"], row["answer"], where=name, kind=kind, base=base)
            relation, question_type = row.get("question_relation"), row.get("question_type")
            sample = Sample(
                id=f"avrt_20k-{row_id(row, 'id', name)}",
                question=row["question"],
                choices=labels.choices,
                answer=labels.answer,
                relation=_RELATIONS.get(relation.strip().lower()) if isinstance(relation, str) else None,
                question_type=question_type if isinstance(question_type, str) else None,
                trace=_trace(row.get("av_reasoning"), labels, name),
                metadata={"video_name": video, "video_id": row.get("video_id")},
            )
            path = media_file(root, f"{self.clips}/{video}.mp4", name, "video_name", media_root=self.media_root)
            return SourceItem(sample, {Modality.VIDEO: path}, labels.notes)

        yield from items(rows, "avrt_20k", convert, by="video_name")


def _trace(told: Any, labels: Labels, where: str) -> str:
    """A row's reasoning in the target format, with the row's own answer.

    Raises:
        BadSampleError: If no such trace can be made.
    """

    def refuse(why: str) -> BadSampleError:
        return BadSampleError(f"no trace can be made: field 'av_reasoning' {why}", where=where)

    if not isinstance(labels.answer, int):
        raise BadSampleError("no trace can be made: field 'answer' is empty", where=where)
    if labels.moved:
        raise refuse("uses letters that have changed, since some choices are empty or say the same")
    if not isinstance(told, str) or not told.strip():
        raise refuse("is empty" if told is None or isinstance(told, str) else f"is {short(told)}, needs a text")
    text = _TAG.sub(lambda tag: f"<{tag[1] or tag[3] or ''}{(tag[2] or tag[4]).lower()}>", told).strip()
    think, said = _parts(text, refuse)
    letters = LETTERS[: len(labels.choices)]
    right = letters[labels.answer]
    if said is not None:
        plain = said.strip() in list(letters) and all(len(choice) > 1 for choice in labels.choices)
        chosen = said.strip() if plain else read_choice(f"<answer>{said}</answer>", labels.choices)
        if chosen is None:
            raise refuse(f"ends in an answer that is not a choice: {short(said)}")
        if chosen != right:
            raise refuse("ends in another answer than the row's")
    trace = format_response(think, right)
    if not parse_response(trace, letters).well_formed:
        raise refuse("has no reasoning" if not think.strip() else "has tags in a wrong order")
    return trace


def _parts(text: str, refuse: Callable[[str], BadSampleError]) -> tuple[str, str | None]:
    """The reasoning, and the answer after it if there is one."""
    counts = {tag: text.count(tag) for tag in ("<think>", "</think>", "<answer>", "</answer>")}
    if max(counts.values()) > 1:
        raise refuse("holds several traces, or tags in a wrong order")
    if counts["<think>"] > counts["</think>"] and not counts["<answer>"]:
        raise refuse("is cut off: <think> is not closed")
    if counts["<answer>"] > counts["</answer>"]:
        raise refuse("is cut off: <answer> is not closed")
    said: str | None = None
    if counts["<answer>"]:
        text, _, rest = text.partition("<answer>")
        said, _, after = rest.partition("</answer>")
        if after.strip():
            raise refuse("continues after its answer")
    before, opened, think = text.partition("<think>") if counts["<think>"] else ("", "", text)
    if before.strip():
        raise refuse("has words before <think>")
    think, closed, after = think.partition("</think>")
    if closed and after.strip():
        if said is not None:
            raise refuse("has words between its reasoning and its answer")
        label = _LABELLED.search(f"\n{after.strip()}")
        said = label["said"].strip() if label else after.strip()
    elif opened and not closed:
        raise refuse("is cut off: <think> is not closed")
    elif not closed and said is None and (label := _LABELLED.search(think)):
        think, said = think[: label.start()], label["said"].strip()
    return think.strip(), said


recipe = AVRT20K
