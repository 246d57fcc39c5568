"""The study's report: one page that is complete in itself, and the same as Markdown."""

from __future__ import annotations

from pathlib import Path

from avrt.evaluation.tables import Table
from avrt.files import write_whole
from avrt.html.pages import render_page
from avrt.study.analysis import CURVES, REPORT, Analysis, Setting
from avrt.study.plots import binned, forest, mean_line, sensitivity, setting_text, training_plots
from avrt.study.tables import NONE
from avrt.text import clean

HOW_TO_READ = (
    "A row holds if its difference has the claimed sign and the p-value, corrected for the number of rows, is below "
    "{level:g}. It does not hold if it is so the other way round, or if, corrected in the same way, it is shown to lie "
    "below {least:g} points, the smallest difference that counts (the published one, where that is smaller). Otherwise "
    "it cannot be told from these seeds and questions. Students are miniatures in a synthetic world: a verdict "
    "is about the method, not about the paper's figures."
)


def write(analysis: Analysis, out: Path) -> Path:
    """Write `report/report.html` and `report/report.md` below a study's folder; the path of the page."""
    folder = out / REPORT
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "report.md", markdown(analysis).encode())
    write_whole(folder / "report.html", html(analysis).encode())
    return folder / "report.html"


def html(analysis: Analysis) -> str:
    """The page."""
    settings = settings_table(analysis)
    return render_page(
        "avrt.study",
        "study.html",
        heading=analysis.title,
        how=_how(analysis),
        verdicts=analysis.verdict_table,
        forest=[forest(analysis.claims, analysis.power.least)] if analysis.claims else [],
        tables=analysis.tables,
        sensitivity=[sensitivity(analysis.settings, analysis.main)] if analysis.settings else [],
        settings=[settings] if settings else [],
        curves=training_plots(analysis.curves),
        questions=analysis.questions,
        power=analysis.power_table,
    )


def markdown(analysis: Analysis) -> str:
    """The same as text."""
    parts = [f"# {analysis.title}", "", _how(analysis), "", analysis.verdict_table.markdown()]
    parts += [table.markdown() for table in analysis.tables]
    parts += [table.markdown() for table in (settings_table(analysis), curves_table(analysis)) if table]
    parts += [question.markdown() for question in analysis.questions]
    return clean("\n".join([*parts, analysis.power_table.markdown()]))


def settings_table(analysis: Analysis) -> Table | None:
    """The sensitivity as a table; None without any."""
    rows = [
        [name, setting.value, setting.student, setting_text(setting), _seeds_of(setting)]
        for name, values in analysis.settings.items()
        for setting in values
    ]
    note = f"Accuracy minus that of the main setting, {analysis.main}, in points, with 95 % intervals; not corrected."
    head = ["setting", "value", "student", "difference", "seeds"]
    return Table("settings", "Sensitivity to each setting", head, rows, note) if rows else None


def _seeds_of(setting: Setting) -> str:
    return NONE if setting.effect is None else str(setting.effect.seeds)


def curves_table(analysis: Analysis) -> Table | None:
    """Where each curve begins and ends, mean over seeds; None without any."""
    rows = []
    for tag, students in analysis.curves.items():
        for student, seeds in students.items():
            middle = mean_line([binned(points) for points in seeds.values()])
            rows.append([student, CURVES[tag][0], str(len(seeds)), f"{middle[0][1]:.3g}", f"{middle[-1][1]:.3g}"])
    note = "Means over seeds of the first and of the last steps; the page has the curves."
    return (
        Table("curves", "Curves of the trainings", ["student", "of", "seeds", "begins", "ends"], rows, note)
        if rows
        else None
    )


def _how(analysis: Analysis) -> str:
    return HOW_TO_READ.format(level=analysis.power.level, least=analysis.power.least)
