"""Reading the option, or options, that free text chooses; text that is undecided chooses none.

The lenient scorer and the reader of teachers' replies use it. Rewards use the strict reader, `avrt.response`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import avrt.wordings as words
from avrt.data.sample import LETTERS, letters_of
from avrt.response import read_letters


@dataclass(frozen=True)
class _Mention:
    """A place in a text that names an option by its letter, by its text, or by both, and whether it is denied."""

    start: int
    end: int
    letter: str | None
    denied: bool = False


_UNDECIDED = "?"
REACH = 400
"""How many characters of a sentence before an option are read."""
LATEST = 64
"""How many statements of a text are read, so that endless repetition takes bounded time."""


def read_choice(text: str, choices: Sequence[str]) -> str | None:
    """The letter of the one option that a text chooses.

    Answer tags and boxes come first, then what the text calls its answer, then what it begins or ends with, then the
    only option that it names. Denied and supposed options do not count; an option that replaces an earlier choice does.

    Args:
        text: The reply, without thinking.
        choices: The options.

    Returns:
        The letter; None if the text chooses several options, none or one that does not exist, or if letter and text
        contradict each other.
    """
    return _in_parts(text, lambda part: _read(part, choices))


def read_choices(text: str, choices: Sequence[str]) -> str | None:
    """The letters of all options that a text chooses, in order, as in ``A,C``, where several may be right.

    Answer tags and boxes come first, then what follows the last "answer" or "choice" of the text, then the whole text.
    All letters that this part affirms are chosen, or else all options whose texts it affirms.

    Args:
        text: The reply, without thinking.
        choices: The options.

    Returns:
        The letters; None if the text chooses no option, or one that does not exist.
    """
    return _in_parts(text, lambda part: _read_several(part, choices))


def _in_parts(text: str, read: Callable[[str], str | None]) -> str | None:
    """Read the parts in answer tags or boxes, which all have to agree, or else the whole text."""
    parts = words.TAG.findall(text) or words.BOXED.findall(words.WRAPPED.sub(r"\1", _plain(text)))
    return _agreed(map(read, parts)) if parts else read(text)


def visible(text: str) -> str:
    """The part of a response after its thinking, in either spelling; empty if the thinking does not end."""
    rest = words.THOUGHT.split(text)[-1]
    before, *inside = words.THINKS.split(rest, maxsplit=1)
    return inside[0] if inside and "<answer>" in inside[0] else before


def _agreed(readings: Iterator[str | None]) -> str | None:
    found = set(readings)
    return found.pop() if len(found) == 1 else None


def _plain(text: str) -> str:
    """A text with full-width forms as ASCII, curly apostrophes as straight ones, and white space as single blanks."""
    text = unicodedata.normalize("NFKC", text.translate(words.CJK_MARKS)).replace("\u2019", "'")
    return re.sub(r"\n\s+", "\n", re.sub(r"[^\S\n]+", " ", text))


def _bare(text: str) -> str:
    """A text without markup, and with an answer's label on the line of the answer."""
    text = words.WRAPPED.sub(r"\1", words.FENCE.sub("", words.ARROW.sub(": ", _plain(text))))
    text = re.sub(r"<\s*([A-Za-z])\s*>", r"(\1)", text)
    text = words.MARKUP.sub("", words.BOXED.sub(r"\1", text))
    text = re.sub(r"(?<!\w)'|'(?!\w)", "", text)
    # a label on a line of its own belongs to the next line
    return re.sub(rf"(?i)({words.ANSWER}|{words.CJK_ANSWER})\s*(:?)\s*\n\s*", r"\1: ", text).strip()


def _read(text: str, choices: Sequence[str]) -> str | None:
    """The choice of a text without tags."""
    bare, options = _bare(text), [_bare(choice).lower().rstrip(" .") for choice in choices]
    reader = _Reader(bare, options)
    found = reader.alone() or reader.stated() or reader.leading()
    if not found:
        if labels := list(words.LABEL.finditer(bare)):
            # options that the text weighs before its answer do not count
            reader = _Reader(bare[labels[-1].end() :], options)
            found = reader.alone()
        found = found or reader.ending() or reader.named()
    return None if found == _UNDECIDED else found


def _read_several(text: str, choices: Sequence[str]) -> str | None:
    """The choices of a text without tags, of a question with several right ones."""
    bare, options = _bare(text), [_bare(choice).lower().rstrip(" .") for choice in choices]
    labels, chosen = ([m.end() for m in pattern.finditer(bare)] for pattern in (words.LABEL, words.CHOSEN))
    for start in labels[-1:] or [*chosen[-1:], 0]:
        core = bare[start:].strip(" \n.,:;!()[]")
        core = re.sub(r"\A[a-z](?:\s*[,/&]\s*[a-z])*\Z", lambda found: found[0].upper(), core)
        if read := read_letters(core, letters_of(choices)) or _Reader(bare[start:], options).affirmed():
            return read
    return None


class _Reader:
    """One text and its options."""

    def __init__(self, text: str, choices: Sequence[str]) -> None:
        self._text, self._choices = text, choices
        self._letters = letters_of(choices)
        self._cores = [words.ARTICLE.sub("", choice) for choice in choices]
        if len(set(self._cores)) < len(self._cores):
            self._cores = list(choices)
        self._texts = self._text_mentions()

    def alone(self) -> str | None:
        """The choice of a text that is only a letter, or only an option's text."""
        stripped = self._text.strip(" \n.,:;!()[]")
        named = {self._letters[i] for i, choice in enumerate(self._choices) if stripped.lower() == choice}
        core = words.ARTICLE.sub("", stripped.lower())
        if self._text.strip(" \n.,:;!") == "I":
            return _UNDECIDED  # the beginning of a sentence
        named = named or {self._letters[i] for i, choice in enumerate(self._cores) if core == choice and core}
        if len(stripped) == 1 and stripped.upper() in LETTERS:
            if stripped.upper() not in self._letters:
                return named.pop() if len(named) == 1 else _UNDECIDED
            bracketed = self._text.strip(" \n.,:;!")[:1] in "(["
            named = {stripped.upper()} if bracketed else named | {stripped.upper()}
        return None if not named else named.pop() if len(named) == 1 else _UNDECIDED

    def stated(self) -> str | None:
        """The choice that the text calls its answer; of several different ones the last, if it replaces the others."""
        starts = [(m.start(), m.end()) for m in words.LABEL.finditer(self._text)]
        starts += [(m.start(), m.end()) for m in words.CHOSEN.finditer(self._text)]
        found: list[tuple[int, int, str]] = []
        for start, end in sorted(starts)[-LATEST:]:
            before = self._clause_before(start)
            if words.SUPPOSED.search(before) or words.DENIED_BEFORE.search(before):
                continue
            stop = self._stop(end)
            if words.QUESTION.search(self._text[end:stop]):
                continue
            if reading := self._scope(end, stop, introduced=True):
                found.append((start, stop, reading))
        for mention in self._letter_mentions(0, len(self._text), introduced=True):
            if mention.letter and not mention.denied and words.RIGHT.match(self._text, mention.end):
                start = self._text.rfind("\n", 0, mention.start) + 1
                if not words.SUPPOSED.search(self._text[start : mention.start]):
                    found.append((mention.start, mention.end, mention.letter))
        last = max((m.end() for m in words.LABEL.finditer(self._text) if m[0].rstrip()[-1:] in ":="), default=0)
        if found and last > max(stop for _, stop, _ in found) and self._text[last:].strip():
            return _UNDECIDED  # the last answer is not an option
        return self._last(sorted(found))

    def leading(self) -> str | None:
        """The choice of a text that begins with a letter or an option's text, set off from the rest."""
        match = re.match(
            r"(?:(?:option|choice|letter)\s+)?[(\[]?([A-Za-z])(?:[)\]]|\s*[.):]|\s+-|,|(?=\s*$)|(?=\s*\n))",
            self._text,
            re.I,
        )
        if match and (match[1].isupper() or re.match(r".{0,9}[)\].:]", match[0])):
            read = self._scope(0, self._stop(match.end()), introduced=True)
            return _UNDECIDED if read and self._other_lines(read) else read
        match = re.match(r"(.+?)(?:[.,;:!]\s|[.,;:!]?$|\n)", self._text)
        named = {m.letter for m in self._texts if match and m.start == 0 and m.end == match.end(1)}
        return named.pop() if len(named) == 1 and self._is_short(named) else None

    def _other_lines(self, read: str) -> bool:
        """Whether other lines begin with other letters, as in a list of options."""
        lines = re.finditer(r"\n ?(?:[(\[]([A-Z])[)\]]|([A-Z])(?=[).:]|\n|\Z))", self._text)
        return bool({line[1] or line[2] for line in lines} - {read})

    def _is_short(self, named: set[str | None]) -> bool:
        return {m.letter for m in self._texts if not m.denied} <= named or self._text.lower().startswith(("yes", "no"))

    def ending(self) -> str | None:
        """The choice of the last "it is ..." statement, or of a last line that is only a letter."""
        found = []
        for match in list(words.IT_IS.finditer(self._text))[-LATEST:]:
            before = self._clause_before(match.start())
            if words.SUPPOSED.search(before) or words.DENIED_BEFORE.search(before):
                continue
            stop = self._stop(match.end())
            if not words.QUESTION.search(self._text[match.start() : stop]) and (
                reading := self._scope(match.end(), stop, introduced=True)
            ):
                found.append((match.start(), stop, reading))
        if found:
            return self._last(found)
        last = self._text.rstrip(" .!)\n").rpartition("\n")[2].strip(" (")
        return self._known(last) if len(last) == 1 and last.isupper() and "\n" in self._text else None

    def named(self) -> str | None:
        """The only option that the text names."""
        if words.QUESTION.search(self._text):
            return None
        return self._scope(0, len(self._text), introduced=False)

    def affirmed(self) -> str | None:
        """All options that the text affirms: by letter if it has any letters, or else by text."""
        found = [m.letter for m in self._letter_mentions(0, len(self._text), introduced=True) if not m.denied]
        found = found or [m.letter for m in self._texts if not m.denied]
        return None if None in found else ",".join(sorted(set(filter(None, found)))) or None

    def _known(self, letter: str) -> str:
        return letter if letter in self._letters else _UNDECIDED

    def _last(self, found: Sequence[tuple[int, int, str]]) -> str | None:
        """The last of several statements; undecided if they differ and the last does not correct the others."""
        if not found:
            return None
        start, _, last = found[-1]
        others = [(s, e) for s, e, reading in found if reading != last]
        corrects = not others or words.CORRECTED.search(self._text[others[-1][0] : start + 24])
        return last if corrects else _UNDECIDED

    def _stop(self, position: int) -> int:
        """The end of the sentence at a position, or of the next one if that corrects it."""
        text = self._text
        while match := words.BREAK.search(text, position):
            # "B." at the beginning is a letter with a full stop, not a sentence
            if (
                re.search(r"(?:\A|[\s:(])[A-Za-z]\.\s*\Z", text[max(0, match.end() - 6) : match.end()])
                and match.start() - position <= 3
            ):
                position = match.end()
                continue
            following = text[match.end() : match.end() + 40]
            if words.CORRECTED.match(following) or match[0].startswith(";"):
                position = match.end()
                continue
            return match.start()
        return len(text)

    def _clause_before(self, position: int) -> str:
        """The part of the sentence before a position, from the last comma or "but" on."""
        before = self._text[max(0, position - REACH) : position]
        start = max((m.end() for m in re.finditer(r"[.!?;,\n]\s|\n|\bbut\b", before)), default=0)
        return before[start:]

    def _scope(self, start: int, stop: int, *, introduced: bool) -> str | None:
        """The option that a part of the text affirms: by letter if there is one, or else by text."""
        letters = self._letter_mentions(start, stop, introduced=introduced)
        found = [m for m in letters if not m.denied]
        if found and introduced:
            # "B because of A": A is part of the reason
            reason = re.search(r"(?i)\b(?:because|since|due\s+to|given)\b", self._text[found[0].end : stop])
            found = [m for m in found if not reason or m.start < found[0].end + reason.start()]
        if not found:
            found = [m for m in self._texts if m.start >= start and m.end <= stop and not m.denied]
        if not found:
            return None
        corrections = [m.end() for m in words.CORRECTED.finditer(self._text, start, stop)]
        if len({m.letter for m in found}) > 1 and corrections:
            found = [m for m in found if m.start >= corrections[-1]]
        named = {m.letter for m in found}
        return (named.pop() or _UNDECIDED) if len(named) == 1 else _UNDECIDED

    def _letter_mentions(self, start: int, stop: int, *, introduced: bool) -> list[_Mention]:
        """The places in a part of the text that name an option by its letter."""
        pattern = re.compile(
            r"[(\[]\s*(?P<marked>[A-Za-z])\s*[)\]]|(?<![A-Za-z0-9\u00C0-\u04FF_'&.-])(?P<bare>[A-Z])(?![A-Za-z0-9\u00C0-\u04FF_'&-]|\.\w)|(?<![\w'&.-])(?P<low>[a-z])(?=\s*(?:[).:,;]|$))"
        )
        found: list[_Mention] = []
        for match in pattern.finditer(self._text, start, stop):
            letter = match["marked"] or match["bare"] or match["low"]
            if not self._is_letter(match, start, stop, found, introduced=introduced):
                continue
            if found and match["bare"] and re.fullmatch(r"[ .:]*", self._text[found[-1].end : match.start()]):
                # "(B) C", where C is the text of an option
                named = [self._letters[i] for i, choice in enumerate(self._choices) if choice == letter.lower()]
                if named:
                    last = found.pop()
                    found.append(_Mention(last.start, match.end(), last.letter if last.letter in named else None))
                    continue
            known: str | None = letter.upper() if letter.upper() in self._letters else None
            found.append(_Mention(match.start(), match.end(), known))
        return self._judged(found)

    def _is_letter(
        self, match: re.Match[str], start: int, stop: int, earlier: Sequence[_Mention], *, introduced: bool
    ) -> bool:
        """Whether a single letter names an option, and is not a word or part of a name."""
        letter = match["marked"] or match["bare"] or match["low"]
        if match["marked"]:
            return letter.isupper() or letter.upper() in self._letters
        if any(m.start <= match.start() and match.end() <= m.end and m.end - m.start > 1 for m in self._texts):
            return False
        after = self._text[match.end() : min(stop, match.end() + REACH)]
        before = self._text[max(start, match.start() - REACH) : match.start()]
        if words.NAME_BEFORE.search(before[-20:]) or words.NAME_AFTER.match(after):
            return False
        at_start = not before.strip() or bool(words.LABELLED.search(before[-20:]))
        if match["low"]:
            return introduced and at_start and bool(re.match(r"\s*(?:[).:]|$)", after))
        if words.LISTED_AFTER.match(after):
            return True
        set_off = bool(words.SET_OFF.match(after))
        if letter in "AI" and not set_off and (letter == "I" or not words.NO_NOUN.match(after)):
            return False
        if words.INTRODUCED.search(before[-20:]) or words.VERB_AFTER.match(after):
            return True
        if at_start and words.NO_NOUN.match(after):
            return True
        joined = bool(earlier) and bool(words.JOIN.fullmatch(self._text[earlier[-1].end : match.start()]))
        begins = bool(re.search(r"(?:^|[\n.,;:?!])\s*\Z", before[-20:]))
        return joined or (introduced and at_start) or (set_off and begins)

    def _judged(self, mentions: Sequence[_Mention]) -> list[_Mention]:
        """Mentions marked as denied, in lists too; those that an option's text contradicts lose their letter."""
        denied = [self._is_denied(m.start, self._beside(m)[0]) for m in mentions]
        for i in range(1, len(mentions)):
            if words.JOIN.fullmatch(self._text[mentions[i - 1].end : mentions[i].start]):
                denied[i] = denied[i] or denied[i - 1]
        for i in range(len(mentions) - 2, -1, -1):
            if words.JOIN.fullmatch(self._text[mentions[i].end : mentions[i + 1].start]):
                denied[i] = denied[i] or denied[i + 1]
        return [_Mention(m.start, m.end, self._with_text(m), no) for m, no in zip(mentions, denied, strict=True)]

    def _with_text(self, mention: _Mention) -> str | None:
        """The letter; None if the text beside it is another option's, or if the letter itself is another option."""
        if mention.letter is None:
            return None
        own = self._letters.index(mention.letter)
        beside = self._beside(mention)[1]
        if beside:
            return mention.letter if mention.letter in beside else None
        for other in self._texts:
            gap = self._text[other.end : mention.start]
            if other.denied or other.end > mention.start or not words.BEFORE_LETTER.fullmatch(gap):
                continue
            lettered = re.search(r"[A-Za-z][)\].:]+\s*\Z", self._text[max(0, other.start - 6) : other.start])
            same = {m.letter for m in self._texts if m.start == other.start}
            if not lettered and mention.letter not in same:
                return None
        bare = self._text[mention.start].isalpha() and not re.search(
            r"(?i)\b(?:option|choice)\s*\Z", self._text[: mention.start]
        )
        itself = self._text[mention.start : mention.end].lower()
        if bare and any(c == itself for i, c in enumerate(self._choices) if i != own):
            return None
        return mention.letter

    def _beside(self, mention: _Mention) -> tuple[int, set[str | None]]:
        """The end of a letter and of an option's text after it, and the letters of the options with that text."""
        for other in self._texts:
            gap = self._text[mention.end : other.start]
            if other.start >= mention.end and re.fullmatch(r"[ ).:,\-\u2013\u2014=]*", gap):
                return other.end, {m.letter for m in self._texts if m.start == other.start}
        return mention.end, set()

    def _is_denied(self, start: int, end: int) -> bool:
        """Whether the words around a mention deny it or only suppose it."""
        before = self._text[max(0, start - REACH) : start]
        cut = max((m.end() for m in words.CLAUSE.finditer(before)), default=0)
        clause = before[cut:]
        if words.DENIED_BEFORE.search(clause) or words.SUPPOSED.search(re.split(r"[.!?;,\n]\s|\bbut\b", before)[-1]):
            return not re.search(r"(?i)\bnot\s+only\b", clause)
        return bool(words.DENIED_AFTER.match(self._text[end : end + 40]))

    def _text_mentions(self) -> list[_Mention]:
        """The places that name an option by its text; a text inside a longer option's text does not count."""
        spans = []
        for i, core in enumerate(self._cores):
            if not core or (len(core) == 1 and core.isalpha()):
                continue
            for match in re.finditer(rf"(?<![\w])(?<!\d[.,]){re.escape(core)}(?!\w|[.,]\d)", self._text, re.I):
                spans.append((match.start(), match.end(), i))
        kept = []
        for start, end, i in spans:
            inside = any(s <= start and end <= e and e - s > end - start for s, e, _ in spans)
            if not inside:
                article = re.search(r"(?:^|(?<=\W))(?:the|an?)\s+\Z", self._text[max(0, start - 8) : start], re.I)
                kept.append((start - len(article[0]) if article else start, end, i))
        return [_Mention(s, e, self._letters[i], self._is_denied(s, e)) for s, e, i in sorted(kept)]
