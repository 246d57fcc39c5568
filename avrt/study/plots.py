"""The study's plots: a forest of the claims, small multiples of settings, and the curves of all trainings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from avrt.html.plots import INK, QUIET, SERIES, Plot, panels, plot, shortened
from avrt.study.analysis import CURVES, Setting
from avrt.study.tables import points
from avrt.study.verdicts import FAILS, HOLDS, UNKNOWN, ClaimResult
from avrt.training.run_log.scalars import Points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {HOLDS: SERIES[2], FAILS: SERIES[4], UNKNOWN: SERIES[6]}
_MARKS = {HOLDS: "o", FAILS: "X", UNKNOWN: "s"}
_BINS = 40
"""Most points of a curve: more are averaged over neighbouring steps."""


def forest(results: Sequence[ClaimResult], least: float) -> Plot:
    """Every claim's difference with its interval, and the published one as a mark."""

    def draw(axes: Axes) -> None:
        for row, r in enumerate(results):
            colour, effect = _COLOURS[r.verdict], r.effect
            axes.plot([100 * effect.low, 100 * effect.high], [row, row], color=colour, linewidth=1.8)
            axes.plot([100 * effect.difference], [row], _MARKS[r.verdict], color=colour, markersize=6)
            if r.claim.published is not None:
                axes.plot([r.claim.published], [row], "d", color=INK, markersize=6, fillstyle="none")
            axes.text(0, row - 0.26, shortened(f"{r.claim.source}: {r.claim.text}"), va="bottom", ha="left",
                      transform=axes.get_yaxis_transform())  # fmt: skip
        axes.axvline(0, color=QUIET, linewidth=1)
        axes.axvline(least, color=QUIET, linewidth=1, linestyle=":")
        axes.set(ylim=(len(results) - 0.4, -0.9), xlabel="difference, points", yticks=[])
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")

    def words(r: ClaimResult) -> str:
        published = "" if r.claim.published is None else f", published {r.claim.published:+.1f}"
        return f"{r.claim.source}, {r.claim.text}: {points(r.effect)}{published}, {r.verdict}"

    caption = (
        "Circle: holds; square: cannot be told; cross: does not hold; with 95 % intervals. Open diamond: the "
        f"published difference, of another world. Dotted: {least:g} points, the smallest difference that counts."
    )
    text = "; ".join(words(r) for r in results)
    return plot("forest", "Differences", draw, text=text, caption=caption, height=0.8 + 0.52 * len(results))


def sensitivity(settings: Mapping[str, Sequence[Setting]], main: str) -> Plot:
    """For each parameter the difference of its values to the main setting."""

    def panel(name: str, values: Sequence[Setting]) -> Callable[[Axes], None]:
        def draw(axes: Axes) -> None:
            for at, setting in enumerate(values):
                colour = INK if setting.main else SERIES[0]
                if setting.effect is not None:
                    low, high = 100 * setting.effect.low, 100 * setting.effect.high
                    axes.plot([at, at], [low, high], color=colour, linewidth=1.6)
                if setting.effect is not None or setting.main:
                    middle = 0.0 if setting.effect is None else 100 * setting.effect.difference
                    axes.plot([at], [middle], "D" if setting.main else "o", color=colour, markersize=5)
            axes.axhline(0, color=QUIET, linewidth=1)
            axes.set_xticks(range(len(values)), [shortened(s.value, 9) for s in values])
            axes.set(xlim=(-0.5, len(values) - 0.5), ylabel="points")
            axes.set_title(shortened(name, 24), fontsize=11, loc="left")
            axes.grid(axis="y")

        return draw

    text = "; ".join(
        f"{name} {s.value}: {setting_text(s)}" for name, values in settings.items() for s in values
    )  # fmt: skip
    caption = f"Accuracy minus that of the main setting ({main}, diamond) in points, with 95 % intervals."
    draws = [panel(name, values) for name, values in settings.items()]
    return panels("sensitivity", "Sensitivity to each setting", draws, text=text, caption=caption, height=1.9)


def setting_text(setting: Setting) -> str:
    """A setting's difference in words."""
    if setting.main:
        return "main setting"
    if setting.effect is None:
        return "not run"
    return points(setting.effect)


def training_plots(curves: Mapping[str, Mapping[str, Mapping[int, Points]]]) -> list[Plot]:
    """For each scalar a panel for each student: a thin line for each seed, a thick one for their mean."""
    found = []
    for number, (tag, students) in enumerate(curves.items(), 1):
        title, unit = CURVES[tag]
        draws, said = [], []
        for student, seeds in students.items():
            lines = [binned(seeds[seed]) for seed in seeds]
            middle = mean_line(lines)
            draws.append(_curve(student, lines, middle, unit))
            said.append(f"{student}: mean {middle[0][1]:.3g} at step {middle[0][0]:g}, {middle[-1][1]:.3g} at the end")
        caption = "Thin: each seed; thick: their mean."
        found.append(panels(f"curve-{number}", title, draws, text="; ".join(said), caption=caption, height=1.55))
    return found


def binned(points: Points) -> list[tuple[float, float]]:
    """At most `_BINS` points: means over neighbouring ones."""
    width = -(-len(points) // _BINS)
    parts = [points[i : i + width] for i in range(0, len(points), width)]
    return [(sum(x for x, _ in p) / len(p), sum(y for _, y in p) / len(p)) for p in parts]


def mean_line(lines: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """The mean over seeds, at the steps that all seeds have."""
    seeds = [dict(line) for line in lines]
    shared = sorted(set.intersection(*map(set, seeds))) if seeds else []
    return [(step, sum(seed[step] for seed in seeds) / len(seeds)) for step in shared]


def _curve(
    student: str, lines: Sequence[Sequence[tuple[float, float]]], middle: Sequence[tuple[float, float]], unit: str
) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        for line in lines:
            axes.plot([x for x, _ in line], [y for _, y in line], color=SERIES[0], linewidth=0.8, alpha=0.5)
        axes.plot([x for x, _ in middle], [y for _, y in middle], color=SERIES[0], linewidth=2.2)
        axes.set_title(shortened(student, 22), fontsize=11, loc="left")
        axes.set(xlabel="step", ylabel=unit)
        axes.grid(axis="y")

    return draw
