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
from avrt.messages import short

JSON_LINES = (".jsonl", ".ndjson")
TABLES = (".csv", ".tsv")
_NAMED = {".json": "a JSON list", ".jsonl": "JSON lines", ".csv": "CSV", ".tsv": "a table with tabs"}
_BINARY = {
    b"PAR1": ("a Parquet table", "name the file .parquet"),
    b"PK\x03\x04": ("an Excel workbook or a zip", "save it as CSV (UTF-8)"),
    b"\x1f\x8b": ("compressed", "unpack it"),
}
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
    if kind := next((kind for magic, kind in _BINARY.items() if data.startswith(magic)), None):
        raise AvrtError(f"is {kind[0]}, not {path.suffix[1:] or 'JSON'}", where=path, remedy=kind[1])
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
        looks = _looks_like(text)
        what = f"not JSON: {error}" if looks in (None, ".json") else f"not JSON, it looks like {_NAMED[looks]}"
        remedy = "mend that place, or if each line is a row, name the file .jsonl"
        raise AvrtError(
            what, where=path, remedy=f"name the file {looks}" if looks not in (None, ".json") else remedy
        ) from None
    if not isinstance(rows, list):
        raise AvrtError("is not a list of questions", where=path, remedy="write the rows as one JSON list")
    return rows


def _looks_like(text: str) -> str | None:
    """The suffix that fits a text: a JSON list, JSON lines, or a table with a header; None if none does."""
    lines = [line for line in text.lstrip().split("\n", 8)[:8] if line.strip()]
    if not lines or lines[0][0] == "[":
        return ".json" if lines else None
    if lines[0][0] == "{":
        return ".jsonl" if lines[0].rstrip().endswith("}") else ".json"
    return ".tsv" if "\t" in lines[0] else ".csv" if "," in lines[0] or ";" in lines[0] else None


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
    if data.lstrip().startswith(b"[") and (listed := _whole_list(data)) is not None:
        return listed
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line.decode(), object_pairs_hook=unrepeated))
            good += 1
        except UnicodeDecodeError:
            rows.append(BadSampleError(f"line {number} is not UTF-8", remedy="save the file as UTF-8"))
        except (ValueError, RecursionError) as error:
            rows.append(BadSampleError(f"line {number} is not JSON: {error}", remedy="mend or remove it"))
    if rows and not good:
        looks = _looks_like(data.decode(errors="replace"))
        if looks in TABLES:
            raise AvrtError(f"not JSON lines, it looks like {_NAMED[looks]}", where=path, remedy=f"name it {looks}")
        raise AvrtError(f"not JSON lines: {rows[0].what}", where=path, remedy="write one row on each line")
    return rows


def _whole_list(data: bytes) -> list[Any] | None:
    """A JSON list, on one line or on many, in a file that is named as JSON lines."""
    try:
        found = json.loads(data.decode(), object_pairs_hook=unrepeated)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) else None


def _table(text: str, path: Path) -> list[Any]:
    """Rows of a table with a header; empty cells are null, the header's most frequent delimiter is used."""
    header = text.partition("\n")[0]
    if (looks := _looks_like(text)) in (".json", ".jsonl"):
        raise AvrtError(f"not a table, it looks like {_NAMED[looks]}", where=path, remedy=f"name the file {looks}")
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header.count)
    try:
        return list(
            _cells(csv.DictReader(io.StringIO(text.replace("\0", "\N{REPLACEMENT CHARACTER}")), delimiter=delimiter))
        )
    except csv.Error as error:
        raise AvrtError(f"not a table: {error}", where=path, remedy="mend it in the program that wrote it") from None


def _cells(reader: csv.DictReader[str]) -> Iterator[Any]:
    names = reader.fieldnames or []
    if len(set(names)) != len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise csv.Error(f"two columns have the same name {short(repeated, 40)}")
    for row in reader:
        if None in row:
            remedy = "put quotes around texts with commas"
            yield BadSampleError(f"line {reader.line_num} has more cells than the header", remedy=remedy)
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
        raise AvrtError(
            f"not a Parquet table: {str(error)[:200]}", where=path, remedy="copy or write it again"
        ) from None
