"""Prompt templates: text files with a system and a user part, whose placeholders are checked before any call."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from avrt.data.sample import LETTERS, Sample
from avrt.errors import AvrtError
from avrt.packaged import find_packaged, packaged
from avrt.prompts import format_choices
from avrt.traces.media_phrases import MERGER_PHRASES, TEACHER_PHRASES, Subject, study_heading

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_PART = re.compile(r"^\[(system|user)\]\s*$", re.MULTILINE)
QUESTION = frozenset({"question", "formatted_choices"})
TEACHER = QUESTION | TEACHER_PHRASES
NOTHING = "(nothing)"
_QUESTION = "{question}\n{formatted_choices}"
SEVERAL = "(More than one of these may be right: name all that are, and no others.)"
# The paper's placeholder for the analysis of the teacher `visual`.
ALIASES = {"visual_reasoning": "vision_reasoning"}


@dataclass(frozen=True)
class Template:
    """A prompt with placeholders.

    Attributes:
        system: System message; empty for none.
        user: The user message's text.
    """

    system: str
    user: str

    @property
    def placeholders(self) -> set[str]:
        """All names in braces."""
        return set(_PLACEHOLDER.findall(self.system + self.user))

    def render(self, values: Mapping[str, str]) -> tuple[str, str]:
        """(system, user) with the placeholders filled in; braces inside the values stay."""
        system, user = (
            _PLACEHOLDER.sub(lambda name: values[name[1]], part).strip() for part in (self.system, self.user)
        )
        return system, user


def load_template(name: str, allowed: Collection[str], required: Collection[str] = QUESTION) -> Template:
    """Read a template.

    Args:
        name: A path, or the name of a packaged template, such as `visual.txt`.
        allowed: Placeholders that it may hold.
        required: Placeholders that it must hold.

    Raises:
        AvrtError: If there is no such file, a part or placeholder is missing, or a placeholder is not allowed.
    """
    folder = packaged("avrt.traces", "templates")
    path = find_packaged(name, folder)
    if path is None:
        known = ", ".join(sorted(file.name for file in folder.iterdir()))
        raise AvrtError("no such template", where=name, remedy=f"give a path, or one of {known}")
    pieces = _PART.split(path.read_text(encoding="utf-8-sig"))
    if pieces[0].strip():
        raise AvrtError("has text before the first part", where=path, remedy="begin with a line [system] or [user]")
    parts = dict(zip(pieces[1::2], (piece.strip() for piece in pieces[2::2]), strict=True))
    if not parts.get("user"):
        raise AvrtError("has no text under [user]", where=path, remedy="write the prompt there")
    # where the paper prints the two without a line break, one goes between them
    parts = {name: text.replace("{question}{formatted_choices}", _QUESTION) for name, text in parts.items()}
    template = Template(parts.get("system", ""), parts["user"])
    if unknown := sorted(template.placeholders - set(allowed)):
        raise AvrtError(
            f"placeholder {{{unknown[0]}}} has no value here", where=path, remedy=f"known: {', '.join(sorted(allowed))}"
        )
    if missing := sorted(set(required) - template.placeholders):
        raise AvrtError(
            f"placeholder {{{missing[0]}}} is missing", where=path, remedy="write it where its text belongs"
        )
    return template


def teacher_template(name: str) -> Template:
    """A teacher's template, which cannot hold the right answer."""
    return load_template(name, TEACHER)


def merger_template(name: str, teachers: Collection[str]) -> Template:
    """A merger's template, which must hold the right answer and every teacher's analysis (or `{analyses}` for all).

    Args:
        name: A path, or the name of a packaged template.
        teachers: The teachers whose analyses the merger gets.

    Raises:
        AvrtError: As `load_template`.
    """
    each = {f"{teacher}_reasoning" for teacher in teachers}
    aliases = {ALIASES[name] for name in each if name in ALIASES}
    allowed = QUESTION | MERGER_PHRASES | {"correct_answer", "analyses"} | each | aliases
    template = load_template(name, allowed, QUESTION | {"correct_answer"})
    missing = sorted(name for name in each if not {name, ALIASES.get(name)} & template.placeholders)
    if missing and "analyses" not in template.placeholders:
        remedy = "write it, or {analyses} for all teachers, as in merger_any.txt"
        raise AvrtError(f"placeholder {{{missing[0]}}} is missing", where=name, remedy=remedy)
    return template


def question_values(sample: Sample) -> dict[str, str]:
    """The values of `{question}` and `{formatted_choices}`, with a note where several choices may be right."""
    several = f"\n{SEVERAL}" if sample.several else ""
    return {"question": sample.question, "formatted_choices": format_choices(sample) + several}


def teacher_values(sample: Sample, seen: Subject, whole: Subject) -> dict[str, str]:
    """Placeholder -> value in a teacher's prompt.

    Args:
        sample: The question.
        seen: The media that the teacher gets.
        whole: All media of the question.
    """
    vision = {name: text for name, text in seen.teacher_phrases().items() if not name.startswith(("sound", "subject"))}
    return {**whole.teacher_phrases(), **vision, **question_values(sample)}


def merger_values(sample: Sample, analyses: Mapping[str, str], whole: Subject) -> dict[str, str]:
    """Placeholder -> value in a merger's prompt.

    Args:
        sample: The question, with its right answer.
        analyses: Teacher -> analysis; an empty one becomes `(nothing)`.
        whole: All media of the question.
    """
    if sample.answer is None:
        raise ValueError("a merger needs the right answer")
    analyses = {name: text or NOTHING for name, text in analyses.items()}
    each = {f"{teacher}_reasoning": text for teacher, text in analyses.items()}
    return {
        **whole.merger_phrases(len(analyses)),
        **question_values(sample),
        "correct_answer": "; ".join(f"({LETTERS[i]}) {sample.choices[i]}" for i in sample.right),
        "analyses": "\n\n".join(f"{study_heading(name, whole)}\n{text}" for name, text in analyses.items()),
        **each,
        **{ALIASES[name]: text for name, text in each.items() if name in ALIASES},
    }
