"""A model's reply in pieces to read: its reasoning, its answer, and what is neither."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PIECE = re.compile(r"<(?P<tag>think|answer)>(?P<text>.*?)(?:</(?P=tag)>|\Z)", re.DOTALL)
_KINDS = {"think": ("reasoning", "Reasoning"), "answer": ("final", "Answer")}


@dataclass(frozen=True)
class Piece:
    """A piece of a reply.

    Attributes:
        kind: `reasoning`, `final` (the answer) or `other`.
        label: What stands above it.
        text: Its text, without tags.
    """

    kind: str
    label: str
    text: str


def pieces(text: str) -> list[Piece]:
    """All of a reply: what is in the tags `think` and `answer`, and what is around them, in the reply's order.

    A tag without an end holds the rest of the text, as where a reply was cut off.
    """
    found: list[Piece] = []

    def other(rest: str) -> None:
        if rest.strip():
            found.append(Piece("other", "Outside of the tags" if _PIECE.search(text) else "Reply", rest.strip()))

    end = 0
    for match in _PIECE.finditer(text):
        other(text[end : match.start()])
        kind, label = _KINDS[match["tag"]]
        found.append(Piece(kind, label, match["text"].strip()))
        end = match.end()
    other(text[end:])
    return found or [Piece("other", "Reply", "(empty)")]
