"""vLLM computes every form of prompt with the student's own positions, and the trainer notices when it does not.

The tests marked `server` need what `make server` sets up.
"""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from avrt.data.inputs.batch import collate
from avrt.data.media.clip import Clip
from avrt.errors import AvrtError
from avrt.models.encoded_prompts import ClipFeatures, EncodedPrompts
from avrt.models.qwen2_5_omni.positions import ClipLayout, expand_prompt
from avrt.policy.saving import export_policy
from avrt.policy.vllm.options import VLLMOptions
from avrt.policy.vllm.process import EngineProcess
from avrt.policy.vllm.questions import completions_of, question_message
from avrt.rollout.sampling import SamplingOptions
from avrt.rollout.vllm_process.interleaving import placeholders
from tests.conftest import make_sample
from tests.policy.test_vllm_engine import PYTHON, QUIET, SETTINGS, apart

HERE = Path(__file__).parent
needs_vllm = pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-server here: `make server` sets it up")


@pytest.fixture
def prompts(builder):
    """Sound within video, of several lengths and rates, and every other form, as one batch."""
    chance = torch.Generator().manual_seed(5)

    def frames(count):
        return torch.randint(0, 256, (count, 3, 56, 84), generator=chance, dtype=torch.uint8)

    def both(seconds, count, sound_seconds=None):
        sound = 0.3 * torch.randn(int(16_000 * (sound_seconds or seconds)), generator=chance)
        return ("video", "audio"), Clip(frames=frames(count), seconds_per_frame=seconds / count, audio=sound)

    sound = both(3.0, 8)[1].audio
    forms = [both(0.8, 2), both(3.3, 8), both(5.0, 4), both(9.6, 16), both(4.0, 8, 9.0), both(9.0, 8, 2.0),
             both(12.4, 8), both(23.0, 12), (("video",), Clip(frames=frames(8), seconds_per_frame=0.77)),
             (("image", "audio"), Clip(image=frames(1)[0], audio=sound)), (("image",), Clip(image=frames(1)[0])),
             (("audio",), Clip(audio=sound)), ((), Clip())]  # fmt: skip
    return collate([builder.row(make_sample(str(i), media=m), clip) for i, (m, clip) in enumerate(forms)])


@pytest.fixture
def start(nano, tmp_path, monkeypatch):
    """Starts an engine that has loaded the nano student; it ends with the test."""
    started = []

    def engine(python=PYTHON, **settings):
        for name, value in QUIET.items():
            monkeypatch.setenv(name, value)
        export_policy(nano, tmp_path / "model", full_layout=True)
        started.append(EngineProcess(VLLMOptions(python=str(python))))
        started[0].open(str(tmp_path / "model"), {**SETTINGS, "dtype": "float32", **settings})
        return started[0]

    yield engine
    for process in started:
        process.close()


@pytest.mark.server
@needs_vllm
@pytest.mark.parametrize("prefill", ["whole", "in pieces by other processes"])
def test_log_probabilities_agree_in_every_form_of_prompt(nano, prompts, start, monkeypatch, prefill):
    encoded, sampling = nano.encode(prompts), SamplingOptions(max_new_tokens=24)
    if prefill == "whole":
        engine = start()
    else:
        monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
        engine = start(max_num_batched_tokens=96)
        sampling = replace(sampling, temperature=0.0)  # vLLM's CPU build cannot draw by a seed after a piece
    for kept in (False, True):
        message, tensors = question_message(nano, encoded, sampling, range(2 * len(encoded)), 2)
        reply, found = engine.ask(message, tensors)
        answers = completions_of(encoded, reply, found)
        worst = apart(nano, prompts, answers)
        print(f"{prefill}: first tokens and all {worst.max():.1e}")
        assert len(answers) == 26
        assert worst.max() < 1e-5
        # asked again, long prompts are in vLLM's cache but for their ends
        assert not kept or max(int((found[f"positions.{i}"][0] == -1).sum()) for i in range(26)) > 300


@pytest.mark.server
@needs_vllm
def test_a_vllm_that_counts_by_itself_is_noticed(nano, prompts, start, tmp_path):
    """Its model runner is changed as a later version might be: see `planted_positions.py`."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {PYTHON} {HERE / "planted_positions.py"} "$@"\n')
    python.chmod(0o755)
    encoded, engine = nano.encode(prompts), start(python)

    def ask(row):
        one = replace(encoded.rows([row]), clips=[encoded.clips[row]], sample_ids=[encoded.sample_ids[row]])
        message, tensors = question_message(nano, one, SamplingOptions(max_new_tokens=2), [0], 1)
        return completions_of(one, *engine.ask(message, tensors))

    place = len(encoded.token_ids[3]) - 2
    with pytest.raises(AvrtError, match=rf"sample '3': vLLM has token {place} at \[.*the student at \[.*0\.32"):
        ask(3)  # one position is off by one
    with pytest.raises(AvrtError, match="sample '6': vLLM has token"):
        ask(6)  # all are vLLM's own
    assert len(ask(2)) == 1  # all are as they should be


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda used: used, None),
        (lambda used: used.index_fill(1, torch.tensor([0, 1]), -1), None),
        (lambda used: None, "does not show"),
        (lambda used: used[:, :-1], "does not show"),
        (lambda used: used.index_fill(1, torch.tensor([5]), -1), "does not show"),
        (lambda used: used + torch.tensor([[0], [0], [1]]), r"has token 0 at \[0, 0, 1\]"),
        (lambda used: used + (torch.arange(6) == 5), r"has token 5 at \[8, 8, 8\], the student at \[7, 7, 7\]"),
    ],
)
def test_what_was_used_is_compared(change, message):
    ids, positions = torch.tensor([3, 4, 5, 6, 7]), torch.tensor([0, 1, 2, 2, 6]).expand(3, -1)
    prompts = EncodedPrompts(
        [ids], [positions], [7], [ids[:0]], [ids[:0]], ClipFeatures([None], [None]), [Clip()], ["q"]
    )
    found = {"prompt.0": ids, "tokens.0": torch.tensor([1, 2]), "logprobs.0": torch.zeros(2)}
    used = change(torch.cat([positions, torch.full((3, 1), 7)], dim=1).int())
    found |= {} if used is None else {"positions.0": used}
    if message is None:
        assert len(completions_of(prompts, {"finished": [True]}, found)) == 1
    else:
        with pytest.raises(AvrtError, match=message):
            completions_of(prompts, {"finished": [True]}, found)


def test_tokens_within_video_are_those_of_the_student(nano):
    ids, config = nano.inputs.ids, nano.model.config
    theirs = SimpleNamespace(
        video_token_index=ids.video, audio_token_index=ids.audio, audio_start_token_id=ids.audio_bos,
        audio_end_token_id=ids.audio_eos, seconds_per_chunk=config.seconds_per_chunk,
        vision_config=SimpleNamespace(spatial_merge_size=ids.merge_size, tokens_per_second=ids.positions_per_second),
    )  # fmt: skip
    for steps, seconds, sound in (
        (1, 1.0, 9),
        (4, 0.4, 40),
        (4, 3.1, 310),
        (6, 3.83, 575),
        (4, 2.25, 50),
        (3, 9.0, 700),
    ):
        grid = (steps, 4, 6)
        layout = ClipLayout(grid, seconds, audio_tokens=sound, audio_in_video=True)
        assert placeholders(theirs, sound, list(grid), seconds) == expand_prompt([ids.video], layout, ids)[0].tolist()
