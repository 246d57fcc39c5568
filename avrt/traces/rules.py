"""A merger without a model: it weaves two analyses together by rule, for machines that have no language model.

It rearranges what the teachers wrote and adds next to nothing; no more than that should be expected of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from avrt.data.sample import LETTERS
from avrt.response import format_response
from avrt.traces.backend import Backend
from avrt.traces.reading import split_labelled
from avrt.traces.requests import CallFailedError, MergeMaterial, Reply, Request

# "(A) it barks." or "A: it barks.", up to the next option.
_OPTION = re.compile(
    r"(?:\(([A-Z])\)|(?<![A-Za-z])([A-Z]):)\s*(.*?)(?=\s*(?:\([A-Z]\)|(?<![A-Za-z])[A-Z]:)|\Z)", re.DOTALL
)


class RuleMerger(Backend):
    """Weave analyses option by option: all descriptions, then each option with what every teacher says of it.

    Options after the right one are left out. Where the teachers do not weigh options one by one, their reasoning
    follows as it is, and a sentence that names the choice.
    """

    @property
    def model(self) -> str:
        """See `Backend.model`."""
        return "rules-1"

    @property
    def slots(self) -> int:
        """See `Backend.slots`."""
        return 64

    async def complete(self, request: Request) -> Reply:
        """See `Backend.complete`."""
        if request.material is None:
            raise CallFailedError("the rule-based merger cannot be a teacher", where=request.role)
        return Reply(weave(request.material), finish_reason="stop")


def weave(material: MergeMaterial) -> str:
    """One trace in the target format from the teachers' analyses."""
    parts = {teacher: split_labelled(text) for teacher, text in material.analyses.items()}
    descriptions = [_sentence(description) for description, _ in parts.values() if description]
    statements = _by_option({teacher: reasoning for teacher, (_, reasoning) in parts.items()})
    right = material.answer.split(",")
    if set(right) <= set(statements):
        weighed = sorted((letter, said) for letter, said in statements.items() if letter <= right[-1])
        checks = [f"{letter}: {', '.join(said)}." for letter, said in weighed]
    else:
        checks = [_sentence(reasoning) for _, reasoning in parts.values() if reasoning]
        named = " and ".join(material.choices[LETTERS.index(letter)] for letter in right)
        checks.append(f"So {named} {'fit' if right[1:] else 'fits'} best.")
    return format_response(" ".join([*descriptions, *checks]), material.answer)


def _by_option(reasonings: Mapping[str, str]) -> dict[str, list[str]]:
    """Letter -> what each teacher says of that option."""
    found: dict[str, list[str]] = {}
    for reasoning in reasonings.values():
        for match in _OPTION.finditer(reasoning):
            said = match[3].strip().rstrip(".").strip()
            if said:
                found.setdefault(match[1] or match[2], []).append(said)
    return found


def _sentence(text: str) -> str:
    flat = " ".join(text.split())
    return flat if flat.endswith((".", "!", "?")) else f"{flat}."
