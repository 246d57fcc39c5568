"""What a recipe finds: a question and the files that it is about. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from avrt.data.sample import Modality, Sample


@dataclass(frozen=True)
class SourceItem:
    """A question and its media files, as a recipe finds them.

    Attributes:
        sample: The question; its `media` is filled in after decoding.
        files: The file of each modality. The sound of a video needs no entry.
        notes: What was repaired in its row.
    """

    sample: Sample
    files: Mapping[Modality, Path]
    notes: tuple[str, ...] = ()
