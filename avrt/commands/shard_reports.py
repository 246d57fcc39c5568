"""What `avrt shards` prints: what would be used, what was written, what was left out, and what one would do next."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from avrt.data.shards.manifest import UNTYPED, Manifest
from avrt.data.shards.source import SourceItem
from avrt.data_recipes.media_paths import OutsideRootError, outside_hint
from avrt.errors import BadSampleError, NothingUsableError
from avrt.messages import LONGEST, print_results, printable
from avrt.remote.uploads import Destination

_LINE = 300
_QUOTED = re.compile(r"(?<= is )(?:'(?:[^'\\]|\\.)*'|\"[^\"]*\")")
_REMEDY = re.compile(r"\([^()]*: [^()]*\)$|\([^()]*\)$")


@dataclass
class Outside:
    """Rows whose media are outside of the root, which one hint for the whole run is about.

    Attributes:
        rows: Name of the row -> the folder that it leads to.
    """

    rows: dict[str, Path] = field(default_factory=dict)

    def watch(self, items: Iterable[SourceItem | BadSampleError]) -> Iterator[SourceItem | BadSampleError]:
        """Pass the items on, and remember which lead outside."""
        for item in items:
            if isinstance(item, OutsideRootError):
                self.rows[item.where or ""] = item.folder
            yield item

    def tell(self) -> None:
        """Print the hint, if there is anything to hint at."""
        if self.rows:
            _console().print(f"hint: {printable(outside_hint(self.rows.values(), len(self.rows)))}")


def _console() -> Console:
    return Console(highlight=False, markup=False, soft_wrap=True)


def nothing_usable(rows: int, where: Path | str | None = None, remedy: str | None = None) -> NothingUsableError:
    """The error for a dataset of which no question can be used."""
    if not rows:
        return NothingUsableError("there are no questions", where=where)
    return NothingUsableError(f"none of {rows} questions can be used", where=where, remedy=remedy)


def survey(items: Iterable[SourceItem | BadSampleError], outside: Outside) -> None:
    """Print what would be converted: questions of each type, missing media, and unusable rows.

    Args:
        items: The questions.
        outside: Watches them, and hints at media outside of the root.

    Raises:
        NothingUsableError: If no question can be used.
    """
    kinds: Counter[str] = Counter()
    missing: set[str] = set()
    answered = noted = lacking = 0
    bad: list[str] = []
    for item in items:
        if isinstance(item, BadSampleError):
            bad.append(str(item))
            continue
        kinds[item.sample.question_type or UNTYPED] += 1
        answered += item.sample.answer is not None
        noted += bool(item.notes)
        if gone := [path.name for path in item.files.values() if not path.is_file()]:
            missing.update(gone)
            lacking += 1
    console = _console()
    console.print(f"{kinds.total()} questions, {kinds.total() - lacking} of them with their media")
    for kind, count in kinds.most_common():
        console.print(f"  {count:6d}  {printable(kind)[:LONGEST]}")
    if answered < kinds.total():
        console.print(f"{kinds.total() - answered} questions have no answer: usable for prediction, not for training")
    if noted:
        console.print(f"{noted} rows are repaired; the manifest will say how")
    if missing:
        gone = sorted(missing)
        shown = ", ".join(printable(name)[:LONGEST] for name in gone[:5])
        console.print(f"{lacking} questions lack {len(gone)} media files: {shown}{', ...' if gone[5:] else ''}")
    if bad:
        console.print(f"{len(bad)} rows cannot be used, for example:")
        for reason in _examples(bad)[:10]:
            console.print(f"  {printable(reason)[:_LINE]}")
    outside.tell()
    if lacking == kinds.total():
        raise nothing_usable(kinds.total() + len(bad), remedy="the reasons are above")


def _examples(reasons: list[str]) -> list[str]:
    """One reason of each kind, then the others."""
    first = {_kind_of(reason): reason for reason in reversed(reasons)}
    chosen = list(reversed(first.values()))
    return [*chosen, *(reason for reason in reasons if reason not in chosen and "out of the dataset" not in reason)]


def report(manifest: Manifest, folder: Path | str) -> None:
    """Print what was written and what was left out."""
    console = _console()
    console.print(
        f"{manifest.samples} samples ({manifest.media}) in {len(manifest.shards)} shards: {printable(str(folder))}"
    )
    if manifest.labels and manifest.labels["answer"] < manifest.samples:
        without = manifest.samples - manifest.labels["answer"]
        console.print(f"{without} of them have no answer: usable for prediction, not for training")
    if manifest.audio_cut:
        advice = " (take all of it with --audio_seconds whole)" if manifest.spec.get("audio_seconds") else ""
        console.print(f"the sound of {manifest.audio_cut} samples is cut{advice}")
    if manifest.notes:
        console.print(f"{len(manifest.notes)} samples were repaired (see notes in manifest.json)")
    if manifest.skipped:
        reasons = Counter(_kind_of(reason) for reason in manifest.skipped.values())
        console.print(f"{len(manifest.skipped)} left out (see skipped in manifest.json):")
        for reason, count in reasons.most_common(10):
            console.print(f"  {count:6d}  {printable(reason)[:_LINE]}")
        if len(reasons) > 10:
            console.print(f"          and {len(reasons) - 10} other reasons")


def _kind_of(reason: str) -> str:
    """A reason without the parts that differ from row to row: the row's name, quoted values, the text after a colon."""
    what = reason.split(": ", 1)[-1]
    shortened = _QUOTED.sub("...", what)
    remedy = _REMEDY.search(shortened)
    return shortened.split(":")[0] + (f" {remedy[0]}" if remedy and ":" in shortened else "")


def finish(manifest: Manifest, folder: Path | str, outside: Outside, next_step: str | None = None) -> None:
    """Print what was written, the hint about media outside of the root, and what one would do next.

    Raises:
        NothingUsableError: If no sample was written.
    """
    report(manifest, folder)
    outside.tell()
    if not manifest.samples:
        raise nothing_usable(len(manifest.skipped), where=folder, remedy="see manifest.json there")
    print_results("shards", printable(str(folder)), next_step)


def look_at_one(out: Destination) -> str:
    """The command that shows the first sample of new shards; those at an address are not fetched for it."""
    from avrt.data.shards.reader import ShardSet

    if out.remote:
        return f"avrt shards verify {quoted(out.name)}"
    first = ShardSet(out.folder).sample(0).id
    return f"avrt shards show {quoted(out.name)} --id={quoted(first)} --out look"


def quoted(word: object) -> str:
    """A word as it is typed in a shell."""
    return shlex.quote(printable(str(word)))
