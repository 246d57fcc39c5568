"""A real browser for the tests of pages, and what a page has to be in it."""

from __future__ import annotations

import contextlib
import importlib.resources
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Debian's chromium and chromium-driver")
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1300,2400",
    "--autoplay-policy=no-user-gesture-required",
)  # fmt: skip
_AXE = """
const done = arguments[arguments.length - 1];
axe.run({resultTypes: ['violations']}).then(
    found => done(found.violations.filter(v => ['serious', 'critical'].includes(v.impact))
        .map(v => v.id + ': ' + v.nodes.map(n => n.html).join(' '))),
    error => done([String(error)]));
"""
_TWICE = """
const ids = [...document.querySelectorAll('[id]')].map(e => e.id);
return ids.filter((id, i) => ids.indexOf(id) !== i);
"""


@contextlib.contextmanager
def browsing() -> Iterator[Any]:
    """A headless Chromium."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in _FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        browser.set_script_timeout(60)
        yield browser
    finally:
        browser.quit()


def show(browser: Any, page: Path, *, width: int = 1280, scheme: str = "light", scripts: bool = True) -> None:
    """Open a page as on a screen of some width, in a colour scheme, with or without JavaScript."""
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not scripts})
    browser.get(page.as_uri())


def assert_readable(browser: Any, page: Path) -> None:
    """Nothing logged, cut off, ambiguous, or a hindrance by axe, on a phone and a desk, in light and dark."""
    axe = importlib.resources.files("axe_core_python").joinpath("axe.min.js").read_text()
    papers = set()
    for width in (390, 1280):
        for scheme in ("light", "dark"):
            show(browser, page, width=width, scheme=scheme)
            assert browser.get_log("browser") == []
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
            assert browser.execute_script(_TWICE) == []
            browser.execute_script(axe)
            assert browser.execute_async_script(_AXE) == []
            papers.add(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
            ink = browser.execute_script("return getComputedStyle(document.body).color")
            inks = "return [...new Set([...document.querySelectorAll('svg text')].map(e => getComputedStyle(e).fill))]"
            assert browser.execute_script(inks) == [ink]
    assert len(papers) == 2


def shown_cards(browser: Any) -> list[str]:
    """The text of each card that can be seen."""
    return [card.text for card in browser.find_elements("css selector", ".card") if card.is_displayed()]
