"""What tests of recipes share: files below a root, and what a recipe makes of them."""

import json
from dataclasses import replace

from avrt.commands.recipe_names import recipes
from avrt.data.media.clip import FrameBudget
from avrt.data.shards.conversion import SourceItem, write_shards
from avrt.data.shards.reader import ShardSet
from avrt.errors import BadSampleError


def put(root, name, data):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())


def convert(recipe, root):
    """Shards with the recipe's own sound, and two small frames."""
    kind = recipes()[recipe]
    spec = replace(kind.clip, frames=2, fps=None, budget=FrameBudget(3136, 3136))
    write_shards(kind().items(root), root / "out", spec)
    return ShardSet(root / "out")


def parts(items):
    items = list(items)
    good = [i for i in items if isinstance(i, SourceItem)]
    return good, [str(i) for i in items if isinstance(i, BadSampleError)]
