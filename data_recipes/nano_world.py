"""nano_world: synthetic clips of two seconds, made from seeds, with questions that need vision and audio.

Each clip shows one of six things and plays one of six sounds, drawn independently. The options of most questions cross
two things with two sounds, so that one sense alone leaves two options.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from avrt.data.media.clip_spec import ClipSpec
from avrt.data.sample import LETTERS, Modality, Relation, Sample
from avrt.data.shards.source import SourceItem
from avrt.data_recipes.nano_media import SIZE, SOUNDS, SPLITS, THINGS, pictures, wave, write_clip_of
from avrt.data_recipes.recipe import Recipe
from avrt.errors import BadSampleError
from avrt.response import format_response

OPENING = "Looking at the frames and listening to the sound to compare each option."
VISUAL_OPENING = "Looking at the frames to compare each option."
AUDIO_OPENING = "Listening to the sound to compare each option."


@dataclass(frozen=True)
class Scene:
    """What a clip shows and plays.

    Attributes:
        thing: A key of `THINGS`.
        sound: One of `SOUNDS`.
        seed: Decides position, size, brightness, pitch and loudness.
    """

    thing: str
    sound: str
    seed: tuple[int, ...]


@dataclass
class NanoWorld(Recipe):
    """Synthetic clips below `root`, rendered if they are missing.

    Attributes:
        split: Which part; parts never share a clip.
        clips: Number of clips.
        questions_per_clip: Questions about each clip.
        seed: Seed of everything random.
        both: Share of questions that need both senses; half of the others need vision, half need audio.
        redundant: Share of the questions for both senses whose options all differ in thing and in sound, so that one
            sense alone can answer them.
        traces: The reference trace of each sample, written from the scene: `both` reasons over both senses; `visual`
            and `audio` are what a teacher with this one sense should write, which guesses if it has to.
    """

    split: Literal["train", "val", "test"] = "train"
    clips: int = 100
    questions_per_clip: int = 3
    seed: int = 0
    both: float = 0.7
    redundant: float = 0.0
    traces: Literal["both", "visual", "audio", "none"] = "both"
    clip: ClassVar[ClipSpec] = ClipSpec(budget=SIZE, still_budget=SIZE)

    def items(self, root: Path) -> Iterator[SourceItem | BadSampleError]:
        """Every question, after its clip is rendered if it is missing."""
        folder = root / self.split
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
            rng = np.random.default_rng(seed)
            scene = Scene(rng.choice(list(THINGS)), rng.choice(SOUNDS), seed)
            name = f"{self.seed}-{number:06d}"
            first = number * self.questions_per_clip
            samples = [
                self._question(scene, f"{name}-{q}", (first + q) % 4, rng) for q in range(self.questions_per_clip)
            ]
            yield scene, name, samples

    def _question(self, scene: Scene, name: str, answer: int, rng: np.random.Generator) -> Sample:
        """One question about a scene, with the right choice at `answer`."""
        draw = rng.random()
        named: Sequence[tuple[str, ...]]
        truth: tuple[str, ...]
        if draw < self.both:
            relation, kind = Relation.BOTH, "Which"
            question = "Which option matches the clip?"
            pick = _distinct if rng.random() < self.redundant else _crossed
            options = pick(scene, answer, rng)
            choices = [f"{thing} with {sound}" for thing, sound in options]
            named, truth = options, (scene.thing, scene.sound)
            seen, heard = [thing for thing, _ in options], [sound for _, sound in options]
            evidence = f"The frames show a {scene.thing}. The sound is a {scene.sound}."
        elif draw < (1 + self.both) / 2:
            relation, kind = Relation.VISION, "Come From"
            question = "What does the sound come from?"
            choices = _options(scene.thing, list(THINGS), answer, rng)
            named, truth = [(choice,) for choice in choices], (scene.thing,)
            seen, heard = choices, []
            evidence = f"The frames show a {scene.thing}."
        else:
            relation, kind = Relation.AUDIO, "Happening"
            question = "Which sound is heard?"
            choices = _options(scene.sound, list(SOUNDS), answer, rng)
            named, truth = [(choice,) for choice in choices], (scene.sound,)
            seen, heard = [], choices
            evidence = f"The sound is a {scene.sound}."
        trace = None
        if self.traces == "both":
            trace = _trace(evidence, named, truth, answer, rng)
        elif self.traces == "visual":
            description = f"The frames show a {scene.thing}."
            trace = _analysis("Visual", VISUAL_OPENING, description, seen, scene.thing, choices, rng)
        elif self.traces == "audio":
            description = f"The sound is a {scene.sound}."
            trace = _analysis("Audio", AUDIO_OPENING, description, heard, scene.sound, choices, rng)
        return Sample(
            id=f"{self.split}-{name}",
            question=question,
            choices=tuple(choices),
            answer=answer,
            relation=relation,
            question_type=kind,
            trace=trace,
            metadata={"thing": scene.thing, "sound": scene.sound},
        )


def render(scene: Scene, path: Path) -> None:
    """Write a scene as mp4: H.264 at 64x64 and 8 fps, FLAC stereo at 44.1 kHz, 2 s."""
    rng = np.random.default_rng([*scene.seed, 1])
    shown, heard = list(pictures(scene.thing, rng)), wave(scene.sound, rng)
    write_clip_of(shown, heard, path)


def _crossed(scene: Scene, answer: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Two things crossed with two sounds in random order, the true pair at `answer`."""
    thing = rng.choice([t for t in THINGS if t != scene.thing])
    sound = rng.choice([s for s in SOUNDS if s != scene.sound])
    others = [(scene.thing, str(sound)), (str(thing), scene.sound), (str(thing), str(sound))]
    rng.shuffle(others)
    pairs = [(str(a), str(b)) for a, b in others]
    return [*pairs[:answer], (scene.thing, scene.sound), *pairs[answer:]]


def _distinct(scene: Scene, answer: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Four pairs that have no thing and no sound in common, the true one at `answer`."""
    things = _options(scene.thing, list(THINGS), answer, rng)
    return list(zip(things, _options(scene.sound, list(SOUNDS), answer, rng), strict=True))


def _options(right: str, pool: list[str], answer: int, rng: np.random.Generator) -> list[str]:
    """The right option at `answer` among three others."""
    others = [str(o) for o in rng.permutation([option for option in pool if option != right])[:3]]
    return [*others[:answer], right, *others[answer:]]


def _trace(
    evidence: str, options: Sequence[tuple[str, ...]], truth: tuple[str, ...], answer: int, rng: np.random.Generator
) -> str:
    """A trace from the scene: it states the evidence and compares each option with it until one fits.

    Half of the traces open with a sentence about the approach, so that a student can learn to be brief.
    """
    opening = f"{OPENING} " if rng.random() < 0.5 else ""
    checks = [f"{LETTERS[i]}: {_compare(option, truth)}." for i, option in enumerate(options[: answer + 1])]
    return format_response(f"{opening}{evidence} {' '.join(checks)}", LETTERS[answer])


def _analysis(
    sense: str,
    opening: str,
    description: str,
    claims: Sequence[str],
    truth: str,
    choices: Sequence[str],
    rng: np.random.Generator,
) -> str:
    """What a teacher with one sense should write, in the three labelled parts of AVRT's teachers.

    Args:
        sense: `Visual` or `Audio`.
        opening: A sentence with which half of the analyses begin.
        description: What this sense perceives.
        claims: What each option says about this sense; empty if the options are about the other sense.
        truth: The true value.
        choices: The options in full.
        rng: Chooses among options that this sense cannot distinguish.
    """
    begin = f"{opening} " if rng.random() < 0.5 else ""
    fitting = [i for i, claim in enumerate(claims) if claim == truth] or list(range(len(choices)))
    chosen = int(rng.choice(fitting))
    checks = [f"{LETTERS[i]}: {_compare((claim,), (truth,))}." for i, claim in enumerate(claims)]
    reasoning = " ".join(checks) or "The options are not about this."
    return f"{sense} Description: {begin}{description}\nReasoning: {reasoning}\nAnswer: ({LETTERS[chosen]})"


def _compare(option: tuple[str, ...], truth: tuple[str, ...]) -> str:
    """Compare part by part up to the first that differs: `red ball is red ball, low hum not slow warble`."""
    parts = []
    for claimed, real in zip(option, truth, strict=True):
        parts.append(f"{claimed} {'is' if claimed == real else 'not'} {real}")
        if claimed != real:
            break
    return ", ".join(parts)


recipe = NanoWorld
