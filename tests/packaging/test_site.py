"""The documentation's site, as `make docs` builds it: strictly, and with no link inside it that leads nowhere."""

import os
import posixpath
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]


class Links(HTMLParser):
    """The ids of a page, and what it links to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids.add(value)
            elif name in ("href", "src") and value:
                self.links.append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("material", reason="the site needs the extra `docs`")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return {page.relative_to(folder).as_posix(): Links(page) for page in folder.rglob("*.html")}, folder


def test_every_page_is_there(site):
    pages, _ = site
    wanted = {f"{path.stem}/index.html" for path in ROOT.glob("docs/*.md")}
    wanted |= {"index.html", "changelog/index.html", "contributing/index.html", "slurm/index.html"}
    assert wanted - set(pages) == set()


def test_links_inside_the_site_lead_to_something(site):
    pages, folder = site
    lost = []
    for name, page in pages.items():
        if name == "404.html":
            continue  # is shown at any address, so its links begin at the site's own
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (
                posixpath.normpath(posixpath.join(posixpath.dirname(name), unquote(parts.path))) if parts.path else name
            )
            if (folder / target).is_dir():
                target = posixpath.join(target, "index.html")
            target = posixpath.normpath(target)
            there = (folder / target).is_file()
            if not there or (
                parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids | {""}
            ):
                lost.append(f"{name}: {link}")
    assert lost == []


def test_links_to_files_of_the_repository_lead_to_something(site):
    """Links of the pages that leave docs/, which `docs/site/hooks.py` turns into addresses."""
    pages, _ = site
    ours = {
        link
        for page in pages.values()
        for link in page.links
        if "/avrt/blob/main/" in link or "/avrt/tree/main/" in link
    }
    named = {link.split("/main/", 1)[1].partition("#")[0] for link in ours}
    assert len(named) > 5
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_public_functions_have_a_page(site):
    pages, _ = site
    for name in (
        "avrt.library.load",
        "avrt.objectives.policy_loss.PolicyLoss",
        "avrt.rollout.sampling.SamplingOptions",
    ):
        assert any(name in page.ids for path, page in pages.items() if path.startswith("api/")), name
