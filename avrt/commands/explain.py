"""`avrt shards RECIPE --explain`: what each field of the first question was taken for, and what its clip is."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from avrt.commands.shard_reports import quoted
from avrt.data.media.clip_spec import ClipSpec
from avrt.data.media.containers import announced_end, open_media
from avrt.data.sample import Modality, Sample
from avrt.data.shards.source import SourceItem
from avrt.data_recipes.recipe import FileRecipe, Recipe
from avrt.errors import BadSampleError, NothingUsableError
from avrt.messages import print_results, printable

_ORDER = ("media", "video", "image", "audio", "question", "choices", "answer", "id")
_OPTIONAL = {
    "id": "named by its number or file",
    "answer": "usable for prediction only",
    "question_type": "none",
    "relation": "unknown",
    "trace": "none",
    "several": "one choice is right",
}
_LONGEST_CELL = 300


def explain(name: str, recipe: Recipe, root: Path, spec: ClipSpec) -> None:
    """Print what the first question was made of.

    Args:
        name: The recipe's name.
        recipe: The recipe.
        root: The dataset's folder.
        spec: What is taken from each clip.

    Raises:
        NothingUsableError: If there are no questions.
        BadSampleError: If the first one cannot be used.
    """
    console = Console(highlight=False, markup=False)
    files = recipe.annotations(root)
    if files:
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        console.print(f"questions: {printable(str(files[0]))}{more}\n", soft_wrap=True)
    found = sorted(recipe.meanings(root), key=lambda m: (*_ORDER, m.taken_as).index(m.taken_as))
    found.sort(key=lambda meaning: meaning.taken_as == "metadata")
    if found:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for title in ("column", "taken as", "in the first row"):
            table.add_column(title, overflow="fold")
        for meaning in found:
            table.add_row(printable(meaning.column), meaning.taken_as, _cut(meaning.value))
        console.print(table)
        absent = {field: why for field, why in _OPTIONAL.items() if field not in {m.taken_as for m in found}}
        if absent:
            console.print("\nnot given: " + ", ".join(f"{field} ({why})" for field, why in absent.items()))
        console.print()
    first = recipe.first(root)
    if first is None:
        raise NothingUsableError("there are no questions", where=root)
    if isinstance(first, BadSampleError):
        raise first
    _print_sample(console, first.sample)
    for note in first.notes:
        console.print(f"  note: {printable(note)}")
    for kind, path in first.files.items():
        console.print(f"\n{kind}: {printable(str(path))}", soft_wrap=True)
        for line in media_facts(path, kind, spec):
            console.print(f"  {line}")
    console.print()
    command = f"avrt shards {quoted(name)} --root {quoted(root)}"
    if isinstance(recipe, FileRecipe):
        results = list(recipe.items(root))
        used = sum(isinstance(item, SourceItem) for item in results)
        told = f"{used} of {len(results)} can be read"
        print_results("questions", told, f"{command} --dry_run" if used < len(results) else f"{command} --out shards")


def _print_sample(console: Console, sample: Sample) -> None:
    """Print the question as a student will get it, with the right answer."""
    console.print(f"{printable(sample.id)}: {printable(sample.question)}")
    for index, (letter, choice) in enumerate(zip(sample.letters, sample.choices, strict=True)):
        console.print(f"  {letter}. {printable(choice)}{'   <- right' if index in sample.right else ''}")
    facts = {
        "question_type": sample.question_type,
        "relation": sample.relation,
        "several": "several choices may be right" if sample.several else None,
        "trace": sample.trace,
        "metadata": ", ".join(f"{key} = {value}" for key, value in sample.metadata.items() if value is not None),
    }
    for field, value in facts.items():
        if value:
            console.print(f"  {field}: {_cut(printable(str(value)))}")


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_CELL else f"{text[: _LONGEST_CELL - 3]}..."


def media_facts(path: Path, kind: Modality, spec: ClipSpec) -> list[str]:
    """What a media file is by its own header, and what is taken of it, in lines.

    Args:
        path: The file.
        kind: What it is taken for.
        spec: What is taken from each clip.
    """
    if not path.is_file():
        return ["is missing: this question would be left out"]
    if kind is Modality.IMAGE:
        return [_picture(path)]
    try:
        with open_media(path) as container:
            video = next((s for s in container.streams.video if s.codec_context is not None), None)
            sound: Any = container.streams.best("audio")
            lines = []
            if kind is Modality.VIDEO:
                lines.append("no pictures: this question would be left out" if video is None else "")
                if video is not None:
                    lines[-1] = _pictures(video, _seconds(container, video), spec)
            lines.append("no sound" if sound is None else _sound(sound, _seconds(container, sound), spec))
            return lines
    except BadSampleError as error:
        return [f"{printable(error.what)}: this question would be left out"]


def _picture(path: Path) -> str:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return f"picture: {picture.width}x{picture.height}"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"not a readable picture: {printable(str(error))}"


def _seconds(container: Any, stream: Any) -> float:
    begins = float((stream.start_time or 0) * (stream.time_base or Fraction(1)))
    return max(0.0, announced_end(container, stream) - begins)


def _pictures(stream: Any, seconds: float, spec: ClipSpec) -> str:
    size, rate = f"{stream.codec_context.width}x{stream.codec_context.height}", stream.average_rate
    speed = f", {float(rate):.4g} frames a second" if rate else ""
    count = spec.frame_count(seconds)
    return f"video: {seconds:.1f} s, {size}{speed}; taken: {count} frames, one every {seconds / count:.2f} s"


def _sound(stream: Any, seconds: float, spec: ClipSpec) -> str:
    context = stream.codec_context
    facts = f"{seconds:.1f} s, {context.sample_rate / 1000:.4g} kHz, {context.channels} channels" if context else ""
    taken = "all of it" if spec.audio_limit >= seconds else f"the first {spec.audio_limit:g} s"
    return f"sound: {facts}; taken: {taken}"
