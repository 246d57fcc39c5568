"""A merger that rearranges the sentences of the analyses by rule, for machines without a language model."""

from __future__ import annotations

import re
from collections.abc import Mapping

from avrt.data.sample import LETTERS
from avrt.response import format_response
from avrt.traces.analysis import split_analysis
from avrt.traces.backend import Backend
from avrt.traces.requests import CallFailedError, MergeInputs, Reply, Request

# "(A) it barks." or "A: it barks.", up to the next option.
_OPTION = re.compile(
    r"(?:\(([A-Z])\)|(?<![A-Za-z])([A-Z]):)\s*(.*?)(?=\s*(?:\([A-Z]\)|(?<![A-Za-z])[A-Z]:)|\Z)", re.DOTALL
)


class RuleMerger(Backend):
    """Writes all descriptions, then each option up to the right one with every teacher's statements about it.

    Where the teachers do not discuss the right option by its letter, their whole reasoning follows instead, and a
    sentence that names the right choice.

    Args:
        weighs_options: Off: the descriptions and the sentence that names the right choice, without a word about the
            other options.
    """

    def __init__(self, weighs_options: bool = True) -> None:
        self._weighs_options = weighs_options

    @property
    def model(self) -> str:
        """The version of the rules."""
        return "rules-1" if self._weighs_options else "rules-1-brief"

    @property
    def max_concurrency(self) -> int:
        """A fixed number; a merge takes no time."""
        return 64

    async def complete(self, request: Request) -> Reply:
        """Merge at once.

        Raises:
            CallFailedError: If the request is a teacher's.
        """
        if request.merge_inputs is None:
            raise CallFailedError("the rule-based merger cannot be a teacher", where=request.role)
        return Reply(merge_analyses(request.merge_inputs, weighs_options=self._weighs_options), finish_reason="stop")


def merge_analyses(inputs: MergeInputs, *, weighs_options: bool = True) -> str:
    """One trace in the target format from the teachers' analyses."""
    parts = {teacher: split_analysis(text) for teacher, text in inputs.analyses.items()}
    descriptions = [_sentence(description) for description, _ in parts.values() if description]
    statements = _by_option({teacher: reasoning for teacher, (_, reasoning) in parts.items()})
    right = inputs.answer.split(",")
    if weighs_options and set(right) <= set(statements):
        kept = sorted((letter, said) for letter, said in statements.items() if letter <= right[-1])
        sentences = [f"{letter}: {', '.join(said)}." for letter, said in kept]
    else:
        sentences = [_sentence(reasoning) for _, reasoning in parts.values() if reasoning and weighs_options]
        named = " and ".join(inputs.choices[LETTERS.index(letter)] for letter in right)
        sentences.append(f"So {named} {'fit' if right[1:] else 'fits'} best.")
    return format_response(" ".join([*descriptions, *sentences]), inputs.answer)


def _by_option(reasonings: Mapping[str, str]) -> dict[str, list[str]]:
    """Letter -> every teacher's statement about that option."""
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
