"""Reading annotation files as rows: JSON, JSON lines, Parquet, CSV. A bad row costs only itself."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from avrt.data_recipes.options import unrepeated
from avrt.errors import AvrtError, BadSampleError

JSON_LINES = (".jsonl", ".ndjson")
TABLES = (".csv", ".tsv")
_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def read_rows(path: Path) -> list[Any]:
    """The rows of a file of JSON lines, Parquet, CSV or TSV, by its suffix, or else of a JSON list.

    Returns:
        Rows, and an error in place of each row that cannot be read.

    Raises:
        AvrtError: If the file is missing, or no row can be read.
    """
    if not path.is_file():
        raise AvrtError("no such file", where=path, remedy=f"set --root to the folder with {path.name}")
    if path.suffix.lower() == ".parquet":
        return _parquet(path)
    data = path.read_bytes()
    if data[:2] in _MARKS or b"\0" in data[:64]:
        raise AvrtError("is UTF-16, or not a text file", where=path, remedy="save it as UTF-8")
    data = data.removeprefix(b"\xef\xbb\xbf")
    if path.suffix.lower() in JSON_LINES:
        return _json_lines(data, path)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise AvrtError(f"line {line} is not UTF-8", where=path, remedy="save it as UTF-8") from None
    if path.suffix.lower() in TABLES:
        return _table(text, path)
    try:
        rows = json.loads(text, object_pairs_hook=unrepeated)
    except (ValueError, RecursionError) as error:
        raise AvrtError(
            f"not JSON: {error}", where=path, remedy="if each line is a row, name the file .jsonl"
        ) from None
    if not isinstance(rows, list):
        raise AvrtError("is not a list of questions", where=path, remedy="write the rows as one JSON list")
    return rows


def read_object(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None if the file holds anything else, which `read_rows` reports."""
    try:
        found = json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=unrepeated)
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _json_lines(data: bytes, path: Path) -> list[Any]:
    """Rows of JSON lines, and an error in place of each bad line."""
    rows: list[Any] = []
    good = 0
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line.decode(), object_pairs_hook=unrepeated))
            good += 1
        except UnicodeDecodeError:
            rows.append(BadSampleError(f"line {number} is not UTF-8", remedy="save the file as UTF-8"))
        except (ValueError, RecursionError) as error:
            rows.append(BadSampleError(f"line {number} is not JSON: {error}"))
    if rows and not good:
        raise AvrtError(f"not JSON lines: {rows[0].what}", where=path, remedy="write one row on each line")
    if len(rows) == 1 and isinstance(rows[0], list):
        return rows[0]  # a JSON list on one line
    return rows


def _table(text: str, path: Path) -> list[Any]:
    """Rows of a table with a header; empty cells are null, the header's most frequent delimiter is used."""
    header = text.partition("\n")[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header.count)
    try:
        return list(
            _cells(csv.DictReader(io.StringIO(text.replace("\0", "\N{REPLACEMENT CHARACTER}")), delimiter=delimiter))
        )
    except csv.Error as error:
        raise AvrtError(f"not a table: {error}", where=path) from None


def _cells(reader: csv.DictReader[str]) -> Iterator[Any]:
    names = reader.fieldnames or []
    if len(set(names)) != len(names):
        raise csv.Error("two columns have the same name")
    for row in reader:
        if None in row:
            yield BadSampleError(f"line {reader.line_num} has more cells than the header")
        else:
            yield {name.strip(): value if value and value.strip() else None for name, value in row.items()}


def _parquet(path: Path) -> list[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise AvrtError("Parquet needs the package pyarrow", where=path, remedy="pip install 'avrt[traces]'") from None
    try:
        return list(pyarrow.parquet.read_table(path).to_pylist())
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise AvrtError(f"not a Parquet table: {str(error)[:200]}", where=path) from None
