"""Runs a script in vLLM's environment, whose model runner is wrong about the first request and ignores the second's.

python planted_positions.py worker.py --once
"""

import itertools
import runpy
import sys
from pathlib import Path

from vllm.v1.worker.gpu_model_runner import GPUModelRunner

own, requests = GPUModelRunner._init_mrope_positions, itertools.count()


def planted(runner, state):
    """Positions of one request; the warm-up of the engine has none."""
    own(runner, state)
    number = next(requests)
    if number == 0:
        state.mrope_positions[:, -2] += 1
    elif number == 1:
        model = runner.get_model()
        counted = type(model).get_mrope_input_positions(model, state.prompt_token_ids, state.mm_features)
        state.mrope_positions, state.mrope_position_delta = counted


if __name__ == "__main__":  # vLLM's own processes import this file again
    GPUModelRunner._init_mrope_positions = planted
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
