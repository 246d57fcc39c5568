"""`avrt shards RECIPE --explain`: what each field of the first question was taken for, and what its clip is."""

from __future__ import annotations

from collections.abc import Sequence
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
from avrt.data_recipes.media_paths import OutsideRootError
from avrt.data_recipes.recipe import FileRecipe, Meaning, Recipe
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


def explain(words: Sequence[str], recipe: Recipe, root: Path, spec: ClipSpec) -> None:
    """Print what the first question was made of.

    Args:
        words: The command as it was typed after `avrt shards`: the recipe's name and the options.
        recipe: The recipe.
        root: The dataset's folder.
        spec: What is taken from each clip.

    Raises:
        NothingUsableError: If there are no questions.
        BadSampleError: If the first one cannot be used.
    """
    console = Console(highlight=False, markup=False)
    meanings, files = recipe.meanings(root), recipe.annotations(root)
    if files:
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        console.print(f"questions: {printable(str(files[0]))}{more}\n", soft_wrap=True)
    if meanings:
        _print_columns(console, meanings)
    first = recipe.first(root)
    if first is None:
        raise NothingUsableError("there are no questions", where=root)
    if isinstance(first, OutsideRootError):
        remedy = f"if you trust these annotations, add --media_root {first.folder}"
        raise BadSampleError(first.what, where=first.where, remedy=remedy)
    if isinstance(first, BadSampleError):
        raise first
    _print_sample(console, first.sample)
    for note in first.notes:
        console.print(f"  note: {printable(note)}")
    opened = True
    for kind, path in first.files.items():
        console.print(f"\n{kind}: {printable(str(path))}", soft_wrap=True)
        try:
            facts = media_facts(path, kind, spec)
        except BadSampleError as error:
            opened, facts = False, [f"{printable(error.what)}: this question would be left out"]
        for line in facts:
            console.print(f"  {line}")
    console.print()
    if isinstance(recipe, FileRecipe):
        results = list(recipe.items(root))
        used = sum(isinstance(item, SourceItem) for item in results)
        told = f"{used} of {len(results)} " + (
            "can be read" if opened else "have a question and choices, but the media of the first cannot be opened"
        )
        print_results(
            "questions", told, next_command(words, "--out" if opened and used == len(results) else "--dry_run")
        )


def next_command(words: Sequence[str], option: str) -> str:
    """The command that comes after `--explain`, with all other options as they were typed.

    Args:
        words: The words after `avrt shards`.
        option: What it does: `--out`, into the folder that was typed or else `shards`, or `--dry_run`.
    """
    kept: list[str] = []
    flag = False  # whether the last word was a flag that is left out, so that its value is too
    for word in words:
        name, _, value = word.partition("=")
        if name in ("--explain", "--dry_run"):
            flag = not value
        elif not (flag and word.lower() in ("true", "false")):
            kept.append(word)
            flag = False
    given = any(word.partition("=")[0] == "--out" for word in kept)
    kept += ["--dry_run"] if option == "--dry_run" else [] if given else ["--out", "shards"]
    return " ".join(["avrt shards", *map(quoted, kept)])


def _print_columns(console: Console, meanings: list[Meaning]) -> None:
    """Print what each column was taken for, and which fields no column gives."""
    found = sorted(meanings, key=lambda meaning: (*_ORDER, meaning.taken_as).index(meaning.taken_as))
    found.sort(key=lambda meaning: meaning.taken_as == "metadata")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("column", "taken as", "in the first row"):
        table.add_column(title, overflow="fold")
    for meaning in found:
        table.add_row(printable(meaning.column), meaning.taken_as, _cut(meaning.value))
    console.print(table)
    taken = {meaning.taken_as for meaning in found}
    absent = [f"{field} ({why})" for field, why in _OPTIONAL.items() if field not in taken]
    if absent:
        console.print(f"\nnot given: {', '.join(absent)}")
    console.print()


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

    Raises:
        BadSampleError: If it cannot be opened, or has not what it is taken for.
    """
    if not path.is_file():
        raise BadSampleError("is missing")
    if kind is Modality.IMAGE:
        return [_picture(path)]
    with open_media(path) as container:
        video = next((s for s in container.streams.video if s.codec_context is not None), None)
        sound: Any = container.streams.best("audio")
        if (video if kind is Modality.VIDEO else sound) is None:
            raise BadSampleError(f"no {'pictures' if kind is Modality.VIDEO else 'sound'}")
        pictures = [] if kind is not Modality.VIDEO else [_pictures(video, _seconds(container, video), spec)]
        return [*pictures, "no sound" if sound is None else _sound(sound, _seconds(container, sound), spec)]


def _picture(path: Path) -> str:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return f"picture: {picture.width}x{picture.height}"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadSampleError(f"not a readable picture: {printable(str(error))}") from None


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
