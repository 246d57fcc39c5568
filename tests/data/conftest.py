"""Shards to be served."""

import pytest

from avrt.data.sample import Sample
from avrt.data.shards.reader import ShardSet
from avrt.data.shards.writer import ShardWriter


@pytest.fixture(scope="module")
def stored(world, tmp_path_factory):
    """The training shards in small tars, to be served."""
    source, folder = ShardSet(world / "train"), tmp_path_factory.mktemp("stored") / "shards"
    with ShardWriter(folder, source.manifest.spec, samples_per_shard=6) as writer:
        for i in range(len(source)):
            raw = source.read(i)
            members = {name: data for name, data in raw.items() if not name.startswith("__") and name != "json"}
            writer.write(Sample.from_json(raw["json"]), members)
    return folder
