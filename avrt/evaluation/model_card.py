"""The README.md of an exported student: where it comes from, how it is asked, what it scores, how it is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from avrt.evaluation.result import Result
from avrt.files import write_whole
from avrt.policy.input_settings import SETTINGS, InputSettings
from avrt.text import clean

CARD = "README.md"
LICENSE = "other"
BY_AVRT = f"<!-- Written by avrt from {SETTINGS}; avrt push leaves a card without this line as it is. -->"


def model_card(
    name: str, settings: InputSettings | None, results: Sequence[Result] = (), license_name: str = LICENSE
) -> str:
    """The card as Markdown with the front matter of the Hub.

    Args:
        name: The model's name: an id on the Hub, or its folder's name.
        settings: How it is asked; None where that is not known.
        results: Benchmark results whose scores are shown.
        license_name: The licence's id on the Hub; `other` where the base model's own one holds.
    """
    stages = () if settings is None else settings.training
    parts = [
        _front_matter(name, settings, results, license_name),
        BY_AVRT,
        f"# {name}",
        "An omni model trained with avrt to reason over what it sees and hears, and to answer by a letter.",
    ]
    if stages:
        rows = [f"| {s.stage} | {s.source} | {_data(s.data)} |" for s in stages]
        parts.append("\n".join(["## Training", "", "| stage | from | data (samples) |", "| --- | --- | --- |", *rows]))
    if settings is not None:
        parts.append(_protocol(settings))
    if results:
        parts.append(_scores(results))
    parts.append(_loading(name, settings))
    return clean("\n\n".join(parts) + "\n")


def write_card(
    folder: Path,
    settings: InputSettings | None,
    name: str | None = None,
    results: Sequence[Result] = (),
    license_name: str = LICENSE,
) -> bool:
    """Write the card into a model's folder, over an earlier one that avrt wrote, and not over one that a person wrote.

    Args:
        folder: The model's folder.
        settings: How the student is asked.
        name: The model's name; by default the folder's.
        results: Benchmark results whose scores are shown.
        license_name: The licence's id on the Hub.

    Returns:
        Whether it was written.
    """
    path = folder / CARD
    if path.is_file() and BY_AVRT not in path.read_text(encoding="utf-8", errors="replace"):
        return False
    write_whole(path, model_card(name or folder.resolve().name, settings, results, license_name).encode())
    return True


def _front_matter(name: str, settings: InputSettings | None, results: Sequence[Result], license_name: str) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    stages = () if settings is None else settings.training
    base = stages[0].source if stages and stages[0].source.count("/") == 1 else None
    tags = ["avrt", "audio-visual", "reasoning", *dict.fromkeys(stage.stage for stage in stages)]
    scores = [
        EvalResult(
            task_type="question-answering",
            dataset_type=result.benchmark,
            dataset_name=f"{result.benchmark}, {result.mask}, asked by {result.asked_by}",
            metric_type="accuracy",
            metric_value=round(100 * result.accuracy.mean, 2),
            metric_name=f"accuracy %, {result.headline} rule",
        )
        for result in results
    ]
    settings_of_card: dict[str, Any] = {"eval_results": scores, "model_name": name} if scores else {}
    card = ModelCardData(
        base_model=base, library_name="transformers", license=license_name, tags=tags,
        datasets=None, **settings_of_card,
    )  # fmt: skip
    return f"---\n{card.to_yaml()}\n---"


def _data(data: Any) -> str:
    return ", ".join(f"{name} ({count:,})" for name, count in data.items())


def _protocol(settings: InputSettings) -> str:
    prompt, clip = settings.prompt, settings.clip
    frames = f"{clip.fps} a second, at most {clip.max_frames}"
    if clip.fps is None:
        frames = f"{clip.frames}, evenly over the clip"
    sound = "all of it" if clip.audio_seconds is None else f"the first {clip.audio_seconds:g} s"
    rows = {
        "senses": prompt.senses
        + (", the other blank" if prompt.masked == "blank" and prompt.senses in ("vision", "audio") else ""),
        "frames": f"{frames}; {clip.budget.min_pixels:,} to {clip.budget.max_pixels:,} pixels each",
        "sound": sound + (", interleaved with the frames by time" if prompt.audio_in_video else ", after the frames"),
        "longest answer": f"{settings.generation.max_new_tokens} tokens",
    }
    lines = [f"- {name}: {value}" for name, value in rows.items()]
    system = f"System message: {prompt.system_prompt}\n" if prompt.system_prompt else ""
    asked = prompt.template.replace("{instruction}", prompt.instruction)
    return "\n".join(
        ["## How it is asked", "", *lines, "", "```text", f"{system}{asked}", "```", "",
         f"Each choice is written as `{prompt.choice}`. All of it is in `{SETTINGS}`, which avrt follows by itself."]
    )  # fmt: skip


def _scores(results: Sequence[Result]) -> str:
    head = ["| benchmark | mask | asked by | rule | accuracy % | questions |", "| --- | --- | --- | --- | --- | --- |"]
    rows = [
        f"| {r.benchmark} | {r.mask} | {r.asked_by} | {r.headline} | {r.accuracy.percent()} | {r.accuracy.count} |"
        for r in results
    ]
    note = "95 % intervals; the fingerprint of each protocol: " + ", ".join(f"`{r.fingerprint}`" for r in results) + "."
    return "\n".join(["## Scores", "", *head, *rows, "", note])


def _loading(name: str, settings: InputSettings | None) -> str:
    asked = "" if settings is not None else "The model does not say how it was trained to be asked.\n\n"
    return f'''## Use

{asked}```python
import avrt

student = avrt.load("{name}")
response = student.ask("clip.mp4", "What makes the sound?", ["a dog", "a door"])
print(response.letter, response.think)
```

The weights also load in transformers, and in vLLM if they were exported with `--layout full`.'''
