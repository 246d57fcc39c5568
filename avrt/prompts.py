"""The student's prompt: system text, question, lettered choices and the answer format, as chat messages."""

from __future__ import annotations

from typing import Any

from avrt.data.sample import LETTERS, Modality, Sample

SYSTEM_PROMPT = (
    "You are an assistant that watches and listens. Reason about what you see and hear, then choose one option."
)
INSTRUCTION = (
    "First think about the evidence inside <think> </think>, then give only the letter of your choice "
    "inside <answer> </answer>."
)


def format_choices(sample: Sample) -> str:
    """The choices, one lettered line each: ``(A) a dog``."""
    return "\n".join(f"({LETTERS[i]}) {choice}" for i, choice in enumerate(sample.choices))


def student_messages(
    sample: Sample,
    media: tuple[Modality, ...],
    *,
    audio_in_video: bool = False,
    system_prompt: str = SYSTEM_PROMPT,
    instruction: str = INSTRUCTION,
) -> list[dict[str, Any]]:
    """The chat that asks the student one question.

    Args:
        sample: The question. Its answer and trace are never part of the prompt.
        media: What is shown: each entry becomes one placeholder, in this order, before the text.
        audio_in_video: The sound belongs inside the video's placeholder and has none of its own.
        system_prompt: The system message; empty for none.
        instruction: What follows the choices.

    Returns:
        Messages as `apply_chat_template` of a processor takes them.
    """
    text = f"{sample.question}\n{format_choices(sample)}\n{instruction}"
    return chat_messages(text, media, audio_in_video=audio_in_video, system_prompt=system_prompt)


def chat_messages(
    text: str, media: tuple[Modality, ...], *, audio_in_video: bool = False, system_prompt: str = ""
) -> list[dict[str, Any]]:
    """A chat of media placeholders followed by any text; see `student_messages`."""
    content: list[dict[str, Any]] = [
        {"type": str(m), str(m): str(m)} for m in media if not (audio_in_video and m is Modality.AUDIO)
    ]
    content.append({"type": "text", "text": text})
    system = [{"role": "system", "content": [{"type": "text", "text": system_prompt}]}] if system_prompt else []
    return [*system, {"role": "user", "content": content}]
