"""How samples are put to the student: wording, masks and limits of the prompt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from avrt.data.sample import Sample
from avrt.prompts import CHOICE, INSTRUCTION, SEVERAL_INSTRUCTION, SYSTEM_PROMPT, TEMPLATE, check_template


@dataclass(frozen=True)
class PromptOptions:
    """How samples are put to the student.

    Attributes:
        system_prompt: System message; empty for none.
        instruction: What follows the choices.
        several_instruction: The same where several choices may be right.
        template: The user's text; `{question}`, `{choices}` (one line each), `{choice_list}` (as Python prints a list
            of lettered choices) and `{instruction}` are filled in.
        choice: One choice among `{choices}`; `{letter}` and `{choice}` are filled in.
        senses: What the student is given: everything, images and video without sound (`vision`), sound alone
            (`audio`), or the text of the question alone (`none`).
        masked: What becomes of a sense that is not given: it is absent from the prompt, or there but `blank`: black
            images, silence.
        audio_in_video: Interleave a video's sound with its frames by time, where a sample has both, and the student's
            family can; elsewhere the sound follows the frames.
        max_prompt_tokens: Longer prompts are refused as bad samples; None for all that the context leaves beside the
            longest answer. A minute of sound takes 1,500 tokens, and 120 frames of the default size up to 15,360.
        max_response_tokens: Longer targets are refused as bad samples.
        missing_trace: What fine-tuning does with a sample that has no trace: learn its bare answer, or refuse it as a
            bad sample. How many there are is logged.
    """

    system_prompt: str = SYSTEM_PROMPT
    instruction: str = INSTRUCTION
    several_instruction: str = SEVERAL_INSTRUCTION
    template: str = TEMPLATE
    choice: str = CHOICE
    senses: Literal["both", "vision", "audio", "none"] = "both"
    masked: Literal["absent", "blank"] = "absent"
    audio_in_video: bool = False
    max_prompt_tokens: int | None = None
    max_response_tokens: int = 1024
    missing_trace: Literal["answer", "refuse"] = "answer"

    def __post_init__(self) -> None:
        """Refuse templates with unknown placeholders, and those without the question."""
        check_template(self.template, self.choice)


def for_family(options: PromptOptions, *, interleaves: bool) -> PromptOptions:
    """The options as they hold for a family, which may have no way to put sound inside a video."""
    return replace(options, audio_in_video=options.audio_in_video and interleaves)


def missing_target(sample: Sample, options: PromptOptions, *, traces: bool, answers: bool) -> str | None:
    """What a sample lacks to be trained on, with the remedy; None if nothing.

    Args:
        sample: The sample.
        options: Says whether a bare answer will do where there is no trace.
        traces: Whether it is to be fine-tuned on.
        answers: Whether its completions are to be rewarded.
    """
    if answers and sample.answer is None:
        return "has no answer to reward"
    if traces and sample.trace is None and (options.missing_trace == "refuse" or sample.answer is None):
        return "has no trace to fine-tune on (make traces first, or train with GRPO, which needs none)"
    return None
