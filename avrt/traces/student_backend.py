"""A student of this project as a teacher, in this process: its own prompt form, towers and rollout engine."""

from __future__ import annotations

import hashlib
import importlib.resources
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from avrt.data.sample import Modality, Sample
from avrt.errors import AvrtError, BadSampleError
from avrt.traces.batching import BatchingBackend, spoken_text
from avrt.traces.requests import CallFailedError, Reply, Request

if TYPE_CHECKING:
    from avrt.data.inputs.batch import OmniBatch


class StudentBackend(BatchingBackend):
    """An exported student, asked as it was trained: `data.prompt` of its training is what the template has to repeat.

    Args:
        source: The student's folder.
        batch_size: Requests answered together.
        dtype: Type of the weights.
        device: Where it runs.
        audio_in_video: Interleave a video's sound with its frames, where it is shown both.
    """

    def __init__(
        self,
        source: str,
        batch_size: int = 64,
        dtype: Literal["float32", "bfloat16"] = "float32",
        device: str = "cpu",
        audio_in_video: bool = True,
    ) -> None:
        super().__init__(batch_size)
        self._source = str(find_model(source))
        self._dtype = dtype
        self._device = device
        self._audio_in_video = audio_in_video
        self._model: str | None = None

    @property
    def model(self) -> str:
        """Folder name and a hash of its weights: a student that was trained again is another model."""
        if self._model is None:
            self._model = f"{Path(self._source).name}@{_weights_hash(Path(self._source))}"
        return self._model

    def load(self) -> None:
        """See `BatchingBackend.load`."""
        import transformers

        from avrt.data.inputs.preprocessor import Preprocessor
        from avrt.data.inputs.prompt_options import PromptOptions
        from avrt.policy.options import StudentOptions
        from avrt.policy.policy import load_policy

        transformers.utils.logging.disable_progress_bar()
        policy = load_policy(StudentOptions(source=self._source, dtype=self._dtype))
        self._policy = policy.to(self._device).eval().requires_grad_(False)
        options = PromptOptions(audio_in_video=self._audio_in_video)
        self._preprocessor = Preprocessor(policy.inputs, options)

    def answer(self, requests: list[Request]) -> list[Reply | CallFailedError]:
        """See `BatchingBackend.answer`; all requests share the sampling parameters of the first but for seeds."""
        from avrt.data.inputs.batch import collate
        from avrt.rollout.sampling import SamplingOptions, completion_seed

        built = [self._build(request) for request in requests]
        rows = [row for row in built if not isinstance(row, CallFailedError)]
        if not rows:
            return [row for row in built if isinstance(row, CallFailedError)]
        batch = collate(rows).to(self._device)
        sampling = requests[0].sampling
        options = SamplingOptions(sampling.max_tokens, sampling.temperature, top_p=sampling.top_p)
        tokenizer = self._policy.inputs.tokenizer
        seeds = [completion_seed(r.sampling.seed or 0, r.role, r.sample_id, r.number) for r in requests]
        seeds = [seed for seed, row in zip(seeds, built, strict=True) if not isinstance(row, CallFailedError)]
        completions = self._policy.generate(self._policy.encode(batch), options, seeds=seeds)
        replies: list[Reply | CallFailedError] = []
        for prompt, completion in zip(batch.prompt_ids, completions, strict=True):
            text = spoken_text(tokenizer, completion.token_ids.tolist())
            reason = "stop" if completion.finished else "length"
            replies.append(Reply(text, None, reason, len(prompt), len(completion.token_ids)))
        answered = iter(replies)
        return [row if isinstance(row, CallFailedError) else next(answered) for row in built]

    def _build(self, request: Request) -> OmniBatch | CallFailedError:
        from avrt.data.media.clip import Clip
        from avrt.data.shards.members import decode_clip

        members = request.media.members
        held = {Modality.VIDEO: "0.jpg", Modality.IMAGE: "image.jpg", Modality.AUDIO: "flac"}
        media = [m for m, name in held.items() if name in members]
        try:
            clip = decode_clip(members, media) if members else Clip()
            stand_in = Sample(id=request.sample_id, question=request.prompt, choices=("-", "-"), answer=None)
            return self._preprocessor.row(stand_in, clip, (request.system, request.prompt))
        except (BadSampleError, KeyError) as error:
            return CallFailedError(str(error))


def find_model(name: str) -> Path:
    """A model's folder by path, or by its name among the packaged ones, such as `nano/teachers/visual`.

    Raises:
        AvrtError: If there is none.
    """
    packaged = Path(str(importlib.resources.files("avrt_configs").joinpath(name)))
    found = next((folder for folder in (Path(name), packaged) if folder.is_dir()), None)
    if found is None:
        raise AvrtError("no such folder", where=name, remedy="set source to an exported student")
    return found


def _weights_hash(folder: Path) -> str:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise AvrtError("holds no model", where=folder, remedy="set source to an exported student")
    whole = hashlib.blake2b(digest_size=6)
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 22):
                whole.update(chunk)
    return whole.hexdigest()
