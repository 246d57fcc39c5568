"""The same small questions as elsewhere, on a GPU; without one all is skipped."""

import pytest
import torch

from avrt.policy.policy import load_policy
from avrt.policy.student_options import StudentOptions

HERE = __name__.rpartition(".")[0]


def pytest_collection_modifyitems(items):
    for item in items:
        if item.module.__name__.startswith(HERE):
            item.add_marker(pytest.mark.gpu)
            item.add_marker(pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA"))


@pytest.fixture(params=["float32", "bfloat16"])
def dtype(request):
    return request.param


@pytest.fixture
def student(dtype):
    return load_policy(StudentOptions(source="nano", dtype=dtype)).to("cuda")
