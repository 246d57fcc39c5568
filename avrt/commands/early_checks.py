"""What can be wrong with `avrt fit`, `validate`, `test` and `predict` before PyTorch is imported, said at once.

Only what is certainly wrong is refused: what has to be imported to be judged is left to the parser.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from avrt.commands.option_table import MODULES, Choice, Option, chosen, find, option_table, unknown_in, unknown_in_file
from avrt.data.shards.manifest import Manifest
from avrt.errors import AvrtError
from avrt.remote.stores import is_remote
from avrt.run_folder import check_new_run, find_checkpoint
from avrt.signatures import module
from avrt.text import did_you_mean

_SPLITS = {"fit": "val", "validate": "val", "test": "test", "predict": "predict"}
_OURS = re.compile(r"(?:avrt|lightning)(?:\.\w+)*\.[A-Z]\w*")
_BARE = {path.rpartition(".")[2]: path for path in MODULES}


def with_whole_class_paths(arguments: Sequence[str]) -> list[str]:
    """The arguments with `SFTModule` and its like, behind `--model`, as import paths."""
    whole: list[str] = []
    for i, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if i and arguments[i - 1] in ("--model", "--model.help", "--model.class_path"):
            whole.append(_BARE.get(argument, argument))
        elif equals and option in ("--model", "--model.help", "--model.class_path"):
            whole.append(f"{option}={_BARE.get(value, value)}")
        else:
            whole.append(argument)
    return whole


def check_early(command: str | None, arguments: Sequence[str]) -> None:
    """Refuse misspelt options, fields and classes, missing shards and checkpoints.

    Args:
        command: The subcommand; None for a command that only reads the configuration of a `fit`.
        arguments: What follows it, with the paths of configurations.

    Raises:
        AvrtError: Naming option or field, and the nearest one that there is.
    """
    choice = chosen(command, arguments)
    table = option_table(choice)
    _check_class_paths(choice, table)
    _check_names(choice, table)
    only_asks = any(name in ("print_config", "help", "h") or name.endswith(".help") for name, _ in choice.typed)
    if command is not None and not only_asks:
        _check_model(choice)
        if not _has_nodes(choice):  # what one of several lacks is said on all, once they have met
            _check_shards(command, choice)
            _check_folder(command, choice)


def _check_names(choice: Choice, table: dict[str, Option]) -> None:
    help_of = f"avrt {choice.command or 'fit'} --help all lists them"
    for name, _ in choice.typed:
        if unknown := unknown_in(table, name):
            remedy = did_you_mean(f"--{name}", [f"--{known}" for known in _whole(table, name, unknown)])
            raise AvrtError("no such option", where=f"--{name}", remedy=remedy or help_of)
    for path, content in choice.files:
        if unknown := unknown_in_file(table, content):
            remedy = did_you_mean(unknown[0], unknown[1])
            raise AvrtError(f"{unknown[0]} is not a field", where=path, remedy=remedy or help_of)


def _whole(table: dict[str, Option], name: str, unknown: tuple[str, list[str]]) -> list[str]:
    """The names beside an unknown part, each with what was typed behind that part where there is such an option."""
    rest = name.removeprefix(unknown[0])
    return [f"{known}{rest}" if unknown_in(table, f"{known}{rest}") is None else known for known in unknown[1]]


def _check_class_paths(choice: Choice, table: dict[str, Option]) -> None:
    typed = [
        (name.removesuffix("+"), value)
        for name, value in choice.typed
        if value is not None and _OURS.fullmatch(value) and not ((option := find(table, name)) and option.scalar)
    ]
    for field, path in [*_class_paths(choice.values, ""), *typed]:
        home, _, name = path.rpartition(".")
        if not home and field == "model":
            raise AvrtError(f"no such class: {path}", where=field, remedy=did_you_mean(path, _BARE) or _choose_model())
        if home.partition(".")[0] not in ("avrt", "lightning"):
            continue  # it may be made when it is imported
        source = module(home)
        if source is not None and source.defines(name):
            continue
        beside = [f"{home}.{other}" for other in source.classes] if source else []
        remedy = did_you_mean(path, [*MODULES, *beside]) or f"see: avrt fit --{field}.help"
        raise AvrtError(f"no such class: {path}", where=field, remedy=remedy)


def _class_paths(value: Any, field: str) -> Iterator[tuple[str, str]]:
    """(field, class path) of everything in a configuration that names its class."""
    if isinstance(value, dict):
        if isinstance(path := value.get("class_path"), str):
            yield field, path
        for key, inner in value.items():
            yield from _class_paths(inner, field if key == "init_args" else f"{field}.{key}".lstrip("."))
    elif isinstance(value, list):
        for inner in value:
            yield from _class_paths(inner, field)


def _choose_model() -> str:
    return f"add --config sft.yaml or grpo.yaml, or --model with one of {', '.join(_BARE)}"


def _check_model(choice: Choice) -> None:
    if choice.model is None:
        raise AvrtError("no model is chosen", where=f"avrt {choice.command}", remedy=_choose_model())


def _is_in_a_file(choice: Choice, group: str) -> bool:
    """Whether a file of its own has fields of a group, as in `--data data.yaml`, which only the parser reads."""
    given = [value for name, value in choice.typed if name == group]
    given += [content.get(group) for _, content in choice.files]
    return any(isinstance(value, str) and not value.lstrip().startswith("{") for value in given)


def _check_shards(command: str, choice: Choice) -> None:
    if _is_in_a_file(choice, "data") or any(name == "data.train+" for name, _ in choice.typed):
        return
    data = choice.values.get("data")
    given: dict[str, Any] = data if isinstance(data, dict) else {}
    if command == "fit":
        train = given.get("train")
        if not train:
            raise AvrtError("no shards given", where="data.train", remedy="add --data.train DIR")
        sources = train if isinstance(train, list) else [train]
        for source in sources:
            _check_folder_of_shards(source.get("shards") if isinstance(source, dict) else source)
    split = _SPLITS[command]
    asks = command == "predict" and given.get("ask") is not None
    if given.get(split) is not None:
        _check_folder_of_shards(given[split])
    elif command != "fit" and not asks:
        raise AvrtError("no shards given", where=f"data.{split}", remedy=f"add --data.{split} DIR")
    clip = given["ask"].get("clip") if asks and isinstance(given["ask"], dict) else None
    if isinstance(clip, str) and not Path(clip).is_file():
        raise AvrtError("no such file", where=clip, remedy="set data.ask.clip to a video, picture or sound")


def _check_folder_of_shards(location: Any) -> None:
    if isinstance(location, str) and not is_remote(location):
        Manifest.check_folder(Path(location))


def _has_nodes(choice: Choice) -> bool:
    trainer = choice.values.get("trainer")
    return isinstance(trainer, dict) and str(trainer.get("num_nodes") or 1) != "1"


def _check_folder(command: str, choice: Choice) -> None:
    """The checkpoint that is asked for, or that none is in the way of a new run."""
    if _is_in_a_file(choice, "trainer"):
        return
    trainer = choice.values.get("trainer")
    settings: dict[str, Any] = trainer if isinstance(trainer, dict) else {}
    run = Path(str(settings.get("default_root_dir") or "."))
    if (given := choice.values.get("ckpt_path")) is not None:
        find_checkpoint(str(given), run, command)
    elif command == "fit" and not settings.get("fast_dev_run"):
        check_new_run(run)
