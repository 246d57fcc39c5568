"""Clips and questions to begin with, made on the spot by the renderer of nano_world."""

from __future__ import annotations

from pathlib import Path

from avrt.data.sample import Relation
from avrt.data_recipes.nano_world import NanoWorld, render

EXAMPLES = {
    "needs both senses": Relation.BOTH,
    "needs vision": Relation.VISION,
    "needs audio": Relation.AUDIO,
}
"""What the page calls an example -> the senses that its question needs."""


def make_example(relation: Relation, folder: Path) -> tuple[str, str, str]:
    """A clip's file, a question, and its options, one per line.

    Args:
        relation: The senses that the question needs.
        folder: Where the clip is rendered, unless it is there.
    """
    for scene, name, samples in NanoWorld(split="test").questions():
        for sample in samples:
            if sample.relation == relation:
                path = folder / f"{name}.mp4"
                if not path.is_file():
                    render(scene, path)
                return str(path), sample.question, "\n".join(sample.choices)
    raise AssertionError("a hundred clips have questions of every kind")
