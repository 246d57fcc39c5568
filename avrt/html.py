"""What the HTML pages share: plots as inline SVG, and templates that escape every value."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import jinja2

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def render_template(source: str, **values: object) -> str:
    """Fill in a Jinja template; values are escaped unless the template marks them as safe."""
    return jinja2.Environment(autoescape=True, trim_blocks=True).from_string(source).render(**values)


def svg_plot(title: str, draw: Callable[[Axes], None], *, size: tuple[float, float] = (6, 3.2)) -> str:
    """A plot as an SVG element.

    Args:
        title: The plot's title.
        draw: Draws on the axes.
        size: Width and height in inches.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    text = io.StringIO()
    # Names are plain text: a dollar sign does not start a formula, and a character without a glyph shows as a box.
    with rc_context({"text.parse_math": False}), warnings.catch_warnings(action="ignore"):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.set_title(title, fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
