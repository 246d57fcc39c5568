"""Joining the parts of a divided conversion: the same bytes as those of one run, without decoding a clip again.

Everything that depends on what came before is decided again, by the same writer as in one run: which shard a sample is
in, its number, whether its id has occurred in an earlier part, and how names of left-out questions are told apart.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import avrt
from avrt.data.sample import Sample
from avrt.data.shards.manifest import JOURNAL, MANIFEST, Manifest
from avrt.data.shards.reader import load_index, read_bytes
from avrt.data.shards.remote import safe_name
from avrt.data.shards.slices import SLICE, Slice, name_and_number
from avrt.data.shards.writer import ShardWriter
from avrt.errors import AvrtError, BadSampleError
from avrt.files import sha256

_Members = Mapping[str, bytes]
"""A sample of a part: each member's bytes by extension."""


@dataclass(frozen=True)
class _Skipped:
    """A question that a part has left out."""

    name: str
    reason: str


@dataclass(frozen=True)
class Part:
    """A finished part.

    Attributes:
        folder: Its folder.
        slice: Which part it is.
        manifest: Its manifest.
        version: The version of avrt that made it.
    """

    folder: Path
    slice: Slice
    manifest: Manifest
    version: str

    @classmethod
    def load(cls, folder: Path) -> Part | None:
        """The part in a folder; None if it holds other shards.

        Raises:
            AvrtError: If its manifest is damaged, or does not account for each of its questions.
        """
        path = folder / MANIFEST
        manifest = Manifest.load(folder)
        try:
            found = Slice.of_recipe(manifest.recipe)
            skipped = [name_and_number(name)[1] for name in manifest.skipped] if found else []
        except (TypeError, ValueError) as error:
            raise AvrtError(f"not a part's manifest: {error}", where=path, remedy="make the part again") from None
        if found is None:
            return None
        inside = all(found.first <= number < found.first + found.items for number in skipped)
        if not inside or manifest.samples + len(skipped) != found.items:
            what = f"has {manifest.samples} samples and {len(skipped)} left out of {found.items} questions"
            raise AvrtError(what, where=path, remedy="make the part again")
        return cls(folder, found, manifest, str(json.loads(path.read_bytes())["avrt"]))

    @property
    def settings(self) -> dict[str, Any]:
        """What has to be the same for all parts."""
        recipe = {name: value for name, value in self.manifest.recipe.items() if name != SLICE}
        shared = {"parts": self.slice.of, "samples_per_shard": self.slice.samples_per_shard, "avrt": self.version}
        spec = {f"spec.{name}": value for name, value in self.manifest.spec.items()}
        return {**{f"recipe.{name}": value for name, value in recipe.items()}, **spec, **shared}

    def events(self, first: int) -> Iterator[_Members | _Skipped]:
        """What became of each question, in order, from the part's question number `first` on."""
        skipped = {}
        for text, reason in self.manifest.skipped.items():
            name, number = name_and_number(text)
            skipped[number] = _Skipped(name, reason)
        start = self.slice.first
        before = sum(number < start + first for number in skipped)
        samples = self._samples(first - before)
        for number in range(start + first, start + self.slice.items):
            yield skipped[number] if number in skipped else next(samples)

    def _samples(self, first: int) -> Iterator[_Members]:
        """The samples from number `first` on, whose shards are checked before they are read."""
        for entry in self.manifest.shards:
            if first >= int(entry["samples"]):
                first -= int(entry["samples"])
                continue
            tar = self.folder / safe_name(entry["file"], self.folder / MANIFEST)
            if not tar.is_file() or tar.stat().st_size != entry["bytes"] or sha256(tar) != entry["sha256"]:
                what = "is missing or is not the file that the manifest describes"
                raise AvrtError(what, where=tar, remedy="copy or make the part again")
            with tar.open("rb") as file:
                for _, places in load_index(tar)[first:]:
                    yield {name: read_bytes(file, at, size) for name, (at, size) in places.items()}
            first = 0


def find_parts(folder: Path) -> list[Part]:
    """The parts in a folder, in order: all of one conversion, each once.

    Raises:
        AvrtError: If there are none, or one is missing, unfinished, there twice, or made with other settings.
    """
    inside = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    unfinished = [path for path in inside if (path / JOURNAL).is_file() and not (path / MANIFEST).is_file()]
    if unfinished:
        raise AvrtError("is an unfinished part", where=unfinished[0], remedy="finish it with --resume")
    found = [part for path in inside if (path / MANIFEST).is_file() and (part := Part.load(path)) is not None]
    if not found:
        remedy = "make them with: avrt shards RECIPE --part i/n --out DIR"
        raise AvrtError("holds no parts of shards", where=folder, remedy=remedy)
    parts = sorted(found, key=lambda part: part.slice.part)
    _check_settings(parts)
    if parts[0].version != avrt.__version__:
        what = f"was made by avrt {parts[0].version}, this is {avrt.__version__}"
        remedy = "merge with the version that made the parts, since one run writes everything with one version"
        raise AvrtError(what, where=parts[0].folder, remedy=remedy)
    numbers, of = [part.slice.part for part in parts], parts[0].slice.of
    for part, other in pairwise(parts):
        if part.slice.part == other.slice.part:
            what = f"part {part.slice.part} of {of} is there twice, also in {other.folder.name}"
            raise AvrtError(what, where=part.folder, remedy="move one of them away")
    if missing := [number for number in range(1, of + 1) if number not in numbers]:
        shown = ", ".join(map(str, missing[:10])) + (", ..." if missing[10:] else "")
        remedy = f"make it with --part {missing[0]}/{of}"
        raise AvrtError(f"has {len(parts)} of {of} parts, without {shown}", where=folder, remedy=remedy)
    for part, other in pairwise(parts):
        if part.slice.first + part.slice.items != other.slice.first:
            what = f"does not begin where {part.folder.name} ends: they were cut from other numbers of questions"
            raise AvrtError(what, where=other.folder, remedy="make both again from the same data set")
    return parts


def _check_settings(parts: list[Part]) -> None:
    first = parts[0].settings
    for part in parts[1:]:
        own = part.settings
        for name in (*first, *own):
            if own.get(name) != first.get(name):
                what = f"was made with {name} {own.get(name)}, {parts[0].folder.name} with {first.get(name)}"
                raise AvrtError(what, where=part.folder, remedy="make it again with the same settings")


def merge_parts(
    parts: list[Part], out: Path, *, resume: bool = False, progress: Callable[[int], None] | None = None
) -> Manifest:
    """Write the shards, indexes and the manifest that one run over all questions writes.

    Args:
        parts: All parts, from `find_parts`.
        out: Folder of the shards.
        resume: Continue an earlier merge that was stopped.
        progress: Called with the number of questions that are done.

    Raises:
        AvrtError: If the folder holds shards, or a part's shard is not what its manifest says.
    """
    recipe = {name: value for name, value in parts[0].manifest.recipe.items() if name != SLICE}
    spec = json.loads((parts[0].folder / MANIFEST).read_bytes())["spec"]
    with ShardWriter(out, spec, recipe, parts[0].slice.samples_per_shard, resume=resume) as writer:
        for part in parts:
            done = writer.consumed - part.slice.first  # by the merge that is resumed
            for event in part.events(done) if done < part.slice.items else ():
                _write(writer, event, part.manifest.notes)
                if progress is not None:
                    progress(writer.consumed)
    return writer.manifest


def _write(writer: ShardWriter, event: _Members | _Skipped, notes: Mapping[str, list[str]]) -> None:
    if isinstance(event, _Skipped):
        writer.skip(event.name, event.reason)
        return
    sample = Sample.from_json(event["json"])
    try:
        members = {name: data for name, data in event.items() if name != "json"}
        writer.write(sample, members, notes.get(sample.id, ()))
    except BadSampleError as error:  # an earlier part has the same id
        writer.skip(sample.id, str(error))
