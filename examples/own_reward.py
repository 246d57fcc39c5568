"""A reward of your own, which looks at the clip: it pays for speaking of sound where there is any, and only there.

PYTHONPATH=examples avrt fit --config grpo.yaml --data.train SHARDS \
      --model.rewards.extra '[{"function": "own_reward.speaks_of_sound", "weight": 0.2}]'
"""

from avrt.data.media.clip import Clip
from avrt.data.sample import Sample
from avrt.response import Response

WORDS = ("sound", "hear", "noise", "voice", "music")


def speaks_of_sound(response: Response, sample: Sample, clip: Clip) -> float:
    """1 if the response mentions sound exactly where the clip has some that is not silence, else 0."""
    is_audible = clip.audio is not None and float(clip.audio.abs().max()) > 1e-3
    return float(any(word in response.text.lower() for word in WORDS) == is_audible)
