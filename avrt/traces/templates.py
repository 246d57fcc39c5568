"""Prompt templates: text files with a system and a user part, whose placeholders are checked before anything runs."""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from avrt.data.sample import LETTERS, Sample
from avrt.errors import AvrtError
from avrt.prompts import format_choices
from avrt.traces.wording import MERGER_WORDS, TEACHER_WORDS, Subject, study_heading

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_PART = re.compile(r"^\[(system|user)\]\s*$", re.MULTILINE)
QUESTION = frozenset({"question", "formatted_choices"})
TEACHER = QUESTION | TEACHER_WORDS
NOTHING = "(nothing)"
_ASKED = "{question}\n{formatted_choices}"
SEVERAL = "(More than one of these may be right: name all that are, and no others.)"
# The teacher `visual` goes by the paper's placeholder too.
ALIASES = {"visual_reasoning": "vision_reasoning"}


@dataclass(frozen=True)
class Template:
    """A prompt with placeholders.

    Attributes:
        system: System message; empty for none.
        user: The user's text.
    """

    system: str
    user: str

    @property
    def placeholders(self) -> set[str]:
        """Every name in braces."""
        return set(_PLACEHOLDER.findall(self.system + self.user))

    def render(self, values: Mapping[str, str]) -> tuple[str, str]:
        """System message and user's text; braces in the values are left as they are."""
        system, user = (
            _PLACEHOLDER.sub(lambda found: values[found[1]], part).strip() for part in (self.system, self.user)
        )
        return system, user


def load_template(name: str, allowed: Collection[str], required: Collection[str] = QUESTION) -> Template:
    """Read a template: a file, or the name of a packaged one.

    Args:
        name: A path, or e.g. `visual.txt`.
        allowed: Placeholders that it may hold.
        required: Placeholders that it must hold.

    Raises:
        AvrtError: If there is no such file, or it does not hold the parts and placeholders that it should.
    """
    packaged = importlib.resources.files("avrt.traces").joinpath("templates")
    path = Path(name) if Path(name).is_file() else Path(str(packaged.joinpath(name)))
    if not path.is_file():
        known = ", ".join(sorted(file.name for file in packaged.iterdir()))
        raise AvrtError("no such template", where=name, remedy=f"a path, or one of {known}")
    pieces = _PART.split(path.read_text(encoding="utf-8-sig"))
    if pieces[0].strip():
        raise AvrtError("text before the first part", where=path, remedy="begin with a line [system] or [user]")
    parts = dict(zip(pieces[1::2], (piece.strip() for piece in pieces[2::2]), strict=True))
    if not parts.get("user"):
        raise AvrtError("has no text under [user]", where=path)
    # prompts that are printed so leave the line between the two to what they are filled with
    parts = {name: text.replace("{question}{formatted_choices}", _ASKED) for name, text in parts.items()}
    template = Template(parts.get("system", ""), parts["user"])
    if foreign := sorted(template.placeholders - set(allowed)):
        raise AvrtError(
            f"placeholder {{{foreign[0]}}} has no value here", where=path, remedy=f"known: {', '.join(sorted(allowed))}"
        )
    if missing := sorted(set(required) - template.placeholders):
        raise AvrtError(f"placeholder {{{missing[0]}}} is missing", where=path)
    return template


def teacher_template(name: str) -> Template:
    """A teacher's template; there is no placeholder for the right answer, which teachers must not see."""
    return load_template(name, TEACHER)


def merger_template(name: str, teachers: Collection[str]) -> Template:
    """A merger's template; it must hold the answer and every teacher's analysis, or all of them as `{analyses}`."""
    each = {f"{teacher}_reasoning" for teacher in teachers}
    own = each | {ALIASES[name] for name in each if name in ALIASES}
    told = QUESTION | MERGER_WORDS | {"correct_answer", "analyses"}
    template = load_template(name, told | own, QUESTION | {"correct_answer"})
    held = {own_name for own_name in each if {own_name, ALIASES.get(own_name)} & template.placeholders}
    if "analyses" not in template.placeholders and held != each:
        missing = sorted(each - held)[0]
        raise AvrtError(
            f"placeholder {{{missing}}} is missing", where=name, remedy="or use {analyses}, e.g. merger_any.txt"
        )
    return template


def question_values(sample: Sample) -> dict[str, str]:
    """The question and its lettered choices, with a word where several of them may be right."""
    several = f"\n{SEVERAL}" if sample.several else ""
    return {"question": sample.question, "formatted_choices": format_choices(sample) + several}


def teacher_values(sample: Sample, shown: Subject, whole: Subject) -> dict[str, str]:
    """What a teacher is told: the question, and what it is shown.

    Args:
        sample: The question.
        shown: What the teacher is shown.
        whole: All that the question is about.
    """
    sight = {name: text for name, text in shown.teacher_words().items() if not name.startswith(("sound", "subject"))}
    return {**whole.teacher_words(), **sight, **question_values(sample)}


def merger_values(sample: Sample, analyses: Mapping[str, str], whole: Subject) -> dict[str, str]:
    """What the merger is told: the question, the right option or options, and the analyses by teacher.

    Args:
        sample: The question.
        analyses: Teacher -> analysis; one that is empty is told as nothing.
        whole: What the question is about.
    """
    if sample.answer is None:
        raise ValueError("a merger needs the right answer")
    analyses = {name: text or NOTHING for name, text in analyses.items()}
    each = {f"{teacher}_reasoning": text for teacher, text in analyses.items()}
    return {
        **whole.merger_words(len(analyses)),
        **question_values(sample),
        "correct_answer": "; ".join(f"({LETTERS[i]}) {sample.choices[i]}" for i in sample.right),
        "analyses": "\n\n".join(f"{study_heading(name, whole)}\n{text}" for name, text in analyses.items()),
        **each,
        **{ALIASES[name]: text for name, text in each.items() if name in ALIASES},
    }
