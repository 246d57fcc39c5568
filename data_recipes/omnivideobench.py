"""OmniVideoBench: questions about videos of up to 30 minutes, with evidence by sense, from the benchmark's layout.

`root` holds `data.json` and `videos/<video>.mp4`. The file is a list of videos, each with its questions.

Homepage: https://omnivideobench.github.io/omnivideobench_home/ (evaluation: github.com/NJU-LINK/OmniVideoBench).
Paper: OmniVideoBench: Towards Audio-Visual Understanding Evaluation for Omni MLLMs, ICLR 2026.
Licence: CC BY-NC-SA 4.0, research only; the videos are their owners'.

An entry:

    {"video": "video_1", "video_type": "Vlog", "duration": "03:28", "questions": [{
      "question": "Before picking up the kitten, the blogger explains a sign. Which concepts belong to it?",
      "question_type": "reference reasoning", "audio_type": "Speech", "reasoning_steps": [
        {"modality": "vision", "evidence": "someone holding a kitten appeared on 1:42.", "inference": "..."},
        {"modality": "audio", "evidence": "At 1:39, the woman said 'ke nan'", "inference": "..."}],
      "answer": "Ancient Chinese stories and Japanese anime",
      "options": ["A.Ancient Chinese stories and Japanese anime", "B.A palace and a bar", "C.A cuisine and an opera",
        "D.Chinese garden art and Western palace architecture"], "correct_option": "A"}]}
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from avrt.data.media.clip_spec import ClipSpec
from avrt.data.sample import Evidence, Modality, Relation, Sample
from avrt.data.shards.source import SourceItem
from avrt.data_recipes.annotations import Row, plain_name
from avrt.data_recipes.labels import Answers, read_labels
from avrt.data_recipes.media_paths import media_file
from avrt.data_recipes.recipe import OneFileRecipe
from avrt.errors import BadSampleError
from avrt.messages import short

_TIME = re.compile(r"(?:(\d{1,2}):)?(\d{1,3}):(\d{2})")
_VISION, _AUDIO = re.compile(r"visi|visual|video|image", re.IGNORECASE), re.compile(r"audi|sound|speech|music", re.I)


@dataclass
class OmniVideoBench(OneFileRecipe):
    """The OmniVideoBench benchmark (1,000 questions over 628 videos when complete).

    A question needs the senses (`relation`) that perceive its evidence. Its authors give Qwen2.5-Omni two frames a
    second, at most 256; 128 frames of our size and ten minutes of sound fill the context.
    """

    name: ClassVar[str] = "omnivideobench"
    by: ClassVar[str] = "video"
    clip: ClassVar[ClipSpec] = ClipSpec(fps=2.0, max_frames=128, audio_seconds=None)

    annotation: str = "data.json"

    def rows(self, root: Path) -> list[Any]:
        """The questions of every video."""
        return list(_questions(super().rows(root)))

    def convert(self, root: Path, name: str, row: Row) -> SourceItem:
        """Make a question about a video, with the evidence of its reasoning steps."""
        video = plain_name(row["video"], name, "video")
        labels = read_labels(
            row["options"],
            row.get("correct_option"),
            where=name,
            fields=("options", "correct_option"),
            kind=Answers.LETTER,
        )
        evidence = tuple(_step(step, name) for step in row.get("reasoning_steps") or ())
        unsaid = sum(step.sense is None for step in evidence)
        seconds, timed = _seconds(row.get("duration"))
        sample = Sample(
            id=name,
            question=row["question"],
            choices=labels.choices,
            answer=labels.answer,
            relation=_relation(evidence),
            question_type=row["question_type"],
            metadata={
                "video_id": video,
                "video_type": row.get("video_type"),
                "audio_type": row.get("audio_type"),
                "seconds": seconds,
                "length": _length(seconds),
            },
            evidence=evidence,
        )
        notes = [f"{unsaid} of its reasoning steps name no sense"] if unsaid else []
        notes += [] if timed else [f"field 'duration' is {short(row.get('duration'))}, not MM:SS: left out"]
        said = row.get("answer")
        if isinstance(said, str) and labels.answer is not None and not _alike(said, sample.choices[sample.right[0]]):
            notes.append(f"field 'answer' is {short(said, 40)}, its option {short(row['correct_option'])} another text")
        file = media_file(root, f"videos/{video}.mp4", name, "video", media_root=self.media_root)
        return SourceItem(sample, {Modality.VIDEO: file}, (*labels.notes, *notes))


def _questions(videos: list[Any]) -> Iterator[Any]:
    """Every question with the facts about its video, and an error for an entry without questions."""
    for video in videos:
        questions = video.get("questions") if isinstance(video, Mapping) else None
        if not isinstance(questions, list) or not questions:
            named = isinstance(video, Mapping)
            yield BadSampleError(f"video {short(video.get('video'))} has no list of questions") if named else video
            continue
        about = {key: value for key, value in video.items() if key != "questions"}
        for row in questions:
            yield {**about, **row} if isinstance(row, Mapping) else row


def _step(step: Any, name: str) -> Evidence:
    """One reasoning step."""
    if not isinstance(step, Mapping):
        raise BadSampleError(f"field 'reasoning_steps' holds {short(step)}, needs objects", where=name)
    texts = [step.get(key) for key in ("evidence", "inference")]
    if not all(text is None or isinstance(text, str) for text in texts):
        raise BadSampleError("field 'reasoning_steps' has a step with a field that is not a text", where=name)
    return Evidence(_sense(step.get("modality")), texts[0] or "", texts[1] or "")


def _sense(modality: Any) -> Relation | None:
    """The senses that a step's `modality` names; None if it names none."""
    said = modality if isinstance(modality, str) else ""
    vision, audio = bool(_VISION.search(said)), bool(_AUDIO.search(said))
    return Relation.BOTH if vision and audio else Relation.VISION if vision else Relation.AUDIO if audio else None


def _relation(evidence: tuple[Evidence, ...]) -> Relation | None:
    """The senses that all steps need together; None if this is unknown because a step names none."""
    senses = {step.sense for step in evidence}
    if not senses or None in senses:
        return Relation.BOTH if {Relation.VISION, Relation.AUDIO} <= senses or Relation.BOTH in senses else None
    return senses.pop() if len(senses) == 1 else Relation.BOTH


def _alike(one: str, other: str) -> bool:
    """Whether two texts are equal apart from capitals, spaces and punctuation."""
    return re.sub(r"\W+", "", one).casefold() == re.sub(r"\W+", "", other).casefold()


def _seconds(duration: Any) -> tuple[int | None, bool]:
    """A duration `MM:SS` or `HH:MM:SS` in seconds, and whether it could be read."""
    found = _TIME.fullmatch(duration.strip()) if isinstance(duration, str) else None
    if found is None:
        return None, duration is None
    return 3600 * int(found[1] or 0) + 60 * int(found[2]) + int(found[3]), True


def _length(seconds: int | None) -> str | None:
    """The authors' class of a video's length."""
    if seconds is None:
        return None
    return next((f"<={minutes} min" for minutes in (1, 5, 10) if seconds <= 60 * minutes), ">10 min")


recipe = OmniVideoBench
