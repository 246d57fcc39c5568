"""Modality hallucination (AVRT section 5.3): does reasoning claim to perceive a sense that was masked?

The detector is a set of rules over sentences, not a model. A sentence claims a sense if it states perception ("I hear",
"is visible") or evidence ("the audio suggests", "the frames show"), unless it denies the perception, is hypothetical or
refers to the question. `tests/evaluation/test_hallucination.py` measures precision and recall on sentences written for
the purpose; docs/benchmarks.md states them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from avrt.data.sample import Sense
from avrt.evaluation.statistics import bootstrap

_SOUND_NOUN = (
    r"(?:audio|sounds?|soundtrack|recording|music|melody|song|speech|voices?|voice-?over|narration|dialogue|noises?|"
    r"track|singing|vocals?|beat|rhythm|hum|hiss|whistle|siren|clicks|warble)"
)
_SIGHT_NOUN = (
    r"(?:frames?|videos?|images?|pictures?|photos?|clips?|footage|scenes?|visuals?|screen|shots?|camera|"
    r"visual (?:content|evidence|information|cues?))"
)
_EVIDENCE = (
    r"(?:show|shows|shown|showing|depicts?|displays?|features?|contains?|includes?|reveals?|suggests?|indicates?|confirms?|"
    r"captures?|presents?|consists? of|has|have|is|are|was|were|begins?|starts?|ends?|plays?|comes?|matches|match|"
    r"supports?|points? to|makes? clear|tells?|gets?|grows?|fades?|rises?|stops?|continues?)"
)
_CLAIMS: dict[str, tuple[re.Pattern[str], ...]] = {
    "audio": tuple(
        re.compile(pattern, re.IGNORECASE)
        for pattern in (
            r"\b(?:hear|hears|heard|hearing|audible|audibly|overheard)\b",
            r"\blisten(?:s|ed|ing)?\b",
            rf"\b(?:the|this|that|its|an?|both|background|loud|soft|faint|clear|steady)\s+(?:\w+\s+){{0,3}}{_SOUND_NOUN}\b"
            rf"(?:\s+\w+){{0,2}}?\s+{_EVIDENCE}\b",
            r"\b(?:in|from|by|through|throughout|on|given|based on|according to)\s+the\s+(?:\w+\s+){0,2}"
            r"(?:audio|sound|soundtrack|recording|music|voice-?over|narration)\b",
            r"\bsounds? of\b",
            r"\b(?:it|which|that|this|voice|engine|instrument|speaker)\s+sounds\b",
            r"\b(?:tone of voice|pitch of|spoken words?|the (?:narrator|speaker|voice) (?:says|said|explains))\b",
            r"\bacoustic(?:ally)?\b",
        )
    ),
    "vision": tuple(
        re.compile(pattern, re.IGNORECASE)
        for pattern in (
            r"\b(?:see|sees|saw|seen|seeing|visible|visibly|visually)\b",
            r"\b(?:watch|watched|watching|look(?:s|ed|ing)? at|observe[ds]?)\b",
            rf"\b(?:the|this|that|each|every|all|first|last|final|several|eight|both)\s+(?:\w+\s+){{0,3}}{_SIGHT_NOUN}\b"
            rf"(?:\s+\w+){{0,2}}?\s+{_EVIDENCE}\b",
            rf"\b(?:in|from|across|throughout|on|given|based on|according to)\s+(?:the|each|every|all|this)\s+"
            rf"(?:\w+\s+){{0,2}}{_SIGHT_NOUN}\b",
            r"\b(?:in the (?:background|foreground)|on[- ]screen|wearing|dressed in|close-?ups?)\b",
        )
    ),
}
_CANNOT = r"\b(?:can't|cannot|could not|couldn't|unable to|not able to|do(?:es)? not|don't|never|nothing)\b[^.;,]*"
_WITHHELD = (
    r"not (?:available|provided|given|present|included|accessible|visible|audible)|unavailable|absent|missing|removed|"
    r"withheld|hidden"
)


def _denial(noun: str, verbs: str, absent: str, lost: str) -> re.Pattern[str]:
    """The pattern of sentences that say a sense was not available.

    Args:
        noun: Pattern of what the sense perceives.
        verbs: Pattern of perceiving it.
        absent: Words before the noun that say it is missing, such as "silent".
        lost: Words after the noun that say so.
    """
    return re.compile(
        rf"\b(?:no|without|lack(?:s|ing)?|absence of|missing|{absent})\b[^.;]*\b{noun}\b"
        rf"|\b{noun}\b[^.;]*\b(?:{_WITHHELD}|{lost})\b"
        rf"|{_CANNOT}\b(?:{verbs})\b|\bnothing (?:is|was|can be) (?:{verbs})\b",
        re.IGNORECASE,
    )


_DENIED = {
    "audio": _denial(_SOUND_NOUN, "hear|heard|listen|audible", "muted?|silent|silence", "muted?|silent"),
    "vision": _denial(
        _SIGHT_NOUN, "see|seen|watch|observe|visible|look", "blank|black", "blank|dark|(?:all|entirely|just) black"
    ),
}
_HYPOTHETICAL = re.compile(
    r"\b(?:if|unless|would|might|could have|typically|usually|generally|often|presumably|imagine|expect(?:ed)?|"
    r"the question|asks?|asked|options? (?:mention|say|name|describe)s?|one would|may have|hypothetically)\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+|,\s+(?:but|yet|so|and|although|though|whereas|while)\s+", re.IGNORECASE)
_TAG = re.compile(r"</?(?:think|answer)>")
MASKED_SENSES: dict[str, tuple[Sense, ...]] = {
    "a": (Sense.VISION,),
    "a_blank": (Sense.VISION,),
    "v": (Sense.AUDIO,),
    "v_silent": (Sense.AUDIO,),
    "text": (Sense.AUDIO, Sense.VISION),
}
"""Modality mask -> the senses that it removes from the prompt or blanks."""


def perception_claims(text: str, sense: Sense) -> list[str]:
    """The sentences of a text's reasoning that claim to perceive a sense."""
    reasoning = _TAG.sub(" ", text.partition("<answer>")[0])
    return [part.strip() for part in _SENTENCE.split(reasoning) if part and claims_perception(part, sense)]


def claims_perception(sentence: str, sense: Sense) -> bool:
    """Whether one sentence claims to perceive a sense."""
    if not any(pattern.search(sentence) for pattern in _CLAIMS[sense]):
        return False
    return not (_DENIED[sense].search(sentence) or _HYPOTHETICAL.search(sentence))


def hallucination_rates(responses: Sequence[str], mask: str) -> dict[str, dict[str, Any]]:
    """For each sense that the mask removes, the share of responses that claim it (`rate`), and an `example`."""
    rates = {}
    for sense in MASKED_SENSES.get(mask, ()):
        claims = [perception_claims(response, sense) for response in responses]
        rate = bootstrap([float(bool(found)) for found in claims])
        rates[str(sense)] = {**rate.to_record("rate"), "example": next((found[0] for found in claims if found), None)}
    return rates
