"""The one place that turns samples into model inputs: prompt tokens, positions, pixels, mel features, target tokens."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import Qwen2_5OmniProcessor

from avrt.data.media.clip import Clip
from avrt.data.sample import Modality, Sample
from avrt.errors import BadSampleError
from avrt.models.qwen2_5_omni.media_inputs import Featurizer, PixelScale
from avrt.models.qwen2_5_omni.positions import ClipLayout, TokenIds, audio_token_count, expand_prompt
from avrt.prompts import (
    CHOICE,
    INSTRUCTION,
    SEVERAL_INSTRUCTION,
    SYSTEM_PROMPT,
    TEMPLATE,
    chat_messages,
    check_template,
    student_messages,
)

_FILLER = Sample(id="filler", question="-", choices=("-", "-"), answer=0, trace="<think>-</think><answer>A</answer>")


class OmniBatch:
    """Inputs of B samples. Prompts stay ragged lists, so that each user pads or packs them as it needs.

    It is no dataclass, because Lightning would walk into one and convert every number inside to the run's precision.

    Attributes:
        samples: The B records; a filler row stands for none and is marked in `valid`.
        prompt_ids: B tensors (P_i,): token ids with placeholders expanded.
        prompt_positions: B tensors (3, P_i): TMRoPE positions.
        response_ids: B tensors (R_i,): target tokens including the end token; empty where there is no target.
        valid: (B,) bool; False rows only keep ranks in step and count for nothing.
        clips: The decoded clips, for showing; they stay on the CPU.
        pixels: (patches, C) uint8 patches of all pictures and videos, row by row, or None; see `pixel_values`.
        scale: How the vision tower wants them scaled.
        grids: (n, 3) patches in time, height and width of each, or None.
        grid_rows: For each grid the row that it belongs to.
        mel: (n, 128, F) log-mel of each sound, padded to the longest, or None.
        mel_lengths: (n,) frames of each sound.
        mel_rows: For each sound the row that it belongs to.
        indices: For each row where its sample lies in the shards, also if it could not be read; -1 for a mere filler.
        skipped: What could not be read while this batch was made: name -> reason.
        dropped: For each row that lost a sense to modality dropout, which one.
        epoch: Epoch that the batch belongs to.
        step: Its number in the epoch.
        position: How much of the epoch all ranks have consumed with it; see `avrt.data.loading.plans.Plan`.
    """

    def __init__(
        self,
        samples: list[Sample],
        prompt_ids: list[Tensor],
        prompt_positions: list[Tensor],
        response_ids: list[Tensor],
        valid: Tensor,
        clips: list[Clip],
    ) -> None:
        self.samples = samples
        self.prompt_ids = prompt_ids
        self.prompt_positions = prompt_positions
        self.response_ids = response_ids
        self.valid = valid
        self.clips = clips
        self.pixels: Tensor | None = None
        self.scale: PixelScale | None = None
        self.grids: Tensor | None = None
        self.grid_rows: list[int] = []
        self.mel: Tensor | None = None
        self.mel_lengths: Tensor | None = None
        self.mel_rows: list[int] = []
        self.indices: list[int] = [-1] * len(samples)
        self.skipped: dict[str, str] = {}
        self.dropped: list[str] = []
        self.epoch = 0
        self.step = 0
        self.position = 0

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.samples)

    @property
    def pixel_values(self) -> Tensor | None:
        """(patches, C) float32 vision tower input, equal to the processor's, or None."""
        return None if self.pixels is None or self.scale is None else self.scale.apply(self.pixels)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> OmniBatch:
        """The batch with every tensor on `device`."""
        moved = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(moved, name, value.to(device, non_blocking=non_blocking))
            elif isinstance(value, list) and value and isinstance(value[0], Tensor):
                setattr(moved, name, [tensor.to(device, non_blocking=non_blocking) for tensor in value])
        return moved


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
        senses: What the student is shown: everything, pictures without sound (`vision`), sound alone (`audio`), or the
            text of the question alone (`none`).
        masked: What becomes of the senses that are not shown: they are absent from the prompt, or there but `blank`:
            black pictures, silence.
        audio_in_video: Interleave a video's sound with its frames by time, where a sample has both.
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


class Preprocessor:
    """Build batches for one model; picklable, so that workers can do it.

    Args:
        processor: The model's processor; its tokenizer, chat template, picture and sound parts are used.
        ids: The model's special tokens.
        options: Wording and limits of the prompt.
        targets: Whether to make `response_ids` from each sample's trace (fine-tuning).
        answers: Whether each sample needs its right answer (rewards).
    """

    def __init__(
        self,
        processor: Qwen2_5OmniProcessor,
        ids: TokenIds,
        options: PromptOptions,
        targets: bool = False,
        answers: bool = False,
    ) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.features = Featurizer(processor)
        self.ids = ids
        self.options = options
        self.targets = targets
        self.answers = answers
        added = self.tokenizer.added_tokens_decoder.values()
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
        if lack := missing_target(sample, self.options, traces=self.targets, answers=self.answers):
            raise BadSampleError(lack, where=f"sample {sample.id!r}")
        clip = clip.part(self.options.senses, blank=self.options.masked == "blank")
        batch = OmniBatch([sample], [], [], [], torch.ones(1, dtype=torch.bool), [clip])
        grid = image_grid = None
        if clip.frames is not None:
            batch.pixels, grid = self.features.patches(clip.frames)  # frames of a shard have the model's size already
        elif clip.image is not None:
            batch.pixels, image_grid = self.features.patches(clip.image[None])
        if (shown := grid or image_grid) is not None:
            batch.grids, batch.grid_rows, batch.scale = torch.tensor([shown]), [0], self.features.scale
        if clip.audio is not None:
            batch.mel, batch.mel_rows = self.features.log_mel(clip.audio)[None], [0]
            batch.mel_lengths = torch.tensor([batch.mel.shape[-1]])
        layout = ClipLayout(
            video_grid=grid,
            seconds_per_grid=self.features.temporal * (clip.seconds_per_frame or 1.0),
            image_grid=image_grid,
            audio_tokens=0 if batch.mel_lengths is None else audio_token_count(int(batch.mel_lengths[0])),
            audio_in_video=self.options.audio_in_video and grid is not None,
        )
        ids, positions = expand_prompt(self._prompt(sample, layout, chat), layout, self.ids)
        _check_length(sample, "prompt", len(ids), self.options.max_prompt_tokens)
        batch.prompt_ids, batch.prompt_positions = [ids], [positions]
        batch.response_ids = [self._target(sample) if self.targets else ids.new_zeros(0)]
        return batch

    def padding_sample(self) -> OmniBatch:
        """A row that stands where there is no sample, or none that can be read: a short text marked as invalid."""
        row = self.row(_FILLER, Clip())
        row.valid = torch.zeros(1, dtype=torch.bool)
        return row

    def collate(self, rows: Sequence[OmniBatch]) -> OmniBatch:
        """Join batches into one; sounds are padded to the longest."""
        joined = OmniBatch(
            samples=[s for row in rows for s in row.samples],
            prompt_ids=[t for row in rows for t in row.prompt_ids],
            prompt_positions=[t for row in rows for t in row.prompt_positions],
            response_ids=[t for row in rows for t in row.response_ids],
            valid=torch.cat([row.valid for row in rows]),
            clips=[clip for row in rows for clip in row.clips],
        )
        joined.indices = [index for row in rows for index in row.indices]
        joined.skipped = {name: why for row in rows for name, why in row.skipped.items()}
        joined.dropped = [sense for row in rows for sense in row.dropped]
        start = 0
        mels: list[Tensor] = []
        for row in rows:
            joined.grid_rows += [start + r for r in row.grid_rows]
            joined.mel_rows += [start + r for r in row.mel_rows]
            mels += [] if row.mel is None else list(row.mel)
            start += len(row)
        if joined.grid_rows:
            joined.pixels = torch.cat([row.pixels for row in rows if row.pixels is not None])
            joined.scale = self.features.scale
            joined.grids = torch.cat([row.grids for row in rows if row.grids is not None])
        if mels:
            longest = max(m.shape[-1] for m in mels)
            joined.mel = torch.stack([torch.nn.functional.pad(m, (0, longest - m.shape[-1])) for m in mels])
            joined.mel_lengths = torch.cat([row.mel_lengths for row in rows if row.mel_lengths is not None])
        return joined

    def _prompt(self, sample: Sample, layout: ClipLayout, chat: tuple[str, str] | None) -> list[int]:
        written = " ".join([sample.question, *sample.choices, sample.trace or "", *(chat or ())])
        if control := next((token for token in self._control_tokens if token in written), None):
            raise BadSampleError(f"its text contains the control token {control}", where=f"sample {sample.id!r}")
        shown = {
            Modality.VIDEO: layout.video_grid is not None,
            Modality.IMAGE: layout.image_grid is not None,
            Modality.AUDIO: layout.audio_tokens > 0,
        }
        media = tuple(m for m, present in shown.items() if present)
        interleaved = layout.audio_in_video and layout.audio_tokens > 0
        if chat is not None:
            system, text = chat
            messages = chat_messages(text, media, audio_in_video=interleaved, system_prompt=system)
        else:
            messages = student_messages(
                sample,
                media,
                audio_in_video=interleaved,
                system_prompt=self.options.system_prompt,
                instruction=self.options.instruction,
                several_instruction=self.options.several_instruction,
                template=self.options.template,
                choice=self.options.choice,
            )
        text = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _target(self, sample: Sample) -> Tensor:
        target = f"<answer>{sample.answer_letter}</answer>" if sample.trace is None else sample.trace
        ids = self.tokenizer.encode(target, add_special_tokens=False)
        _check_length(sample, "trace", len(ids), self.options.max_response_tokens - 1)
        return torch.tensor([*ids, self.tokenizer.eos_token_id])


def missing_target(sample: Sample, options: PromptOptions, *, traces: bool, answers: bool) -> str | None:
    """What a sample lacks to be trained on, with the remedy; None if nothing.

    Args:
        sample: The sample.
        options: Says whether a bare answer will do where there is no trace.
        traces: Whether it is to be fine-tuned on.
        answers: Whether its answers are to be rewarded.
    """
    if answers and sample.answer is None:
        return "has no answer to reward"
    if traces and sample.trace is None and (options.missing_trace == "refuse" or sample.answer is None):
        return "has no trace to fine-tune on (make traces first, or train with GRPO, which needs none)"
    return None


def _check_length(sample: Sample, what: str, tokens: int, limit: int | None) -> None:
    if limit is not None and tokens > limit:
        raise BadSampleError(
            f"{what} has {tokens} tokens, limit {limit}",
            where=f"sample {sample.id!r}",
            remedy="make shards with fewer frames, smaller ones or less sound, or raise data.prompt.max_prompt_tokens"
            if what == "prompt"
            else "raise data.prompt.max_response_tokens",
        )
