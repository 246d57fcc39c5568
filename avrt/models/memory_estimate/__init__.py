"""What training takes in memory, counted from the model's shape alone.

`activations` has what a step's phases make, `held` weights, gradients and optimizer states under DeepSpeed.
"""

from avrt.models.memory_estimate.activations import expected_bytes, rollout_bytes, scoring_bytes, update_bytes
from avrt.models.memory_estimate.held import Held, Partitioning, checkpoint_bytes, held_bytes
from avrt.models.memory_estimate.shape import Shape

__all__ = [
    "Held",
    "Partitioning",
    "Shape",
    "checkpoint_bytes",
    "expected_bytes",
    "held_bytes",
    "rollout_bytes",
    "scoring_bytes",
    "update_bytes",
]
