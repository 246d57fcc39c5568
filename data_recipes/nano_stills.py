"""nano_stills: pictures with sounds and questions in other words than nano_events', to test what carries over.

A picture shows one thing, a sound of two seconds is of one kind. Nothing of it is ever in the training of a method
under study, as OmniBench is not in AVQA.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torchvision.io import encode_png

from avrt.data.media.clip_spec import ClipSpec
from avrt.data.sample import Modality, Relation, Sample
from avrt.data.shards.source import SourceItem
from avrt.data_recipes.nano_media import SIZE, SOUNDS, SPLITS, THINGS, pictures, wave, write_sound
from avrt.data_recipes.nano_traces import Asked, absent, with_right, written_trace
from avrt.data_recipes.recipe import Recipe
from avrt.errors import BadSampleError
from avrt.files import write_whole

_SENSE = {Modality.IMAGE: Relation.VISION, Modality.AUDIO: Relation.AUDIO}


@dataclass
class NanoStills(Recipe):
    """Pictures and sounds below `root`, made if they are missing.

    Attributes:
        split: Which part; parts never share a picture or a sound.
        clips: Number of pictures with their sounds.
        questions_per_clip: Questions about each.
        seed: Seed of everything random.
        both: Share of questions that need both senses; half of the others need the picture, half the sound.
        alone: Share of the questions about one sense that come with the picture or the sound alone.
        traces: As for nano_events.
    """

    split: Literal["train", "val", "test"] = "train"
    clips: int = 100
    questions_per_clip: int = 4
    seed: int = 0
    both: float = 0.6
    alone: float = 0.0
    traces: Literal["both", "visual", "audio", "one_sense", "none"] = "none"
    clip: ClassVar[ClipSpec] = ClipSpec(budget=SIZE, still_budget=SIZE)

    def items(self, root: Path) -> Iterator[SourceItem | BadSampleError]:
        """Every question, after its picture and sound are made if they are missing."""
        folder = root / "stills" / self.split
        folder.mkdir(parents=True, exist_ok=True)
        for thing, sound, seed, samples in self.questions():
            media = _media(folder / f"{self.seed}-{seed[-1]:06d}", thing, sound, seed)
            rng = np.random.default_rng([*seed, 5])
            for sample in samples:
                alone = sample.relation if rng.random() < self.alone else Relation.BOTH
                yield SourceItem(sample, {m: p for m, p in media.items() if alone in (Relation.BOTH, _SENSE[m])})

    def questions(self) -> Iterator[tuple[str, str, tuple[int, ...], list[Sample]]]:
        """Each thing, sound and seed with the questions; right letters are balanced over all questions."""
        for number in range(self.clips):
            seed = (self.seed, SPLITS.index(self.split), number)
            rng = np.random.default_rng([*seed, 3])
            thing, sound = str(rng.choice(list(THINGS))), str(rng.choice(SOUNDS))
            name, samples = f"still-{self.split}-{self.seed}-{number:06d}", []
            for q in range(self.questions_per_clip):
                asked = self._question(thing, sound, (number * self.questions_per_clip + q) % 4, rng)
                samples.append(
                    Sample(
                        id=f"{name}-{q}",
                        question=asked.question,
                        choices=asked.choices,
                        answer=asked.answer,
                        relation=asked.relation,
                        question_type=asked.kind,
                        trace=written_trace(self.traces, asked, rng),
                        metadata={"thing": thing, "sound": sound, "clip": name},
                    )
                )
            yield thing, sound, seed, samples

    def _question(self, thing: str, sound: str, answer: int, rng: np.random.Generator) -> Asked:
        """One question, with the right choice at `answer`."""
        draw = rng.random()
        described = {"visual": f"The frames show {thing}.", "audio": f"The sound is {sound}."}
        if draw < self.both:
            other_thing, other_sound = absent([thing], list(THINGS), 1, rng)[0], absent([sound], SOUNDS, 1, rng)[0]
            others = [(thing, other_sound), (other_thing, sound), (other_thing, other_sound)]
            pairs = with_right((thing, sound), others, answer, rng)
            return Asked(
                described, "Which matches the picture and the audio?", "match", Relation.BOTH, answer,
                seen=[seen for seen, _ in pairs], heard=[heard for _, heard in pairs],
                truth_seen=thing, truth_heard=sound, joint="{seen} and {heard}",
            )  # fmt: skip
        if draw < (1 + self.both) / 2:
            options = with_right(thing, absent([thing], list(THINGS), 3, rng), answer, rng)
            return Asked(
                described, "Which thing is in the picture?", "picture", Relation.VISION, answer,
                seen=options, truth_seen=thing,
            )  # fmt: skip
        options = with_right(sound, absent([sound], SOUNDS, 3, rng), answer, rng)
        return Asked(
            described, "Which sound is in the audio?", "audio", Relation.AUDIO, answer,
            heard=options, truth_heard=sound,
        )  # fmt: skip


def _media(path: Path, thing: str, sound: str, seed: tuple[int, ...]) -> dict[Modality, Path]:
    """A picture and a sound, made from the seed if they are missing."""
    picture, recording = path.with_suffix(".png"), path.with_suffix(".flac")
    rng = np.random.default_rng([*seed, 4])
    if not (picture.is_file() and recording.is_file()):
        frame = next(pictures(thing, rng))
        write_whole(picture, encode_png(torch.from_numpy(frame).permute(2, 0, 1).contiguous()).numpy().tobytes())
        write_sound(wave(sound, rng), recording)
    return {Modality.IMAGE: picture, Modality.AUDIO: recording}


recipe = NanoStills
