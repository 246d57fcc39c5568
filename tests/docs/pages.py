"""What a page of the documentation tells its reader to do: files to write and commands to type, in order."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^```(\w*)[ ]?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"`([\w./-]+)`:\s*\Z")
_NEEDS = re.compile(r"needs ([\w ]+)")


@dataclass(frozen=True)
class Step:
    """One block of a page.

    Attributes:
        place: Page and line, for messages.
        text: The block's text.
        file: Name of the file that it is the contents of; None for commands.
        needs: What its commands need that a laptop does not have; they are then only parsed.
    """

    place: str
    text: str
    file: str | None
    needs: str | None


def steps(page: Path) -> list[Step]:
    """The blocks of a page that a reader acts on.

    Commands stand in blocks of `bash`; `bash needs vLLM` marks those that not everybody can run. A block of another
    language is a file if the text before it ends with the file's name: `` `grid.yaml`: ``.
    """
    text = page.read_text(encoding="utf-8")
    found = []
    for block in _FENCE.finditer(text):
        place = f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, block.start()) + 1}"
        language, information, body = block.groups()
        if language == "bash":
            needs = _NEEDS.search(information)
            found.append(Step(place, body, None, needs[1] if needs else None))
        elif name := _FILE.search(text[: block.start()]):
            found.append(Step(place, body, name[1], None))
    return found
