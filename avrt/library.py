"""avrt as a library: `avrt.load(...)` gives a `Student` that is asked as it was trained."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import transformers

from avrt.data.inputs.batch import OmniBatch
from avrt.data.inputs.preprocessor import Preprocessor
from avrt.data.media.clip import Clip
from avrt.data.media.student_frames import fitting
from avrt.data.sample import LETTERS, Modality, Sample
from avrt.data.shards import conversion
from avrt.data.shards.manifest import MANIFEST, Manifest
from avrt.data.shards.members import clip_media
from avrt.errors import AvrtError
from avrt.evaluation.model_card import LICENSE, write_card
from avrt.evaluation.runner import answer
from avrt.objectives.rewards import RewardOptions, RewardSum
from avrt.packaged import model_source
from avrt.policy.hub import fetch, push_folder
from avrt.policy.input_settings import InputSettings, settings_of
from avrt.policy.policy import Policy, load_policy
from avrt.policy.saving import export_policy
from avrt.policy.student_options import StudentOptions
from avrt.remote.uploads import folder_for
from avrt.response import Response, parse_response
from avrt.rollout.sampling import SamplingOptions, completion_seeds
from avrt.run_folder import checkpoint_at, is_trained

if TYPE_CHECKING:
    from avrt.data.loading.datamodule import AVDataModule

Senses = Literal["both", "vision", "audio", "none"]
ClipLike = Clip | str | Path | None
QUESTION = "question"


@dataclass(frozen=True)
class RewardedResponse:
    """One completion of a rollout.

    Attributes:
        response: What was written.
        rewards: Each reward, unweighted, and their weighted sum under `total`.
        logprob: Log-probability of the whole completion under the distribution it was drawn from, in nats.
        finished: Whether it ended by itself rather than being cut off.
    """

    response: Response
    rewards: dict[str, float]
    logprob: float
    finished: bool


class Student:
    """A policy, and how it was trained to be asked.

    A clip is given as a file (video, picture or sound), as a `Clip` that `open` or a shard gave, or as None for a
    question without one.

    Args:
        policy: The policy.
        settings: How it is asked.

    Attributes:
        policy: The policy, with its three verbs encode, generate and logprobs.
        settings: How it is asked.
    """

    def __init__(self, policy: Policy, settings: InputSettings) -> None:
        self.policy = policy
        self.settings = settings

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return next(self.policy.parameters()).device

    def open(self, path: str | Path) -> Clip:
        """Decode a video, picture or sound file as the student was trained: its number and size of frames, its sound.

        Raises:
            BadSampleError: If the file is missing or cannot be decoded.
        """
        spec = fitting(self.settings.clip, self.policy.inputs.patch_factor)
        return conversion.load_clip({Modality.named(Path(path).name): Path(path)}, spec)

    def ask(
        self,
        clip: ClipLike,
        question: str,
        choices: Sequence[str],
        *,
        senses: Senses | None = None,
        masked: Literal["absent", "blank"] | None = None,
        sampling: SamplingOptions | None = None,
        seed: int = 0,
    ) -> Response:
        """Ask a multiple-choice question about a clip.

        Args:
            clip: What is shown.
            question: The question.
            choices: 2 to 26 options.
            senses: What of the clip is given to the student: `both`, `vision`, `audio` or `none`; by default as in its
                training, which is `both` for all but teachers of one sense.
            masked: What becomes of a sense that is not given: `absent` from the prompt, or `blank`.
            sampling: How the completion is drawn; by default as in the evaluation of its training: greedily.
            seed: Seed of a drawn completion.

        Returns:
            The response: its `text`; the `letter` and the reasoning in `think` where it has the strict format, else
            None. `avrt.choices.read_choice` reads an answer from any wording.

        Raises:
            BadSampleError: If the clip or the question cannot be used.
        """
        batch = self.batch(clip, question, choices, senses=senses, masked=masked)
        [prediction] = answer(self.policy, batch, sampling or self.settings.generation, seed=(seed,))
        return parse_response(prediction.responses[0], batch.samples[0].letters)

    def score(
        self,
        clip: ClipLike,
        question: str,
        choices: Sequence[str],
        completions: Sequence[str] | None = None,
        *,
        senses: Senses | None = None,
        masked: Literal["absent", "blank"] | None = None,
    ) -> list[float]:
        """Log-probability of whole completions, in nats: the sum over their tokens, the end token included.

        Args:
            clip: What is shown.
            question: The question.
            choices: 2 to 26 options.
            completions: Texts that the student might answer with. By default the bare answer of each option,
                `<answer>A</answer>` and so on, without any reasoning.
            senses: What of the clip is given to the student; by default as in its training.
            masked: What becomes of a sense that is not given.

        Returns:
            One number for each completion.

        Raises:
            BadSampleError: If the clip or the question cannot be used.
        """
        batch = self.batch(clip, question, choices, senses=senses, masked=masked)
        texts = [f"<answer>{x}</answer>" for x in batch.samples[0].letters] if completions is None else completions
        if not texts:
            return []
        tokenizer = self.policy.inputs.tokenizer
        end = self.policy.inputs.end_token_id
        tokens = [
            torch.tensor([*tokenizer.encode(text, add_special_tokens=False), end], device=self.device) for text in texts
        ]
        with torch.no_grad():
            scores = self.policy.logprobs(self.policy.encode(batch), tokens)
        sums = torch.zeros(len(texts), device=self.device).index_add_(0, scores.completion_index, scores.logprobs)
        return [float(value) for value in sums.tolist()]

    def rollout(
        self,
        clip: ClipLike,
        question: str,
        choices: Sequence[str],
        answer: str | int,
        *,
        count: int = 4,
        senses: Senses | None = None,
        masked: Literal["absent", "blank"] | None = None,
        sampling: SamplingOptions | None = None,
        rewards: RewardOptions | None = None,
        seed: int = 0,
    ) -> list[RewardedResponse]:
        """Sample a group of completions of one question, and reward them as GRPO would.

        Args:
            clip: What is shown.
            question: The question.
            choices: 2 to 26 options.
            answer: The right choice: its letter or its index.
            count: G, how many completions.
            senses: What of the clip is given to the student; by default as in its training.
            masked: What becomes of a sense that is not given.
            sampling: How completions are drawn; by default at temperature 1, as long as its answers may be.
            rewards: Weights and shapes of the rewards.
            seed: Seed of the group; the same seed gives the same completions.

        Returns:
            G completions with their rewards.

        Raises:
            AvrtError: If the answer is none of the choices.
            BadSampleError: If the clip or the question cannot be used.
        """
        index = LETTERS.find(answer) if isinstance(answer, str) and len(answer) == 1 else answer
        if not isinstance(index, int) or not 0 <= index < len(choices):
            raise AvrtError(f"{answer!r} is no choice of {len(choices)}", where="answer", remedy="a letter or an index")
        batch = self.batch(clip, question, choices, answer=index, senses=senses, masked=masked)
        sampling = sampling or SamplingOptions(self.settings.generation.max_new_tokens)
        seeds = completion_seeds([QUESTION], count, seed)
        drawn = self.policy.generate(self.policy.encode_to_generate(batch), sampling, seeds=seeds, group_size=count)
        texts = self.policy.decode_all([completion.token_ids for completion in drawn])
        scorer, [sample] = RewardSum(rewards or RewardOptions()), batch.samples
        return [
            RewardedResponse(
                parse_response(text, sample.letters),
                scorer(text, sample, batch.clips[0]),
                float(completion.logprobs.sum()),
                completion.finished,
            )
            for text, completion in zip(texts, drawn, strict=True)
        ]

    def batch(
        self,
        clip: ClipLike,
        question: str,
        choices: Sequence[str],
        *,
        answer: int | None = None,
        senses: Senses | None = None,
        masked: Literal["absent", "blank"] | None = None,
    ) -> OmniBatch:
        """The model's inputs for one question: a batch of one row, on the student's device.

        Args:
            clip: What is shown.
            question: The question.
            choices: 2 to 26 options.
            answer: Index of the right choice, where it is known.
            senses: What of the clip is given to the student; by default as in its training.
            masked: What becomes of a sense that is not given.

        Returns:
            The batch; its `clips` hold the frames and the sound that the student is given.

        Raises:
            BadSampleError: If the clip or the question cannot be used.
        """
        if not isinstance(clip, Clip):
            clip = Clip() if clip is None else self.open(clip)
        media = clip_media(clip)
        sample = Sample(id=QUESTION, question=question, choices=tuple(choices), answer=answer, media=media)
        prompt = self.settings.prompt
        prompt = replace(prompt, senses=senses or prompt.senses, masked=masked or prompt.masked)
        return Preprocessor(self.policy.inputs, prompt).row(sample, clip).to(self.device)

    def data_module(self, **options: Any) -> AVDataModule:
        """A data module of shards whose questions are put as in this student's training.

        Local shards with other frames, sizes or seconds than in the training are warned of.

        Args:
            **options: Arguments of `AVDataModule`, such as `train="shards/train"` and `batch_size=8`.
        """
        from avrt.data.loading.datamodule import AVDataModule

        data = AVDataModule(**{"prompt": self.settings.prompt, **options})
        for location in [*(source.shards for source in data.sources), *data.folders.values()]:
            if location is not None and (Path(location) / MANIFEST).is_file():
                spec = Manifest.load(Path(location)).spec
                if told := self.settings.warn_of_shards(location, spec):
                    warnings.warn(told, stacklevel=2)
        return data

    def save(self, folder: str | Path, *, full_layout: bool = False) -> None:
        """Write weights, processor and settings as a folder that `avrt.load`, transformers and vLLM load.

        Adapters are merged, after which the student cannot be trained further.

        Args:
            folder: Where to; created if missing. Or an address, such as `s3://bucket/model`.
            full_layout: Write the layout of the released checkpoints, which vLLM expects.

        Raises:
            AvrtError: If the folder already holds a model.
        """
        with folder_for(folder, "config.json") as place:
            export_policy(self.policy, place, settings=self.settings, full_layout=full_layout)
            write_card(place, self.settings)

    def push(self, name: str, *, private: bool = False, license_name: str = LICENSE, full_layout: bool = False) -> str:
        """Upload the student to the Hub, with its settings and a model card; `avrt push` also shows scores in it.

        Adapters are merged, after which the student cannot be trained further.

        Args:
            name: Where to: `user/name`; made if it is not there.
            private: Make it private, if it is new.
            license_name: Its licence, by its id on the Hub.
            full_layout: Write the layout of the released checkpoints, which vLLM expects.

        Returns:
            The model's address.

        Raises:
            AvrtError: If the Hub refuses it.
        """
        with tempfile.TemporaryDirectory(prefix="avrt-push-") as folder:
            export_policy(self.policy, Path(folder), settings=self.settings, full_layout=full_layout)
            write_card(Path(folder), self.settings, name, license_name=license_name)
            return push_folder(Path(folder), name, private=private)


def load(source: str | Path | StudentOptions, device: str | torch.device | None = None) -> Student:
    """Load a student, and how it was trained to be asked.

    It turns transformers' progress bars off, for the whole process.

    Args:
        source: An exported folder or its address (`s3://bucket/model`), an id on the Hub, a training run or one of its
            checkpoints, a packaged model such as `nano/teachers/visual`, `nano` for random weights, or the options in
            full. The weights of a model given by name are float32 on a CPU and bfloat16 elsewhere. A model without
            settings, such as a released one, is asked in avrt's own words, with 8 frames and all of its sound.
        device: Where it runs; by default a GPU where there is one.

    Raises:
        AvrtError: If it cannot be loaded; the message says why.
    """
    transformers.utils.logging.disable_progress_bar()
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32" if torch.device(device).type == "cpu" else "bfloat16"
    if isinstance(source, StudentOptions):
        policy, settings = load_policy(source), settings_of(source.source)
    elif is_trained(path := Path(source)):
        policy, settings = _load_trained(path)
    else:
        folder = _folder(str(source))
        policy, settings = load_policy(StudentOptions(folder, dtype=dtype)), settings_of(folder)
    return Student(policy.to(device).eval(), settings)


def _load_trained(path: Path) -> tuple[Policy, InputSettings]:
    """The student of a training run or checkpoint."""
    from avrt.training.input_record import settings_of_checkpoint
    from avrt.training.trained_policy import policy_from_checkpoint

    checkpoint = checkpoint_at(path)
    policy = policy_from_checkpoint(checkpoint)
    return policy, settings_of_checkpoint(checkpoint) or InputSettings.of_family(policy.family)


def _folder(source: str) -> str:
    """The folder of a packaged model or of one on the Hub, which is copied to its cache; other names as they are."""
    found = model_source(source)
    return str(fetch(source)) if found.count("/") == 1 and not Path(found).exists() else found
