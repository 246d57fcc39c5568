"""Every form of prompt that a family can be asked, with clips of several lengths and rates."""

import torch

from avrt.data.inputs.batch import collate
from avrt.data.inputs.preprocessor import Preprocessor
from avrt.data.inputs.prompt_options import PromptOptions
from avrt.data.media.clip import Clip
from tests.conftest import make_sample


def forms_of(student):
    """One batch: sound within video and beside it, every other form, sounds of no whole 10 ms, of more than 30 s."""
    chance = torch.Generator().manual_seed(5)

    def frames(count):
        return torch.randint(0, 256, (count, 3, 56, 84), generator=chance, dtype=torch.uint8)

    def sound(seconds):
        return 0.3 * torch.randn(int(16_000 * seconds), generator=chance)

    def both(seconds, count, sound_seconds=None):
        heard = sound(sound_seconds or seconds)
        return ("video", "audio"), Clip(frames=frames(count), seconds_per_frame=seconds / count, audio=heard)

    heard = sound(3.0)
    forms = [both(0.8, 2), both(3.3, 8), both(5.0, 4), both(9.6, 16), both(4.0, 8, 9.0), both(9.0, 8, 2.0),
             both(12.4, 8), both(23.0, 12), (("video",), Clip(frames=frames(8), seconds_per_frame=0.77)),
             (("image", "audio"), Clip(image=frames(1)[0], audio=heard)), (("image",), Clip(image=frames(1)[0])),
             (("audio",), Clip(audio=heard)), (("audio",), Clip(audio=sound(1.0371))),
             (("audio",), Clip(audio=sound(31))), ((), Clip())]  # fmt: skip
    ways = [True, False] if student.inputs.interleaves else [False]
    rows = []
    for within in ways:
        builder = Preprocessor(student.inputs, PromptOptions(audio_in_video=within), targets=True)
        shown = forms if within == ways[0] else forms[1:4]  # the others are the same both ways
        rows += [builder.row(make_sample(f"{i}-{within}", media=m), clip) for i, (m, clip) in enumerate(shown)]
    return collate(rows)
