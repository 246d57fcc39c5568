"""Prompts as another engine is asked them: one placeholder for each medium, with the tokens that take its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class EngineFacts:
    """What an engine has to know of a family before it loads a model.

    Attributes:
        prefixes: What names of the decoder's parameters begin with in the released checkpoints, and in vLLM's model.
        positions: What positions in a prompt are: `whole` numbers on three axes, `fractional` ones, or simply the
            tokens' `numbers`, which no engine has to be told.
        interleaves: Whether sound can lie within a video.
    """

    prefixes: Mapping[str, str] = field(default_factory=dict)
    positions: Literal["whole", "fractional", "numbers"] = "whole"
    interleaves: bool = True


def folded(tokens: Sequence[int], media: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """A prompt with a single placeholder in the place of each medium's tokens.

    Args:
        tokens: The prompt as the student reads it.
        media: For each medium, such as `video`, the token that its features take the place of, then all others that
            belong to it where it is in the prompt, such as those of sound within a video.

    Returns:
        `token_ids`, and `placeholders`: for each medium that is there its `tokens`, from the first that belongs to it
        to the last, and the one that its `features` take the place of.
    """
    spans = []
    for medium, (features, *others) in media.items():
        if features in tokens:
            places = [place for place, token in enumerate(tokens) if token == features or token in others]
            spans.append((places[0], places[-1] + 1, medium, features))
    short: list[int] = []
    placeholders: dict[str, Any] = {}
    done = 0
    for begin, end, medium, features in sorted(spans):
        short += [*tokens[done:begin], features]
        placeholders[medium] = {"tokens": [*tokens[begin:end]], "features": features}
        done = end
    return {"token_ids": [*short, *tokens[done:]], "placeholders": placeholders}
