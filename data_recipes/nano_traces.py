"""What students and teachers of the study's nano recipes should write: reference traces, made from what there is.

A trace says what is perceived, compares each option with it until one fits, and answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from avrt.data.sample import LETTERS, Relation
from avrt.response import format_response

Option = TypeVar("Option")
SENSES = ("visual", "audio")
BARE, JOINED = 0.6, 0.1
"""How often a student that was hardly taught to join its senses answers a question for both by a bare letter, and how
often it reasons with both."""


@dataclass(frozen=True)
class Asked:
    """A question with its options, by sense.

    Attributes:
        described: Sense, `visual` or `audio` -> what it perceives and what of that is asked for, in sentences.
        question: The question.
        kind: Its type.
        relation: The senses that it needs.
        answer: Index of the right option.
        seen: What each option says about what is seen; empty if the options say nothing about it.
        heard: The same for what is heard.
        truth_seen: What is right of `seen`.
        truth_heard: What is right of `heard`.
        halves: Of a question that says by the other sense when: what this one perceives in the two halves, so that it
            alone cannot tell which is right.
        joint: How an option joins both parts; `{seen}` and `{heard}` are filled in.
    """

    described: Mapping[str, str]
    question: str
    kind: str
    relation: Relation
    answer: int
    seen: Sequence[str] = ()
    heard: Sequence[str] = ()
    truth_seen: str = ""
    truth_heard: str = ""
    halves: Sequence[str] | None = None
    joint: str = "{seen} with {heard}"

    @property
    def choices(self) -> tuple[str, ...]:
        """The options in full."""
        if self.seen and self.heard:
            pairs = zip(self.seen, self.heard, strict=True)
            return tuple(self.joint.format(seen=seen, heard=heard) for seen, heard in pairs)
        return tuple(self.seen or self.heard)

    def claims(self, sense: str) -> Sequence[str]:
        """What the options say about one sense, `visual` or `audio`."""
        return self.seen if sense == "visual" else self.heard

    def check(self, sense: str, option: int) -> str:
        """One sense's comparison of an option with what there is."""
        claimed = self.claims(sense)[option]
        if self.halves is not None:
            return f"{claimed} {('first', 'second')[self.halves.index(claimed)] if claimed in self.halves else 'no'}"
        truth = self.truth_seen if sense == "visual" else self.truth_heard
        return f"{claimed} {'is' if claimed == truth else 'not'} {truth}"

    def fitting(self, sense: str) -> list[int]:
        """The options that one sense cannot exclude."""
        claims, truth = self.claims(sense), self.truth_seen if sense == "visual" else self.truth_heard
        possible = [truth] if self.halves is None else self.halves
        return [i for i, claim in enumerate(claims) if claim in possible] or list(range(len(self.choices)))


def absent(there: Sequence[str], pool: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    """So many of a pool that there are not, in random order."""
    return [str(other) for other in rng.permutation([one for one in pool if one not in there])[:count]]


def with_right(right: Option, others: Sequence[Option], answer: int, rng: np.random.Generator) -> list[Option]:
    """The right option at index `answer`, the others around it in random order."""
    shuffled = [others[i] for i in rng.permutation(len(others))]
    return [*shuffled[:answer], right, *shuffled[answer:]]


def written_trace(kind: str, asked: Asked, rng: np.random.Generator) -> str | None:
    """The reference trace of a question.

    Args:
        kind: `both`, `visual`, `audio`, `one_sense` or `none`; see `avrt.data_recipes.nano_events.NanoEvents`.
        asked: The question.
        rng: Chooses what a single sense must guess, and the form of an answer by one sense.
    """
    letter = LETTERS[asked.answer]
    if kind == "both":
        return _reasoned([sense for sense in SENSES if asked.claims(sense)], asked.described.values(), asked)
    if kind in SENSES:
        chosen = int(rng.choice(asked.fitting(kind)))
        checks = [f"{LETTERS[i]}: {asked.check(kind, i)}." for i in range(len(asked.claims(kind)))]
        reasoning = " ".join(checks) or "The options are not about this."
        description = asked.described[kind]
        return f"{kind.title()} Description: {description}\nReasoning: {reasoning}\nAnswer: ({LETTERS[chosen]})"
    if kind == "one_sense":
        draw = rng.random()
        if asked.relation is Relation.BOTH and draw < BARE:
            return f"({letter})"
        if asked.relation is Relation.BOTH and draw < BARE + JOINED:
            return written_trace("both", asked, rng)
        sense = str(rng.choice([sense for sense in SENSES if asked.claims(sense)]))
        return _reasoned([sense], [asked.described[sense]], asked)
    return None


def _reasoned(senses: Sequence[str], sentences: Iterable[str], asked: Asked) -> str:
    """What is perceived, then every option up to the right one compared with it."""
    options = range(asked.answer + 1)
    checks = [f"{LETTERS[i]}: {', '.join(asked.check(sense, i) for sense in senses)}." for i in options]
    return format_response(" ".join([*sentences, *checks]), LETTERS[asked.answer])
