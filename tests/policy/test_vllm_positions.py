"""vLLM computes every form of prompt with the student's own positions, and the trainer notices when it does not.

The tests marked `server` need what `make server` sets up.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from avrt.data.inputs.batch import collate
from avrt.data.inputs.preprocessor import Preprocessor
from avrt.data.inputs.prompt_options import PromptOptions
from avrt.data.media.clip import Clip
from avrt.errors import AvrtError
from avrt.models.encoded_prompts import ClipFeatures, EncodedPrompts
from avrt.models.families import FAMILIES
from avrt.policy.policy import load_policy
from avrt.policy.saving import export_policy
from avrt.policy.student_options import StudentOptions
from avrt.policy.vllm.options import VLLMOptions
from avrt.policy.vllm.process import EngineProcess
from avrt.policy.vllm.questions import completions_of, question_message
from avrt.rollout.sampling import SamplingOptions
from tests.conftest import make_sample
from tests.policy.forms import forms_of
from tests.policy.test_vllm_engine import PYTHON, QUIET, SETTINGS, apart

HERE = Path(__file__).parent
KINDS = {"video": "frames", "image": "image", "audio": "audio"}
needs_vllm = pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-server here: `make server` sets it up")


@pytest.fixture(scope="module", params=[family.nano for family in FAMILIES])
def student(request):
    """A family's nano student."""
    return load_policy(StudentOptions(source=request.param, dtype="float32"))


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts an engine that has loaded a student; it ends with the test."""
    started = []

    def engine(student, python=PYTHON, **settings):
        for name, value in QUIET.items():
            monkeypatch.setenv(name, value)
        export_policy(student, tmp_path / "model", full_layout=True)
        started.append(EngineProcess(VLLMOptions(python=str(python))))
        settings = {**SETTINGS, "dtype": "float32", **settings}
        said = started[0].open(str(tmp_path / "model"), settings, student.family.engine)
        assert not said["lacking"]
        return started[0]

    yield engine
    for process in started:
        process.close()


@pytest.mark.server
@needs_vllm
@pytest.mark.parametrize("prefill", ["whole", "in pieces by other processes"])
def test_log_probabilities_agree_in_every_form_of_prompt(student, start, monkeypatch, prefill):
    prompts = forms_of(student)
    encoded, sampling = student.encode(prompts), SamplingOptions(max_new_tokens=24)
    if prefill == "whole":
        engine = start(student)
    else:
        monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
        engine = start(student, max_num_batched_tokens=96)
        sampling = replace(sampling, temperature=0.0)  # vLLM's CPU build cannot draw by a seed after a piece
    count = 2 * len(encoded)
    for kept in (False, True):
        message, tensors = question_message(student, encoded, sampling, range(count), 2)
        reply, found = engine.ask(message, tensors)
        answers = completions_of(encoded, reply, found)
        worst = apart(student, prompts, answers)
        by_prompt = worst.view(-1, 2).amax(dim=1)
        named = zip(encoded.sample_ids, by_prompt.tolist(), strict=True)
        by_form = ", ".join(f"{n} {w:.0e}" for n, w in named)
        print(f"{student.family.name}, {prefill}{', cached' * kept}: {worst.max():.1e}: {by_form}")
        assert len(answers) == count
        assert worst.max() < 1e-5
        # asked again, long prompts are in vLLM's cache but for their ends
        assert not kept or max(int((found[f"positions.{i}"][0] == -1).sum()) for i in range(count)) > 300


@pytest.mark.server
@needs_vllm
def test_a_vllm_that_counts_by_itself_is_noticed(nano, start, tmp_path):
    """Its model runner is changed as a later version might be: see `planted_positions.py`."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {PYTHON} {HERE / "planted_positions.py"} "$@"\n')
    python.chmod(0o755)
    encoded, engine = nano.encode(forms_of(nano)), start(nano, python)

    def ask(row):
        one = replace(encoded.rows([row]), clips=[encoded.clips[row]], sample_ids=[encoded.sample_ids[row]])
        message, tensors = question_message(nano, one, SamplingOptions(max_new_tokens=2), [0], 1)
        return completions_of(one, *engine.ask(message, tensors))

    place = len(encoded.token_ids[3]) - 2
    with pytest.raises(AvrtError, match=rf"sample '3-True': vLLM has token {place} at \[.*the student at \[.*0\.32"):
        ask(3)  # one position is off by one
    with pytest.raises(AvrtError, match="sample '6-True': vLLM has token"):
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


@pytest.mark.parametrize("source", [family.nano for family in FAMILIES])
def test_a_folded_prompt_is_the_students_once_its_placeholders_are_filled(source):
    student = load_policy(StudentOptions(source=source, dtype="float32"))
    prompts = EncodedPrompts.of(batch := forms_of(student), ClipFeatures.none(len(batch)))
    for row, ids in enumerate(prompts.token_ids):
        asked = student.family.vllm_prompt(student.inputs, prompts, row)
        media = [kind for kind in ("video", "image", "audio") if getattr(prompts.clips[row], KINDS[kind]) is not None]
        within = asked["processor"].get("use_audio_in_video")
        assert [*asked["placeholders"]] == [kind for kind in media if not (kind == "audio" and within)]
        filled = []
        by_token = {handed["features"]: handed["tokens"] for handed in asked["placeholders"].values()}
        for token in asked["token_ids"]:
            filled += by_token.get(token, [token])
        assert filled == ids.tolist()


def test_frames_that_vllm_has_no_room_for_are_refused():
    student = load_policy(StudentOptions(source="nano-gemma4", dtype="float32"))
    builder = Preprocessor(student.inputs, PromptOptions(), targets=True)
    clip = Clip(frames=torch.zeros(2, 3, 8 * 28, 9 * 28, dtype=torch.uint8), seconds_per_frame=1.0)
    batch = collate([builder.row(make_sample("q", media=("video",)), clip)])
    with pytest.raises(AvrtError, match="sample 'q': has frames of 72 tokens, and vLLM has room for 70"):
        student.family.vllm_prompt(student.inputs, EncodedPrompts.of(batch, ClipFeatures.none(1)), 0)
