"""GRPO in plain PyTorch on the nano student, without Lightning or DeepSpeed.

avrt shards nano_world --root clips --out shards --clips 40
python examples/grpo.py shards --steps 3
"""

import argparse
import itertools
from pathlib import Path

import torch

import avrt
from avrt.algorithms.grpo import GRPOOptions, grpo_step
from avrt.algorithms.optimizer import PlainOptimizer
from avrt.data.inputs.batch import collate
from avrt.data.inputs.preprocessor import Preprocessor
from avrt.data.shards.members import decode_members
from avrt.data.shards.reader import ShardSet
from avrt.objectives.rewards import ExtraReward, RewardOptions, RewardSum, register
from avrt.policy.reference import Reference
from avrt.rollout.sampling import SamplingOptions


@register("brevity")
def brevity(response, sample, clip) -> float:
    """Something that even an untrained student can do more or less of."""
    return -len(response.text) / 100


parser = argparse.ArgumentParser()
parser.add_argument("shards", type=Path)
parser.add_argument("--student", default="nano")
parser.add_argument("--steps", type=int, default=3)
parser.add_argument("--questions", type=int, default=4, help="per step")
arguments = parser.parse_args()

student = avrt.load(arguments.student, "cpu")
policy = student.policy.train()
reference = Reference(policy)
shards = ShardSet(arguments.shards)
preprocessor = Preprocessor(policy.inputs, student.settings.prompt, answers=True)
optimizer = PlainOptimizer(torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=1e-4))
options = GRPOOptions(group_size=4, sampling=SamplingOptions(max_new_tokens=32), micro_batch_size=arguments.questions)
rewards = RewardSum(RewardOptions(extra=[ExtraReward("brevity")]))

places = itertools.cycle(range(len(shards)))
for step in range(arguments.steps):
    rows = [preprocessor.row(*decode_members(shards.read(next(places)))) for _ in range(arguments.questions)]
    done = grpo_step(policy, reference, collate(rows), optimizer, rewards, options, seed=(0, step))
    mean = done.rollout.rewards["total"].mean()
    kl = done.metrics["kl"] / done.metrics["completions"]
    print(f"step {step}: reward {mean:.3f}, KL {kl:.2e}, {done.seconds['rollout']:.1f} s rollout")
