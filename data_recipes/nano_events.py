"""nano_events: synthetic clips in which what is seen and what is heard changes halfway, with questions about when.

The first second of a clip shows one thing and plays one sound, the second another thing and another sound; clips in
which nothing changes are an option. Questions ask what comes first or second, by one sense or both, and what is seen
while something is heard. The world of `avrt study`: sight and sound tell equally much, and most questions take two
steps, what there is and when.
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
from avrt.data_recipes.nano_media import (
    SECONDS,
    SIZE,
    SOUNDS,
    SPLITS,
    THINGS,
    pictures,
    wave,
    write_clip_of,
    write_sound,
)
from avrt.data_recipes.nano_traces import Asked, absent, with_right, written_trace
from avrt.data_recipes.recipe import Recipe
from avrt.errors import BadSampleError

WHEN = ("first", "second")
_FILES = {
    Relation.BOTH: (".mp4", Modality.VIDEO), Relation.VISION: ("-silent.mp4", Modality.VIDEO),
    Relation.AUDIO: (".flac", Modality.AUDIO),
}  # fmt: skip


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

    @property
    def steady(self) -> bool:
        """Whether nothing changes halfway."""
        return self.things[0] == self.things[1]


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
        steady: Share of clips in which nothing changes; their questions do not ask when.
        alone: Share of the questions about one sense whose clip carries this sense alone.
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
    steady: float = 0.0
    alone: float = 0.0
    traces: Literal["both", "visual", "audio", "one_sense", "none"] = "none"
    clip: ClassVar[ClipSpec] = ClipSpec(budget=SIZE, still_budget=SIZE)

    def items(self, root: Path) -> Iterator[SourceItem | BadSampleError]:
        """Every question, after its clip is rendered if it is missing."""
        folder = root / "events" / self.split
        folder.mkdir(parents=True, exist_ok=True)
        for scene, name, samples in self.questions():
            rng = np.random.default_rng([*scene.seed, 5])
            for sample in samples:
                alone = sample.relation if rng.random() < self.alone else Relation.BOTH
                suffix, modality = _FILES[alone or Relation.BOTH]
                path = folder / f"{name}{suffix}"
                if not path.is_file():
                    render(scene, path)
                yield SourceItem(sample, {modality: path})

    def questions(self) -> Iterator[tuple[Scene, str, list[Sample]]]:
        """Each scene, its name and its questions; right letters are balanced over all questions."""
        for number in range(self.clips):
            seed = (self.seed, SPLITS.index(self.split), number)
            rng = np.random.default_rng([*seed, 2])
            things, sounds, name = _two(list(THINGS), rng), _two(SOUNDS, rng), f"{self.seed}-{number:06d}"
            if np.random.default_rng([*seed, 6]).random() < self.steady:
                things, sounds = (things[0], things[0]), (sounds[0], sounds[0])
            scene = Scene(things, sounds, seed)
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
        thing, sound, when = scene.things[half], scene.sounds[half], "" if scene.steady else f"{WHEN[half]} "
        if draw < self.pairs:
            pick = _distinct if rng.random() < self.redundant else _crossed
            pairs = pick(scene, half, answer, rng)
            return Asked(
                _described(scene, f"{when}{thing}", f"{when}{sound}"),
                f"Which option is {when}in the clip?", "match" if scene.steady else "order", Relation.BOTH, answer,
                seen=[seen for seen, _ in pairs], heard=[heard for _, heard in pairs],
                truth_seen=thing, truth_heard=sound,
            )  # fmt: skip
        together = draw < self.pairs + self.while_ and not scene.steady
        if rng.random() < 0.5:
            options = _options(scene.things, half, list(THINGS), answer, rng)
            if together:
                return Asked(
                    _described(scene, "", f"{sound} {WHEN[half]}"), f"What is seen while the {sound} plays?", "while",
                    Relation.BOTH, answer, seen=options, truth_seen=thing, halves=scene.things,
                )  # fmt: skip
            return Asked(
                _described(scene, f"{when}{thing}", ""), f"What is seen {when}in the clip?", "seen",
                Relation.VISION, answer, seen=options, truth_seen=thing,
            )  # fmt: skip
        options = _options(scene.sounds, half, list(SOUNDS), answer, rng)
        if together:
            return Asked(
                _described(scene, f"{thing} {WHEN[half]}", ""), f"What is heard while the {thing} appears?", "while",
                Relation.BOTH, answer, heard=options, truth_heard=sound, halves=scene.sounds,
            )  # fmt: skip
        return Asked(
            _described(scene, "", f"{when}{sound}"), f"What is heard {when}in the clip?", "heard",
            Relation.AUDIO, answer, heard=options, truth_heard=sound,
        )  # fmt: skip


def render(scene: Scene, path: Path) -> None:
    """Write a scene as mp4, as a silent one, or its sound as FLAC, by the path's ending."""
    rng = np.random.default_rng([*scene.seed, 1])
    shown = [frame for thing in scene.things for frame in pictures(thing, rng, SECONDS / 2)]
    heard = np.concatenate([wave(sound, rng, SECONDS / 2) for sound in scene.sounds])
    if path.suffix == ".flac":
        write_sound(heard, path)
    else:
        write_clip_of(shown, None if path.name.endswith(_FILES[Relation.VISION][0]) else heard, path)


def _described(scene: Scene, seen: str, heard: str) -> dict[str, str]:
    """What each sense perceives, and what of it is asked for, where this sense can tell."""
    found = {}
    for sense, begin, (one, other), asked in (
        ("visual", "The frames show", scene.things, seen), ("audio", "The sound is", scene.sounds, heard)
    ):  # fmt: skip
        if scene.steady:
            found[sense] = f"{begin} {one}."
        else:
            found[sense] = f"{begin} first {one}, second {other}." + (f" So {asked}." if asked else "")
    return found


def _two(pool: Sequence[str], rng: np.random.Generator) -> tuple[str, str]:
    first, second = rng.choice(list(pool), 2, replace=False)
    return str(first), str(second)


def _options(there: Sequence[str], half: int, pool: Sequence[str], answer: int, rng: np.random.Generator) -> list[str]:
    """The right option at `answer`; among the others is what there is in the other half, if that differs."""
    elsewhere = [other for other in (there[1 - half],) if other != there[half]]
    return with_right(there[half], [*elsewhere, *absent(there, pool, 3 - len(elsewhere), rng)], answer, rng)


def _crossed(scene: Scene, half: int, answer: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Two things crossed with two sounds, those of both halves if they differ; the right pair is put at `answer`."""
    thing, sound = scene.things[half], scene.sounds[half]
    other_thing, other_sound = scene.things[1 - half], scene.sounds[1 - half]
    if scene.steady:
        other_thing, other_sound = absent([thing], list(THINGS), 1, rng)[0], absent([sound], SOUNDS, 1, rng)[0]
    return with_right(
        (thing, sound), [(thing, other_sound), (other_thing, sound), (other_thing, other_sound)], answer, rng
    )


def _distinct(scene: Scene, half: int, answer: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Four pairs that have no thing and no sound in common, those of both halves among them."""
    pairs = [(scene.things[1 - half], scene.sounds[1 - half])] if not scene.steady else []
    things = absent(scene.things, list(THINGS), 3 - len(pairs), rng)
    sounds = absent(scene.sounds, SOUNDS, 3 - len(pairs), rng)
    right = (scene.things[half], scene.sounds[half])
    return with_right(right, [*pairs, *zip(things, sounds, strict=True)], answer, rng)


recipe = NanoEvents
