"""Does sampling agree with scoring? The same tokens through every path, and where the paths part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from avrt.data.inputs.preprocessor import OmniBatch
from avrt.models.scoring import Prompts, ResponseStates, response_states
from avrt.objectives.token_scores import score_tokens
from avrt.policy.policy import Decoder, Policy
from avrt.rollout.native import Completion, generate
from avrt.rollout.sampling import SamplingOptions

Scorer = Callable[[Decoder, Prompts, list[Tensor]], ResponseStates]


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        name: What is compared.
        difference: Largest absolute difference found.
        tolerance: Largest that passes.
        where: Sample and place of the largest difference.
    """

    name: str
    difference: float
    tolerance: float
    where: str = ""

    @property
    def passed(self) -> bool:
        """Whether the paths agree."""
        return self.difference <= self.tolerance


@torch.no_grad()
def check_parity(
    student: Policy,
    batch: OmniBatch,
    options: SamplingOptions,
    group_size: int,
    tolerance: float,
    score: Scorer = response_states,
) -> list[Check]:
    """Sample answers and compare every path that gives them a probability.

    Args:
        student: The student, as it would start training.
        batch: A few samples.
        options: How training samples.
        group_size: Answers per sample.
        tolerance: Largest difference of log-probabilities that passes.
        score: The scoring path of training.

    Returns:
        Prompt positions against transformers' own; recorded log-probabilities against training's scoring; training's
        scoring against a plain forward pass of transformers with media and positions of its own; the reference against
        the policy, which are still the same.
    """
    student.eval()
    text = student.text
    prompts = Prompts(batch.prompt_ids, batch.prompt_positions, student.encode(batch))
    answers = generate(
        text,
        prompts,
        options,
        eos_token_id=student.processor.tokenizer.eos_token_id,
        seeds=list(range(len(batch) * group_size)),
        group_size=group_size,
    )
    tokens = [answer.token_ids for answer in answers]
    names = [f"{sample.id}, answer {g}" for sample in batch.samples for g in range(group_size)]
    states = score(text, prompts, tokens)
    scored = score_tokens(states.hidden, states.targets, text.lm_head).logprobs
    recorded = torch.cat([answer.logprobs for answer in answers])
    plain = torch.cat([_plain_logprobs(student, batch, i // group_size, answer) for i, answer in enumerate(tokens)])
    checks = [
        _positions(student, batch),
        _compare("sampling / scoring log-probabilities", recorded, scored, states.rows, names, tolerance),
        _compare("scoring / transformers log-probabilities", scored, plain, states.rows, names, tolerance),
    ]
    with student.reference_policy(student.make_reference()) as reference:
        reference_states = score(reference, prompts, tokens)
        referred = score_tokens(reference_states.hidden, reference_states.targets, reference.lm_head).logprobs
    checks.append(_compare("policy / reference log-probabilities", scored, referred, states.rows, names, tolerance))
    return checks


@torch.no_grad()
def check_engine(
    student: Policy, batch: OmniBatch, answers: list[Completion], group_size: int, tolerance: float
) -> Check:
    """Another engine's answers: the log-probabilities that it recorded against training's scoring of them."""
    prompts = Prompts(batch.prompt_ids, batch.prompt_positions, student.encode(batch))
    names = [f"{sample.id}, answer {g}" for sample in batch.samples for g in range(group_size)]
    states = response_states(student.text, prompts, [answer.token_ids for answer in answers])
    scored = score_tokens(states.hidden, states.targets, student.text.lm_head).logprobs
    recorded = torch.cat([answer.logprobs for answer in answers])
    return _compare("vLLM / scoring log-probabilities", recorded, scored, states.rows, names, tolerance)


def _positions(student: Policy, batch: OmniBatch) -> Check:
    worst, where = 0.0, ""
    for i, sample in enumerate(batch.samples):
        media = _media(student, batch, i)
        ids = batch.prompt_ids[i][None]
        # transformers has a path of its own for prompts without pictures; its numbers are plain there, as ours are
        expected = torch.arange(ids.shape[1], device=ids.device).expand(3, -1)
        if media["image_grid_thw"] is not None or media["video_grid_thw"] is not None:
            lengths = None if media["feature_attention_mask"] is None else media["feature_attention_mask"].sum(-1)
            expected = student.thinker.get_rope_index(
                ids, media["image_grid_thw"], media["video_grid_thw"], torch.ones_like(ids),
                media["use_audio_in_video"], lengths, media["video_second_per_grid"],
            )[0][:, 0]  # fmt: skip
        apart = (expected - batch.prompt_positions[i]).abs()
        if float(apart.max()) > worst:
            worst = float(apart.max())
            where = f"{sample.id}, prompt token {int(apart.amax(0).argmax())}"
    return Check("prompt positions / transformers", worst, 0.0, where)


def _media(student: Policy, batch: OmniBatch, row: int) -> dict[str, Any]:
    """One row's media as transformers takes them, its rate and interleaving from the clip and the prompt themselves."""
    media: dict[str, Any] = dict.fromkeys(
        ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw", "input_features",
         "feature_attention_mask", "video_second_per_grid")
    )  # fmt: skip
    clip, device, values = batch.clips[row], batch.valid.device, batch.pixel_values
    if row in batch.grid_rows and batch.grids is not None and values is not None:
        place = batch.grid_rows.index(row)
        sizes = batch.grids.prod(-1).tolist()
        pixels = values[sum(sizes[:place]) : sum(sizes[: place + 1])]
        kind = (
            ("pixel_values_videos", "video_grid_thw") if clip.frames is not None else ("pixel_values", "image_grid_thw")
        )
        media[kind[0]], media[kind[1]] = pixels, batch.grids[place : place + 1]
        if clip.seconds_per_frame is not None:
            step = student.processor.video_processor.temporal_patch_size * clip.seconds_per_frame
            media["video_second_per_grid"] = torch.tensor([step], device=device)
    if row in batch.mel_rows and batch.mel is not None and batch.mel_lengths is not None:
        place = batch.mel_rows.index(row)
        length = int(batch.mel_lengths[place])
        media["input_features"] = batch.mel[place : place + 1, :, :length]
        media["feature_attention_mask"] = torch.ones(1, length, dtype=torch.long, device=device)
    ids, prompt = student.ids, batch.prompt_ids[row].tolist()
    begins = prompt.index(ids.audio_bos) if ids.audio_bos in prompt else -1
    media["use_audio_in_video"] = begins >= 0 and prompt[begins + 1] == ids.video
    return media


def _plain_logprobs(student: Policy, batch: OmniBatch, row: int, answer: Tensor) -> Tensor:
    """(R,) log-probabilities of an answer by transformers alone; NaN behind a media token that the policy sampled.

    In an answer such a token is one like any other, but transformers would look for the media.
    """
    prompt, media = batch.prompt_ids[row], _media(student, batch, row)
    added = student.processor.tokenizer.added_tokens_decoder.items()
    special = torch.tensor([token_id for token_id, token in added if token.special], device=answer.device)
    sampled = torch.isin(answer, special)
    ids = torch.cat([prompt, answer.masked_fill(sampled, 0)])[None]
    logits = student.thinker(input_ids=ids, attention_mask=torch.ones_like(ids), **media).logits
    logprobs = logits[0, len(prompt) - 1 : -1].float().log_softmax(-1).gather(-1, answer[:, None])[:, 0]
    return logprobs.masked_fill(sampled.cumsum(0) - sampled.long() > 0, torch.nan)


def _compare(name: str, one: Tensor, other: Tensor, rows: Tensor, names: list[str], tolerance: float) -> Check:
    apart = (one - other).abs().nan_to_num()
    worst = int(apart.argmax())
    row = int(rows[worst])
    token = worst - int((rows < row).sum())
    return Check(name, float(apart[worst]), tolerance, f"{names[row]}, token {token}")
