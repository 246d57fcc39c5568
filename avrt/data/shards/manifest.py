"""The manifest of a shard folder: what its shards hold, how they were made, which samples were left out and why."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import avrt
from avrt.data.media.student_frames import student_of
from avrt.data.sample import Sample
from avrt.errors import AvrtError
from avrt.files import write_whole
from avrt.text import to_json

MANIFEST = "manifest.json"
JOURNAL = "progress.jsonl"
FORMAT_VERSION = 2
UNTYPED = "other"
AUDIO_CUT = "audio cut"
"""A note on a clip that has more sound than was taken begins so."""
_OLD_PATCH_SIZE = 28


@dataclass
class Manifest:
    """What a folder of shards holds and how it was made.

    Attributes:
        recipe: Name of the recipe and its arguments.
        spec: The `ClipSpec` as a dictionary; fields that an older manifest lacks get the values that held then.
        shards: For each tar its file name, number of samples, bytes and sha256.
        counts: How many samples carry each modality.
        labels: How many samples have an `answer`, and how many a `trace`; empty in older manifests.
        question_types: Samples of each question type.
        skipped: Name of a row, sample or file -> why it was left out. A repeated name gets a number, so that every row
            that was left out has an entry.
        notes: Sample id -> what was repaired.
    """

    recipe: dict[str, Any] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)
    shards: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    question_types: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """Number of samples over all shards."""
        return sum(int(shard["samples"]) for shard in self.shards)

    @property
    def audio_cut(self) -> int:
        """How many samples have more sound than was taken."""
        return sum(any(note.startswith(AUDIO_CUT) for note in notes) for notes in self.notes.values())

    @property
    def media(self) -> str:
        """How many samples carry each modality, in words."""
        return ", ".join(f"{count} with {name}" for name, count in sorted(self.counts.items())) or "none with media"

    def add(self, sample: Sample) -> None:
        """Count a sample's modalities, labels and question type."""
        names = [str(modality) for modality in sample.media]
        for counts, keys in ((self.counts, names), (self.question_types, [sample.question_type or UNTYPED])):
            for key in keys:
                counts[key] = counts.get(key, 0) + 1
        self.add_labels(sample)

    def add_labels(self, sample: Sample) -> None:
        """Count a sample's answer and trace."""
        for label, value in (("answer", sample.answer), ("trace", sample.trace)):
            self.labels[label] = self.labels.get(label, 0) + (value is not None)

    def save(self, folder: Path) -> None:
        """Write `manifest.json` into `folder`."""
        totals = {"samples": self.samples, "audio_cut": self.audio_cut}
        record = {"format": FORMAT_VERSION, "avrt": avrt.__version__, **totals, **asdict(self)}
        write_whole(folder / MANIFEST, to_json(record, indent=1).encode())

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read the manifest of a shard folder.

        Raises:
            AvrtError: If there is none, or it cannot be read.
        """
        cls.check_folder(folder)
        path = folder / MANIFEST
        return cls.parse(path.read_bytes(), path)

    @staticmethod
    def check_folder(folder: Path) -> None:
        """See that a folder has a manifest.

        Raises:
            AvrtError: If it has none.
        """
        if not (folder / MANIFEST).is_file():
            unfinished = (folder / JOURNAL).exists()
            remedy = "finish them with --resume" if unfinished else "make them with: avrt shards RECIPE --out DIR"
            raise AvrtError("unfinished shards" if unfinished else "no shards here", where=folder, remedy=remedy)

    @classmethod
    def parse(cls, data: bytes, where: object) -> Manifest:
        """Read a manifest's bytes.

        Raises:
            AvrtError: If they are not a manifest of this format.
        """
        try:
            record = json.loads(data)
            version = record["format"]
            fields = {
                name: record.get(name, {}) if name == "labels" else record[name] for name in cls.__dataclass_fields__
            }
            manifest = cls(**{**fields, "spec": _completed(fields["spec"])})
            if not all(
                int(s["samples"]) > 0 and int(s["bytes"]) > 0 and s["file"] and s["sha256"] for s in manifest.shards
            ):
                raise ValueError("field 'shards' has an entry without samples, bytes, file or sha256")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise AvrtError(f"not a shard manifest: {error!r}", where=where, remedy="make the shards again") from None
        if version != FORMAT_VERSION:
            raise AvrtError(
                f"shard format {version}, this avrt reads {FORMAT_VERSION}", where=where, remedy="make the shards again"
            )
        return manifest


def _completed(spec: dict[str, Any]) -> dict[str, Any]:
    """A spec with the fields that earlier versions lack: they resized stills like frames, and had no frame rate."""
    if "budget" not in spec:
        return spec
    before = {"fps": None, "max_frames": 768, "total_pixels": None, "teacher_budget": None}
    return {**before, "still_budget": spec["budget"], "patch_size": _OLD_PATCH_SIZE, **spec}


def check_patch_size(manifest: Manifest, wanted: int, where: object = "the shards") -> None:
    """Refuse shards whose pictures were resized for another model family.

    Args:
        manifest: The manifest of the shards.
        wanted: The side in pixels of one token of a picture in the model that reads them.
        where: The folder of the shards, for the message.

    Raises:
        AvrtError: If the shards have another patch size.
    """
    made = manifest.spec.get("patch_size", _OLD_PATCH_SIZE)
    if made != wanted:
        name = student_of(wanted)
        raise AvrtError(
            f"pictures are resized for a patch size of {made} pixels, the model needs {wanted}",
            where=where,
            remedy=f"make the shards again with --patch_size {wanted}"
            + (f", as --student {name} does" if name else ""),
        )
