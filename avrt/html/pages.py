"""Pages that are complete in themselves: templates escape every value, and the browser loads and runs nothing else."""

from __future__ import annotations

import base64
import hashlib

import jinja2

from avrt.packaged import packaged
from avrt.text import clean

SHORT = 26
"""A table's cell of at most so many characters is kept on one line."""


def render_page(package: str, template: str, **values: object) -> str:
    """Fill in a page's template, which extends `base.html`.

    Every value is escaped. Should a foreign value ever act as HTML all the same, the page's content security policy
    keeps it from running: the only script is the one whose hash it names, and nothing is loaded from anywhere.

    Args:
        package: The package that holds the template, such as `avrt.evaluation`.
        template: Its file name.
        **values: The template's variables.
    """
    folders = [str(packaged(name)) for name in ("avrt.html", package)]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    script = packaged("avrt.html", "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; media-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return clean(environment.get_template(template).render(script=script, policy=policy, short=SHORT, **values))
