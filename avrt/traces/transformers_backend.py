"""Models of transformers in this process: image-text-to-text, audio-text-to-text and text models."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Literal

from avrt.errors import AvrtError
from avrt.packaged import model_source
from avrt.traces.batching_backend import BatchingBackend, decode_reply
from avrt.traces.requests import CallFailedError, Reply, Request

_AUTO = {
    "image": ("AutoModelForImageTextToText", "AutoModelForMultimodalLM"),
    "audio": ("AutoModelForMultimodalLM", "AutoModelForSeq2SeqLM"),
    "text": ("AutoModelForCausalLM",),
}


class TransformersBackend(BatchingBackend):
    """A Hugging Face model with its own chat template and processor, answering in batches.

    Args:
        source: A folder or a model id.
        takes: The media that the model takes beside text; `text` for none.
        batch_size: Most requests in a batch.
        dtype: Type of the weights.
        device: Device, such as `cpu` or `cuda:0`; `auto` spreads the model over all devices (needs accelerate).
    """

    def __init__(
        self,
        source: str,
        takes: Literal["image", "audio", "text"],
        batch_size: int = 8,
        dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16",
        device: str = "cpu",
    ) -> None:
        super().__init__(batch_size)
        self._source = source
        self._takes = takes
        self._dtype = dtype
        self._device = device

    @property
    def model(self) -> str:
        """The source."""
        return self._source

    def load(self) -> None:
        """Load the model and its processor, or its tokenizer for a text model."""
        import torch

        loader = "AutoTokenizer" if self._takes == "text" else "AutoProcessor"
        self._processor = self._from_pretrained((loader,), padding_side="left")
        placement = {"device_map": "auto"} if self._device == "auto" else {}
        model = self._from_pretrained(_AUTO[self._takes], dtype=getattr(torch, self._dtype), **placement)
        self._loaded = (model if placement else model.to(self._device)).eval()
        self._tokenizer = getattr(self._processor, "tokenizer", self._processor)
        self._tokenizer.padding_side = "left"
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token

    def _from_pretrained(self, classes: Sequence[str], **settings: Any) -> Any:
        """Load the source by the first of several classes of transformers that can."""
        import transformers

        failure: Exception | None = None
        for name in classes:
            try:
                return getattr(transformers, name).from_pretrained(model_source(self._source), **settings)
            except (OSError, ValueError) as error:
                failure = error
        what = f"cannot be loaded: {str(failure).splitlines()[0]}"
        raise AvrtError(what, where=self._source, remedy="give the folder or id of a model that transformers loads")

    def answer(self, requests: list[Request]) -> list[Reply | CallFailedError]:
        """Answer a batch in groups of requests with equal sampling parameters."""
        replies: dict[int, Reply | CallFailedError] = {}
        groups: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            # transformers has one random state for a batch, so requests with other seeds go into another batch
            groups.setdefault(repr(request.sampling), []).append(i)
        for members in groups.values():
            try:
                answered: list[Reply | CallFailedError] = [*self._generate([requests[i] for i in members])]
            except (ValueError, IndexError, KeyError, TypeError) as error:
                if len(members) > 1:  # a request that fails must not fail the others
                    answered = [self.answer([requests[i]])[0] for i in members]
                else:
                    answered = [CallFailedError(f"{type(error).__name__}: {error}")]
            replies.update(zip(members, answered, strict=True))
        return [replies[i] for i in range(len(requests))]

    def _generate(self, requests: list[Request]) -> list[Reply]:
        """Replies to requests with equal sampling parameters."""
        import torch

        inputs = self._inputs(requests).to(self._loaded.device)
        for name, value in inputs.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                inputs[name] = value.to(self._loaded.dtype)
        sampling = requests[0].sampling
        sampled = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}
        with torch.no_grad(), torch.random.fork_rng():
            if sampling.seed is not None:
                torch.manual_seed(sampling.seed)
            output = self._loaded.generate(
                **inputs,
                max_new_tokens=sampling.max_tokens,
                pad_token_id=self._tokenizer.pad_token_id,
                **(sampled if sampling.temperature > 0 else {"do_sample": False}),
                **sampling.extra,
            )
        width = inputs["input_ids"].shape[1]
        ends = self._loaded.generation_config.eos_token_id
        stops = set(ends if isinstance(ends, list) else [ends])
        replies = []
        for prompt, row in zip(inputs["attention_mask"], output[:, width:].tolist(), strict=True):
            length = next((i + 1 for i, token in enumerate(row) if token in stops), len(row))
            text = decode_reply(self._tokenizer, row[:length])
            reason = "stop" if length and row[length - 1] in stops else "length"
            replies.append(Reply(text, None, reason, int(prompt.sum()), length))
        return replies

    def _inputs(self, requests: list[Request]) -> Any:
        """The processor's inputs, padded on the left."""
        chats = [self._chat(request) for request in requests]
        # Only the text is padded here; audio keeps the window of its feature extractor.
        padding = (
            {"padding": True} if self._takes == "text" else {"processor_kwargs": {"text_kwargs": {"padding": True}}}
        )
        return self._processor.apply_chat_template(
            chats,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            **padding,
        )

    def _chat(self, request: Request) -> list[dict[str, object]]:
        """A request as chat messages, with the media decoded."""
        system = [("system", request.system)] if request.system else []
        if self._takes == "text":
            return [{"role": role, "content": text} for role, text in [*system, ("user", request.prompt)]]
        content: list[dict[str, object]] = []
        if self._takes == "image":
            from PIL import Image

            content += [{"type": "image", "image": Image.open(io.BytesIO(jpeg))} for jpeg in request.media.images]
        elif request.media.audio is not None:
            import soundfile

            samples, _ = soundfile.read(io.BytesIO(request.media.audio), dtype="float32")
            content.append({"type": "audio", "audio": samples})
        content.append({"type": "text", "text": request.prompt})
        parts: list[tuple[str, object]] = [(role, [{"type": "text", "text": text}]) for role, text in system]
        return [{"role": role, "content": part} for role, part in [*parts, ("user", content)]]
