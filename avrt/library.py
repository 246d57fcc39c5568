"""avrt as a library: load a student, open a clip, ask a question; `from avrt import load_policy, load_clip, ask`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from avrt.data.inputs.preprocessor import Preprocessor
from avrt.data.inputs.prompt_options import PromptOptions
from avrt.data.media.clip import Clip, ClipSpec
from avrt.data.sample import Modality, Sample
from avrt.data.shards import conversion
from avrt.data.shards.members import clip_media
from avrt.evaluation.runner import answer
from avrt.policy import policy as policies
from avrt.policy.policy import Policy
from avrt.policy.student_options import StudentOptions
from avrt.response import Response, parse_response
from avrt.rollout.sampling import SamplingOptions

WHOLE_SOUND = ClipSpec(audio_seconds=None)


def load_policy(student: str | StudentOptions, device: str | torch.device = "cpu") -> Policy:
    """Load a student.

    Args:
        student: A folder, a model id, `nano`, or the options in full. By name the weights are float32 on a CPU and
            bfloat16 elsewhere.
        device: Where it runs.

    Raises:
        AvrtError: If it cannot be loaded; the message says why.
    """
    if isinstance(student, str):
        student = StudentOptions(student, dtype="float32" if torch.device(device).type == "cpu" else "bfloat16")
    return policies.load_policy(student).to(device).eval()


def load_clip(path: str | Path, spec: ClipSpec = WHOLE_SOUND) -> Clip:
    """Decode a video, an image or a sound file: 8 frames, uniformly spaced, and all of its sound by default.

    Raises:
        BadSampleError: If the file is missing or cannot be decoded.
    """
    return conversion.load_clip({Modality.named(Path(path).name): Path(path)}, spec)


def ask(
    policy: Policy,
    clip: Clip,
    question: str,
    choices: Sequence[str],
    *,
    prompt: PromptOptions | None = None,
    sampling: SamplingOptions | None = None,
) -> Response:
    """Ask a multiple-choice question about a clip.

    Args:
        policy: The student.
        clip: What is shown.
        question: The question.
        choices: 2 to 26 options.
        prompt: Wording and masks; by default the sound of a video is interleaved with its frames.
        sampling: How the completion is drawn; greedy by default.

    Returns:
        The response: its `text`, the chosen `letter` (None if none can be read), the reasoning's words.
    """
    sample = Sample(id="question", question=question, choices=tuple(choices), answer=None, media=clip_media(clip))
    preprocessor = Preprocessor(policy.inputs, prompt or PromptOptions(audio_in_video=True))
    batch = preprocessor.row(sample, clip).to(next(policy.parameters()).device)
    [prediction] = answer(policy, batch, sampling or SamplingOptions(temperature=0.0))
    return parse_response(prediction.responses[0], sample.letters)
