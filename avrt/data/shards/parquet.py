"""Shards as a Parquet file or a `datasets.Dataset`, one row a sample, and back again without any loss.

The columns of a row: what a `Sample` holds, and what the clip is made of in the bytes of the shard: `frames` (JPEG),
`image` (JPEG), `audio` (FLAC) and `clip` (JSON with the times of the frames). Recipe and spec go along in the
file's metadata. In a file of others a row may instead have media files, `video`, `image` or `audio`, by path or bytes.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avrt.data.media.clip import ClipSpec
from avrt.data.sample import LETTERS, Modality, Sample
from avrt.data.shards.conversion import load_clip
from avrt.data.shards.manifest import Manifest
from avrt.data.shards.members import clip_media, decode_clip, encode_clip
from avrt.data.shards.reader import ShardSet
from avrt.data.shards.writer import ShardWriter
from avrt.errors import AvrtError, BadSampleError, NothingUsableError
from avrt.files import open_whole
from avrt.messages import short

if TYPE_CHECKING:
    import datasets

Row = Mapping[str, Any]
MADE_FROM = b"avrt_manifest"
ROWS_AT_ONCE = 64
SAMPLE = ("id", "question", "choices", "answer", "trace", "relation", "question_type", "several")
"""The columns that hold a sample's own fields; `record` holds all of it as JSON, and these win over it."""
EMPTY = ("answer", "trace", "relation", "question_type")
"""Those that may be empty; one that is, where there is a `record`, was emptied."""


def rows_of(shards: ShardSet) -> Iterator[dict[str, Any]]:
    """The rows of a shard set, in its order."""
    for index in range(len(shards)):
        raw = shards.read(index)
        sample = Sample.from_json(raw["json"])
        count = sum(name.removesuffix(".jpg").isdigit() for name in raw)
        fields = {name: getattr(sample, name) for name in SAMPLE}
        yield {
            **fields,
            "choices": list(sample.choices),
            "answer": sample.answer_letter,
            "relation": None if sample.relation is None else str(sample.relation),
            "frames": [raw[f"{i}.jpg"] for i in range(count)],
            "image": raw.get("image.jpg"),
            "audio": raw.get("flac"),
            "clip": raw["clip.json"].decode(),
            "record": raw["json"].decode(),
        }


def to_parquet(folder: str | Path, path: Path) -> int:
    """Write shards as one Parquet file, which appears under its name when it is complete.

    Args:
        folder: The shards.
        path: The file.

    Returns:
        The number of rows.

    Raises:
        AvrtError: If the folder holds no shards, or pyarrow is not installed.
    """
    pyarrow, parquet = _pyarrow()
    shards = ShardSet(folder)
    manifest = shards.manifest
    kept = json.dumps({"recipe": manifest.recipe, "spec": manifest.spec}).encode()
    schema = _schema(pyarrow).with_metadata({MADE_FROM: kept})
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_whole(path) as stream, parquet.ParquetWriter(stream, schema) as writer:
        waiting: list[dict[str, Any]] = []
        for row in rows_of(shards):
            waiting.append(row)
            if len(waiting) == ROWS_AT_ONCE:
                writer.write_table(pyarrow.Table.from_pylist(waiting, schema=schema))
                waiting = []
        writer.write_table(pyarrow.Table.from_pylist(waiting, schema=schema))
    return len(shards)


def to_dataset(folder: str | Path) -> datasets.Dataset:
    """Shards as a data set of the library `datasets`.

    Raises:
        AvrtError: If the folder holds no shards, or the library is not installed.
    """
    try:
        import datasets
    except ImportError:
        raise AvrtError("needs the package datasets", where="to_dataset", remedy="pip install 'avrt[hub]'") from None
    pyarrow, _ = _pyarrow()
    shards = ShardSet(folder)
    features = datasets.Features.from_arrow_schema(_schema(pyarrow))
    return datasets.Dataset.from_list(list(rows_of(shards)), features=features)


def read_parquet(path: Path) -> tuple[Iterator[dict[str, Any]], dict[str, Any]]:
    """The rows of a Parquet file, read a few at a time, and what it was made from; empty for a file of others.

    Raises:
        AvrtError: If it is no Parquet file, or pyarrow is not installed.
    """
    pyarrow, parquet = _pyarrow()
    try:
        file = parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise AvrtError(f"is no Parquet file: {str(error).splitlines()[0]}", where=path) from None
    made = json.loads((file.schema_arrow.metadata or {}).get(MADE_FROM, b"{}"))
    return (row for batch in file.iter_batches(ROWS_AT_ONCE) for row in batch.to_pylist()), made


def from_rows(
    rows: Iterable[Row],
    folder: Path,
    *,
    spec: ClipSpec | None = None,
    root: Path | None = None,
    made_from: Mapping[str, Any] | None = None,
    samples_per_shard: int = 256,
) -> Manifest:
    """Make shards of rows: of a Parquet file, of a `datasets.Dataset`, or any mappings.

    A row needs `question` and `choices`, and may have `id`, `answer` (letter or index), `trace`, `relation`,
    `question_type` and `several`. Its clip is given by the columns of `to_parquet`, or by paths or bytes of media files
    in `video`, `image` and `audio`. What cannot be used is named in the manifest.

    Args:
        rows: The rows.
        folder: Folder of the new shards.
        spec: What is taken from media files; by default 8 frames and 10 s of sound.
        root: The folder that paths are relative to, and that none may leave; paths are refused without it.
        made_from: Recipe and spec of the shards that the rows were made from.
        samples_per_shard: Size of a shard.

    Raises:
        AvrtError: If the folder holds shards.
        NothingUsableError: If no row can be used.
    """
    taken = spec or ClipSpec()
    made = made_from or {}
    with ShardWriter(folder, made.get("spec", asdict(taken)), made.get("recipe"), samples_per_shard) as writer:
        for number, row in enumerate(rows):
            name = str(row.get("id") or f"row-{number:06d}")
            try:
                sample, members = _sample_of(row, name, taken, root)
                writer.write(sample, members)
            except BadSampleError as error:
                writer.skip(name, str(error))
        if not writer.manifest.counts and writer.manifest.skipped:
            name, why = next(iter(writer.manifest.skipped.items()))
            raise NothingUsableError(f"no row can be used; {name}: {why}", where=folder)
    return writer.manifest


def _sample_of(row: Row, name: str, spec: ClipSpec, root: Path | None) -> tuple[Sample, dict[str, bytes]]:
    """A row's sample with the members of its clip.

    Raises:
        BadSampleError: If it cannot be used; the message names the column.
    """
    given = {column: row[column] for column in SAMPLE if row.get(column) is not None}
    if "answer" in given:
        given["answer"] = _answer(given["answer"], bool(row.get("several")))
    if "choices" in given and isinstance(given["choices"], (list, tuple)):
        given["choices"] = tuple(given["choices"])
    if row.get("record") is not None:
        emptied = dict.fromkeys(column for column in EMPTY if column in row and row[column] is None)
        sample = replace(Sample.from_json(row["record"]), **{**emptied, **given})  # whoever changed a column means it
    else:
        sample = Sample(**{"question": None, "choices": None, "answer": None, **given, "id": name})
    if row.get("clip") is not None:
        members = {f"{i}.jpg": _bytes(frame, "frames") for i, frame in enumerate(row.get("frames") or ())}
        named = {"image": "image.jpg", "audio": "flac"}
        members |= {m: _bytes(row[column], column) for column, m in named.items() if row.get(column) is not None}
        members["clip.json"] = str(row["clip"]).encode()
        media = [m for m, there in zip(Modality, ("0.jpg", "image.jpg", "flac"), strict=True) if there in members]
        try:
            decode_clip(members, media)
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise BadSampleError(f"has a damaged clip: {error!r}") from None
        return replace(sample, media=tuple(media)), members
    with tempfile.TemporaryDirectory(prefix="avrt-rows-") as folder:
        clip = load_clip(_files(row, root, Path(folder)), spec)
    return replace(sample, media=clip_media(clip)), encode_clip(clip)


def _bytes(value: Any, column: str) -> bytes:
    """The bytes of a cell: bytes, or what `datasets` makes of a picture or sound, a mapping with `bytes`."""
    found = value.get("bytes") if isinstance(value, Mapping) else value
    if not isinstance(found, (bytes, bytearray)):
        raise BadSampleError(f"column '{column}' is {short(value)}, needs the bytes of a file")
    return bytes(found)


def _answer(given: Any, several: bool) -> Any:
    """A letter, several letters as in `A,C`, or what is no text as it is."""
    if not isinstance(given, str):
        return given
    letters = [part.strip() for part in given.split(",")]
    if not all(len(letter) == 1 and letter in LETTERS for letter in letters) or (len(letters) > 1 and not several):
        raise BadSampleError(f"column 'answer' is {short(given)}, needs a letter such as B, or an index")
    indexes = tuple(map(LETTERS.index, letters))
    return indexes if several else indexes[0]


def _files(row: Row, root: Path | None, folder: Path) -> dict[Modality, Path]:
    """The media files that a row names, or holds: their bytes are written into `folder`.

    Raises:
        BadSampleError: If there are none, or one lies outside of the root.
    """
    found: dict[Modality, Path] = {}
    for modality in Modality:
        column = str(modality)
        given = row.get(column)
        if given is None:
            continue
        if isinstance(given, (bytes, bytearray)) or (isinstance(given, Mapping) and given.get("bytes") is not None):
            path = folder / column  # the decoders look at the content, not at the name
            path.write_bytes(_bytes(given, column))
        else:
            path = _inside(given.get("path") if isinstance(given, Mapping) else given, column, root)
        found[modality] = path
    if not found:
        raise BadSampleError("has no clip: none of the columns video, image, audio, clip")
    return found


def _inside(given: Any, column: str, root: Path | None) -> Path:
    if not isinstance(given, str):
        raise BadSampleError(f"column '{column}' is {short(given)}, needs the path or the bytes of a file")
    if root is None:
        raise BadSampleError(f"column '{column}' names a file", remedy="name the folder of the files by --root")
    try:
        path = (root / given).resolve()
    except (ValueError, OSError):  # a zero byte, links in a circle
        raise BadSampleError(f"column '{column}' is no path: {short(given)}") from None
    if not path.is_relative_to(root.resolve()):
        raise BadSampleError(f"column '{column}' leaves {root}: {short(given)}")
    return path


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise AvrtError("Parquet needs the package pyarrow", remedy="pip install 'avrt[hub]'") from None
    return pyarrow, pyarrow.parquet


def _schema(pyarrow: Any) -> Any:
    text, data = pyarrow.string(), pyarrow.binary()
    kinds = {"choices": pyarrow.list_(text), "several": pyarrow.bool_()}
    media = {"frames": pyarrow.list_(data), "image": data, "audio": data, "clip": text, "record": text}
    return pyarrow.schema([*((name, kinds.get(name, text)) for name in SAMPLE), *media.items()])
