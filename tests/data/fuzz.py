"""Mutated media files through the decoder, in processes that may crash or hang without harm.

python -m tests.data.fuzz --files 10000 [--workers 2] [--clips FOLDER]
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avrt.data.media.clip import ClipSpec, FrameBudget
from avrt.data.media.isolation import IsolatedPool, Limits
from avrt.data.sample import Modality
from avrt.data.shards.conversion import load_clip
from avrt.data.shards.members import encode_clip
from avrt.errors import BadSampleError
from tests.data.zoo import REFUSED, build

SPEC = ClipSpec(frames=4, budget=FrameBudget(28 * 28, 56 * 56))
LIMITS = Limits(seconds=20.0, gigabytes=2.0)
CRASHED, SLOW = re.compile("crashed its process|ended its process"), re.compile("took longer")


@dataclass(frozen=True)
class Mutation:
    """A file to spoil, and how.

    Attributes:
        source: The sound file.
        kind: What it is given as.
        seed: Decides the damage.
    """

    source: Path
    kind: Modality
    seed: int


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Spoil a file: flip, zero, cut, repeat, move or insert bytes, here and there or in its header."""
    spoilt = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        size = len(spoilt)
        if size < 16:
            break
        reach = size if rng.random() < 0.5 else min(size, 1024)  # headers are where decoders are led astray
        start = int(rng.integers(0, reach))
        length = int(min(size - start, 2 ** rng.integers(0, 12)))
        match int(rng.integers(0, 7)):
            case 0:
                for place in rng.integers(0, reach, int(rng.integers(1, 64))):
                    spoilt[place] = int(rng.integers(0, 256))
            case 1:
                spoilt[start : start + length] = bytes(length)
            case 2:
                del spoilt[start:]
            case 3:
                del spoilt[start : start + length]
            case 4:
                spoilt[start:start] = spoilt[start : start + length]
            case 5:
                spoilt[start:start] = rng.bytes(length)
            case 6:
                spoilt[start : start + 4] = int(rng.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000])).to_bytes(4)
    return bytes(spoilt)


def try_one(mutation: Mutation) -> str:
    """Spoil, decode and encode again; says `used` or `repaired`."""
    data = mutate(mutation.source.read_bytes(), np.random.default_rng(mutation.seed))
    with tempfile.NamedTemporaryFile(suffix=mutation.source.suffix) as file:
        file.write(data)
        file.flush()
        clip = load_clip({mutation.kind: Path(file.name)}, SPEC)
        encode_clip(clip)
        return "repaired" if clip.info.get("notes") else "used"


def run(sources: list[tuple[Path, Modality]], files: int, workers: int) -> Counter[str]:
    """How many of the mutated files met with each outcome."""

    def mutations() -> Iterator[Mutation]:
        for number in range(files):
            source, kind = sources[number % len(sources)]
            yield Mutation(source, kind, number)

    outcomes: Counter[str] = Counter()
    with IsolatedPool(try_one, workers, LIMITS) as pool:
        for mutation, outcome in pool.map(mutations()):
            if not isinstance(outcome, BadSampleError):
                outcomes[outcome] += 1
            elif CRASHED.search(outcome.what) or SLOW.search(outcome.what):
                outcomes[f"{outcome.what} ({mutation.source.name}, seed {mutation.seed})"] += 1
            elif "decoding failed" in outcome.what:
                outcomes[f"unforeseen: {outcome.what} ({mutation.source.name}, seed {mutation.seed})"] += 1
            else:
                outcomes["refused"] += 1
    return outcomes


def sound_files(clip: Path, folder: Path) -> list[tuple[Path, Modality]]:
    """The files of the zoo that can be decoded: many formats, small."""
    return [
        (path, animal.kind)
        for animal, path in build(clip, folder)
        if animal.outcome != REFUSED and path.stat().st_size < 400_000
    ]


def main() -> None:
    """Run by hand."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--clip", type=Path, required=True, help="a sound clip to make the zoo from")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sources = sound_files(options.clip, Path(folder))
        begun = time.monotonic()
        outcomes = run(sources, options.files, options.workers)
    for outcome, count in outcomes.most_common():
        print(f"{count:7d}  {outcome}")
    print(f"{outcomes.total():7d}  in {time.monotonic() - begun:.0f} s, from {len(sources)} files")


if __name__ == "__main__":
    main()
