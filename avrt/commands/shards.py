"""`avrt shards RECIPE`: decode a dataset once and pack it into shards; `shard_tools` has the other subcommands."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

import av
from jsonargparse import Namespace
from jsonargparse.typing import PositiveInt
from rich.console import Console

from avrt import data_recipes
from avrt.arguments import OneLineErrors
from avrt.commands import shard_tools
from avrt.commands.clip_options import add_clip_options, clip_spec
from avrt.commands.progress import ProgressDisplay
from avrt.data.media.isolation import Limits
from avrt.data.shards.conversion import SourceItem, write_shards
from avrt.data.shards.manifest import MANIFEST, UNTYPED, Manifest
from avrt.data_recipes.recipe import Recipe
from avrt.errors import AvrtError, BadSampleError, NothingUsableError
from avrt.files import sha256
from avrt.messages import LONGEST, printable

_LINE = 300
_QUOTED = re.compile(r"(?<= is )(?:'(?:[^'\\]|\\.)*'|\"[^\"]*\")")
_REMEDY = re.compile(r"\([^()]*: [^()]*\)$|\([^()]*\)$")


def recipes() -> dict[str, type[Recipe]]:
    """The recipes by name: every module of `avrt.data_recipes` that has a `recipe`."""
    modules = {
        info.name: importlib.import_module(f"avrt.data_recipes.{info.name}")
        for info in pkgutil.iter_modules(data_recipes.__path__)
    }
    return {name: module.recipe for name, module in modules.items() if hasattr(module, "recipe")}


def main(arguments: list[str]) -> None:
    """Run the command.

    Args:
        arguments: The words after `avrt shards`.

    Raises:
        AvrtError: If the recipe is unknown, or its dataset or the output folder cannot be used.
    """
    known = recipes()
    if not arguments or arguments[0] in ("-h", "--help"):
        print(
            "usage: avrt shards RECIPE --root DIR --out DIR [options]\n"
            "       avrt shards verify DIR\n"
            "       avrt shards show DIR --id ID --out DIR\n"
            "       avrt shards overlap TRAIN TEST\n"
            "       avrt shards to_parquet DIR --out FILE    and    avrt shards from_parquet FILE --out DIR\n\n"
            f"recipes: {', '.join(known)}"
        )
        return
    name, *rest = arguments
    # options may be written with dashes
    rest = [re.sub(r"^--[\w-]+", lambda name: "--" + name[0][2:].replace("-", "_"), word) for word in rest]
    if name in shard_tools.TOOLS:
        shard_tools.TOOLS[name](rest)
        return
    kind = known.get(name) or _own_recipe(name, list(known))
    convert(name, kind, _parser(name, kind).parse_args(rest))


def _own_recipe(path: str, known: list[str]) -> type[Recipe]:
    """A recipe by its import path, such as `mymodule.MyRecipe`.

    Raises:
        AvrtError: If there is no such recipe.
    """
    module, _, name = path.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        kind = None
    if not (isinstance(kind, type) and issubclass(kind, Recipe)):
        remedy = f"use one of {', '.join(known)}, or the import path of your own"
        raise AvrtError("no such recipe", where=path, remedy=remedy)
    return kind


def convert(name: str, kind: type[Recipe], options: Namespace) -> None:
    """Write a recipe's questions to shards, or with `--dry_run` only report on them."""
    chosen = {field.name: options[field.name] for field in fields(kind)}
    spec = clip_spec(options, kind.clip)
    recipe, root, out = kind(**chosen), Path(options.root), Path(options.out)

    def items() -> Iterator[SourceItem | BadSampleError]:
        return islice(recipe.items(root), options.limit)

    if options.dry_run:
        survey(items())
        return
    if options.resume and (out / MANIFEST).is_file():
        _finish(Manifest.load(out), out)
        return
    origin = {
        "name": name,
        **chosen,
        "limit": options.limit,
        "annotations": {path.name: sha256(path) for path in recipe.annotations(root) if path.is_file()},
        "decoder": f"PyAV {av.__version__}, libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}",
    }
    with ProgressDisplay(sum(1 for _ in items()), "questions") as progress:
        manifest = write_shards(
            items(),
            out,
            spec,
            recipe=origin,
            samples_per_shard=options.samples_per_shard,
            keep_original=options.keep_original,
            workers=options.workers,
            limits=Limits(options.seconds_per_clip, options.gigabytes_per_clip),
            resume=options.resume,
            progress=progress.update,
        )
    _finish(manifest, out)


def _finish(manifest: Manifest, folder: Path) -> None:
    report(manifest, folder)
    if not manifest.samples:
        raise _nothing_usable(len(manifest.skipped), where=folder, remedy="see manifest.json there")


def _nothing_usable(rows: int, where: Path | None = None, remedy: str | None = None) -> NothingUsableError:
    """The error for a dataset of which no question can be used."""
    if not rows:
        return NothingUsableError("there are no questions", where=where)
    return NothingUsableError(f"none of {rows} questions can be used", where=where, remedy=remedy)


def survey(items: Iterable[SourceItem | BadSampleError]) -> None:
    """Print what would be converted: questions of each type, missing media, and unusable rows.

    Raises:
        NothingUsableError: If no question can be used.
    """
    kinds: Counter[str] = Counter()
    missing: list[str] = []
    answered = noted = 0
    bad: dict[str, str] = {}
    for item in items:
        if isinstance(item, BadSampleError):
            bad[f"{item.where} {len(bad)}"] = str(item)
            continue
        kinds[item.sample.question_type or UNTYPED] += 1
        answered += item.sample.answer is not None
        noted += bool(item.notes)
        if gone := [path.name for path in item.files.values() if not path.is_file()]:
            missing.append(gone[0])
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"{kinds.total()} questions, {kinds.total() - len(missing)} of them with their media")
    for kind, count in kinds.most_common():
        console.print(f"  {count:6d}  {printable(kind)[:LONGEST]}")
    if answered < kinds.total():
        console.print(f"{kinds.total() - answered} questions have no answer: usable for prediction, not for training")
    if noted:
        console.print(f"{noted} rows are repaired; the manifest will say how")
    if missing:
        gone = sorted(set(missing))
        shown = ", ".join(printable(name)[:LONGEST] for name in gone[:5])
        console.print(f"{len(missing)} questions lack {len(gone)} media files: {shown}{', ...' if gone[5:] else ''}")
    if bad:
        console.print(f"{len(bad)} rows cannot be used, for example:")
        for reason in list(bad.values())[:10]:
            console.print(f"  {printable(reason)[:_LINE]}")
    if len(missing) == kinds.total():
        raise _nothing_usable(kinds.total() + len(bad))


def report(manifest: Manifest, folder: Path) -> None:
    """Print what was written and what was left out."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"{manifest.samples} samples ({manifest.media}) in {len(manifest.shards)} shards: {printable(str(folder))}"
    )
    if manifest.labels and manifest.labels["answer"] < manifest.samples:
        without = manifest.samples - manifest.labels["answer"]
        console.print(f"{without} of them have no answer: usable for prediction, not for training")
    if manifest.audio_cut:
        advice = " (take all of it with --audio_seconds whole)" if manifest.spec.get("audio_seconds") else ""
        console.print(f"the sound of {manifest.audio_cut} samples is cut{advice}")
    if manifest.notes:
        console.print(f"{len(manifest.notes)} samples were repaired (see notes in manifest.json)")
    if manifest.skipped:
        reasons = Counter(_kind_of(reason) for reason in manifest.skipped.values())
        console.print(f"{len(manifest.skipped)} left out (see skipped in manifest.json):")
        for reason, count in reasons.most_common(10):
            console.print(f"  {count:6d}  {printable(reason)[:_LINE]}")
        if len(reasons) > 10:
            console.print(f"          and {len(reasons) - 10} other reasons")


def _kind_of(reason: str) -> str:
    """A reason without the parts that differ from row to row: the row's name, quoted values, the text after a colon."""
    what = reason.split(": ", 1)[-1]
    shortened = _QUOTED.sub("...", what)
    remedy = _REMEDY.search(shortened)
    return shortened.split(":")[0] + (f" {remedy[0]}" if remedy and ":" in shortened else "")


def _parser(name: str, recipe: type[Recipe]) -> OneLineErrors:
    """The parser of a recipe's command: common options, options of the clip, and the recipe's own fields."""
    flag: dict[str, Any] = {"type": bool, "nargs": "?", "const": True, "default": False}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser = OneLineErrors(prog=f"avrt shards {name}", description=recipe.__doc__)
    parser.add_argument("--root", type=str, required=True, help="the dataset's folder")
    parser.add_argument("--out", type=str, required=True, help="new folder for the shards")
    parser.add_argument("--workers", type=PositiveInt, default=cores, help="processes that decode")
    parser.add_argument("--resume", **flag, help="continue a run that was stopped")
    parser.add_argument("--dry_run", **flag, help="only report what would be used and what is missing")
    parser.add_argument("--limit", type=PositiveInt | None, default=None, help="take only the first questions")
    add_clip_options(parser, recipe.clip)
    parser.add_argument("--samples_per_shard", type=PositiveInt, default=256, help="samples per tar")
    parser.add_argument("--keep_original", **flag, help="store the source media too")
    parser.add_argument(
        "--seconds_per_clip", type=float, default=120.0, help="leave out clips that take longer to decode"
    )
    parser.add_argument("--gigabytes_per_clip", type=float, default=4.0, help="leave out clips that need more memory")
    parser.add_class_arguments(recipe)
    return parser
