"""`avrt shards verify | show | overlap | merge`: tools for existing shards; `shards.TOOLS` lists them."""

from __future__ import annotations

import contextlib
import math
import re
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torchvision.io import write_png

from avrt.arguments import OneLineErrors
from avrt.commands.shard_reports import Outside, finish, look_at_one
from avrt.data.media.clip import Clip
from avrt.data.media.codecs import to_flac
from avrt.data.sample import Sample
from avrt.data.shards.manifest import MANIFEST, Manifest
from avrt.data.shards.members import decode_members
from avrt.data.shards.merging import find_parts, merge_parts
from avrt.data.shards.overlap import Overlap, find_overlap, fingerprints
from avrt.data.shards.reader import ShardSet, index_path, index_tar, load_index
from avrt.errors import AvrtError, BadSampleError
from avrt.files import sha256
from avrt.messages import print_results, printable, short
from avrt.progress import ProgressDisplay
from avrt.remote.uploads import Destination
from avrt.text import clean, to_json

_COLUMNS = 4


def verify(arguments: list[str]) -> None:
    """Check every checksum, index, record and clip of a folder; status 1 if something is wrong."""
    parser = OneLineErrors(prog="avrt shards verify", description=verify.__doc__)
    parser.add_argument("folder", type=str, help="a folder or address of shards")
    folder = parser.parse_args(arguments).folder
    shards = ShardSet(folder)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    faults: list[str] = []
    for entry, path in zip(shards.manifest.shards, shards.paths(), strict=True):
        if path.stat().st_size != entry["bytes"] or sha256(path) != entry["sha256"]:
            faults.append(f"{path}: is not the file that the manifest describes (copy or make it again)")
        elif index_path(path).is_file() and index_tar(path) != load_index(path):
            faults.append(f"{index_path(path)}: does not fit its shard (delete it; it is made again)")
    found, seen = Manifest(labels={"answer": 0, "trace": 0}), set[str]()
    with ProgressDisplay(len(shards), "samples") as progress:
        for index in range(len(shards)):
            try:
                sample, _ = decode_members(shards.read(index))
            except BadSampleError as error:
                faults.append(str(error))
                continue
            if sample.id in seen:
                faults.append(f"{shards.name(index)}: id {short(sample.id)} occurs twice")
            seen.add(sample.id)
            found.add(sample)
            progress.update(index + 1)
    if not faults:
        told = shards.manifest
        for ours, theirs in ((found.counts, told.counts), (found.labels, told.labels or found.labels)):
            if ours != theirs:
                faults.append(f"{folder}: holds {ours}, the manifest says {theirs}")
    for fault in faults:
        console.print(printable(fault))
    console.print(f"{len(seen)} of {len(shards)} samples are intact ({found.media}), {len(faults)} faults")
    if faults:
        sys.exit(1)
    print_results("verified", printable(folder))


def show(arguments: list[str]) -> None:
    """Write one sample for inspection: a contact sheet and its sound; its record is printed."""
    parser = OneLineErrors(prog="avrt shards show", description=show.__doc__)
    parser.add_argument("folder", type=str, help="a folder or address of shards")
    parser.add_argument("--id", type=str, required=True, help="the sample's id")
    parser.add_argument("--out", type=str, default=".", help="folder for what is written")
    options = parser.parse_args(arguments)
    shards = ShardSet(options.folder)
    wanted, near = clean(options.id), list[str]()
    index = None
    for place in range(len(shards)):
        with contextlib.suppress(BadSampleError):  # a damaged record cannot be the wanted one
            name = shards.sample(place).id
            near += [name] if len(near) < 3 else []
            if name == wanted:
                index = place
                break
    if index is None:
        remedy = f"ids look like {', '.join(printable(name)[:40] for name in near)}" if near else "it holds no samples"
        raise AvrtError(f"no sample {printable(wanted)[:80]}", where=options.folder, remedy=remedy)
    sample, clip = decode_members(shards.read(index))
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"[^\w-]+", "_", sample.id).encode()[:80].decode(errors="ignore")
    stem = stem if stem.strip("_") else "sample"  # an id may hold any characters
    written = []
    if clip.pictures is not None:
        written.append(out / f"{stem}.png")
        write_png(contact_sheet(clip.pictures), str(written[-1]))
    if clip.audio is not None:
        written.append(out / f"{stem}.flac")
        written[-1].write_bytes(to_flac(clip.audio))
    _print_sample(sample, clip, shards.name(index), written)


def overlap(arguments: list[str]) -> None:
    """Find clips that training and test shards share; status 1 if there are any."""
    parser = OneLineErrors(prog="avrt shards overlap", description=overlap.__doc__)
    parser.add_argument("train", type=str, help="shards that are trained on")
    parser.add_argument("test", type=str, help="shards that are tested on")
    parser.add_argument("--out", type=str | None, default=None, help="file for all pairs, as JSON lines")
    options = parser.parse_args(arguments)
    prints = []
    for location in (options.train, options.test):
        shards = ShardSet(location)
        with ProgressDisplay(len(shards), "samples") as progress:
            prints.append(fingerprints(shards, progress.update))
    pairs = find_overlap(*prints)
    if options.out is not None:
        lines = [to_json({"train": p.train, "test": p.test, "by": list(p.by)}) for p in pairs]
        Path(options.out).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    _print_overlap(pairs, len(prints[1].samples))
    if options.out is not None:
        print_results("pairs", printable(options.out))
    if pairs:
        sys.exit(1)


def merge(arguments: list[str]) -> None:
    """Join the parts that `avrt shards RECIPE --part i/n` has made into the shards of one run, byte for byte."""
    parser = OneLineErrors(prog="avrt shards merge", description=merge.__doc__)
    parser.add_argument("folder", type=str, help="the folder with all parts")
    parser.add_argument(
        "--out", type=str, required=True, help="folder or address for the shards; may be that of the parts"
    )
    again = "continue a merge that was stopped"
    parser.add_argument("--resume", type=bool, nargs="?", const=True, default=False, help=again)
    options = parser.parse_args(arguments)
    target = Destination(options.out, MANIFEST)
    if options.resume and target.is_uploaded():
        manifest = ShardSet(target.address).manifest
    else:
        manifest = _merged(Path(options.folder), target, options.resume)
    finish(manifest, target.name, Outside(), look_at_one(target) if manifest.samples else None)


def _merged(folder: Path, target: Destination, resume: bool) -> Manifest:
    """Join parts and upload them, or, to resume, upload those that an earlier run has joined."""
    target.check()
    if resume and (target.folder / MANIFEST).is_file():
        manifest = Manifest.load(target.folder)
    else:
        parts = find_parts(folder)
        last = parts[-1].slice
        with ProgressDisplay(last.first + last.items, "questions") as progress:
            manifest = merge_parts(parts, target.folder, resume=resume, progress=progress.update)
    if manifest.samples:
        target.upload()
    return manifest


def contact_sheet(pictures: torch.Tensor) -> torch.Tensor:
    """All of (F, 3, H, W) uint8 pictures in one of (3, H, W), in rows of four, or of more from 17 pictures on."""
    count, _, height, width = pictures.shape
    columns = max(_COLUMNS, math.ceil(math.sqrt(count)))
    rows = -(-count // columns)
    sheet = pictures.new_zeros(rows * min(count, columns), 3, height, width)
    sheet[:count] = pictures
    tiled = sheet.reshape(rows, min(count, columns), 3, height, width).permute(2, 0, 3, 1, 4)
    return tiled.reshape(3, rows * height, min(count, columns) * width).contiguous()


def _print_sample(sample: Sample, clip: Clip, name: str, written: list[Path]) -> None:
    """Print a sample's record, facts about its clip, and the files that were written."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"{printable(sample.id)}  ({name})\n{printable(sample.question, keep_lines=True)}")
    for index, (letter, choice) in enumerate(zip(sample.letters, sample.choices, strict=True)):
        console.print(f"  {letter}. {printable(choice)}{'  <- right' if index in sample.right else ''}")
    for step in sample.evidence:
        console.print(
            f"  evidence ({step.sense or 'sense unknown'}): {_lines(step.evidence)} -> {_lines(step.inference)}"
        )
    facts: dict[str, Any] = {"question type": sample.question_type, **sample.metadata, **clip.info}
    if clip.timestamps:
        facts["frames at"] = ", ".join(f"{time:.2f} s" for time in clip.timestamps)
    for fact, value in facts.items():
        console.print(f"  {printable(str(fact))}: {printable(str(value))}")
    if sample.trace:
        console.print(_lines(sample.trace))
    print_results("written", ", ".join(printable(str(path)) for path in written) or "nothing, since it has no media")


def _lines(text: str) -> str:
    """A text for the terminal, without control characters other than line ends."""
    return "\n".join(printable(line) for line in text.split("\n"))


def _print_overlap(pairs: list[Overlap], tested: int) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for pair in pairs[:20]:
        console.print(f"{printable(pair.test)} (test) is {printable(pair.train)} (train) by {', '.join(pair.by)}")
    if len(pairs) > 20:
        console.print(f"... and {len(pairs) - 20} more (--out FILE writes all)")
    leaked = len({pair.test for pair in pairs})
    console.print(f"{leaked} of {tested} test samples share a clip with the training samples")
