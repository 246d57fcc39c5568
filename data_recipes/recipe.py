"""The base of all recipes: options, what is taken from each clip, and the questions below a root folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from avrt.data.media.clip_spec import ClipSpec
from avrt.data.shards.source import SourceItem
from avrt.data_recipes.annotation_tables import read_rows
from avrt.data_recipes.annotations import Row, items
from avrt.data_recipes.media_paths import check_media_root
from avrt.errors import BadSampleError


@dataclass(frozen=True)
class Meaning:
    """What a column of a file of questions was taken for.

    Attributes:
        column: Its name, or the names of several.
        taken_as: The field of a question; `metadata` if it is only kept.
        value: What the first row has there.
    """

    column: str
    taken_as: str
    value: str


@dataclass
class Recipe:
    """Base of all recipes: a dataclass whose fields are the recipe's options on the command line.

    Attributes:
        clip: What is taken from each clip by default; each field has an option on the command line.
    """

    clip: ClassVar[ClipSpec] = ClipSpec()

    def annotations(self, root: Path) -> tuple[Path, ...]:
        """The annotation files; their checksums are recorded in the manifest."""
        return ()

    def items(self, root: Path) -> Iterator[SourceItem | BadSampleError]:
        """Every question with its media files, in a fixed order.

        Args:
            root: The dataset's folder.

        Returns:
            Items, and in place of each question that cannot be used an error that names it.

        Raises:
            AvrtError: If the folder does not have the dataset's layout.
        """
        raise NotImplementedError

    def meanings(self, root: Path) -> list[Meaning]:
        """What each column of the questions was taken for; empty if the data set's own layout decides it."""
        return []

    def first(self, root: Path) -> SourceItem | BadSampleError | None:
        """The first question, or why it cannot be used; None if there are no questions."""
        return next(iter(self.items(root)), None)


@dataclass
class FileRecipe(Recipe):
    """Base of recipes that read media files which annotations name.

    Attributes:
        media_root: A further folder that media may be in: paths are looked up there too, and links that lead into it
            are followed.
    """

    media_root: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Refuse a folder that is not there."""
        check_media_root(self.media_root)


@dataclass
class TableRecipe(FileRecipe):
    """Base of recipes whose annotation files hold a row for each question.

    Attributes:
        name: Rows without an id of their own are named by it and their number.
        by: The field that names a row's clip.
    """

    name: ClassVar[str] = ""
    by: ClassVar[str] = ""

    @property
    def prefix(self) -> str:
        """The names of all rows begin with it."""
        return self.name

    def rows(self, root: Path) -> list[Any]:
        """All rows of the annotation files, and in place of each unreadable row an error."""
        return [row for path in self.annotations(root) for row in read_rows(path)]

    def convert(self, root: Path, name: str, row: Row) -> SourceItem:
        """Make a question of a row; the errors that rows of another shape cause are caught.

        Args:
            root: The dataset's folder.
            name: The row's name.
            row: The row.
        """
        raise NotImplementedError

    def items(self, root: Path) -> Iterator[SourceItem | BadSampleError]:
        """Every row as a question or an error."""
        yield from items(self.rows(root), self.prefix, partial(self.convert, root), self.by)


@dataclass
class OneFileRecipe(TableRecipe):
    """Base of recipes whose questions are in one file.

    Attributes:
        annotation: The annotation file, below the root.
    """

    annotation: str = ""

    def annotations(self, root: Path) -> tuple[Path, ...]:
        """The one annotation file."""
        return (root / self.annotation,)
