"""Exported folders: in both layouts they load in transformers and here, with equal logits."""

import pytest
import torch

from avrt.policy.policy import load_policy
from avrt.policy.saving import export_policy
from avrt.policy.student_options import LoraOptions
from tests.families.conftest import NANO, nano_options


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


@pytest.fixture(params=NANO)
def student(request):
    """One whose saved buffers count: a nano preset's scalars are 1, and its clip bounds infinite."""
    policy = load_policy(nano_options(request.param))
    saved = policy.model.state_dict()
    with torch.no_grad():
        for name, buffer in policy.model.named_buffers():
            if name in saved:
                buffer.copy_(torch.where(buffer.isinf(), 3 * buffer.sign(), 0.9 * buffer))
    return policy


@pytest.mark.parametrize("full_layout", [False, True])
def test_an_exported_student_is_the_same_in_transformers(student, tmp_path, full_layout):
    export_policy(student, tmp_path, full_layout=full_layout)
    loaded, report = type(student.model).from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    ids = torch.arange(20, 60)[None]
    # equal weights; on the CPU our linear layers add up in another order (avrt/models/onednn.py)
    torch.testing.assert_close(logits(loaded, ids), logits(student.model, ids), atol=1e-5, rtol=0)
    again = load_policy(nano_options(str(tmp_path)))
    assert again.family is student.family
    for kind in ("parameters", "buffers"):
        tensors = (getattr(policy, kind)() for policy in (again, student))
        assert all(torch.equal(a, b) for a, b in zip(*tensors, strict=True)), kind


@pytest.mark.parametrize("source", NANO)
def test_adapters_are_merged(source, tmp_path):
    pytest.importorskip("peft")
    adapted = load_policy(nano_options(source, lora=LoraOptions(rank=4)))
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora_B" in name:
                p.normal_(0, 0.1)
    ids = torch.arange(20, 60)[None]
    expected = logits(adapted.model, ids)
    export_policy(adapted, tmp_path)
    loaded = type(load_policy(nano_options(source)).model).from_pretrained(tmp_path)
    assert torch.allclose(logits(loaded, ids), expected, atol=1e-4)
