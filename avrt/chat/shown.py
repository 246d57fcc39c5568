"""What a student got and what it answered, as HTML; frames and sound become files that the page's server hands out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torchvision.io import encode_png

from avrt.chat.asker import Answer
from avrt.data.media.clip import SAMPLE_RATE, Clip, ClipSpec
from avrt.data.media.codecs import to_flac
from avrt.files import write_whole
from avrt.html import render_template
from avrt.library import Senses
from avrt.messages import printable
from avrt.policy.input_settings import InputSettings

TEMPLATES = Path(__file__).parent / "templates"
FILES = "gradio_api/file="
"""Where the page's server has the files of the folders that it may hand out, relative to the page."""
MASKS: dict[Senses, str] = {
    "both": "Both senses",
    "vision": "Without sound",
    "audio": "Without pictures",
    "none": "Neither: text alone",
}
"""Senses -> what the page calls a question that is asked with them."""


@dataclass(frozen=True)
class Asked:
    """One answer on the page, or the place where it will stand.

    Attributes:
        student: The student's name.
        senses: The senses that it was asked with.
        answer: What it answered; None while it has not.
        error: Why it could not be asked; empty if it could.
    """

    student: str
    senses: Senses
    answer: Answer | None = None
    error: str = ""

    @property
    def mask(self) -> str:
        """What the page calls its senses."""
        return MASKS[self.senses]


def problem(text: str) -> str:
    """One sentence about what went wrong."""
    return _fill("problem.html", text=text)


def manners(students: Sequence[tuple[str, InputSettings]]) -> str:
    """How each student was trained to be asked, in words."""
    return _fill("manners.html", students=[(name, settings, _taken(settings.clip)) for name, settings in students])


def clips(decoded: Sequence[tuple[str, Clip]], folder: Path) -> str:
    """The frames and the sound that students get.

    Args:
        decoded: Names of students, and the clip as they get it.
        folder: Where the files of frames and sound are written to; the page's server hands out what is in it.
    """
    views = []
    for names, clip in decoded:
        times = clip.timestamps or (None,)
        pictures = [] if clip.pictures is None else list(clip.pictures)
        frames = [
            (_url(encode_png(picture.contiguous()).numpy().tobytes(), "png", folder), time)
            for picture, time in zip(pictures, times, strict=bool(pictures))
        ]
        sound = None if clip.audio is None else _url(to_flac(clip.audio), "flac", folder)
        views.append((names, clip, frames, sound, amount(clip)))
    return _fill("clips.html", views=views)


def answers(asked: Sequence[Asked]) -> str:
    """The answers side by side: one row per mask with the students in it, or one row of all masks of one student."""
    students = list(dict.fromkeys(one.student for one in asked))
    masks = list(dict.fromkeys(one.mask for one in asked))
    if len(students) > 1:
        rows = [(mask, [(one.student, one) for one in asked if one.mask == mask]) for mask in masks]
    else:
        rows = [("", [(one.mask, one) for one in asked])]
    whole = {one.student: one.answer.letter for one in asked if one.answer and one.senses == "both"}
    return _fill("answers.html", rows=rows, whole=whole, amount=amount, readable=printable)


def amount(clip: Clip) -> str:
    """How much a clip holds, in words: `8 frames, 2.0 s of sound`."""
    pictures = "no pictures"
    if clip.frames is not None:
        pictures = f"{len(clip.frames)} frames"
    elif clip.image is not None:
        pictures = "1 picture"
    sound = "no sound" if clip.audio is None else f"{len(clip.audio) / SAMPLE_RATE:.1f} s of sound"
    return f"{pictures}, {sound}"


def _taken(spec: ClipSpec) -> str:
    """What is taken from a clip, in words."""
    frames = f"{spec.frames} frames" if spec.fps is None else f"{spec.fps:g} frames a second"
    sound = "all of its sound" if spec.audio_seconds is None else f"its first {spec.audio_seconds:g} s of sound"
    return f"{frames} of a video, each of at most {spec.budget.max_pixels:,} pixels, and {sound}"


def _url(data: bytes, suffix: str, folder: Path) -> str:
    """The address of a file with these bytes, which is written if it is not there yet."""
    file = folder / f"{hashlib.blake2b(data, digest_size=12).hexdigest()}.{suffix}"
    if not file.is_file():
        write_whole(file, data)
    return f"{FILES}{file}"


def _fill(template: str, **values: object) -> str:
    return render_template((TEMPLATES / template).read_text(encoding="utf-8"), **values)
