"""`avrt doctor --config grpo.yaml ...`: does sampling agree with scoring here, with this model and these data?"""

from __future__ import annotations

import shlex
import sys

from avrt.arguments import OneLineErrors
from avrt.commands.early_checks import check_early, with_whole_class_paths
from avrt.errors import AvrtError
from avrt.messages import print_results
from avrt.models.cards import CARDS, DEFAULT_CARD

OWN = ("--samples", "--answer_tokens", "--tolerance", "--plan", "--ckpt_path")


def main(arguments: list[str]) -> None:
    """Run the command; ends with status 1 if any check fails.

    Args:
        arguments: What follows `avrt doctor`: its own options, and the configuration as for `avrt fit`.

    Raises:
        AvrtError: If the configuration cannot be used.
    """
    parser = OneLineErrors(prog="avrt doctor", description=__doc__)
    parser.add_argument("--samples", type=int, default=2, help="how many samples are tried")
    parser.add_argument(
        "--answer_tokens",
        type=int | None,
        default=None,
        help="longest answer that is tried, 32; average one of a plan, 165",
    )
    parser.add_argument("--tolerance", type=float | None, default=None, help="largest difference of log-probabilities")
    parser.add_argument(
        "--ckpt_path",
        type=str | None,
        default=None,
        help="try this checkpoint, a run's newest (its folder), or the last one (`last`)",
    )
    parser.add_argument(
        "--plan",
        type=str | None,
        default=None,
        help=f"instead forecast memory and seconds for a card ({', '.join(CARDS)}; {DEFAULT_CARD} if none is named)",
    )
    if "--help" in arguments or "-h" in arguments:
        parser.print_help()
        print("\nand everything that `avrt fit` takes: --config grpo.yaml --data.train DIR ... (avrt fit --help)")
        return
    own, rest = _split(with_whole_class_paths(arguments))
    options = parser.parse_args(own)
    check_early(None, rest)
    begin = f"avrt fit {shlex.join(rest)}"
    if options.plan is not None:
        if options.ckpt_path is not None:
            raise AvrtError("a plan needs no checkpoint", where="--ckpt_path", remedy="leave it out")
        from avrt.commands.plan import plan

        status = plan(options.plan, rest, options.answer_tokens)
        print_results("forecast", "it fits" if status == 0 else "it does not fit", begin if status == 0 else None)
        sys.exit(status)
    from avrt.commands.doctor_checks import check

    passed = check(rest, options.samples, options.answer_tokens, options.tolerance, options.ckpt_path)
    print_results("checks", "all passed" if passed else "failed, see above", begin if passed else None)
    sys.exit(0 if passed else 1)


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The command's own options, and the configuration's."""
    own: list[str] = []
    rest: list[str] = []
    waiting = False
    for argument, following in zip(arguments, [*arguments[1:], "--"], strict=True):
        name = argument.partition("=")[0]
        if argument == "--plan" and following.startswith("-"):
            own.append(f"--plan={DEFAULT_CARD}")
            continue
        mine = waiting or name in OWN
        (own if mine else rest).append(argument)
        waiting = mine and not waiting and "=" not in argument
    return own, rest
