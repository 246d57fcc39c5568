"""What a recipe is: options, what is taken from its clips, and the questions that it finds below a root folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from avrt.data.media.clip import ClipSpec
from avrt.data.shards.conversion import SourceItem
from avrt.errors import BadSampleError


@dataclass
class Recipe:
    """Base of all recipes: a dataclass whose fields are the recipe's options on the command line.

    Attributes:
        clip: What the recipe suggests to take from each clip; the command line overrides it field by field.
    """

    clip: ClassVar[ClipSpec] = ClipSpec()

    def annotations(self, root: Path) -> tuple[Path, ...]:
        """The files that tell the questions; their checksums are recorded with the shards."""
        return ()

    def items(self, root: Path) -> Iterator[SourceItem | BadSampleError]:
        """Every question with its media files, in a fixed order.

        Args:
            root: The dataset's folder.

        Returns:
            Items; an error in place of each question that cannot be used, naming it.

        Raises:
            AvrtError: If the folder does not have the dataset's layout.
        """
        raise NotImplementedError


@dataclass
class OneFileRecipe(Recipe):
    """Base of recipes whose questions stand in one file.

    Attributes:
        annotation: The annotation file, below the root.
    """

    annotation: str = ""

    def annotations(self, root: Path) -> tuple[Path, ...]:
        """See `Recipe.annotations`."""
        return (root / self.annotation,)
