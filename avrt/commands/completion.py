"""`avrt completion bash|zsh|fish`: tab completion of commands, options, configurations, recipes and folders.

`argcomplete` has the shells' side: it runs `avrt` at each tab and takes what `complete` offers. Nothing heavy may be
imported for that.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import importlib.util
import os
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from avrt.commands.option_table import COMMANDS, Option, chosen, leaves, option_table
from avrt.configurations import find_config, packaged_configs
from avrt.errors import AvrtError
from avrt.packaged import packaged
from avrt.run_folder import LAST, LAST_OR_NEW
from avrt.signatures import Module, module, signature

SHELLS = {"bash": "~/.bashrc", "zsh": "~/.zshrc", "fish": "~/.config/fish/config.fish"}
_SHARDS = ("avrt.commands.shards", "avrt.commands.clip_options")
_RECIPES = "avrt.data_recipes"
_LEFT_OUT = ("help", "print_config")


def main(arguments: list[str]) -> None:
    """Run the command.

    Args:
        arguments: What follows `avrt completion`.

    Raises:
        AvrtError: If the shell is not known, or `argcomplete` is not installed.
    """
    from avrt.arguments import OneLineErrors

    description = 'Tab completion. In bash put this line into ~/.bashrc: eval "$(avrt completion bash)"'
    parser = OneLineErrors(prog="avrt completion", description=description)
    parser.add_argument("shell", type=str, help=f"one of: {', '.join(SHELLS)}")
    shell = parser.parse_args(arguments).shell
    if shell not in SHELLS:
        raise AvrtError("no such shell", where=shell, remedy=f"one of: {', '.join(SHELLS)}")
    if importlib.util.find_spec("argcomplete") is None:
        raise AvrtError("needs the package argcomplete", where="completion", remedy="pip install argcomplete")
    from argcomplete.shell_integration import shellcode

    print(shellcode(["avrt"], shell=shell))


def complete(commands: Mapping[str, str]) -> None:
    """Answer the shell's request, which is in the environment, and end the process.

    Args:
        commands: The subcommands with their modules.
    """
    from argcomplete.lexers import split_line

    line = os.environ["COMP_LINE"]
    words = split_line(line, int(os.environ.get("COMP_POINT", len(line))))[3][1:]
    command = words[0] if words else None
    if command is None or command not in commands:
        _offer(_choose(commands), 0)
    elif command in COMMANDS or command == "doctor":
        own = _arguments_in(["avrt.commands.doctor"]) if command == "doctor" else []
        _offer(_fields(None if command == "doctor" else command, words[1:], own), 1)
    elif command == "shards":
        _complete_shards(words[1:])
    elif command == "traces":
        names = _table("avrt.commands.traces", "TOOLS")
        if len(words) < 2 or words[1] not in names:
            _offer(_choose(names), 1)
        else:
            _by_its_parser(commands[command], words[1:2], 2)
    elif command == "completion":
        _offer(_choose(SHELLS), 1)
    else:
        _by_its_parser(commands[command], [], 1)


def _offer(parser: argparse.ArgumentParser, words: int) -> None:
    """Complete by a parser of what follows the first `words` words behind `avrt`."""
    import argcomplete

    os.environ["_ARGCOMPLETE"] = str(words + 1)
    argcomplete.autocomplete(parser)


def _by_its_parser(name: str, arguments: list[str], words: int) -> None:
    """Complete by a command's own parser, which does so where it would parse."""
    os.environ["_ARGCOMPLETE"] = str(words + 1)
    importlib.import_module(name).main(arguments)


def _choose(names: Iterable[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("name", choices=list(names))
    return parser


def _complete_shards(words: Sequence[str]) -> None:
    recipes, tools = _recipes(), _table("avrt.commands.shards", "TOOLS")
    if not words or words[0] not in (*recipes, *tools):
        _offer(_choose([*recipes, *tools]), 1)
    elif words[0] in tools:
        home = tools[words[0]]
        source = module(ast.literal_eval(home.elts[0])) if isinstance(home, ast.Tuple) else None
        _offer(_flags(_arguments_of(source, words[0]) if source else []), 2)
    else:
        found = signature(recipes[words[0]])
        _offer(_flags([*_arguments_in(_SHARDS), *(found.parameters if found else ())]), 2)


def _flags(names: Iterable[str]) -> argparse.ArgumentParser:
    """A parser of options with any values, beside folders."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("paths", nargs="*")
    for name in dict.fromkeys(names):
        parser.add_argument(f"--{name}")
    return parser


def _fields(command: str | None, words: Sequence[str], own: Iterable[str]) -> argparse.ArgumentParser:
    """A parser of the fields of `avrt fit` and its like, those of the class that the line chooses included."""
    choice = chosen(command, _with_paths(words))
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("-c", "--config"):
        _add(parser, name, _configurations, action="append")
    for name in dict.fromkeys(own):
        parser.add_argument(f"--{name}")
    known = {f"--{name}" for name in ("config", *own)}
    for option in option_table(choice).values():
        for leaf in leaves(option):
            if leaf.name not in _LEFT_OUT and f"--{leaf.name}" not in known:
                _add_field(parser, command, leaf)
    parser.add_argument("--help", nargs="?", choices=["all"])
    parser.add_argument("--print_config", action="store_true")
    return parser


def _add_field(parser: argparse.ArgumentParser, command: str | None, option: Option) -> None:
    values: list[str] = list(option.choices)
    if isinstance(option.value, bool):
        values = ["true", "false"]
    if option.name == "ckpt_path":
        _add(parser, "--ckpt_path", partial(_checkpoints, fits=command == "fit"))
    elif values:
        parser.add_argument(f"--{option.name}", choices=values)
    else:
        parser.add_argument(f"--{option.name}")  # the shell offers files and folders


def _add(parser: argparse.ArgumentParser, name: str, completer: Callable[..., Any], **settings: Any) -> None:
    action: Any = parser.add_argument(name, **settings)
    action.completer = completer


def _configurations(prefix: str, **_: Any) -> list[str]:
    """Packaged configurations and files here."""
    from argcomplete.completers import FilesCompleter

    return [*packaged_configs(), *FilesCompleter(("yaml", "yml"))(prefix)]


def _checkpoints(prefix: str, *, fits: bool, **_: Any) -> list[str]:
    """Names of checkpoints, and folders."""
    from argcomplete.completers import DirectoriesCompleter

    return [LAST, *([LAST_OR_NEW] if fits else []), *DirectoriesCompleter()(prefix)]


def _with_paths(words: Sequence[str]) -> list[str]:
    """The words with the paths of configurations where these exist; a name may be half typed."""
    found: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        if before in ("--config", "-c"):
            with contextlib.suppress(AvrtError):
                word = str(find_config(word))
        found.append(word)
    return found


# ---- names from source


def _recipes() -> dict[str, str]:
    """The recipes: name -> import path of the class."""
    found: dict[str, str] = {}
    for info in pkgutil.iter_modules([str(packaged(_RECIPES))]):
        source = module(f"{_RECIPES}.{info.name}")
        place = source.find("recipe") if source else None
        value = getattr(place[1], "value", None) if place else None
        if isinstance(value, ast.Name):
            found[info.name] = f"{_RECIPES}.{info.name}.{value.id}"
    return found


def _table(name: str, table: str) -> dict[str, ast.expr]:
    """A table of a module: its keys with their values as they are written."""
    source = module(name)
    place = source.find(table) if source else None
    value = getattr(place[1], "value", None) if place else None
    if not isinstance(value, ast.Dict):
        return {}
    return {ast.literal_eval(key): entry for key, entry in zip(value.keys, value.values, strict=True) if key}


def _arguments_in(names: Iterable[str]) -> list[str]:
    """The options that the functions of modules add to their parsers."""
    sources = [source for name in names if (source := module(name)) is not None]
    return [option for source in sources for name in source.functions for option in _arguments_of(source, name)]


def _arguments_of(source: Module, function: str) -> list[str]:
    """The options that a function adds to its parser."""
    place = source.find(function)
    calls = [node for node in ast.walk(place[1]) if isinstance(node, ast.Call)] if place else []
    first = [call.args[0] for call in calls if call.args and ast.unparse(call.func).endswith(".add_argument")]
    texts = [node.value for node in first if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [text[2:] for text in texts if text.startswith("--")]
