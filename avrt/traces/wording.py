"""Words of the packaged prompts that depend on what a question is about: a video, a still picture, sound, or several.

Each is the value of a placeholder, so that one template fits them all; templates of your own may do without.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from avrt.traces.requests import Media

TEACHER_WORDS = frozenset(
    {"pictures", "sight", "sight_only", "sight_change", "sight_example", "sound", "sound_only", "subject"}
)
MERGER_WORDS = frozenset({"about", "domain", "two_studies", "studies", "both_senses", "observer", "weave", "subject"})
_IN_TIME = (
    "In the first pictures a man in an apron wheels a bicycle into a workshop. He lifts it onto a stand in the middle "
    "pictures, and in the last ones he picks up a spanner and leans over the chain."
)
_AT_ONCE = (
    "A man in an apron stands in a workshop. A bicycle hangs on a stand before him; he holds a spanner and leans over "
    "the chain."
)
_MANY = "The {} pictures above were taken at even intervals from one short video, in order of time"


@dataclass(frozen=True)
class Subject:
    """What a question is about.

    Attributes:
        frames: Pictures taken from a video.
        still: Whether there is a still picture.
        sound: Whether there is sound.
    """

    frames: int
    still: bool
    sound: bool

    @classmethod
    def of(cls, media: Media) -> Subject:
        """What there is to see and hear in media."""
        still = "image.jpg" in media.members
        return cls(len(media.pictures) - still, still, media.sound is not None)

    @property
    def thing(self) -> str:
        """What to call it."""
        if self.frames:
            return "the clip"
        parts = [name for name, held in (("the picture", self.still), ("the recording", self.sound)) if held]
        return " and ".join(parts) or "the clip"

    @property
    def _both(self) -> bool:
        return bool(self.frames or self.still) and self.sound

    def teacher_words(self) -> Mapping[str, str]:
        """What a teacher that is shown all pictures or all sound of it is told, by placeholder."""
        moving = self.frames > 1
        listened = {
            True: "the recording of one short clip",
            False: "the recording that belongs to one picture" if self.still else "one recording",
        }
        unseen = {
            True: ": you cannot see the clip and you do not guess at its pictures",
            False: ": you cannot see the picture that belongs to it and you do not guess at it" if self.still else "",
        }
        unheard = {
            True: "You work from pictures alone: you cannot hear the clip and you do not guess at its sound.",
            False: "You work from the picture alone: you hear nothing and you do not guess at sounds.",
        }
        return {
            "pictures": str(self.frames + self.still),
            "sight": self._sight(),
            "sight_only": unheard[bool(self.frames)],
            "sight_change": " and how it changes from the first picture to the last" if moving else "",
            "sight_example": _IN_TIME if moving else _AT_ONCE,
            "sound": listened[bool(self.frames)],
            "sound_only": f"You work from the recording alone{unseen[bool(self.frames)]}.",
            "subject": self.thing,
        }

    def _sight(self) -> str:
        still = "one more still picture belongs to it" if self.frames else "The picture above is one still picture"
        if self.frames > 1:
            told = _MANY.format(f"first {self.frames}" if self.still else self.frames)
            return f"{told}; {still}. Use them" if self.still else f"{told}. Use them"
        if self.frames:
            told = "The first picture above was taken" if self.still else "The picture above was taken"
            told = f"{told} from one short video"
            return f"{told}; {still}. Use them" if self.still else f"{told}. Use it"
        return f"{still}. Use it"

    def merger_words(self, studies: int) -> Mapping[str, str]:
        """What a merger is told of it, by placeholder.

        Args:
            studies: How many analyses the merger reads.
        """
        heard = self.sound and not (self.frames or self.still)
        sense = "listened to it" if heard else "looked at it"
        one = f"a study of it by somebody who {sense}"
        parts = "by people who each had only\npart of it" if self.frames else "by people who each had only one of them"
        if self.frames and self._both:
            two = (
                "two separate studies of the clip: one by somebody\nwho only heard it, one by somebody who only saw it"
            )
        elif self._both:
            two = (
                "two separate studies: one by somebody who only heard\nthe recording, one by somebody who only saw "
                "the picture"
            )
        else:
            two = one
        several = f"studies of {'the clip' if self.frames else 'them'} {parts}"
        if studies == 1:
            several = f"a study of {'the clip' if self.frames else 'them'} by somebody who had only part of it"
        return {
            "about": self._about(),
            "domain": self._domain(),
            "two_studies": two,
            "studies": several if self._both else one,
            "both_senses": self._observed(),
            "observer": "of the whole clip who" if self.frames else f"who {self._observed()} and",
            "weave": self._weave(),
            "subject": self.thing,
        }

    def _about(self) -> str:
        if self.frames:
            return "a clip"
        if self.still and self.sound:
            return "a picture and a recording that belong together"
        return self.thing.replace("the ", "a ")

    def _domain(self) -> str:
        if self.frames:
            return "seen and heard in short clips" if self.sound else "seen in short clips"
        if self.still and self.sound:
            return "seen in pictures and heard in recordings"
        return "heard in recordings" if self.sound else "seen in pictures"

    def _observed(self) -> str:
        if self.frames:
            return "both saw and heard the clip" if self.sound else "saw the clip"
        seen, heard = "saw the picture" if self.still else "", "heard the recording" if self.sound else ""
        return " and ".join(part for part in (seen, heard) if part)

    def _weave(self) -> str:
        if self._both:
            return (
                "Weave what is heard and what is seen into one line of thought, and let each support or correct the "
                "other."
            )
        return f"Bring what is {'heard' if self.sound else 'seen'} into one line of thought."


def study_heading(name: str, subject: Subject) -> str:
    """What stands above one teacher's analysis among several."""
    if subject.frames:
        return f"From the study of the clip's {name} side:"
    sense = {"visual": "what is seen", "audio": "what is heard"}.get(name)
    return f"From the study of {sense}:" if sense else f"From the study called {name}:"
