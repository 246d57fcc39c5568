"""Phrases of the packaged prompts that depend on a question's media: a video, a still image, audio, or several.

Each is the value of a placeholder, so that one template fits all media. Templates of your own need none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from avrt.traces.requests import Media

TEACHER_PHRASES = frozenset(
    {"pictures", "sight", "sight_only", "sight_change", "sight_example", "sound", "sound_only", "subject"}
)
MERGER_PHRASES = frozenset({"about", "domain", "two_studies", "studies", "both_senses", "observer", "weave", "subject"})
_IN_TIME = (
    "In the first pictures a man in an apron wheels a bicycle into a workshop. He lifts it onto a stand in the middle "
    "pictures, and in the last ones he picks up a spanner and leans over the chain."
)
_AT_ONCE = (
    "A man in an apron stands in a workshop. A bicycle hangs on a stand before him; he holds a spanner and leans over "
    "the chain."
)
_MANY = "The {} pictures above were taken at even intervals from one short video, in order of time"
_WEAVE = "Weave what is heard and what is seen into one line of thought, and let each support or correct the other."
# (the visual part of the subject, whether there is sound) -> {about}, {domain}, {both_senses} of mergers
_MERGER = {
    ("clip", True): ("a clip", "seen and heard in short clips", "both saw and heard the clip"),
    ("clip", False): ("a clip", "seen in short clips", "saw the clip"),
    ("picture", True): (
        "a picture and a recording that belong together",
        "seen in pictures and heard in recordings",
        "saw the picture and heard the recording",
    ),
    ("picture", False): ("a picture", "seen in pictures", "saw the picture"),
    ("", True): ("a recording", "heard in recordings", "heard the recording"),
    ("", False): ("a clip", "seen in pictures", ""),
}
# the visual part of a subject with sound -> {two_studies}, and {studies} for one analysis and for several
_STUDIES = {
    "clip": (
        "two separate studies of the clip: one by somebody\nwho only heard it, one by somebody who only saw it",
        "a study of the clip by somebody who had only part of it",
        "studies of the clip by people who each had only\npart of it",
    ),
    "picture": (
        "two separate studies: one by somebody who only heard\nthe recording, one by somebody who only saw the picture",
        "a study of them by somebody who had only part of it",
        "studies of them by people who each had only one of them",
    ),
}


@dataclass(frozen=True)
class Subject:
    """The media that a question is about.

    Attributes:
        frames: Number of a video's frames.
        still: Whether there is a still image.
        sound: Whether there is audio.
    """

    frames: int
    still: bool
    sound: bool

    @classmethod
    def of(cls, media: Media) -> Subject:
        """The subject of a question about these media."""
        still = "image.jpg" in media.members
        return cls(len(media.images) - still, still, media.audio is not None)

    @property
    def noun(self) -> str:
        """What prompts call it: the clip, the picture, the recording, or the last two."""
        if self.frames:
            return "the clip"
        parts = [name for name, held in (("the picture", self.still), ("the recording", self.sound)) if held]
        return " and ".join(parts) or "the clip"

    def teacher_phrases(self) -> Mapping[str, str]:
        """Placeholder -> phrase in the prompt of a teacher that gets all its images or all its audio."""
        moving = self.frames > 1
        unheard = "You work from the picture alone: you hear nothing and you do not guess at sounds."
        if self.frames:
            sound = "the recording of one short clip"
            unseen = ": you cannot see the clip and you do not guess at its pictures"
            unheard = "You work from pictures alone: you cannot hear the clip and you do not guess at its sound."
        elif self.still:
            sound = "the recording that belongs to one picture"
            unseen = ": you cannot see the picture that belongs to it and you do not guess at it"
        else:
            sound, unseen = "one recording", ""
        return {
            "pictures": str(self.frames + self.still),
            "sight": self._sight(),
            "sight_only": unheard,
            "sight_change": " and how it changes from the first picture to the last" if moving else "",
            "sight_example": _IN_TIME if moving else _AT_ONCE,
            "sound": sound,
            "sound_only": f"You work from the recording alone{unseen}.",
            "subject": self.noun,
        }

    def _sight(self) -> str:
        """The sentence about the images above the prompt."""
        still = "one more still picture belongs to it" if self.frames else "The picture above is one still picture"
        if self.frames > 1:
            told = _MANY.format(f"first {self.frames}" if self.still else self.frames)
            return f"{told}; {still}. Use them" if self.still else f"{told}. Use them"
        if self.frames:
            told = "The first picture above was taken" if self.still else "The picture above was taken"
            told = f"{told} from one short video"
            return f"{told}; {still}. Use them" if self.still else f"{told}. Use it"
        return f"{still}. Use it"

    def merger_phrases(self, studies: int) -> Mapping[str, str]:
        """Placeholder -> phrase in the prompt of a merger.

        Args:
            studies: How many analyses the merger gets.
        """
        seen = "clip" if self.frames else "picture" if self.still else ""
        about, domain, observed = _MERGER[seen, self.sound]
        if seen and self.sound:
            two, one, several = _STUDIES[seen]
            rule = _WEAVE
        else:
            verb = "listened to" if self.sound else "looked at"
            two = one = several = f"a study of it by somebody who {verb} it"
            rule = f"Bring what is {'heard' if self.sound else 'seen'} into one line of thought."
        return {
            "about": about,
            "domain": domain,
            "two_studies": two,
            "studies": one if studies == 1 else several,
            "both_senses": observed,
            "observer": "of the whole clip who" if self.frames else f"who {observed} and",
            "weave": rule,
            "subject": self.noun,
        }


def study_heading(name: str, subject: Subject) -> str:
    """The heading of one teacher's analysis among several."""
    if subject.frames:
        return f"From the study of the clip's {name} side:"
    sense = {"visual": "what is seen", "audio": "what is heard"}.get(name)
    return f"From the study of {sense}:" if sense else f"From the study called {name}:"
