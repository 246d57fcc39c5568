"""`avrt shards to_parquet | from_parquet`: shards as one Parquet file, and shards made of one."""

from __future__ import annotations

from pathlib import Path

from avrt.arguments import OneLineErrors
from avrt.commands.shard_reports import quoted
from avrt.messages import print_results, printable


def to_parquet(arguments: list[str]) -> None:
    """Write shards as one Parquet file, one row a sample, which datasets, pandas and polars read."""
    parser = OneLineErrors(prog="avrt shards to_parquet", description=to_parquet.__doc__)
    parser.add_argument("folder", type=str, help="a folder or address of shards")
    parser.add_argument("--out", type=str, required=True, help="the file, such as shards.parquet")
    options = parser.parse_args(arguments)

    from avrt.data.shards import parquet

    count = parquet.to_parquet(options.folder, Path(options.out))
    print_results(f"{count} rows", options.out, f"avrt shards from_parquet {quoted(options.out)} --out DIR")


def from_parquet(arguments: list[str]) -> None:
    """Make shards of a Parquet file: one that to_parquet wrote, or one with question, choices, answer and media."""
    parser = OneLineErrors(prog="avrt shards from_parquet", description=from_parquet.__doc__)
    parser.add_argument("file", type=str, help="a Parquet file")
    parser.add_argument("--out", type=str, required=True, help="folder of the new shards")
    parser.add_argument("--root", type=str | None, default=None, help="the folder that media paths are relative to")
    options = parser.parse_args(arguments)

    from avrt.data.shards import parquet

    rows, made_from = parquet.read_parquet(Path(options.file))
    root = None if options.root is None else Path(options.root)
    manifest = parquet.from_rows(rows, Path(options.out), root=root, made_from=made_from)
    for name, why in list(manifest.skipped.items())[:5]:
        print(printable(f"left out: {name}: {why}"))
    what = f"{manifest.samples} samples ({manifest.media}), {len(manifest.skipped)} left out"
    print_results(what, options.out, f"avrt shards verify {quoted(options.out)}")
