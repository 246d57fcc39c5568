"""`avrt chat MODEL [MODEL2]`: a local web page on which one talks to a student, or to two side by side."""

from __future__ import annotations

import importlib.util
import os
import signal
import tempfile
import threading
from pathlib import Path
from typing import Any

from avrt.arguments import OneLineErrors
from avrt.errors import AvrtError
from avrt.messages import print_results


def main(arguments: list[str]) -> None:
    """Run the command; the page is served until Ctrl-C.

    Args:
        arguments: What follows `avrt chat`.

    Raises:
        AvrtError: If Gradio is not installed, a student cannot be loaded, or the port is taken.
    """
    options = _parser().parse_args(arguments)
    if importlib.util.find_spec("gradio") is None:
        raise AvrtError("needs Gradio", where="avrt chat", remedy="pip install 'avrt[chat]'")
    if options.second == options.model:
        raise AvrtError(
            "the same student twice", where=options.model, remedy="name another one beside it, or one alone"
        )
    with tempfile.TemporaryDirectory(prefix="avrt-chat-") as folder:
        # Before Gradio is imported, which reads them then: nothing leaves this machine, and what is dropped on the page
        # is deleted with it.
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder, "dropped"))
        serve(options, Path(folder, "made"))


def serve(options: Any, folder: Path) -> None:
    """Load the students and serve the page until an interrupt.

    Args:
        options: The parsed options.
        folder: For files that the page shows.
    """
    from avrt.chat import page
    from avrt.chat.asker import Asker

    students = []
    for name in filter(None, (options.model, options.second)):
        print(f"loading {name}", flush=True)
        students.append(Asker(name, options.device))
    folder.mkdir()
    try:
        address = page.serve(page.make_page(students, folder), folder, options.host, options.port)
    except OSError as error:
        raise AvrtError(f"cannot listen: {error}", where=options.host, remedy="choose another --port") from None
    print_results("page", address, "open it in a browser; Ctrl-C ends it")
    ended = threading.Event()
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # how one ends a page is no failure, also where a shell has SIGINT ignored
        signal.signal(number, lambda *_: ended.set())
    ended.wait()


def _parser() -> OneLineErrors:
    parser = OneLineErrors(prog="avrt chat", description=__doc__)
    add = parser.add_argument
    add("model", type=str, help="a student: an exported folder, a model id, or nano/student, which comes with avrt")
    add("second", type=str | None, nargs="?", default=None, help="another student, to ask side by side")
    add("--host", type=str, default="127.0.0.1", help="address to listen on; 0.0.0.0 lets other machines ask, too")
    add("--port", type=int | None, default=None, help="the first free one from 7860 on by default")
    add(
        "--device", type=str | None, default=None, help="where students run, such as cuda:1; by default on a GPU if any"
    )
    return parser
