"""`avrt shards upload`: finished shards, of a recipe, of traces or merged, to an address."""

from __future__ import annotations

from pathlib import Path

from avrt.arguments import OneLineErrors
from avrt.data.shards.manifest import MANIFEST, Manifest
from avrt.errors import AvrtError
from avrt.messages import print_results, quoted
from avrt.remote.stores import is_remote, shown
from avrt.remote.uploads import check_target, upload_folder


def upload(arguments: list[str]) -> None:
    """Upload a folder of finished shards; its manifest comes last, so that readers find all of it or nothing."""
    parser = OneLineErrors(prog="avrt shards upload", description=upload.__doc__)
    parser.add_argument("folder", type=str, help="a folder of shards")
    parser.add_argument("address", type=str, help="where to, such as s3://bucket/shards")
    options = parser.parse_args(arguments)
    if not is_remote(options.address):
        raise AvrtError(
            "is no address", where=options.address, remedy="such as s3://bucket/shards; cp copies to folders"
        )
    folder = Path(options.folder)
    Manifest.load(folder)
    check_target(options.address, MANIFEST)
    upload_folder(folder, options.address, MANIFEST)
    print_results("shards", shown(options.address), f"avrt shards verify {quoted(shown(options.address))}")
