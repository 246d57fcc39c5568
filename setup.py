"""What pyproject.toml cannot say: README.md as the package's description, its links made absolute.

A package index shows the description away from the repository, where a relative link leads nowhere.
"""

import re
import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
RELATIVE = re.compile(r"(!?)(\[(?:[^\[\]]|\[[^\[\]]*\])*\])\((?!\w+:|#)([^)\s]+)\)")
SOURCE = re.compile(r'(\s(?:src|srcset)=")(?!\w+:)([^"\s]+)')


def absolute_links(text: str, repository: str) -> str:
    """A page of the repository's root with links that work elsewhere; pictures lead to the files themselves."""
    # Twice: a picture that is itself a link, `[![text](picture)](page)`, has one link inside another.
    for _ in range(2):
        text = RELATIVE.sub(lambda found: f"{found[1]}{found[2]}({repository}/{_kind(found)}/main/{found[3]})", text)
    return SOURCE.sub(rf"\1{repository}/raw/main/\2", text)


def _kind(link: re.Match[str]) -> str:
    if link[1]:
        return "raw"
    return "blob" if Path(ROOT, link[3].partition("#")[0]).is_file() else "tree"


if __name__ == "__main__":
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    setup(
        long_description=absolute_links(
            (ROOT / "README.md").read_text(encoding="utf-8"), project["urls"]["Repository"]
        ),
        long_description_content_type="text/markdown",
    )
