"""The options of `avrt fit` and its like with their values, read from source text and configurations."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from avrt.signatures import Expression, Parameter, Signature, method, method_parameters, module, signature

COMMANDS = ("fit", "validate", "test", "predict")
TRAINER = "lightning.pytorch.Trainer"
DATA = "avrt.data.loading.datamodule.AVDataModule"
LAUNCH = "avrt.training.launch"
MODULES = (
    "avrt.training.sft_module.SFTModule",
    "avrt.training.grpo_module.GRPOModule",
    "avrt.training.benchmark_module.BenchmarkModule",
)
_GIVEN_BY_US = ("model", "datamodule", "dataloaders", "train_dataloaders", "val_dataloaders", "verbose")
_OF_EVERY_PARSER = ("config", "print_config", "help", "seed_everything")
_BY_CLASS = frozenset(("class_path", "init_args", "dict_kwargs"))


@dataclass
class Option:
    """A field that can be set.

    Attributes:
        name: Its name behind `--`.
        text: What its class says of it.
        value: Its value in the chosen configuration.
        children: The fields below it that there are; None if they are not known here, or there are none.
        scalar: Whether it is a plain value.
        choices: The values that it may have, if there are few.
        optional: Whether it is a group of fields that may be left out as a whole.
    """

    name: str
    text: str
    value: Any
    children: dict[str, Option] | None = None
    scalar: bool = False
    choices: tuple[str, ...] = ()
    optional: bool = False


@dataclass
class Choice:
    """What a command line chooses.

    Attributes:
        command: The subcommand; None for a reader of configurations, such as `avrt doctor`.
        values: All fields of its configurations and overrides, the later ones winning.
        files: Each configuration with its content.
        typed: Each option as it was typed with its value, if it has one.
    """

    command: str | None
    values: dict[str, Any] = field(default_factory=dict)
    files: list[tuple[str, Any]] = field(default_factory=list)
    typed: list[tuple[str, str | None]] = field(default_factory=list)

    @property
    def model(self) -> str | None:
        """Import path of the model's class, if it is chosen."""
        path = _class_path(self.values.get("model"))
        return next((known for known in MODULES if known.rpartition(".")[2] == path), path)


def chosen(command: str | None, arguments: Sequence[str]) -> Choice:
    """Read what a command line chooses; configurations that cannot be read are left to the parser, which says why.

    Args:
        command: The subcommand.
        arguments: What follows it, with the paths of configurations.
    """
    choice = Choice(command)
    for name, value in options_in(arguments):
        if name in ("config", "c"):
            content = _load(value)
            if isinstance(content, dict):
                choice.files.append((value or "", content))
                _merge(choice.values, content)
            continue
        choice.typed.append((name, value))
        if value is not None and not name.endswith(("+", "help")):
            _merge(choice.values, _nested(name.split("."), _value(value)))
    return choice


def options_in(arguments: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Name and value of each option of a command line; the value is None if there is none."""
    rest = list(arguments)
    while rest:
        match = re.fullmatch(r"--?([A-Za-z][\w.+-]*)(?:=(.*))?", rest.pop(0), re.DOTALL)
        if match is None:
            continue
        value = match[2]
        if value is None and rest and not re.match(r"--|-[A-Za-z]", rest[0]):  # a number may be negative
            value = rest.pop(0)
        yield match[1], value


def option_table(choice: Choice) -> dict[str, Option]:
    """Every option of a command by the first part of its name.

    Below `model` there are those of the chosen class. An unknown class has unknown fields.
    """
    table = {name: Option(name, text, choice.values.get(name)) for name, text in (_own_options() | _flags()).items()}
    groups = {"trainer": TRAINER, "data": DATA, **_callbacks()}
    for name, path in groups.items():
        if found := signature(path):
            table[name] = _group(name, found, choice.values.get(name))
    model = signature(choice.model) if choice.model else None
    table["model"] = (
        _group("model", model, _init_args(choice.values.get("model"))) if model else Option("model", "", None)
    )
    for parameter in _method_options(choice.command):
        table[parameter.name] = Option(
            parameter.name, parameter.text, choice.values.get(parameter.name, parameter.default), scalar=True
        )
    return table


def find(table: Mapping[str, Option], name: str) -> Option | None:
    """The option of a dotted name, such as `model.optimizer.lr`."""
    here: Mapping[str, Option] | None = table
    option: Option | None = None
    for part in name.split("."):
        option = (here or {}).get(part)
        if option is None:
            return None
        here = option.children
    return option


def leaves(option: Option) -> Iterator[Option]:
    """All options below one that have no known fields themselves."""
    if not option.children:
        yield option
        return
    for child in option.children.values():
        yield from leaves(child)


def optional_groups(option: Option) -> Iterator[Option]:
    """The groups of fields, at or below an option, that may be left out as a whole."""
    if option.optional:
        yield option
        return
    for child in (option.children or {}).values():
        yield from optional_groups(child)


def _group(name: str, found: Signature, values: Any) -> Option:
    given = values if isinstance(values, dict) else {}
    children = {key: _option(f"{name}.{key}", p, given.get(key, p.default)) for key, p in found.parameters.items()}
    return Option(name, found.text, values, children if found.complete else None)


def _option(name: str, parameter: Parameter, value: Any) -> Option:
    if parameter.nested is None:
        return Option(name, parameter.text, value, scalar=parameter.scalar, choices=parameter.choices)
    given: dict[str, Any] = dict(parameter.default) if isinstance(parameter.default, dict) else {}
    if isinstance(value, dict):
        given |= value
    group = _group(name, parameter.nested, given)
    return Option(name, parameter.text, value, group.children, optional=parameter.optional)


@cache
def _own_options() -> dict[str, str]:
    """Those that LightningCLI itself has."""
    return {
        "config": "A file or a packaged configuration; several are merged, later ones win.",
        "print_config": "Print the configuration with every field, and end.",
        "help": "This page; `--help all` has every option.",
        "seed_everything": "Seed of everything random.",
        "verbose": "Show also what Lightning, PyTorch and DeepSpeed say at every start.",
    }


def _added() -> list[ast.Call]:
    """The calls by which `launch` adds options of its own to Lightning's parser."""
    launch = module(LAUNCH)
    found = launch.find("AvrtCLI") if launch else None
    added = method(found[1], "add_arguments_to_parser") if found and isinstance(found[1], ast.ClassDef) else None
    return [node for node in ast.walk(added) if isinstance(node, ast.Call)] if added else []


@cache
def _callbacks() -> dict[str, str]:
    """The callbacks that have fields of their own: name -> import path."""
    launch, callbacks = module(LAUNCH), dict[str, str]()
    for node in _added():
        if launch and ast.unparse(node.func).endswith(".add_lightning_class_args"):
            kind, name = node.args[:2]
            if (place := launch.find(ast.unparse(kind))) is not None:
                callbacks[ast.literal_eval(name)] = f"{place[0].name}.{ast.unparse(kind)}"
    return callbacks


@cache
def _flags() -> dict[str, str]:
    """Further options: name -> help."""
    calls = [node for node in _added() if ast.unparse(node.func).endswith(".add_argument")]
    texts = [{k.arg: k.value for k in node.keywords}.get("help", ast.Constant("")) for node in calls]
    return {
        ast.literal_eval(node.args[0]).lstrip("-"): ast.literal_eval(text)
        for node, text in zip(calls, texts, strict=True)
    }


def _method_options(command: str | None) -> list[Parameter]:
    """Arguments of the trainer's method that are options too, such as `--ckpt_path`."""
    source = module(TRAINER.rpartition(".")[0])
    found = source.find("Trainer") if source else None
    if command is None or found is None or not isinstance(found[1], ast.ClassDef):
        return []
    node = method(found[1], command)
    options = [p for p in method_parameters(found[0], node) if p.name not in _GIVEN_BY_US] if node else []
    # What a path may be here is said by what resolves it, not by Lightning.
    resolves = module("avrt.run_folder")
    meaning = resolves.text_of("find_checkpoint") if resolves else ""
    return [replace(p, text=meaning.partition(": ")[2]) if p.name == "ckpt_path" else p for p in options]


# ---- names


def unknown_in(table: Mapping[str, Option], name: str) -> tuple[str, list[str]] | None:
    """The first part of a dotted name that no option has, as (its whole name so far, names beside it).

    None if there is such an option, or what is below it cannot be known without its class.
    """
    parts = re.sub(r"(\.help|\+)$", "", name).split(".")
    if parts == [""] or parts[0] in ("h", "c"):
        return None
    here: Mapping[str, Option] | None = table
    seen: list[str] = []
    for part in parts:
        if not here:
            return None
        if part in _BY_CLASS:
            if part != "init_args":
                return None
            seen.append(part)
            continue
        if part not in here:
            return ".".join([*seen, part]), [".".join([*seen, known]) for known in here]
        here = here[part].children
        seen.append(part)
    return None


def unknown_in_file(
    table: Mapping[str, Option], content: Mapping[Any, Any], prefix: str = ""
) -> tuple[str, list[str]] | None:
    """The same for the fields of a configuration."""
    for key, value in content.items():
        name = f"{prefix}{key}"
        if unknown := unknown_in(table, name):
            return unknown
        if isinstance(value, dict) and (unknown := unknown_in_file(table, value, f"{name}.")):
            return unknown
    return None


# ---- values


def _class_path(value: Any) -> str | None:
    path = value.get("class_path") if isinstance(value, dict) else value
    return path if isinstance(path, str) else None


def _init_args(value: Any) -> dict[str, Any]:
    """The fields of an object that its class is written with; options may leave `init_args` out."""
    if not isinstance(value, dict):
        return {}
    given = value.get("init_args")
    short = {key: inner for key, inner in value.items() if key not in _BY_CLASS}
    merged: dict[str, Any] = {}
    _merge(merged, given if isinstance(given, dict) else {})
    _merge(merged, short)
    return merged


def _load(path: str | None) -> Any:
    try:
        text = Path(path or "").read_text(encoding="utf-8")
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # ten times as fast
    except (OSError, ValueError, yaml.YAMLError):
        return None


def _value(text: str) -> Any:
    try:
        loaded = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return text if isinstance(loaded, dict) and not text.lstrip().startswith("{") else loaded


def _nested(keys: Sequence[str], value: Any) -> dict[str, Any]:
    if keys[0] == "model" and len(keys) > 1 and keys[1] not in _BY_CLASS:
        keys = ["model", "init_args", *keys[1:]]
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def _merge(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        before = into.get(key)
        if key == "model" and isinstance(value, str):
            value = {"class_path": value}
        if isinstance(before, dict) and isinstance(value, dict):
            if _class_path(value) not in (None, _class_path(before)):
                before.clear()
            _merge(before, value)
        elif isinstance(value, dict):
            into[key] = {}
            _merge(into[key], value)
        else:
            into[key] = value


def shown(value: Any) -> str:
    """A value as one would write it in YAML."""
    if isinstance(value, Expression):
        return value.text or "VALUE"
    if isinstance(value, dict) and (path := _class_path(value)):
        return path.rpartition(".")[2]
    text = (
        yaml.safe_dump(value, default_flow_style=True, width=1000, allow_unicode=True)
        if not isinstance(value, str)
        else value
    )
    text = text.removesuffix("...\n").strip()
    return f'"{text}"' if isinstance(value, str) and (not text or " " in text) else text
