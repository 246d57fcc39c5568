"""Protocol cards: what is known about how a published figure was measured, and where our runs differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FRAMES, FPS, SOUND, INTERLEAVED = "frames", "fps", "audio_seconds", "audio_in_video"
ASKED_BY, RULE, COMPLETE = "asked_by", "rule", "complete"


@dataclass(frozen=True)
class Card:
    """How a published figure was measured, as far as its source says.

    Attributes:
        name: Its name, such as `nemo_rl`.
        source: The publication.
        asserts: What is known: `asked_by`, `rule`, `complete` (every question of the benchmark), `frames` or `fps`,
            `audio_seconds` (null for all), `audio_in_video`.
        silent: What the source does not say, as text.
    """

    name: str
    source: str
    asserts: Mapping[str, Any] = field(default_factory=dict)
    silent: str = ""

    def differences(self, result: Any, unasserted: tuple[str, ...] = (), size: int | None = None) -> list[str]:
        """Where a result differs from the card; empty if they agree in everything that is known.

        Args:
            result: An `avrt.evaluation.result.Result`.
            unasserted: Fields of the card to ignore.
            size: Number of questions of the complete benchmark, where the result does not say.
        """
        wanted = {key: value for key, value in self.asserts.items() if key not in unasserted}
        found = []
        if wanted.get(COMPLETE) and (expected := result.counts.get("expected") or size):
            asked = result.counts["questions"]
            if asked != expected:
                found.append(f"{asked:,} of {expected:,} questions")
        if ASKED_BY in wanted and result.asked_by != wanted[ASKED_BY]:
            found.append(f"asked by {result.asked_by}, not {wanted[ASKED_BY]}")
        found += shard_mismatches(wanted, result.protocol)
        if INTERLEAVED in wanted:
            found += _placement(wanted[INTERLEAVED], result.protocol.get("prompt.audio_in_video"))
        if RULE in wanted and result.headline != wanted[RULE]:
            found.append(f"{result.headline} rule, not {wanted[RULE]}")
        return list(dict.fromkeys([*found, *result.shard_mismatches]))


def shard_mismatches(needs: Mapping[str, Any], protocol: Mapping[str, Any]) -> list[str]:
    """Where shards hold something else of their clips than a protocol needs.

    Args:
        needs: `frames` or `fps`, and `audio_seconds`; a missing key allows anything.
        protocol: A result's protocol, with the shards' `ClipSpec` under `clips.` and the media of their clips.
    """
    found = []
    carried = protocol.get("data.media", ["video", "audio"])
    if (FRAMES in needs or FPS in needs) and "video" in carried:
        wanted = _frames(needs.get(FRAMES), needs.get(FPS))
        taken = _frames(protocol.get("clips.frames"), protocol.get("clips.fps"))
        if wanted != taken:
            found.append(f"{taken}, not {wanted}")
    if SOUND in needs and "audio" in carried:
        wanted = _sound(needs[SOUND])
        taken = _sound(protocol[f"clips.{SOUND}"]) if f"clips.{SOUND}" in protocol else "an unrecorded length"
        if wanted != taken:
            found.append(f"{taken} of audio, not {wanted}")
    return found


def _frames(number: int | None, fps: float | None) -> str:
    if fps:
        return f"{fps:g} frames a second"
    return "an unrecorded number of frames" if number is None else f"{number} frames"


def _sound(seconds: float | None) -> str:
    return "all" if seconds is None else f"{seconds:g} s"


def _placement(wanted: bool, taken: bool | None) -> list[str]:
    if taken is None:
        return ["unrecorded placement of the audio"]
    words = {True: "audio inside the video", False: "audio as a separate item"}
    return [] if taken == wanted else [f"{words[taken]}, not {words[wanted].removeprefix('audio ')}"]
