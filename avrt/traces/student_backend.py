"""A student of this project as a teacher, in this process, with its own prompt format and sampling."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from avrt.data.sample import Modality, Sample
from avrt.errors import AvrtError, BadSampleError
from avrt.files import blake2b
from avrt.packaged import find_packaged, model_source, packaged
from avrt.prompts import CHOICE
from avrt.remote.stores import is_remote
from avrt.traces.batching_backend import BatchingBackend, decode_reply
from avrt.traces.requests import CallFailedError, Reply, Request
from avrt.traces.templates import Template

if TYPE_CHECKING:
    from avrt.data.inputs.batch import OmniBatch
    from avrt.policy.vllm.engine import VLLMEngine
    from avrt.policy.vllm.options import VLLMOptions


class StudentBackend(BatchingBackend):
    """An exported student. Without a template it is asked as it was trained, where its folder says how.

    Args:
        source: The student's folder: a path, an address, or the name of a packaged one, such as `nano/teachers/visual`.
        batch_size: Most requests in a batch.
        dtype: Type of the weights.
        device: Device, such as `cpu` or `cuda:0`.
        audio_in_video: Interleave a video's audio with its frames; None does as in its training.
        vllm: Let vLLM answer instead of the native engine. Its calls are stored under a name of their own.
    """

    def __init__(
        self,
        source: str,
        batch_size: int = 64,
        dtype: Literal["float32", "bfloat16"] = "float32",
        device: str = "cpu",
        audio_in_video: bool | None = None,
        vllm: VLLMOptions | None = None,
    ) -> None:
        super().__init__(batch_size)
        self._source = str(find_model(source))
        self._dtype = dtype
        self._device = device
        self._audio_in_video = audio_in_video
        self._vllm = vllm
        self._engine: VLLMEngine | None = None
        self._model: str | None = None

    @property
    def model(self) -> str:
        """The folder's name and a hash of its weights, as a student that is trained again is another model."""
        if self._model is None:
            folder = Path(self._source)
            files = sorted(folder.glob("*.safetensors"))
            if not files:
                raise AvrtError("has no *.safetensors", where=folder, remedy="set source to an exported student")
            engine = "" if self._vllm is None else "+vllm"
            self._model = f"{folder.name}@{blake2b(files, digest_size=6)}{engine}"
        return self._model

    def own_template(self) -> Template | None:
        """The prompt of its training; None where its folder does not say, or where no template can say the same."""
        from avrt.policy.input_settings import read_settings

        settings = read_settings(self._source)
        if settings is None or settings.prompt.choice != CHOICE or "{choice_list}" in settings.prompt.template:
            return None
        prompt = settings.prompt
        user = prompt.template.format(
            question="{question}", choices="{formatted_choices}", instruction=prompt.instruction
        )
        own = Template(prompt.system_prompt, user)
        return own if own.placeholders == {"question", "formatted_choices"} else None

    def warn_of_shards(self, where: str, spec: Mapping[str, Any]) -> str | None:
        """How the clips of some shards differ from those of its training, in words."""
        from avrt.policy.input_settings import read_settings

        settings = read_settings(self._source)
        return None if settings is None else settings.warn_of_shards(where, spec)

    def load(self) -> None:
        """Load the policy and its processor, and vLLM where it is to answer."""
        import transformers

        from avrt.data.inputs.preprocessor import Preprocessor
        from avrt.data.inputs.prompt_options import PromptOptions
        from avrt.policy.input_settings import settings_of
        from avrt.policy.policy import load_policy
        from avrt.policy.student_options import StudentOptions
        from avrt.policy.vllm.engine import start_engine

        transformers.utils.logging.disable_progress_bar()
        policy = load_policy(StudentOptions(source=self._source, dtype=self._dtype))
        self._policy = policy.to(self._device).eval().requires_grad_(False)
        own = settings_of(self._source).prompt.audio_in_video
        options = PromptOptions(audio_in_video=own if self._audio_in_video is None else self._audio_in_video)
        self._preprocessor = Preprocessor(policy.inputs, options)
        if self._vllm is not None:
            self._engine = start_engine(self._policy, self._vllm)
            self._engine.hold(self._policy)
            self._policy.engine = self._engine

    async def close(self) -> None:
        """Also end vLLM."""
        await super().close()
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def answer(self, requests: list[Request]) -> list[Reply | CallFailedError]:
        """Answer a batch. The seeds are each request's own, all other sampling parameters are the first one's."""
        from avrt.data.inputs.batch import collate
        from avrt.rollout.sampling import SamplingOptions, completion_seed

        inputs = [self._preprocess(request) for request in requests]
        rows = [row for row in inputs if not isinstance(row, CallFailedError)]
        if not rows:
            return [row for row in inputs if isinstance(row, CallFailedError)]
        batch = collate(rows).to(self._device)
        sampling = requests[0].sampling
        options = SamplingOptions(sampling.max_tokens, sampling.temperature, top_p=sampling.top_p)
        tokenizer = self._policy.inputs.tokenizer
        seeds = [completion_seed(r.sampling.seed or 0, r.role, r.sample_id, r.number) for r in requests]
        seeds = [seed for seed, row in zip(seeds, inputs, strict=True) if not isinstance(row, CallFailedError)]
        completions = self._policy.generate(self._policy.encode_to_generate(batch), options, seeds=seeds)
        replies: list[Reply | CallFailedError] = []
        for prompt, completion in zip(batch.prompt_ids, completions, strict=True):
            text = decode_reply(tokenizer, completion.token_ids.tolist())
            reason = "stop" if completion.finished else "length"
            replies.append(Reply(text, None, reason, len(prompt), len(completion.token_ids)))
        answered = iter(replies)
        return [row if isinstance(row, CallFailedError) else next(answered) for row in inputs]

    def _preprocess(self, request: Request) -> OmniBatch | CallFailedError:
        """The inputs of one request, or the error where its media cannot be decoded."""
        from avrt.data.media.clip import Clip
        from avrt.data.shards.members import decode_clip

        members = request.media.members
        names = {Modality.VIDEO: "0.jpg", Modality.IMAGE: "image.jpg", Modality.AUDIO: "flac"}
        media = [m for m, name in names.items() if name in members]
        try:
            clip = decode_clip(members, media) if members else Clip()
            sample = Sample(id=request.sample_id, question=request.prompt, choices=("-", "-"), answer=None)
            return self._preprocessor.row(sample, clip, (request.system, request.prompt))
        except (BadSampleError, KeyError) as error:
            return CallFailedError(str(error))


def find_model(name: str) -> Path:
    """A model's folder by path, or by its name among the packaged ones, such as `nano/teachers/visual`.

    Raises:
        AvrtError: If there is none.
    """
    if is_remote(name):
        return Path(model_source(name))
    found = find_packaged(name, packaged("avrt.configs"), Path.is_dir)
    if found is None:
        raise AvrtError("no such folder", where=name, remedy="set source to an exported student")
    return found
