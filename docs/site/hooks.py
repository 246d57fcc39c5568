"""What the site takes from outside docs/: pages of the repository's root, and links to files that are not pages.

A page is written for the repository, where every relative link leads to a file. On the site a link to another page
stays one, and a link to anything else leads to the file in the repository.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
TAKEN_IN = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "slurm.md": "examples/slurm/README.md",
}
"""Page of the site -> the file of the repository that it is."""
_PAGES = {source: page for page, source in TAKEN_IN.items()}
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)\s#]+)(?=[)#])")
_SOURCE = re.compile(r'(?<=\ssrc=")(?!\w+:|/)([^"\s]+)')
_CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`(?!\]))", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are kept elsewhere."""
    for page, source in TAKEN_IN.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links that are right in the repository into links that are right on the site."""
    uri = page.file.src_uri
    source = TAKEN_IN.get(uri, f"docs/{uri}")

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[1]))
        there = _PAGES.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else None)
        if there and files.get_file_from_path(there):
            return posixpath.relpath(there, posixpath.dirname(uri) or ".")
        if not (ROOT / target).exists():
            return link[1]  # for the strict build to complain about
        return f"{config.repo_url}/{'tree' if (ROOT / target).is_dir() else 'blob'}/main/{target}"

    # A link inside code is code.
    parts = _CODE.split(markdown)
    parts[::2] = [_SOURCE.sub(moved, _LINK.sub(moved, part)) for part in parts[::2]]
    return "".join(parts)
