"""nano_events: synthetic clips in which what is seen and what is heard changes halfway, with questions about when.

The first second of a clip shows one thing and plays one sound, the second another thing and another sound. Questions
ask what comes first or second, by one sense or both, and what is seen while something is heard. The world of
`avrt study`: sight and sound tell equally much, and most questions take two steps, what there is and when.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from avrt.data.media.clip_spec import ClipSpec
from avrt.data.sample import Modality, Relation, Sample
from avrt.data.shards.source import SourceItem
from avrt.data_recipes.nano_media import SECONDS, SIZE, SOUNDS, THINGS, pictures, wave, write_clip_of
from avrt.data_recipes.nano_traces import Asked, written_trace
from avrt.data_recipes.recipe import Recipe
from avrt.errors import BadSampleError

SPLITS = ("train", "val", "test")
WHEN = ("first", "second")


@dataclass(frozen=True)
class Scene:
    """What a clip shows and plays, in its two halves.

    Attributes:
        things: Two keys of `THINGS`.
        sounds: Two of `SOUNDS`.
        seed: Decides positions, sizes, brightness, pitch and loudness.
    """

    things: tuple[str, str]
    sounds: tuple[str, str]
    seed: tuple[int, ...]


@dataclass
class NanoEvents(Recipe):
    """Synthetic clips below `root`, rendered if they are missing.

    Attributes:
        split: Which part; parts never share a clip.
        clips: Number of clips.
        questions_per_clip: Questions about each clip.
        seed: Seed of everything random.
        pairs: Share of questions whose options are pairs of a thing and a sound.
        redundant: Share of these whose options differ in both, so that one sense alone can answer them; of the others
            the options cross both things with both sounds.
        while_: Share of questions that ask what is seen while something is heard, or the other way round. The rest asks
            about one sense alone.
        traces: The reference trace of each sample: `both` reasons over both senses; `visual` and `audio` are what a
            teacher with this one sense should write; `one_sense` are answers of a student that reasons well with
            one sense and was never taught to join two: where a question needs both, mostly a bare letter.
    """

    split: Literal["train", "val", "test"] = "train"
    clips: int = 100
    questions_per_clip: int = 4
    seed: int = 0
    pairs: float = 0.6
    redundant: float = 0.5
    while_: float = 0.2
    traces: Literal["both", "visual", "audio", "one_sense", "none"] = "none"
    clip: ClassVar[ClipSpec] = ClipSpec(budget=SIZE, still_budget=SIZE)

    def items(self, root: Path) -> Iterator[SourceItem | BadSampleError]:
        """Every question, after its clip is rendered if it is missing."""
        folder = root / "events" / self.split
        folder.mkdir(parents=True, exist_ok=True)
        for scene, name, samples in self.questions():
            path = folder / f"{name}.mp4"
            if not path.is_file():
                render(scene, path)
            yield from (SourceItem(sample, {Modality.VIDEO: path}) for sample in samples)

    def questions(self) -> Iterator[tuple[Scene, str, list[Sample]]]:
        """Each scene, its name and its questions; right letters are balanced over all questions."""
        for number in range(self.clips):
            seed = (self.seed, SPLITS.index(self.split), number)
            rng = np.random.default_rng([*seed, 2])
            scene, name = Scene(_two(list(THINGS), rng), _two(SOUNDS, rng), seed), f"{self.seed}-{number:06d}"
            samples = []
            for q in range(self.questions_per_clip):
                asked = self._question(scene, (number * self.questions_per_clip + q) % 4, rng)
                samples.append(self._sample(scene, f"{self.split}-{name}-{q}", asked, rng))
            yield scene, name, samples

    def _sample(self, scene: Scene, name: str, asked: Asked, rng: np.random.Generator) -> Sample:
        return Sample(
            id=name,
            question=asked.question,
            choices=asked.choices,
            answer=asked.answer,
            relation=asked.relation,
            question_type=asked.kind,
            trace=written_trace(self.traces, asked, rng),
            metadata={"things": list(scene.things), "sounds": list(scene.sounds), "clip": name.rpartition("-")[0]},
        )

    def _question(self, scene: Scene, answer: int, rng: np.random.Generator) -> Asked:
        """One question about a scene, with the right choice at `answer`."""
        half, draw = int(rng.integers(2)), rng.random()
        thing, sound, when = scene.things[half], scene.sounds[half], WHEN[half]
        if draw < self.pairs:
            pick = _distinct if rng.random() < self.redundant else _crossed
            pairs = pick(scene, half, answer, rng)
            return Asked(
                _described(scene, f"{when} {thing}", f"{when} {sound}"),
                f"Which option is {when} in the clip?", "order", Relation.BOTH, answer,
                seen=[seen for seen, _ in pairs], heard=[heard for _, heard in pairs],
                truth_seen=thing, truth_heard=sound,
            )  # fmt: skip
        together = draw < self.pairs + self.while_
        if rng.random() < 0.5:
            options = _options(scene.things, half, list(THINGS), answer, rng)
            if together:
                return Asked(
                    _described(scene, "", f"{sound} {when}"), f"What is seen while the {sound} plays?", "while",
                    Relation.BOTH, answer, seen=options, truth_seen=thing, halves=scene.things,
                )  # fmt: skip
            return Asked(
                _described(scene, f"{when} {thing}", ""), f"What is seen {when} in the clip?", "seen",
                Relation.VISION, answer, seen=options, truth_seen=thing,
            )  # fmt: skip
        options = _options(scene.sounds, half, list(SOUNDS), answer, rng)
        if together:
            return Asked(
                _described(scene, f"{thing} {when}", ""), f"What is heard while the {thing} appears?", "while",
                Relation.BOTH, answer, heard=options, truth_heard=sound, halves=scene.sounds,
            )  # fmt: skip
        return Asked(
            _described(scene, "", f"{when} {sound}"), f"What is heard {when} in the clip?", "heard",
            Relation.AUDIO, answer, heard=options, truth_heard=sound,
        )  # fmt: skip


def render(scene: Scene, path: Path) -> None:
    """Write a scene as mp4."""
    rng = np.random.default_rng([*scene.seed, 1])
    shown = [frame for thing in scene.things for frame in pictures(thing, rng, SECONDS / 2)]
    write_clip_of(shown, np.concatenate([wave(sound, rng, SECONDS / 2) for sound in scene.sounds]), path)


def _described(scene: Scene, seen: str, heard: str) -> dict[str, str]:
    """What each sense perceives, and what of it is asked for, where this sense can tell."""
    found = {}
    for sense, begin, (one, other), asked in (
        ("visual", "The frames show", scene.things, seen), ("audio", "The sound is", scene.sounds, heard)
    ):  # fmt: skip
        found[sense] = f"{begin} first {one}, second {other}." + (f" So {asked}." if asked else "")
    return found


def _two(pool: Sequence[str], rng: np.random.Generator) -> tuple[str, str]:
    first, second = rng.choice(list(pool), 2, replace=False)
    return str(first), str(second)


def _placed(right: str, others: Sequence[str], answer: int) -> list[str]:
    return [*others[:answer], right, *others[answer:]]


def _options(there: Sequence[str], half: int, pool: list[str], answer: int, rng: np.random.Generator) -> list[str]:
    """The right option at `answer`, among them what there is in the other half and two that there are not."""
    absent = [str(o) for o in rng.permutation([option for option in pool if option not in there])[:2]]
    return _placed(there[half], [str(o) for o in rng.permutation([there[1 - half], *absent])], answer)


def _crossed(scene: Scene, half: int, answer: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Both things crossed with both sounds in random order, the pair of this half at `answer`."""
    right = (scene.things[half], scene.sounds[half])
    others = [(t, s) for t in scene.things for s in scene.sounds if (t, s) != right]
    rng.shuffle(others)
    return [*((str(t), str(s)) for t, s in others[:answer]), right, *((str(t), str(s)) for t, s in others[answer:])]


def _distinct(scene: Scene, half: int, answer: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Four pairs that have no thing and no sound in common: those of both halves and two that there are not."""
    things, sounds = list(THINGS), list(SOUNDS)
    absent_t = [str(o) for o in rng.permutation([t for t in things if t not in scene.things])[:2]]
    absent_s = [str(o) for o in rng.permutation([s for s in sounds if s not in scene.sounds])[:2]]
    pairs = [(scene.things[1 - half], scene.sounds[1 - half]), *zip(absent_t, absent_s, strict=True)]
    order = rng.permutation(3)
    others = [pairs[i] for i in order]
    return [*others[:answer], (scene.things[half], scene.sounds[half]), *others[answer:]]


recipe = NanoEvents
