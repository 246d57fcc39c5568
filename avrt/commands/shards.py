"""`avrt shards RECIPE --root DIR --out DIR`: decode a dataset once and pack it into shards."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import fields
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

import data_recipes
from avrt.arguments import OneLineErrors
from avrt.data.conversion import SourceItem, write_shards
from avrt.data.manifest import UNTYPED, Manifest
from avrt.data.media import ClipSpec, FrameBudget
from avrt.errors import AvrtError, BadSampleError
from data_recipes.recipe import Recipe


def recipes() -> dict[str, type[Recipe]]:
    """The recipes by name: every module of `data_recipes` that has a `recipe`."""
    modules = {
        info.name: importlib.import_module(f"data_recipes.{info.name}")
        for info in pkgutil.iter_modules(data_recipes.__path__)
    }
    return {name: module.recipe for name, module in modules.items() if hasattr(module, "recipe")}


def main(arguments: list[str]) -> None:
    """Run the command.

    Args:
        arguments: What follows `avrt shards`.

    Raises:
        AvrtError: If the recipe is unknown, or its dataset or the output folder cannot be used.
    """
    known = recipes()
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: avrt shards RECIPE --root DIR --out DIR [options]\n\nrecipes: {', '.join(known)}")
        return
    name, *rest = arguments
    if name not in known:
        raise AvrtError("no such recipe", where=name, remedy=f"one of {', '.join(known)}")
    options = _parser(name, known[name]).parse_args(rest)
    chosen = {field.name: options[field.name] for field in fields(known[name])}
    spec = ClipSpec(options.frames, options.audio_seconds, FrameBudget(options.min_pixels, options.max_pixels))
    items = islice(known[name](**chosen).items(Path(options.root)), options.limit)
    if options.dry_run:
        survey(items)
        return
    manifest = write_shards(
        _watched(items),
        Path(options.out),
        spec,
        recipe={"name": name, **chosen},
        samples_per_shard=options.samples_per_shard,
        keep_original=options.keep_original,
    )
    report(manifest, Path(options.out))


def survey(items: Iterable[SourceItem | BadSampleError]) -> None:
    """Print what would be converted: questions of each type, those whose media are missing, and unusable rows."""
    kinds: Counter[str] = Counter()
    missing: dict[str, str] = {}
    bad: list[str] = []
    for item in items:
        if isinstance(item, BadSampleError):
            bad.append(str(item))
            continue
        kinds[item.sample.question_type or UNTYPED] += 1
        if gone := [path.name for path in item.files.values() if not path.is_file()]:
            missing[item.sample.id] = gone[0]
    console = Console(highlight=False, markup=False)
    console.print(f"{kinds.total()} questions, {kinds.total() - len(missing)} of them with their media")
    for kind, count in kinds.most_common():
        console.print(f"  {count:6d}  {kind}")
    if missing:
        shown = ", ".join(sorted(set(missing.values()))[:5])
        console.print(f"{len(missing)} questions lack {len(set(missing.values()))} media files: {shown}, ...")
    if bad:
        console.print(f"{len(bad)} rows cannot be used:")
        for reason in bad[:10]:
            console.print(f"  {reason}")


def report(manifest: Manifest, folder: Path) -> None:
    """Print what was written and what was left out."""
    console = Console()
    media = ", ".join(f"{count} with {name}" for name, count in sorted(manifest.counts.items())) or "none with media"
    console.print(f"{manifest.samples} samples ({media}) in {len(manifest.shards)} shards: {folder}", highlight=False)
    if manifest.notes:
        console.print(
            f"{len(manifest.notes)} samples needed a work-around (see notes in manifest.json)", highlight=False
        )
    if manifest.skipped:
        reasons = Counter(reason.split(": ", 1)[-1].split(":")[0] for reason in manifest.skipped.values())
        console.print(f"{len(manifest.skipped)} left out, named in manifest.json:", highlight=False)
        for reason, count in reasons.most_common(10):
            console.print(f"  {count:6d}  {reason}", highlight=False, markup=False)


def _parser(name: str, recipe: type[Recipe]) -> OneLineErrors:
    parser = OneLineErrors(prog=f"avrt shards {name}", description=recipe.__doc__)
    parser.add_argument("--root", type=str, required=True, help="the dataset's folder")
    parser.add_argument("--out", type=str, required=True, help="new folder for the shards")
    parser.add_argument("--frames", type=int, default=8, help="frames per video, uniformly spaced by time")
    parser.add_argument("--audio_seconds", type=float, default=10.0, help="seconds of sound from the beginning")
    parser.add_argument("--min_pixels", type=int, default=recipe.budget.min_pixels, help="smallest frame, in pixels")
    parser.add_argument("--max_pixels", type=int, default=recipe.budget.max_pixels, help="largest frame, in pixels")
    parser.add_argument("--samples_per_shard", type=int, default=256, help="samples per tar")
    parser.add_argument("--keep_original", type=bool, default=False, help="store the source media too")
    parser.add_argument("--limit", type=int | None, default=None, help="take only the first questions")
    parser.add_argument("--dry_run", type=bool, default=False, help="only say what would be used and what is missing")
    parser.add_class_arguments(recipe)
    return parser


def _watched(items: Iterable[SourceItem | BadSampleError]) -> Iterator[SourceItem | BadSampleError]:
    columns = (SpinnerColumn(), TextColumn("{task.completed} questions"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("shards")
        for item in items:
            yield item
            progress.advance(task)
