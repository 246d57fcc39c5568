"""`avrt shards RECIPE`: decode a dataset once and pack it into shards; `TOOLS` names the other subcommands."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from jsonargparse.typing import PositiveInt

from avrt.arguments import OneLineErrors
from avrt.commands.clip_options import add_clip_options, clip_spec
from avrt.commands.explain import explain
from avrt.commands.recipe_names import find_recipe, recipe_summaries
from avrt.commands.shard_reports import Outside, finish, look_at_one, quoted, report, survey
from avrt.cores import cores
from avrt.data.media.clip_spec import ClipSpec
from avrt.data.media.isolation import Limits
from avrt.data.shards.manifest import MANIFEST, Manifest
from avrt.data.shards.slices import Slice, part_folder, read_part
from avrt.data.shards.source import SourceItem
from avrt.data_recipes.parts import Division, read_shares
from avrt.data_recipes.recipe import Recipe
from avrt.errors import AvrtError, BadSampleError
from avrt.files import sha256
from avrt.messages import print_results, printable
from avrt.progress import ProgressDisplay
from avrt.remote.uploads import Destination

# name: (module with a function of this name, usage, what it does)
TOOLS = {
    "verify": ("avrt.commands.shard_tools", "verify DIR", "check every checksum, record and clip"),
    "show": ("avrt.commands.shard_tools", "show DIR --id ID --out DIR", "a contact sheet, sound, record"),
    "overlap": ("avrt.commands.shard_tools", "overlap TRAIN TEST", "find clips that two sets share"),
    "upload": ("avrt.commands.shard_upload", "upload DIR ADDRESS", "shards to s3://..., the manifest last"),
    "merge": ("avrt.commands.shard_tools", "merge DIR --out DIR", "join what --part i/n has made"),
    "to_parquet": (
        "avrt.commands.shard_parquet",
        "to_parquet DIR --out FILE",
        "one Parquet file, for pandas",
    ),
    "from_parquet": ("avrt.commands.shard_parquet", "from_parquet FILE --out DIR", "and shards of one"),
}
_WHERE_ONLY = ("media_root",)
"""Options of recipes that say where files are, and nothing about what is taken: not recorded in the manifest."""


def usage() -> str:
    """What `avrt shards --help` prints."""
    tools = "".join(f"  avrt shards {how:<29}{what}\n" for _, how, what in TOOLS.values())
    found = recipe_summaries()
    width = max(map(len, found)) + 1
    rows = "".join(f"  {name:<{width}} {_first_words(told, 76 - width)}\n" for name, told in found.items())
    return (
        "usage: avrt shards RECIPE --root DIR --out DIR [options]\n\n"
        "Reads a dataset, decodes each clip once, and writes shards.\n"
        "  avrt shards folder --root DIR --explain   your own data: what each field means\n"
        "  avrt shards RECIPE --root DIR --dry_run   what would be used, what is missing\n"
        "  avrt shards RECIPE --help                 all options of a recipe\n\n"
        f"checks of shards:\n{tools}\nrecipes:\n{rows}\n"
        "Your own clips and questions: docs/own_data.md\n"
        "A layout of its own, in Python: examples/own_dataset.py"
    )


def _first_words(text: str, longest: int) -> str:
    """A summary without its recipe's name before the colon, cut after a whole word."""
    text = text.partition(": ")[2] or text
    if len(text) <= longest:
        return text
    return text[: longest - 3].rpartition(" ")[0].rstrip(",;:") + "..."


def main(arguments: list[str]) -> None:
    """Run the command.

    Args:
        arguments: The words after `avrt shards`.

    Raises:
        AvrtError: If the recipe is unknown, or its dataset or the output folder cannot be used.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return
    name, *rest = arguments
    # options may be written with dashes
    rest = [re.sub(r"^--[\w-]+", lambda name: "--" + name[0][2:].replace("-", "_"), word) for word in rest]
    if name in TOOLS:
        getattr(importlib.import_module(TOOLS[name][0]), name)(rest)
        return
    kind = find_recipe(name, tuple(TOOLS))
    convert(name, kind, _parser(name, kind).parse_args(rest), rest)


@dataclass(frozen=True)
class Conversion:
    """A recipe with its options, and what is taken from each clip.

    Attributes:
        name: The recipe's name.
        recipe: The recipe.
        root: The dataset's folder.
        spec: What is taken from each clip.
        options: The options of the command.
        outside: Rows whose media are outside of the root, as far as the questions have been read.
    """

    name: str
    recipe: Recipe
    root: Path
    spec: ClipSpec
    options: Namespace
    outside: Outside = field(default_factory=Outside)

    def items(self) -> Iterator[SourceItem | BadSampleError]:
        """The questions, as many as are wanted."""
        return self.outside.watch(islice(self.recipe.items(self.root), self.options.limit))

    def origin(self) -> dict[str, Any]:
        """What the manifest records of where the questions are from."""
        import av

        chosen = {part.name: getattr(self.recipe, part.name) for part in fields(self.recipe)}
        files = [path for path in self.recipe.annotations(self.root) if path.is_file()]
        return {
            "name": self.name,
            **{name: value for name, value in chosen.items() if name not in _WHERE_ONLY},
            "limit": self.options.limit,
            "annotations": {_below(path, self.root): sha256(path) for path in files},
            "decoder": f"PyAV {av.__version__}, libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}",
        }

    def write(self, out: Path, division: Division | None = None, part: str | None = None) -> Manifest:
        """Write the questions, or those of one part, and return their manifest."""
        from avrt.data.shards.conversion import write_shards

        options = self.options

        def items() -> Iterator[SourceItem | BadSampleError]:
            return (item for item in self.items() if division is None or division.part(item) == part)

        origin = self.origin()
        if division is not None:
            origin |= {"parts": options.parts, "part": part, "together": options.together}
        count, job = sum(1 for _ in items()), None
        if options.part is not None:
            job = Slice.cut(*read_part(options.part), count, options.samples_per_shard)
            count = job.items
        with ProgressDisplay(count, "questions" if part is None else f"questions, {part}") as progress:
            return write_shards(
                items(),
                out,
                self.spec,
                recipe=origin,
                samples_per_shard=options.samples_per_shard,
                part=job,
                keep_original=options.keep_original,
                workers=options.workers,
                limits=Limits(options.seconds_per_clip, options.gigabytes_per_clip),
                resume=options.resume,
                progress=progress.update,
            )


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def convert(name: str, kind: type[Recipe], options: Namespace, typed: Sequence[str] = ()) -> None:
    """Write a recipe's questions to shards, or only report on them (`--dry_run`) or on the first (`--explain`).

    Args:
        name: The recipe's name.
        kind: The recipe.
        options: The options of the command.
        typed: The words that they were read from, for the command that `--explain` ends with.
    """
    recipe = kind(**{part.name: options[part.name] for part in fields(kind)})
    run = Conversion(name, recipe, Path(options.root), clip_spec(options, kind.clip), options)
    if options.part is not None and (options.explain or options.dry_run):
        other = "--explain" if options.explain else "--dry_run"
        raise AvrtError(f"does nothing with {other}", where="--part", remedy=f"leave it out: {other} is for all parts")
    if options.explain:
        explain([name, *typed], recipe, run.root, run.spec)
        return
    if options.dry_run:
        survey(run.items(), run.outside)
        return
    if options.out is None:
        raise AvrtError("is needed", where="--out", remedy="name a new folder for the shards, or add --dry_run")
    out = Destination(options.out, MANIFEST)
    if options.together is not None and options.parts is None:
        raise AvrtError("is for --parts", where="--together", remedy="add --parts 80/10/10, or leave it out")
    if options.part is not None:
        if out.remote:
            remedy = "write parts to a folder, join them, then: avrt shards upload DIR ADDRESS"
            raise AvrtError("is for folders", where="--part", remedy=remedy)
        _convert_part(run, out.folder)
        return
    if options.parts is None:
        manifest = _written(run, out)
        finish(manifest, out.name, run.outside, look_at_one(out) if manifest.samples else None)
        return
    division = Division(run.items(), read_shares(options.parts), run.root, options.together)
    for part in division.clips:
        manifest = _written(run, out.below(part), division, part)
        finish(manifest, out.below(part).name, Outside())
    run.outside.tell()
    if {"train", "test"} <= set(division.clips):
        print(f"next: avrt shards overlap {quoted(out.below('train').name)} {quoted(out.below('test').name)}")


def _written(run: Conversion, out: Destination, division: Division | None = None, part: str | None = None) -> Manifest:
    """Write shards, or with `--resume` find those of an earlier run that is complete."""
    folder, resume = out.folder, run.options.resume
    if resume and out.is_uploaded():
        from avrt.data.shards.reader import ShardSet

        return ShardSet(out.address).manifest
    out.check()
    manifest = _finished(folder, resume) or run.write(folder, division, part)
    if manifest.samples:
        out.upload()
    return manifest


def _convert_part(run: Conversion, out: Path) -> None:
    """Write one part of the shards, or of those for training, validation and test, below their folder."""
    number, of = read_part(run.options.part)
    division = None
    if run.options.parts is not None:
        division = Division(run.items(), read_shares(run.options.parts), run.root, run.options.together)
    for name in [None] if division is None else division.clips:
        folder = part_folder(out if name is None else out / name, number, of)
        report(_finished(folder, run.options.resume) or run.write(folder, division, name), folder)
        # beside the parts, so that an upload of it leaves them out
        whole = folder.parent.resolve().with_name(f"{folder.parent.resolve().name}-merged")
        whole = Path(os.path.relpath(whole)) if not folder.is_absolute() else whole
        merged = f"avrt shards merge {quoted(folder.parent)} --out {quoted(whole)}"
        print_results(f"part {number} of {of}", printable(str(folder)), f"{merged}  (when all parts are there)")
    run.outside.tell()


def _finished(folder: Path, resume: bool) -> Manifest | None:
    """The manifest of an earlier run that is complete, with `--resume`."""
    return Manifest.load(folder) if resume and (folder / MANIFEST).is_file() else None


def _parser(name: str, recipe: type[Recipe]) -> OneLineErrors:
    """The parser of a recipe's command: common options, options of the clip, and the recipe's own fields."""
    flag: dict[str, Any] = {"type": bool, "nargs": "?", "const": True, "default": False}
    parser = OneLineErrors(prog=f"avrt shards {name}", description=(recipe.__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--root", type=str, required=True, help="the dataset's folder")
    parser.add_argument("--out", type=str | None, default=None, help="new folder or address for the shards")
    parser.add_argument("--explain", **flag, help="only show what each field of the first question was taken for")
    parser.add_argument("--dry_run", **flag, help="only report what would be used and what is missing")
    parser.add_argument(
        "--parts",
        type=str | None,
        default=None,
        help="shares of the clips, such as 80/10/10, for OUT/train, OUT/val and OUT/test; no clip is in two of them",
    )
    parser.add_argument(
        "--together",
        type=str | None,
        default=None,
        help="with --parts: a field of the metadata; clips with the same value stay in one part",
    )
    parser.add_argument(
        "--part",
        type=str | None,
        default=None,
        help="i/n: convert only the i-th of n parts, into a folder in OUT; avrt shards merge joins them",
    )
    parser.add_argument("--workers", type=PositiveInt, default=cores(), help="processes that decode")
    parser.add_argument("--resume", **flag, help="continue a run that was stopped")
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
