"""The page: what one fills in, and what happens when one asks. Gradio draws it and serves it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from avrt.chat import shown
from avrt.chat.asker import Asker, check_question
from avrt.chat.examples import EXAMPLES, make_example
from avrt.chat.shown import MASKS, Asked
from avrt.data.media.clip import Clip
from avrt.errors import AvrtError, BadSampleError

# The system's own fonts: the theme's would come from a server.
SANS, MONO = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")
log = logging.getLogger(__name__)


def make_page(students: Sequence[Asker], folder: Path) -> gr.Blocks:
    """The page for one student, or for two side by side.

    Args:
        students: Who is asked.
        folder: For the files of examples, frames and sound; the server has to be allowed to hand them out.
    """
    generations = [student.settings.generation for student in students]
    page: gr.Blocks
    with gr.Blocks(title="avrt chat", analytics_enabled=False) as page:
        gr.Markdown(f"# Talk to {_names(students)}")
        with gr.Row():
            with gr.Column(min_width=300):
                clip = gr.File(label="Clip: a video, a picture or a sound", elem_id="clip", height=150)
                gr.Markdown("Or begin with an example, a clip made on the spot:")
                with gr.Row():
                    examples = {label: gr.Button(label, size="sm", min_width=90) for label in EXAMPLES}
            with gr.Column(min_width=300):
                question = gr.Textbox(label="Question", lines=2, elem_id="question")
                options = gr.Textbox(label="Options, one per line", lines=4, elem_id="options")
        with gr.Row():
            senses = gr.CheckboxGroup(
                [(label, name) for name, label in MASKS.items()],
                value=list(dict.fromkeys(student.settings.prompt.senses for student in students)),
                label="Ask with these senses, side by side",
                elem_id="senses",
                min_width=300,
            )
        with gr.Accordion("How it is asked", open=False):
            with gr.Row():
                temperature = gr.Number(
                    generations[0].temperature, label="Temperature", info="0: the likeliest token", step=0.1,
                    min_width=140, elem_id="temperature",
                )  # fmt: skip
                tokens = gr.Number(
                    max(g.max_new_tokens for g in generations), label="Most tokens", info="of an answer", precision=0,
                    min_width=140, elem_id="tokens",
                )  # fmt: skip
                seed = gr.Number(
                    0, label="Seed", info="counts above temperature 0", precision=0, min_width=140, elem_id="seed"
                )
            gr.HTML(shown.manners([(student.name, student.settings) for student in students]), elem_id="manners")
        ask = gr.Button("Ask", variant="primary", elem_id="ask")
        got = gr.HTML(elem_id="got")
        answers = gr.HTML(elem_id="answers")
        for label, button in examples.items():
            fill: Callable[..., Any] = partial(make_example, EXAMPLES[label], folder)
            button.click(fill, None, [clip, question, options], api_visibility="private")
        clip.change(partial(show_clip, students, folder), clip, [got, answers], api_visibility="private")
        inputs = [clip, question, options, senses, temperature, tokens, seed]
        ask.click(
            partial(show_answers, students), inputs, answers,
            api_visibility="private", concurrency_limit=1, show_progress="minimal", scroll_to_output=True,
        )  # fmt: skip
    return page


def serve(page: gr.Blocks, folder: Path, host: str, port: int | None) -> str:
    """Serve the page from this process until it ends.

    Args:
        page: What `make_page` returned.
        folder: The folder whose files are handed out.
        host: The address to listen on.
        port: The port; None for the first free one from 7860 on.

    Returns:
        The page's address.

    Raises:
        OSError: If the port is taken.
    """
    theme = gr.themes.Default(primary_hue="blue", font=SANS, font_mono=MONO).set(
        block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_300",
        button_primary_background_fill="*primary_700", button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700", button_primary_background_fill_hover_dark="*primary_600",
    )  # fmt: skip
    _, address, _ = page.launch(
        server_name=host, server_port=port, quiet=True, prevent_thread_lock=True, inbrowser=False, share=False,
        ssr_mode=False, footer_links=[], allowed_paths=[str(folder)], theme=theme,
        css_paths=[shown.TEMPLATES / "page.css"],
    )  # fmt: skip
    return str(address)


def show_clip(students: Sequence[Asker], folder: Path, path: str | None) -> tuple[str, str]:
    """What each student gets of a file, and no answers yet."""
    if path is None:
        return "", ""
    try:
        decoded = _decoded(students, Path(path))
        return shown.clips([(_names(alike), clip) for alike, clip in decoded], folder), ""
    except Exception as error:
        return shown.problem(_sentence(error, Path(path))), ""


def show_answers(
    students: Sequence[Asker],
    path: str | None,
    question: str,
    options: str,
    senses: Sequence[str],
    temperature: float | None,
    tokens: int | None,
    seed: int | None,
) -> Iterator[str]:
    """The answers of each student with each choice of senses; the whole of them again after each one."""
    try:
        choices = check_question(path, question, options)
        drawn: dict[str, Any] = {
            "temperature": float(temperature or 0),
            "max_new_tokens": int(tokens or 0),
            "seed": int(seed or 0),
        }
        masks = [name for name in MASKS if name in senses]
        if not masks:
            raise BadSampleError("No senses are ticked: tick at least one box.")
        file = Path(str(path))
        clips = {student.name: clip for names, clip in _decoded(students, file) for student in names}
        cells = [Asked(student.name, mask) for mask in masks for student in students]
        yield shown.answers(cells)
        for i, (cell, student) in enumerate(zip(cells, list(students) * len(masks), strict=True)):
            try:
                answer = student.ask(clips[student.name], question, choices, senses=cell.senses, **drawn)
                cells[i] = replace(cell, answer=answer)
            except Exception as error:
                cells[i] = replace(cell, error=_sentence(error, file))
            yield shown.answers(cells)
    except Exception as error:
        yield shown.problem(_sentence(error, None if path is None else Path(path)))


def _decoded(students: Sequence[Asker], path: Path) -> list[tuple[list[Asker], Clip]]:
    """The clip as each student gets it, decoded once for students that get the same."""
    groups: list[tuple[list[Asker], Clip]] = []
    for student in students:
        alike = next((names for names, _ in groups if names[0].settings.clip == student.settings.clip), None)
        if alike is None:
            groups.append(([student], student.open(path)))
        else:
            alike.append(student)
    return groups


def _names(students: Sequence[Asker]) -> str:
    return " and ".join(student.name for student in students)


def _sentence(error: Exception, path: Path | None) -> str:
    """What went wrong, for the one at the page; the traceback of what nobody foresaw goes to the terminal."""
    if isinstance(error, AvrtError):
        remedy = f" ({error.remedy})" if error.remedy else ""
        if path is not None and error.where == str(path):
            return f"{path.name} is not a clip that can be shown to a student: {error.what}{remedy}."
        return f"{error.what}{remedy}".rstrip(".") + "."
    if isinstance(error, ValueError) and "out of range" in str(error):
        return "The temperature has to be at least 0, and the number of tokens at least 1."
    log.error("asking failed", exc_info=error)
    return f"This failed, see the terminal: {str(error).splitlines()[0] if str(error) else type(error).__name__}."
