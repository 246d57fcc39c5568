"""The core is plain PyTorch, and its files can be read in one sitting."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CORE = (
    "avrt.algorithms.grpo", "avrt.algorithms.sft", "avrt.policy.policy", "avrt.policy.reference", "avrt.policy.parity",
    "avrt.policy.saving", "avrt.rollout.native", "avrt.data.inputs.preprocessor", "avrt.data.shards.reader",
    "avrt.evaluation.runner", "avrt.library",
)  # fmt: skip
FRAMEWORKS = {
    "lightning",
    "pytorch_lightning",
    "deepspeed",
    "jsonargparse",
    "tensorboard",
    "torchmetrics",
    "webdataset",
}


def test_the_core_imports_no_framework():
    script = f"import sys, {', '.join(CORE)}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "torch" in done.stdout.split()
    assert FRAMEWORKS.isdisjoint(done.stdout.split())


def test_the_algorithms_are_short():
    for path in (ROOT / "avrt" / "algorithms").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 200, path


def test_import_of_the_package_alone_imports_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-c", "import sys, avrt; print('torch' in sys.modules, avrt.__version__)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("False 0.")
