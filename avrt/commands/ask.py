"""`avrt ask MODEL CLIP QUESTION CHOICE...`: one question about one clip, put as the student was trained to be asked."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

from avrt.arguments import OneLineErrors
from avrt.data.sample import LETTERS
from avrt.errors import AvrtError, BadSampleError
from avrt.messages import printable


def main(arguments: list[str]) -> None:
    """Run the command.

    Args:
        arguments: What follows `avrt ask`.

    Raises:
        AvrtError: If there is no such clip, or fewer than two choices.
    """
    parser = OneLineErrors(prog="avrt ask", description=__doc__)
    parser.add_argument("model", type=str, help="an exported student, a training run, a model id, or nano/student")
    parser.add_argument("clip", type=str, help="a video, a picture or a sound file")
    parser.add_argument("question", type=str)
    parser.add_argument("choices", type=str, nargs="+", help="the options, two or more")
    parser.add_argument(
        "--senses",
        type=Literal["both", "vision", "audio", "none"] | None,
        default=None,
        help="what of the clip is given to the student; by default as in its training",
    )
    parser.add_argument(
        "--device", type=str | None, default=None, help="cpu, cuda, ...; by default a GPU if there is one"
    )
    options = parser.parse_args(arguments)
    if not Path(options.clip).is_file():
        raise AvrtError("no such file", where=options.clip, remedy="name a video, a picture or a sound file")
    if len(options.choices) < 2:
        raise AvrtError("needs two or more", where="choices", remedy='write each in quotes: "a dog" "a door"')

    from avrt.library import load

    student = load(options.model, options.device)
    begun = time.perf_counter()
    try:
        clip = student.open(options.clip)
    except BadSampleError as error:
        raise AvrtError(error.what, where=error.where, remedy="is it a video, a picture or a sound?") from None
    response = student.ask(clip, options.question, options.choices, senses=options.senses)
    seconds = time.perf_counter() - begun
    if response.think is None or response.letter is None:
        print(printable(response.text, keep_lines=True))
        print("answer: none in the form <think>...</think><answer>X</answer>")
    else:
        print(f"reasoning: {printable(response.think.strip(), keep_lines=True)}")
        chosen = LETTERS.index(response.letter)
        print(f"answer: ({response.letter}) {printable(options.choices[chosen])}    [{seconds:.1f} s]")
