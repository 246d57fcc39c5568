"""An SVG file of matplotlib as an element of a page: its ids unique, its colours and its font the page's."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping

_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_FONT = re.compile(r"font-family:[^;]*;?\s*")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def inline(written: str, name: str, text: str, variables: Mapping[str, str]) -> str:
    """The file as an element.

    Args:
        written: The file.
        name: What its ids start with; unique on the page.
        text: What the picture shows, in words.
        variables: Colour -> name of the CSS variable that takes its place.
    """
    ET.register_namespace("", _SVG[1:-1])
    root = ET.fromstring(written)
    _drop(root, "metadata", "style")  # the style sheet would be the whole page's; `style.css` has its one rule
    _rename(root, name)
    for element in root.iter():
        if style := element.get("style"):
            element.set("style", _COLOUR.sub(lambda found: _variable(found[0], variables), _FONT.sub("", style)))
    for unit in ("width", "height"):
        root.attrib.pop(unit, None)
    root.set("role", "img")
    root.set("aria-label", text)
    return ET.tostring(root, encoding="unicode")


def _drop(root: ET.Element, *names: str) -> None:
    """Remove all elements of some names."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in [_SVG + name for name in names]:
                parent.remove(child)


def _rename(root: ET.Element, name: str) -> None:
    """Give ids that are referred to a unique name, and remove the others, which are the same in every file."""
    kept: dict[str, str] = {}

    def new(identity: str) -> str:
        return kept.setdefault(identity, f"{name}-{len(kept) + 1}")

    for element in root.iter():
        for key, value in list(element.attrib.items()):
            if key == f"{_XLINK}href":
                del element.attrib[key]
                element.set("href", f"#{new(value.removeprefix('#'))}")
            elif key != "id":
                element.set(key, _REFERENCE.sub(lambda found: f"url(#{new(found[1])})", value))
    for element in root.iter():
        if (identity := element.attrib.pop("id", None)) in kept:
            element.set("id", kept[identity])


def _variable(colour: str, variables: Mapping[str, str]) -> str:
    return f"var(--{variables[colour]})" if colour in variables else colour
