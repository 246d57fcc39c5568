"""What an engine is asked of a rollout, and what it answers, as the messages of its process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from avrt.errors import AvrtError
from avrt.models.encoded_prompts import EncodedPrompts
from avrt.policy.policy import Policy
from avrt.rollout.completion import Completion
from avrt.rollout.sampling import SamplingOptions

Question = tuple[dict[str, Any], dict[str, Tensor]]
"""A message with the tensors beside it."""


def question_message(
    policy: Policy, prompts: EncodedPrompts, sampling: SamplingOptions, seeds: Sequence[int], group_size: int
) -> Question:
    """The message that asks for `group_size` completions of each prompt, with clips and positions beside it.

    Raises:
        AvrtError: If there are no clips: vLLM prepares them by itself.
    """
    if len(prompts.clips) != len(prompts):
        raise AvrtError(
            f"{len(prompts.clips)} clips for {len(prompts)} prompts, and vLLM prepares clips by itself",
            where="vLLM engine",
            remedy="give it what encode returned, whole, or sample without vllm",
        )
    asked, tensors = [], {}
    lengths = [positions.shape[1] for positions in prompts.positions]
    # Off the GPU in one copy: other ranks may get them, in messages that hold tensors of the CPU only.
    positions = torch.split(torch.cat([*prompts.positions], dim=1).float().cpu(), lengths, dim=1)
    for row, clip in enumerate(prompts.clips):
        for kind, tensor in (("video", clip.frames), ("image", clip.image), ("audio", clip.audio)):
            if tensor is not None:
                tensors[f"{kind}.{row}"] = tensor
        tensors[f"positions.{row}"] = positions[row].contiguous()
        mine = seeds[row * group_size : (row + 1) * group_size]
        prompt = policy.family.vllm_prompt(policy.inputs, prompts, row)
        asked.append(prompt | {"seeds": [seed % 2**31 for seed in mine]})
    settings = {
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or -1,
        "stop_token_ids": [policy.inputs.end_token_id],
    }
    return {"do": "sample", "prompts": asked, "sampling": settings}, tensors


def joined(questions: Sequence[Question]) -> Question:
    """Several ranks' questions as one; they draw in the same way."""
    if len(questions) == 1:
        return questions[0]
    prompts: list[Any] = []
    tensors = {}
    for message, clips in questions:
        for name, tensor in clips.items():
            kind, row = name.split(".")
            tensors[f"{kind}.{int(row) + len(prompts)}"] = tensor
        prompts += message["prompts"]
    return questions[0][0] | {"prompts": prompts}, tensors


def parted(reply: dict[str, Any], found: dict[str, Tensor], questions: Sequence[Question]) -> list[Question]:
    """The reply to joined questions as the replies to each."""
    if len(questions) == 1:
        return [(reply, found)]
    parts = []
    row = answer = 0
    for message, _ in questions:
        prompts = len(message["prompts"])
        answers = sum(len(prompt["seeds"]) for prompt in message["prompts"])
        tensors = {f"prompt.{i}": found[f"prompt.{row + i}"] for i in range(prompts)}
        for kind in ("tokens", "logprobs", "positions"):
            tensors |= {f"{kind}.{i}": found[name] for i in range(answers) if (name := f"{kind}.{answer + i}") in found}
        parts.append((reply | {"finished": reply["finished"][answer : answer + answers]}, tensors))
        row, answer = row + prompts, answer + answers
    return parts


def completions_of(prompts: EncodedPrompts, reply: dict[str, Any], found: dict[str, Tensor]) -> list[Completion]:
    """The completions in a reply, on the device of the prompts.

    Raises:
        AvrtError: If the engine has read a prompt as other tokens than the student does, or at other positions.
    """
    finished = reply["finished"]
    for row, (expected, sample_id) in enumerate(zip(prompts.token_ids, prompts.sample_ids, strict=True)):
        _check_prompt(found[f"prompt.{row}"], expected, sample_id)
    for i in range(len(finished)):
        row = i * len(prompts) // len(finished)
        used, generated = found.get(f"positions.{i}"), len(found[f"tokens.{i}"])
        _check_positions(used, generated, prompts.positions[row], prompts.ends[row], prompts.sample_ids[row])
    device = prompts.token_ids[0].device
    return [
        Completion(found[f"tokens.{i}"].to(device), found[f"logprobs.{i}"].to(device), has_ended)
        for i, has_ended in enumerate(finished)
    ]


def _check_prompt(theirs: Tensor, ours: Tensor, sample: str) -> None:
    mine = ours.cpu()
    if theirs.equal(mine):
        return
    shared = min(len(theirs), len(mine))
    differing = (theirs[:shared] != mine[:shared]).nonzero()
    place = int(differing[0]) if len(differing) else shared
    raise AvrtError(
        f"vLLM reads the prompt as {len(theirs)} tokens, the student as {len(mine)}; they part at token {place}",
        where=f"sample {sample!r}",
        remedy="the versions of vLLM and transformers prepare this clip differently; sample without vllm",
    )


def _check_positions(theirs: Tensor | None, generated: int, ours: Tensor, end: float, sample: str) -> None:
    """Compare what the engine computed with, (3, P + 1) or -1 where that was cached, with our positions (3, P).

    The prompt's last token is never cached, and the first generated one is computed if another follows.
    """
    mine = torch.cat([ours.cpu(), torch.full((len(ours), 1), end)], dim=1)
    computed = 2 if generated > 1 else 1
    if theirs is None or theirs.shape != mine.shape or bool((theirs[:, -2:][:, :computed] < 0).any()):
        where = "does not show its positions of the prompt"
    elif not bool((apart := ((theirs >= 0) & (theirs != mine)).any(dim=0)).any()):
        return
    else:
        place = int(apart.nonzero()[0])
        where = f"has token {place} at {_place(theirs[:, place])}, the student at {_place(mine[:, place])}"
    raise AvrtError(
        f"vLLM {where}",
        where=f"sample {sample!r}",
        remedy="this version of vLLM does not take the positions it is given; use 0.32, or sample without vllm",
    )


def _place(position: Tensor) -> str:
    return f"[{', '.join(f'{axis:g}' for axis in position.tolist())}]"
