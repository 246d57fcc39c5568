"""`avrt push MODEL_FOLDER user/name`: an exported model, with its card, to the Hub."""

from __future__ import annotations

from pathlib import Path

from avrt.arguments import OneLineErrors
from avrt.messages import print_results


def main(arguments: list[str]) -> None:
    """Run the command.

    Args:
        arguments: What follows `avrt push`.
    """
    parser = OneLineErrors(prog="avrt push", description=__doc__)
    parser.add_argument("folder", type=str, help="an exported model")
    parser.add_argument("name", type=str, help="where to: user/name")
    parser.add_argument("--results", type=list[str], default=[], help="result.json files, whose scores the card shows")
    parser.add_argument("--license", type=str, default="other", help="licence of the model, by its id on the Hub")
    parser.add_argument("--private", type=bool, default=False, help="make the repository private, if it is new")
    parser.add_argument("--dry_run", type=bool, default=False, help="write the card and list what would be uploaded")
    options = parser.parse_args(arguments)

    from avrt.evaluation.model_card import CARD, write_card
    from avrt.evaluation.result import Result
    from avrt.policy.hub import files_of, push_folder
    from avrt.policy.input_settings import read_settings

    folder = Path(options.folder)
    files_of(folder)
    results = [Result.load(Path(path)) for path in options.results]
    if not write_card(folder, read_settings(folder), options.name, results, options.license):
        print(f"{folder / CARD} is not of avrt and stays as it is: --results and --license are not in it")
    if options.dry_run:
        for path in files_of(folder):
            print(f"{path.stat().st_size:>14,}  {path.relative_to(folder)}")
        print_results("would be uploaded to", options.name, "the same command without --dry_run")
        return
    address = push_folder(folder, options.name, private=options.private)
    print_results("uploaded", address, f"python -c \"import avrt; avrt.load('{options.name}')\"")
