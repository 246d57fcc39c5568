"""Scorers by name: the strict one, a lenient one, each benchmark's official rule, and those of other frameworks.

Every scorer is deterministic. Where an official script draws a choice at random because it can read none, the answer is
unparsable here and counts as wrong.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from dataclasses import dataclass

from avrt.choices import read_choice, read_choices, visible
from avrt.data.sample import Sample
from avrt.errors import AvrtError
from avrt.response import parse_response

STRICT = "strict"
LENIENT = "lenient"
_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.DOTALL)
_WIDEST = re.compile(r"<answer>(.*)</answer>", re.DOTALL)
_FIRST_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_YES_NO = re.compile(r"\b(?:yes|no)\b", re.IGNORECASE)
_WORD = re.compile(r"\b\w+\b")
_EDGES = (",", ".", "!", "?", ";", ":", "'")
MIN_WORDS_FOR_CONTENT = 5
_PHRASES = (
    *(f"{the}{noun} is" for the in ("", "the ") for noun in (
        "answer", "correct answer", "best answer", "correct option", "best option", "choice", "correct choice"
    )),
    *("i choose", "i select", "i pick", "my answer is", "my choice is"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict of a scorer on one response.

    Attributes:
        choice: The letter that it reads, or letters as in ``A,C``; None if the response is unparsable.
        correct: Whether the response is right.
        partial: Partial credit from 0 to 1, from scorers that give it; None otherwise.
    """

    choice: str | None
    correct: bool
    partial: float | None = None

    @property
    def credit(self) -> float:
        """The credit for the answer, from 0 to 1."""
        return float(self.correct) if self.partial is None else self.partial


Scorer = Callable[[str, Sample], Verdict]


def score(name: str, response: str, sample: Sample) -> Verdict:
    """Score one response by a named scorer.

    Raises:
        AvrtError: If there is no such scorer.
    """
    if name not in SCORERS:
        raise AvrtError("no such scorer", where=name, remedy=f"one of {', '.join(SCORERS)}")
    return SCORERS[name](response, sample)


def answer_text(response: str) -> str:
    """The part of a response that states the answer.

    It is the text inside the last ``<answer>``, else after ``</think>``, else everything: the official scripts were
    written for models that give no reasoning.
    """
    if found := _ANSWER.findall(response):
        return str(found[-1]).strip()
    return response.rpartition("</think>")[2].strip()


def strict(response: str, sample: Sample) -> Verdict:
    """The letter, or all right letters, inside exactly one ``<answer>``, as rewards read it (AVRT eq. 5)."""
    return _by_letter(parse_response(response, sample.letters, several=sample.several).letter, sample)


def lenient(response: str, sample: Sample) -> Verdict:
    """The strict letter, else the one option that a human reader would find in the text after the thinking.

    `avrt.choices` does the reading. Thinking that never ends chooses nothing. Where several choices may be right, all
    of them have to be chosen and no other.
    """
    verdict = strict(response, sample)
    if verdict.choice is not None:
        return verdict
    read = read_choices if sample.several else read_choice
    return _by_letter(read(visible(response), sample.choices), sample)


def dailyomni(response: str, sample: Sample) -> Verdict:
    """Daily-Omni's rule: the answer's first character, whatever its case, if it is the letter of a choice."""
    first = answer_text(response).lstrip()[:1].upper()
    return _by_letter(first if first and first in sample.letters else None, sample)


def mmar(response: str, sample: Sample) -> Verdict:
    r"""MMAR's and MMAU's rule on word tokens (``\b\w+\b``, lower-cased).

    An answer means a choice if it has all of the choice's tokens and none that occur only in other choices. A bare
    letter stands for its choice's text, because our answers are letters.
    """
    given = _tokens(_spelled_out(answer_text(response), sample))
    tokens = [_tokens(choice) for choice in sample.choices]
    meant = [i for i in range(len(tokens)) if given and _means(given, tokens, i)]
    right = [i for i in meant if i in sample.right]
    chosen = (right or meant)[:1]
    return Verdict(sample.letters[chosen[0]] if chosen else None, bool(right))


def lower_choices(sample: Sample) -> list[str]:
    """The texts of the choices, stripped and in lower case."""
    return [choice.strip().lower() for choice in sample.choices]


def _spelled_out(text: str, sample: Sample) -> str:
    """The text; if it is a bare letter, the choice of that letter, for official rules that read words, not letters."""
    bare = text.strip(" ().:")
    return sample.choices[sample.letters.index(bare)] if len(bare) == 1 and bare in sample.letters else text


def _means(given: set[str], tokens: list[set[str]], choice: int) -> bool:
    others = set().union(*(t for i, t in enumerate(tokens) if i != choice)) - tokens[choice]
    return tokens[choice] <= given and not given & others


def _tokens(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))


def omnibench(response: str, sample: Sample) -> Verdict:
    """OmniBench's option parsing, which is MMMU's.

    It looks for ``(X)``, else ``X`` before a space, else ``X.``, else an option's text. Of several, the last counts.
    """
    return _by_letter(_multi_choice(answer_text(response), sample, contents=True), sample)


def lmms_eval_omnibench(response: str, sample: Sample) -> Verdict:
    """OmniBench as lmms-eval scores it: the same parsing of letters, without the options' texts."""
    return _by_letter(_multi_choice(answer_text(response), sample, contents=False), sample)


def lmms_eval_mmar(response: str, sample: Sample) -> Verdict:
    """MMAR as lmms-eval scores it: MMMU's parsing after stripping punctuation at both ends."""
    text = answer_text(response)
    for mark in _EDGES:
        text = text.strip(mark)
    return _by_letter(_multi_choice(text, sample, contents=True), sample)


def _multi_choice(text: str, sample: Sample, *, contents: bool) -> str | None:
    """The letter that MMMU's option parsing reads; with `contents` it falls back to the options' texts."""
    padded = f" {text.strip()} "
    for form in ("({})", "{} ", "{}."):
        if found := [letter for letter in sample.letters if form.format(letter) in padded]:
            # The official code locates a letter of the last two forms by the spaces around it, and takes the first
            # candidate if it cannot locate any.
            place = "({})" if form == "({})" else " {} "
            return max(found, key=lambda letter: padded.rfind(place.format(letter)))
    return _by_content(padded, sample) if contents else None


def _by_content(padded: str, sample: Sample) -> str | None:
    """The option whose text is part of an answer of more than a few words; of several, the last."""
    if len(padded.split()) > MIN_WORDS_FOR_CONTENT:
        lowered = padded.lower()
        choices = dict(zip(sample.letters, (choice.lower() for choice in sample.choices), strict=True))
        if found := [letter for letter, choice in choices.items() if choice in lowered]:
            return max(found, key=lambda letter: lowered.rfind(choices[letter]))
    return None


# Video-MME's list, with its two missing commas; WorldSense's evaluation has two more prefixes.
_PREFIXES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option isThe correct option is",
    "Best answer:Best option:",
)


def videomme(response: str, sample: Sample) -> Verdict:
    """Video-MME's rule: the first of the capital letters A to D, after removing phrases such as "The answer is".

    The authors' script leaves unparsable answers out of its mean; here, as in lmms-eval, they are wrong.
    """
    return _by_letter(_first_capital(answer_text(response), _PREFIXES, sample), sample)


def worldsense(response: str, sample: Sample) -> Verdict:
    """WorldSense's rule, VLMEvalKit's exact matching: as `videomme`, but also removes "Answer:" and "Option:"."""
    return _by_letter(_first_capital(answer_text(response), (*_PREFIXES, "Answer:", "Option:"), sample), sample)


def _first_capital(text: str, prefixes: tuple[str, ...], sample: Sample) -> str | None:
    text = text.strip()
    for prefix in prefixes:
        text = text.replace(prefix, "")
    found = re.search("[ABCD]", text)
    return found[0] if found and found[0] in sample.letters else None


def omnivideobench(response: str, sample: Sample) -> Verdict:
    """OmniVideoBench's rule: only the letter, in any case, with or without punctuation, in a box, or before ``.``."""
    text = answer_text(response)
    for box in (r"/box\{([^}]+)\}", r"\\boxed\{([^}]+)\}"):
        if found := re.search(box, text):
            text = found[1].strip()
    text = text[:1] if text[1:2] == "." else text
    bare = " ".join("".join(c for c in text if c not in string.punctuation).split()).upper()
    return _by_letter(bare if len(bare) == 1 and bare in sample.letters else None, sample)


def avhbench(response: str, sample: Sample) -> Verdict:
    """Yes or no for AVHBench's figures: the first of these words in the answer, in any case.

    The authors publish figures but no script. A bare letter stands for its choice. An answer with neither word is wrong
    and does not count as Yes.
    """
    return _by_letter(_word_of(_YES_NO.search(_spelled_out(answer_text(response), sample)), sample), sample)


def _word_of(found: re.Match[str] | None, sample: Sample) -> str | None:
    if found is None:
        return None
    words = lower_choices(sample)
    return sample.letters[words.index(found[0].lower())] if found[0].lower() in words else None


def intentbench(response: str, sample: Sample) -> Verdict:
    """IntentBench's rule, HumanOmniV2's evaluation script, by the kind of question.

    One right choice: the answer is only its letter. Several: partial credit, the F1 of the letters. The answer is split
    at commas and the parts are compared as they are, so " C" is not C. Yes or no (`judge`): the right word is part of
    the answer.
    """
    found = _FIRST_TAG.search(response)
    text = found[1].strip() if found and found[1].strip() else answer_text(response)
    if sample.several:
        return _f1(text, sample)
    if sample.question_type == "judge" and sample.yes_no:
        lowered = _spelled_out(text, sample).lower()
        said = [word for word in ("yes", "no") if word in lowered]
        words = lower_choices(sample)
        right = words[sample.right[0]] if sample.right else None
        word = right if right in said else said[0] if said else None
        return _by_letter(sample.letters[words.index(word)] if word else None, sample)
    return _by_letter(text if len(text) == 1 and text in sample.letters else None, sample)


def _f1(text: str, sample: Sample) -> Verdict:
    given, right = text.split(","), (sample.answer_letter or "").split(",")
    both = len(set(given) & set(right))
    precision, recall = both / len(given), both / len(right)
    f1 = 2 * precision * recall / (precision + recall) if both else 0.0
    letters = sorted(set(given) & set(sample.letters))
    return Verdict(",".join(letters) or None, f1 == 1.0, f1)


def nemo_rl(response: str, sample: Sample) -> Verdict:
    """NeMo-RL's `exact_alnum`: the letters and digits between ``<answer>`` and ``</answer>``, in any case.

    It reads from the first opening tag to the last closing one; an answer without both tags is unparsable. Where
    several choices are right, the answer has to list all of them in order.
    """
    found = _WIDEST.search(response)
    text = "" if found is None else "".join(filter(str.isalnum, found[1])).upper()
    readable = text and (sample.several or len(text) == 1) and all(letter in sample.letters for letter in text)
    return _by_letter(",".join(text) if readable else None, sample)


def lmms_eval_mmau(response: str, sample: Sample) -> Verdict:
    """MMAU as lmms-eval scores it: ``(X)``, `` X `` or ``X.``, only for the letters A to D; of several, the last.

    It compares texts: where two options have the same text, either letter is right.
    """
    padded = _padded(response)
    for form in ("({})", " {} ", "{}."):
        if found := [letter for letter in sample.letters[:4] if form.format(letter) in padded]:
            chosen = max(found, key=lambda letter: padded.rfind(f" {letter} "))
            texts = lower_choices(sample)
            return Verdict(chosen, texts[sample.letters.index(chosen)] in [texts[i] for i in sample.right])
    return Verdict(None, False)


def lmms_eval_worldsense(response: str, sample: Sample) -> Verdict:
    """WorldSense as lmms-eval scores it: any capital that is an option's letter, in any place, else an option's text.

    Of several capitals the last in brackets counts, else the first option's. Where the original falls back to A, the
    answer is unparsable here.
    """
    padded = _padded(response)
    if found := [letter for letter in sample.letters if letter in padded]:
        return _by_letter(max(found, key=lambda letter: padded.rfind(f"({letter})")), sample)
    return _by_letter(_by_content(padded, sample), sample)


def lmms_eval_videomme(response: str, sample: Sample) -> Verdict:
    """Video-MME as lmms-eval scores it: a letter from A to D, by the first of these forms that the answer has.

    The letter that starts the answer; the one that ends it; capitals after "the answer is" and similar phrases; then
    ``(X)``, ``X.``, ``X:``, ``X)``, ``X `` and any capital. Of several in one form, the last counts. Its phrases in
    languages other than English are left out.
    """
    padded = _padded(response, '"')
    bare, lowered, letters = padded.strip(), padded.lower(), sample.letters[:4]
    starts = [x for x in letters if bare.startswith(x) and not bare[1:2].isalpha()]
    ends = [x for x in letters if bare.endswith(x) and not bare[-2:-1].isalpha()]
    if starts or ends:
        return _by_letter((starts or ends)[0], sample)
    behind = [lowered.find(phrase) + len(phrase) for phrase in _PHRASES if phrase in lowered]
    found = [(place, x) for start in behind for x in letters if (place := padded.find(x, start)) >= 0]
    for form in ("({})", "{}.", "{}:", "{})", "{} ", "{}"):
        found = found or [(padded.rfind(form.format(x)), x) for x in letters if form.format(x) in padded]
    return _by_letter(max(found)[1] if found else None, sample)


def _padded(response: str, *further: str) -> str:
    text = answer_text(response)
    for mark in (*_EDGES, *further):
        text = text.strip(mark)
    return f" {text} "


def _by_letter(letter: str | None, sample: Sample) -> Verdict:
    return Verdict(letter, letter is not None and letter == sample.answer_letter)


SCORERS: dict[str, Scorer] = {
    STRICT: strict,
    LENIENT: lenient,
    "dailyomni": dailyomni,
    "omnibench": omnibench,
    "mmar": mmar,
    "mmau": mmar,  # the same script
    "videomme": videomme,
    "worldsense": worldsense,
    "avhbench": avhbench,
    "omnivideobench": omnivideobench,
    "intentbench": intentbench,
    "lmms_eval_omnibench": lmms_eval_omnibench,
    "lmms_eval_mmar": lmms_eval_mmar,
    "lmms_eval_mmau": lmms_eval_mmau,
    "lmms_eval_worldsense": lmms_eval_worldsense,
    "lmms_eval_videomme": lmms_eval_videomme,
    "nemo_rl": nemo_rl,
}
