"""The student's prompt: system text, question, lettered choices and the answer format, as chat messages."""

from __future__ import annotations

from typing import Any

from avrt.data.sample import Modality, Sample
from avrt.errors import AvrtError

Message = dict[str, Any]
SYSTEM_PROMPT = (
    "You are an assistant that watches and listens. Reason about what you see and hear, then choose one option."
)
INSTRUCTION = (
    "First think about the evidence inside <think> </think>, then give only the letter of your choice "
    "inside <answer> </answer>."
)
SEVERAL_INSTRUCTION = (
    "First think about the evidence inside <think> </think>. More than one choice may be right: then give the letters "
    "of all right choices, and no others, inside <answer> </answer>, such as A,C."
)
TEMPLATE = "{question}\n{choices}\n{instruction}"
CHOICE = "({letter}) {choice}"
_WHERE = "data.prompt.template or data.prompt.choice"


def format_choices(sample: Sample, choice: str = CHOICE) -> str:
    """The choices with their letters, one on each line: ``(A) a dog``."""
    return "\n".join(_lettered(sample, choice))


def _lettered(sample: Sample, choice: str) -> list[str]:
    return [choice.format(letter=sample.letters[i], choice=text) for i, text in enumerate(sample.choices)]


def check_template(template: str, choice: str) -> None:
    """Check both patterns on a made-up question.

    Raises:
        AvrtError: If one has an unknown placeholder, or leaves out the question or a choice.
    """
    probe = Sample(id="probe", question="THE QUESTION", choices=("CHOICE 1", "CHOICE 2"), answer=None)
    try:
        text = fill_template(probe, template, choice, "")
    except (KeyError, IndexError, ValueError) as error:
        remedy = "write {{ and }} for braces in the text"
        raise AvrtError(f"has an unknown placeholder: {error}", where=_WHERE, remedy=remedy) from None
    if missing := [part for part in (probe.question, *probe.choices) if part not in text]:
        remedy = "use {question}, {choices}, {letter} and {choice}"
        raise AvrtError(f"leaves out {missing[0].lower()}", where=_WHERE, remedy=remedy)


def fill_template(sample: Sample, template: str, choice: str, instruction: str) -> str:
    """The text of the user message: `template` with the question, its choices and the instruction filled in."""
    return template.format(
        question=sample.question,
        choices=format_choices(sample, choice),
        choice_list=str(_lettered(sample, choice)),
        instruction=instruction,
    )


def student_messages(
    sample: Sample,
    media: tuple[Modality, ...],
    *,
    audio_in_video: bool = False,
    system_prompt: str = SYSTEM_PROMPT,
    instruction: str = INSTRUCTION,
    several_instruction: str = SEVERAL_INSTRUCTION,
    template: str = TEMPLATE,
    choice: str = CHOICE,
) -> list[Message]:
    """The chat that asks the student one question.

    Args:
        sample: The question. Its answer, trace and evidence are never part of the prompt.
        media: The clip's media: each becomes one placeholder, in this order, before the text.
        audio_in_video: The video's placeholder stands for the audio as well.
        system_prompt: The system message; empty for none.
        instruction: The instruction after the choices.
        several_instruction: The instruction where several choices may be right.
        template: Pattern of the user message, for `fill_template`.
        choice: Pattern of one choice, with `{letter}` and `{choice}`.

    Returns:
        Messages for a processor's `apply_chat_template`.
    """
    text = fill_template(sample, template, choice, several_instruction if sample.several else instruction)
    return chat_messages(text, media, audio_in_video=audio_in_video, system_prompt=system_prompt)


def chat_messages(
    text: str, media: tuple[Modality, ...], *, audio_in_video: bool = False, system_prompt: str = ""
) -> list[Message]:
    """The chat of `student_messages` with any text in place of a question."""
    content: list[dict[str, str]] = [
        {"type": str(m), str(m): str(m)} for m in media if not (audio_in_video and m is Modality.AUDIO)
    ]
    content.append({"type": "text", "text": text})
    system = [{"role": "system", "content": [{"type": "text", "text": system_prompt}]}] if system_prompt else []
    return [*system, {"role": "user", "content": content}]
