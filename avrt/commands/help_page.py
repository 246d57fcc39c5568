"""`avrt fit --help` and its like: on one screen what a person sets, with its values in the chosen configuration."""

from __future__ import annotations

import contextlib
import importlib
import re
import shutil
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence

from avrt.commands.option_table import (
    MODULES,
    Choice,
    Option,
    chosen,
    find,
    leaves,
    option_table,
    optional_groups,
    shown,
)
from avrt.packaged import packaged

WIDEST = 100
NARROWEST = 60
_LONGEST_NAME = 46
_LONGEST_VALUE = 24
_MANY = 3
ABOUT = {
    "fit": "train a student",
    "validate": "evaluate a student on validation shards",
    "test": "evaluate a student on test shards, or score it on a benchmark",
    "predict": "answer questions about clips",
}
EXAMPLES = {
    "fit": "avrt fit --config sft.yaml --data.train SHARDS --data.val SHARDS",
    "validate": "avrt validate --config sft.yaml --data.val SHARDS --ckpt_path last",
    "test": "avrt test --config omnibench.yaml --data.test SHARDS --ckpt_path last",
    "predict": "avrt predict --config sft.yaml --data.ask.clip FILE --data.ask.question TEXT --data.ask.choices [A,B]",
}
# Configurations whose values are shown where none is chosen; what the later ones share with the first is left out.
DEFAULTS = {
    "fit": ("sft.yaml", "grpo.yaml"),
    "validate": ("sft.yaml",),
    "test": ("omnibench.yaml",),
    "predict": ("sft.yaml",),
}
_ASKED = ("generation.max_new_tokens", "generation.temperature", "vllm")
_STUDENT = ("student.source", "student.dtype")
_TRAINED = (*_STUDENT, "student.gradient_checkpointing", "student.lora", "optimizer.lr", "optimizer.warmup_steps")
# What of a class is on the page, by command; all of a class that is not named here.
LISTED: dict[str, tuple[str, ...]] = {
    "SFTModule": (*_TRAINED, "micro_batch_size"),
    "GRPOModule": (
        *_TRAINED, "micro_batch_size", "group_size", "rollout.max_new_tokens", "loss.loss_type", "loss.epsilon",
        "loss.beta", "rewards.accuracy", "rewards.length", "dynamic_sampling", "reference", "vllm",
    ),
    "BenchmarkModule": (
        *_STUDENT, "label", "benchmark.name", "benchmark.official", "benchmark.protocol", "benchmark.samples",
        "benchmark.group_by", "seed", *_ASKED,
    ),
}  # fmt: skip
_EVALUATED = ("accelerator", "devices", "default_root_dir")
_PROMPT = ("prompt.system_prompt", "prompt.instruction", "prompt.senses", "prompt.audio_in_video")
_LOADED = ("eval_batch_size", "num_workers", *_PROMPT)
REST: dict[str, dict[str, tuple[str, ...]]] = {
    "fit": {
        "data": ("train", "val", "batch_size", "num_workers", *_PROMPT[2:]),
        "trainer": (
            "accelerator", "devices", "precision", "max_epochs", "max_steps", "limit_val_batches", "logger",
            "fast_dev_run", "default_root_dir",
        ),
    },
    "validate": {"data": ("val", *_LOADED), "trainer": _EVALUATED},
    "test": {"data": ("test", "shuffle_audio", *_LOADED), "trainer": _EVALUATED},
    "predict": {
        "data": ("predict", "ask.clip", "ask.question", "ask.choices", *_LOADED),
        "trainer": _EVALUATED,
    },
}  # fmt: skip
CHECKPOINTS = ("ckpt_path", "checkpoint.every_n_train_steps")


def asked_for(arguments: Sequence[str]) -> bool:
    """Whether the page is asked for."""
    return any(word in ("-h", "--help") for word in arguments) and not all_asked_for(arguments)


def all_asked_for(arguments: Sequence[str]) -> bool:
    """Whether everything is asked for: `--help all`."""
    pairs = zip(arguments, [*arguments[1:], ""], strict=True)
    return any(word == "--help=all" or (word in ("-h", "--help") and following == "all") for word, following in pairs)


def print_page(command: str, arguments: Sequence[str]) -> None:
    """Print the page of a command."""
    width = max(NARROWEST, min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns))
    print("\n".join(page(command, arguments, width)))


def page(command: str, arguments: Sequence[str], width: int = WIDEST) -> list[str]:
    """The lines of a command's page.

    Args:
        command: A subcommand of LightningCLI.
        arguments: What follows it, with the paths of configurations.
        width: Most characters of a line.
    """
    choice = chosen(command, arguments)
    names = [_name_of(path) for path, _ in choice.files]
    choices, example = [choice], _example(command, names[::-1])
    if choice.model is None and not names:
        names = list(DEFAULTS[command])
        choices, example = (
            [chosen(command, ["--config", _path_of(name), *arguments]) for name in names],
            EXAMPLES[command],
        )
    tables = [option_table(each) for each in choices]
    lines = [f"avrt {command}: {ABOUT[command]}", *_usage(example, width), "", *_configurations(command, width)]
    shown_names: list[str] = []
    for each, table, name in zip(choices, tables, [*names, ""], strict=False):
        options = [option for option in _of_model(each, table) if option.name not in shown_names]
        shown_names += [option.name for option in options]
        of = f" ({name})" if len(choices) > 1 else ""
        lines += ["", _cut(f"model{of}: {_about_model(each, table)}", width), *_rows(options, width)]
    of = f" ({names[0]})" if len(choices) > 1 else ""
    for section, parts in REST[command].items():
        names_here = [f"{section}.{part}" for part in parts]
        if section == "trainer":
            section = "trainer and checkpoints"
            names_here += CHECKPOINTS if command == "fit" else CHECKPOINTS[:1]
        shown_names += names_here
        lines += ["", f"{section}{of}:", *_rows(_found(tables[0], names_here), width)]
    more = sum(1 for option in _every(tables) if option.name not in shown_names)
    return [
        *lines,
        "",
        f"{more} more: avrt {command} --help all{_again(names, choice)}",
        "every field with its value: --print_config behind the command",
    ]


def print_everything(command: str, arguments: Sequence[str]) -> None:
    """Print LightningCLI's own listing, and every option of the chosen class in full."""
    launch = importlib.import_module("avrt.training.launch")
    choice = chosen(command, arguments)
    classes = [choice.model] if choice.model else list(MODULES)
    for option in ("--help", *(f"--model.help={path}" for path in classes)):
        with contextlib.suppress(SystemExit):  # the parser ends so when it has printed its help
            launch.main([command, option])
        print()
    # The parser lists a group that may be left out by its name alone.
    tables = [option_table(chosen(command, ["--model", path, *arguments])) for path in classes]
    groups = {found.name: found for table in tables for option in table.values() for found in optional_groups(option)}
    for group in groups.values():
        print(f"--{group.name}: {group.text}")
        for leaf in leaves(group):
            print(f"  --{leaf.name} {shown(leaf.value)}")
            print(textwrap.fill(leaf.text, WIDEST, initial_indent=" " * 8, subsequent_indent=" " * 8))
        print()


def _usage(example: str, width: int) -> list[str]:
    text = f"usage: {example} ..."
    return textwrap.wrap(text, width, subsequent_indent=" " * 11, break_on_hyphens=False, break_long_words=False)


def _of_model(choice: Choice, table: Mapping[str, Option]) -> list[Option]:
    """The options of the chosen class that are on the page."""
    model = table["model"]
    if not model.children:
        return []
    known = LISTED.get((choice.model or "").rpartition(".")[2])
    if known and "optimizer.lr" in known and choice.command != "fit":
        known = (*_STUDENT, *_ASKED)
    return _found(table, [f"model.{name}" for name in known] if known else [option.name for option in leaves(model)])


def _about_model(choice: Choice, table: Mapping[str, Option]) -> str:
    if choice.model is None:
        return "none is chosen; add --config sft.yaml or grpo.yaml, or --model CLASS"
    name = choice.model.rpartition(".")[2]
    return (
        f"{name}: {_sentence(table['model'].text)}" if table["model"].text else f"{name} (--model.help {choice.model})"
    )


def _found(table: Mapping[str, Option], names: Sequence[str]) -> list[Option]:
    return [option for name in names if (option := find(table, name)) is not None]


def _every(tables: Sequence[Mapping[str, Option]]) -> list[Option]:
    """The options of all tables that have no fields below them, each once."""
    return list({leaf.name: leaf for table in tables for option in table.values() for leaf in leaves(option)}.values())


def _rows(options: Sequence[Option], width: int) -> list[str]:
    lefts = [
        f"--{option.name} {textwrap.shorten(shown(option.value), _LONGEST_VALUE, placeholder='...')}"
        for option in options
    ]
    column = min(_LONGEST_NAME, max(map(len, lefts), default=0))
    starts = [f"  {left:<{column}}  " for left in lefts]
    return [
        f"{start}{_text(option, width - len(start))}".rstrip() for start, option in zip(starts, options, strict=True)
    ]


def _text(option: Option, longest: int) -> str:
    """What an option means, with its choices where they fit."""
    text = _sentence(option.text)
    with_choices = f"{text} [{', '.join(option.choices)}]"
    return with_choices if option.choices and len(with_choices) <= longest else _cut(text, longest)


def _sentence(text: str) -> str:
    """The first sentence of a text."""
    return re.split(r"(?<!e\.g)(?<!eq)(?<!i\.e)\.(?:\s|$)", text, maxsplit=1)[0]


def _cut(text: str, longest: int) -> str:
    """A text in at most so many characters: its clauses that fit if they say half of it or more, else with dots."""
    if len(text) <= longest:
        return text
    ends = [match.start() for match in re.finditer(r"[;,:](?= )| \(", text) if match.start() <= longest]
    if ends and ends[-1] >= longest // 2 and text[: ends[-1]].count("(") == text[: ends[-1]].count(")"):
        return text[: ends[-1]]
    return f"{text[: max(0, longest - 3)].rstrip()}..."


def _configurations(command: str, width: int) -> list[str]:
    """The packaged configurations that a command takes, as lines: those that name it in their first comments."""
    configs, trained = packaged("avrt.configs"), "test" if command == "test" else "fit"
    files = [path for path in configs.rglob("*.yaml") if f"avrt {trained} " in path.read_text(encoding="utf-8")]
    here = Counter(path.parent for path in files)
    # Of a folder with many only the folder.
    found = {path if path.parent == configs or here[path.parent] < _MANY else path.parent for path in files}
    names = [f"{path.relative_to(configs).as_posix()}{'/' * path.is_dir()}" for path in found]
    names.sort(key=lambda name: ("/" in name, name))
    text = f"--config FILE  a file, or one of these; several are merged: {', '.join(names)}"
    return textwrap.wrap(text, width, initial_indent="  ", subsequent_indent=" " * 6, break_on_hyphens=False)


def _path_of(name: str) -> str:
    return str(packaged("avrt.configs") / name)


def _name_of(path: str) -> str:
    folder = str(packaged("avrt.configs"))
    return path.removeprefix(folder).lstrip("/") if path.startswith(folder) else path


def _example(command: str, names: Sequence[str]) -> str:
    """A command line of the chosen configuration's own first comment, or a general one."""
    for name in names:
        text = packaged("avrt.configs") / name
        found = re.search(rf"^#.*?(avrt {command} .*?)(?:   .*)?$", text.read_text(), re.M) if text.is_file() else None
        if found and not found[1].endswith("\\"):
            return found[1].strip()
    return EXAMPLES[command]


def _again(names: Sequence[str], choice: Choice) -> str:
    return "".join(f" --config {name}" for name in names) if choice.files else ""
