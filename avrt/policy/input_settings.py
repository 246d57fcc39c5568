"""How a student was trained to be asked: wording, senses, frames, sound; kept beside its weights in one JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import avrt
from avrt.data.inputs.prompt_options import PromptOptions
from avrt.data.media.clip import ClipSpec, FrameBudget
from avrt.data.media.student_frames import fitting
from avrt.errors import AvrtError
from avrt.files import write_whole
from avrt.messages import short
from avrt.models.families import FAMILIES, find_family
from avrt.models.family import Family
from avrt.packaged import model_source
from avrt.rollout.sampling import SamplingOptions
from avrt.text import to_json

SETTINGS = "avrt_config.json"
FORMAT_VERSION = 1
SHOWN = ("frames", "fps", "max_frames", "audio_seconds", "budget", "still_budget", "total_pixels")
"""The fields of a `ClipSpec` that say what a student is shown."""
BUDGETS = ("budget", "still_budget", "teacher_budget")
ASKED = (
    "system_prompt", "instruction", "several_instruction", "template", "choice", "senses", "masked", "audio_in_video",
)  # fmt: skip
"""The fields of the prompt that say how a question is put; the others are limits of a run."""
Options = TypeVar("Options", PromptOptions, SamplingOptions, FrameBudget)


@dataclass(frozen=True)
class TrainingStage:
    """One training run that a student has behind it.

    Attributes:
        stage: `sft`, `grpo`, or the name of another training module.
        source: The student that it began from: a model id, or the name of its folder.
        data: Name of each training set -> its number of samples.
    """

    stage: str
    source: str
    data: Mapping[str, int]


@dataclass(frozen=True)
class InputSettings:
    """How a student is asked, and where it comes from. The defaults are those for a released model.

    Attributes:
        prompt: How questions are put: wording, senses, sound within video.
        clip: What is taken from a clip: frames, their size, seconds of sound.
        generation: How its answers are generated.
        family: The model family; empty if it is not known.
        training: The runs that made it, the first one first.
        avrt: The version that wrote them.
    """

    prompt: PromptOptions = field(default_factory=lambda: PromptOptions(audio_in_video=True))
    clip: ClipSpec = field(default_factory=lambda: ClipSpec(audio_seconds=None))
    generation: SamplingOptions = field(default_factory=lambda: SamplingOptions(temperature=0.0))
    family: str = ""
    training: tuple[TrainingStage, ...] = ()
    avrt: str = avrt.__version__

    @classmethod
    def of_family(cls, family: Family) -> InputSettings:
        """The settings for a released model of a family: sound within video where the family has a place for it."""
        return cls(prompt=PromptOptions(audio_in_video=family.interleaves))

    def to_record(self) -> dict[str, Any]:
        """The content of the JSON file."""
        return {"format": FORMAT_VERSION, **asdict(self), "clip": self.clip.to_record()}

    @classmethod
    def from_record(cls, record: Any, where: object = SETTINGS) -> InputSettings:
        """The settings from the content of the JSON file.

        Args:
            record: What `to_record` returned.
            where: Where it was found, for the message.

        Raises:
            AvrtError: If it is something else, or of a later avrt that knows other fields.
        """
        try:
            if record["format"] != FORMAT_VERSION:
                raise ValueError(f"format {record['format']}, this avrt reads {FORMAT_VERSION}")
            return cls(
                prompt=_options(PromptOptions, record["prompt"]),
                clip=clip_spec(record["clip"]),
                generation=_options(SamplingOptions, record["generation"]),
                family=str(record["family"]),
                training=tuple(TrainingStage(**stage) for stage in record["training"]),
                avrt=str(record["avrt"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise AvrtError(
                f"does not say how this student is asked: {error}", where=where, remedy="was it made by a later avrt?"
            ) from None

    def save(self, folder: Path) -> None:
        """Write the file into a model's folder."""
        write_whole(folder / SETTINGS, to_json(self.to_record(), indent=1).encode())

    def warn_of_shards(self, where: object, spec: Mapping[str, Any]) -> str | None:
        """How the clips of some shards differ from those of the training, in words; None if they do not.

        Args:
            where: The shards' folder.
            spec: Their manifest's spec.
        """
        made = clip_spec(spec)
        trained = fitting(self.clip, made.patch_size)  # a released model's says nothing of its family's sizes
        found = [
            f"{name} is {short(getattr(made, name))}, in training {short(getattr(trained, name))}"
            for name in SHOWN
            if getattr(made, name) != getattr(trained, name)
        ]
        return f"{where} holds other clips than the student was trained with: {'; '.join(found)}" if found else None

    def after(self, stage: TrainingStage, prompt: PromptOptions, clip: ClipSpec) -> InputSettings:
        """The settings of a student that comes out of one further training run."""
        prompt = PromptOptions(**{name: getattr(prompt, name) for name in ASKED})
        return replace(self, prompt=prompt, clip=clip, training=(*self.training, stage), avrt=avrt.__version__)


def read_settings(source: str | Path) -> InputSettings | None:
    """The settings beside a student's weights; None for a model without them, such as a released one.

    Args:
        source: A folder, or an id on the Hub.

    Raises:
        AvrtError: If there is such a file that cannot be read.
    """
    source = model_source(str(source))
    path = Path(source) / SETTINGS
    if not Path(source).is_dir():
        found = _on_the_hub(source)
        if found is None:
            return None
        path = found
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise AvrtError(f"cannot be read: {error}", where=path) from None
    return InputSettings.from_record(record, path)


def settings_of(source: str | Path) -> InputSettings:
    """The settings beside a student's weights, or those for a released model of its family."""
    if (own := read_settings(source)) is not None:
        return own
    known = next((family for family in FAMILIES if family.released_config(str(source)) is not None), None)
    try:
        return InputSettings.of_family(known or find_family(str(source)))
    except AvrtError:
        return InputSettings()  # loading the model says what is wrong with it


def clip_spec(record: Mapping[str, Any]) -> ClipSpec:
    """A `ClipSpec` from its dictionary, as manifests have it; fields that it does not have are left out.

    Raises:
        ValueError: If a number is out of range.
    """
    known = {part.name: record[part.name] for part in fields(ClipSpec) if part.name in record}
    budgets = {name: _options(FrameBudget, known[name]) for name in BUDGETS if known.get(name) is not None}
    return ClipSpec(**{**known, **budgets})


def _options(kind: type[Options], record: Mapping[str, Any]) -> Options:
    if unknown := set(record) - {part.name for part in fields(kind)}:
        raise ValueError(f"{kind.__name__} has no field '{min(unknown)}'")
    return kind(**record)


def _on_the_hub(source: str) -> Path | None:
    """The file of a model on the Hub, from the cache or fetched; None without one, or without a connection.

    Raises:
        AvrtError: If the Hub does not say whether there is one: a trained student would be asked in other words.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )  # fmt: skip

    known = any(source == family.nano or family.released_config(source) is not None for family in FAMILIES)
    if known or source.count("/") != 1:
        return None
    try:
        return Path(hf_hub_download(source, SETTINGS))
    except (EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError, HFValidationError):
        return None  # of a name that is no repository, loading the model says so
    except (HfHubHTTPError, OSError) as error:
        first = str(error).strip().splitlines()[0]
        raise AvrtError(f"cannot be looked up: {first}", where=f"{source}/{SETTINGS}", remedy="try again") from None
