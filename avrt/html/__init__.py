"""What the HTML pages share: one base template with its style and script, tables, plots as inline SVG, filters."""

from avrt.html.pages import render_template

__all__ = ["render_template"]
