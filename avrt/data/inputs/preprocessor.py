"""The one place that turns samples into model inputs: prompt tokens, positions, pixels, mel features, target tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from avrt.data.inputs.batch import OmniBatch
from avrt.data.inputs.media_inputs import MediaInputs, MediaLayout
from avrt.data.inputs.prompt_options import PromptOptions, for_family, missing_target
from avrt.data.media.clip import Clip
from avrt.data.sample import Sample
from avrt.errors import BadSampleError
from avrt.prompts import chat_messages, student_messages

_PADDING = Sample(id="padding", question="-", choices=("-", "-"), answer=0, trace="<think>-</think><answer>A</answer>")


@dataclass(frozen=True)
class ClipInputs:
    """What a student is given of a clip, whatever the question.

    Attributes:
        clip: The clip, as far as it is given.
        fields: The tower inputs, by their names in a batch of one row.
        layout: How many tokens they take.
    """

    clip: Clip
    fields: dict[str, Any]
    layout: MediaLayout


class Preprocessor:
    """Make batches of one row for one model; picklable, so that workers can do it.

    Args:
        inputs: How the model's family prepares media and tokens.
        options: Wording and limits of the prompt.
        targets: Whether to make `completion_ids` from each sample's trace (fine-tuning).
        answers: Whether each sample needs its right answer (rewards).
    """

    def __init__(
        self, inputs: MediaInputs, options: PromptOptions, *, targets: bool = False, answers: bool = False
    ) -> None:
        self.inputs = inputs
        self.options = for_family(options, interleaves=inputs.interleaves)
        self.targets = targets
        self.answers = answers
        added = inputs.tokenizer.added_tokens_decoder.values()
        self._control_tokens = [token.content for token in added if token.special]

    def row(self, sample: Sample, clip: Clip, chat: tuple[str, str] | None = None) -> OmniBatch:
        """A batch of the one sample.

        Args:
            sample: The question.
            clip: Its media.
            chat: System message and user's text to ask with, in place of the student's own prompt.

        Raises:
            BadSampleError: If it has no trace or answer where one is needed, or is too long.
        """
        self.check_target(sample)
        return self.row_of(sample, self.clip_inputs(clip), chat)

    def check_target(self, sample: Sample) -> None:
        """Refuse a sample that lacks the target it needs.

        Raises:
            BadSampleError: If it has no trace or answer.
        """
        if lack := missing_target(sample, self.options, traces=self.targets, answers=self.answers):
            raise BadSampleError(lack, where=f"sample {sample.id!r}")

    def clip_inputs(self, clip: Clip) -> ClipInputs:
        """What the student is given of a clip."""
        clip = clip.part(self.options.senses, blank=self.options.masked == "blank")
        batch = OmniBatch([_PADDING], [], [], [], torch.ones(1, dtype=torch.bool), [clip])
        before = dict(vars(batch))
        layout = self.inputs.add(batch, clip, audio_in_video=self.options.audio_in_video)
        return ClipInputs(clip, {k: v for k, v in vars(batch).items() if v is not before[k]}, layout)

    def row_of(self, sample: Sample, media: ClipInputs, chat: tuple[str, str] | None = None) -> OmniBatch:
        """A batch of the one sample, of whose clip the inputs are there already.

        Raises:
            BadSampleError: If it is too long.
        """
        batch = OmniBatch([sample], [], [], [], torch.ones(1, dtype=torch.bool), [media.clip])
        vars(batch).update(media.fields)
        layout = media.layout
        ids, positions = self.inputs.tokenize(self._prompt(sample, layout, chat), layout)
        _check_length(sample, "prompt", len(ids), self.options.max_prompt_tokens)
        batch.prompt_ids, batch.prompt_positions = [ids], [positions]
        batch.position_ends = [positions.max().item() + 1]
        vision, audio = self.inputs.placeholders
        batch.vision_places = [torch.isin(ids, torch.tensor(vision)).nonzero()[:, 0]]
        batch.audio_places = [torch.isin(ids, torch.tensor(audio)).nonzero()[:, 0]]
        batch.completion_ids = [self._target(sample) if self.targets else ids.new_zeros(0)]
        return batch

    def padding_row(self) -> OmniBatch:
        """A row that stands where there is no sample, or none that can be read: a short text marked as invalid."""
        row = self.row(_PADDING, Clip())
        row.valid = torch.zeros(1, dtype=torch.bool)
        return row

    def _prompt(self, sample: Sample, layout: MediaLayout, chat: tuple[str, str] | None) -> str:
        """The rendered chat, one placeholder per medium."""
        written = " ".join([sample.question, *sample.choices, sample.trace or "", *(chat or ())])
        if control := next((token for token in self._control_tokens if token in written), None):
            raise BadSampleError(f"its text contains the control token {control}", where=f"sample {sample.id!r}")
        if chat is not None:
            system, text = chat
            messages = chat_messages(text, layout.media, audio_in_video=layout.interleaved, system_prompt=system)
        else:
            messages = student_messages(
                sample,
                layout.media,
                audio_in_video=layout.interleaved,
                system_prompt=self.options.system_prompt,
                instruction=self.options.instruction,
                several_instruction=self.options.several_instruction,
                template=self.options.template,
                choice=self.options.choice,
            )
        return str(self.inputs.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

    def _target(self, sample: Sample) -> Tensor:
        target = f"<answer>{sample.answer_letter}</answer>" if sample.trace is None else sample.trace
        ids = self.inputs.tokenizer.encode(target, add_special_tokens=False)
        _check_length(sample, "trace", len(ids), self.options.max_response_tokens - 1)
        return torch.tensor([*ids, self.inputs.end_token_id])


def _check_length(sample: Sample, what: str, tokens: int, limit: int | None) -> None:
    if limit is not None and tokens > limit:
        raise BadSampleError(
            f"{what} has {tokens} tokens, limit {limit}",
            where=f"sample {sample.id!r}",
            remedy="make shards with fewer frames, smaller ones or less sound, or raise data.prompt.max_prompt_tokens"
            if what == "prompt"
            else "raise data.prompt.max_response_tokens",
        )
