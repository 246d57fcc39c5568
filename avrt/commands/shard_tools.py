"""`avrt shards verify | show | overlap`: looking into shards that are there."""

from __future__ import annotations

import contextlib
import math
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torchvision.io import write_png

from avrt.arguments import OneLineErrors
from avrt.commands.progress import ProgressDisplay
from avrt.data.media.clip import Clip
from avrt.data.media.codecs import to_flac
from avrt.data.sample import Sample
from avrt.data.shards.members import decode_members
from avrt.data.shards.overlap import Overlap, find_overlap, fingerprints
from avrt.data.shards.reader import ShardSet, index_path, index_tar, load_index
from avrt.errors import AvrtError, BadSampleError
from avrt.files import sha256
from avrt.messages import printable, short
from avrt.text import clean, to_json

_COLUMNS = 4


def verify(arguments: list[str]) -> None:
    """Check every checksum, index, record and clip of a folder; status 1 if something is wrong."""
    parser = OneLineErrors(prog="avrt shards verify", description=verify.__doc__)
    parser.add_argument("folder", type=str, help="a folder of shards")
    folder = Path(parser.parse_args(arguments).folder)
    shards = ShardSet(folder)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    faults: list[str] = []
    for entry in shards.manifest.shards:
        path = folder / Path(entry["file"]).name
        if path.stat().st_size != entry["bytes"] or sha256(path) != entry["sha256"]:
            faults.append(f"{path}: is not the file that the manifest describes")
        elif index_path(path).is_file() and index_tar(path) != load_index(path):
            faults.append(f"{index_path(path)}: does not fit its shard; delete it, it is made again")
    media: Counter[str] = Counter()
    labels = {"answer": 0, "trace": 0}
    seen: set[str] = set()
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
            media.update(str(m) for m in sample.media)
            labels["answer"] += sample.answer is not None
            labels["trace"] += sample.trace is not None
            progress.update(index + 1)
    if not faults and dict(media) != shards.manifest.counts:
        faults.append(f"holds {dict(media)}, the manifest says {shards.manifest.counts}")
    if not faults and shards.manifest.labels and labels != shards.manifest.labels:
        faults.append(f"holds {labels}, the manifest says {shards.manifest.labels}")
    for fault in faults:
        console.print(printable(fault))
    carried = ", ".join(f"{count} with {name}" for name, count in sorted(media.items())) or "none with media"
    console.print(f"{len(seen)} of {len(shards)} samples are sound ({carried}), {len(faults)} faults")
    if faults:
        sys.exit(1)


def show(arguments: list[str]) -> None:
    """Write one sample for eye and ear: a contact sheet, its sound, and its record."""
    parser = OneLineErrors(prog="avrt shards show", description=show.__doc__)
    parser.add_argument("folder", type=str, help="a folder or address of shards")
    parser.add_argument("--id", type=str, required=True, help="the sample's id")
    parser.add_argument("--out", type=str, default=".", help="folder for what is written")
    options = parser.parse_args(arguments)
    shards = ShardSet(options.folder)
    wanted, near = clean(options.id), list[str]()
    index = None
    for place in range(len(shards)):
        with contextlib.suppress(BadSampleError):  # a damaged record is not the one that was asked for
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
    stem = stem if stem.strip("_") else "sample"  # an id may be anything, a path out of here or no letter at all
    written = []
    if clip.frames is not None or clip.image is not None:
        written.append(out / f"{stem}.png")
        write_png(contact_sheet(clip), str(written[-1]))
    if clip.audio is not None:
        written.append(out / f"{stem}.flac")
        written[-1].write_bytes(to_flac(clip.audio))
    _print_sample(sample, clip, shards.name(index), written)


def overlap(arguments: list[str]) -> None:
    """Find clips that training and test shards share; status 1 if there are any."""
    parser = OneLineErrors(prog="avrt shards overlap", description=overlap.__doc__)
    parser.add_argument("train", type=str, help="shards that are trained on")
    parser.add_argument("test", type=str, help="shards that are tested on")
    parser.add_argument("--out", type=str | None, default=None, help="write all pairs to this file, as JSON lines")
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
    if pairs:
        sys.exit(1)


TOOLS = {"verify": verify, "show": show, "overlap": overlap}


def contact_sheet(clip: Clip) -> torch.Tensor:
    """(3, H, W) uint8: all frames in rows of four, longer ones from 17 frames on; or the picture."""
    pictures = clip.frames if clip.frames is not None else clip.image[None]  # type: ignore[index]
    count, _, height, width = pictures.shape
    columns = max(_COLUMNS, math.ceil(math.sqrt(count)))
    rows = -(-count // columns)
    sheet = pictures.new_zeros(rows * min(count, columns), 3, height, width)
    sheet[:count] = pictures
    tiled = sheet.reshape(rows, min(count, columns), 3, height, width).permute(2, 0, 3, 1, 4)
    return tiled.reshape(3, rows * height, min(count, columns) * width).contiguous()


def _print_sample(sample: Sample, clip: Clip, name: str, written: list[Path]) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"{printable(sample.id)}  ({name})\n{printable(sample.question, keep_lines=True)}")
    for index, (letter, choice) in enumerate(zip(sample.letters, sample.choices, strict=True)):
        console.print(f"  {letter}. {printable(choice)}{'  <- right' if index in sample.right else ''}")
    for step in sample.evidence:
        seen, inferred = (printable(text, keep_lines=True) for text in (step.evidence, step.inference))
        console.print(f"  evidence ({step.sense or 'sense not told'}): {seen} -> {inferred}")
    facts: dict[str, Any] = {"question type": sample.question_type, **sample.metadata, **clip.info}
    if clip.timestamps:
        facts["frames at"] = ", ".join(f"{time:.2f} s" for time in clip.timestamps)
    for fact, value in facts.items():
        console.print(f"  {printable(str(fact))}: {printable(str(value))}")
    if sample.trace:
        console.print(printable(sample.trace, keep_lines=True))
    console.print(f"written: {', '.join(map(str, written)) or 'nothing, it has no media'}")


def _print_overlap(pairs: list[Overlap], tested: int) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for pair in pairs[:20]:
        console.print(f"{printable(pair.test)} (test) is {printable(pair.train)} (train) by {', '.join(pair.by)}")
    if len(pairs) > 20:
        console.print(f"... and {len(pairs) - 20} more; --out FILE writes all")
    leaked = len({pair.test for pair in pairs})
    console.print(f"{leaked} of {tested} test samples share a clip with the training samples")
