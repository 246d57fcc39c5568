"""What a decoder layer keeps of the tokens before: its keys and values, and how far back they are read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerCache:
    """The key-value cache of one layer.

    Attributes:
        heads: Key-value heads.
        width: Of each.
        window: How many tokens a token sees, itself included (sliding-window attention, as in Mistral, arXiv
            2310.06825); None for all before it.
    """

    heads: int
    width: int
    window: int | None = None
