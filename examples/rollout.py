"""A group of completions with their rewards, as GRPO samples it:  python examples/rollout.py STUDENT CLIP."""

import sys

import avrt
from avrt.objectives.rewards import RewardOptions

student = avrt.load(sys.argv[1])
question, choices = "Which sound is heard?", ["low hum", "high whistle", "steady hiss", "quick clicks"]
group = student.rollout(sys.argv[2], question, choices, "A", count=4, rewards=RewardOptions(length=0.5))
for one in sorted(group, key=lambda one: one.rewards["total"], reverse=True):
    print(f"{one.rewards['total']:.2f}  {one.logprob:7.2f} nats  {one.response.text}")
