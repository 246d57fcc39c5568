"""Fixtures of the models' tests."""

import pytest

from avrt.models import fused
from tests.models.triton_interpreter import interpreter


@pytest.fixture
def kernels():
    """Triton's interpreter, so that the fused kernels run here; Liger-Kernel is imported for it alone."""
    pytest.importorskip("liger_kernel")
    fused._kernels.cache_clear()
    with interpreter("liger_kernel"):
        yield
    fused._kernels.cache_clear()
