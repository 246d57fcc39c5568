"""A configuration in which what nobody set of the questions is as in the student's training.

What the student was trained with stands below everything that was given, like a first configuration file: a field that
a file or the command line sets wins, and any that differs afterwards must have been set.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from avrt.data.shards.manifest import MANIFEST, Manifest
from avrt.messages import short
from avrt.policy.input_settings import ASKED, SETTINGS, SHOWN, InputSettings, clip_spec, read_settings
from avrt.run_folder import find_checkpoint
from avrt.training.input_record import settings_of_checkpoint

FIT = "fit"
MASK = ("senses", "masked")
BENCHMARK = "BenchmarkModule"
SPLITS = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("predict",)}


def parse_as_trained(parse: Callable[[list[str]], Any], arguments: Sequence[str], command: str | None) -> Any:
    """Parse arguments, with what the student was trained with in place of the defaults.

    Args:
        parse: The parser.
        arguments: What follows `avrt`.
        command: `fit`, `validate`, `test` or `predict` if the arguments begin with it; None for those of a fit alone.

    Returns:
        The configuration. What it took from the student, and what of it differs from the student's training, is told.

    Raises:
        AvrtError: If the settings beside the student cannot be read.
    """
    plain = parse(list(arguments))
    options = plain if command is None else plain[command]
    stage = command or FIT
    settings, where = _trained(options, stage)
    if settings is None:
        return plain
    layer = _layer(settings, options, fits=stage == FIT)
    begin = 0 if command is None else 1
    config = parse([*arguments[:begin], "--config", json.dumps(layer), *arguments[begin:]])
    _tell(settings, options, config if command is None else config[command], stage, where)
    return config


def _trained(options: Any, stage: str) -> tuple[InputSettings | None, str]:
    """How the student was trained to be asked, and where that stands."""
    given = options.get("ckpt_path")
    if given is not None and stage != FIT and "://" not in str(given):
        path = find_checkpoint(str(given), Path(options.trainer.default_root_dir or "."), stage)
        return settings_of_checkpoint(Path(str(path))), str(path)
    source = options.get("model.init_args.student.source")
    return (None, "") if source is None else (read_settings(source), f"{source}/{SETTINGS}")


def _layer(settings: InputSettings, options: Any, *, fits: bool) -> dict[str, Any]:
    """The configuration that stands below what was given."""
    prompt = asdict(settings.prompt)
    # The mask of a benchmark is its own: `both` is one that is asked for by saying nothing. So is that of a training
    # run: an omni student may begin from a teacher of one sense.
    masks_itself = fits or options.model.class_path.endswith(BENCHMARK)
    taken = [name for name in ASKED if name not in MASK or not masks_itself]
    data: dict[str, Any] = {"prompt": {name: prompt[name] for name in taken}}
    if (ask := options.get("data.ask")) is not None:
        spec = {name: value for name, value in asdict(settings.clip).items() if name != "teacher_budget"}
        data["ask"] = {"clip": str(ask.clip), "question": ask.question, "choices": list(ask.choices), "spec": spec}
    layer: dict[str, Any] = {"data": data}
    if not fits:  # where it would also limit the prompts that are trained on
        longest = {"max_new_tokens": settings.generation.max_new_tokens}
        model = options.model.class_path
        layer["model"] = {"class_path": model, "init_args": {"generation": {**_generation(options), **longest}}}
    return layer


def _generation(options: Any) -> dict[str, Any]:
    """The other fields of the generation, which would else fall back to those of sampling at temperature 1."""
    found = options.get("model.init_args.generation")
    return {} if found is None else dict(found.as_dict())


def _tell(settings: InputSettings, before: Any, after: Any, stage: str, where: str) -> None:
    """Say once what came from the student, and warn once of what differs from its training."""
    taken: list[str] = []
    differing: list[str] = []
    for name, old, now, trained in _compared(settings, before, after, stage):
        if now != trained:
            differing.append(f"{name} is {short(now)}, in training {short(trained)}")
        elif old != now:
            taken.append(name)
    if taken:
        rank_zero_info(f"as in the student's training ({where}): {', '.join(taken)}")
    if differing:
        rank_zero_warn(f"the student is asked otherwise than it was trained ({where}): {'; '.join(differing)}")


def _compared(settings: InputSettings, before: Any, after: Any, stage: str) -> Iterator[tuple[str, Any, Any, Any]]:
    """Each field that is compared: its name, and its values before, now and in training."""
    prompt, clip = asdict(settings.prompt), asdict(settings.clip)
    for name in ASKED:
        if name in MASK and (stage == FIT or (prompt["senses"], prompt["masked"]) == ("both", "absent")):
            continue  # a mask is what the run or the question is about
        old = None if before.data.prompt is None else before.data.prompt[name]
        yield f"data.prompt.{name}", old, after.data.prompt[name], prompt[name]
    if after.data.ask is not None:
        old_spec, spec = before.data.ask.spec.as_dict(), after.data.ask.spec.as_dict()
        yield from ((f"data.ask.spec.{name}", old_spec[name], spec[name], clip[name]) for name in SHOWN)
    for location in _locations(after.data, stage):
        made = asdict(clip_spec(Manifest.load(Path(location)).spec))
        yield from ((f"{name} of {location}", made[name], made[name], clip[name]) for name in SHOWN)
    longest, trained = after.get("model.init_args.generation.max_new_tokens"), settings.generation.max_new_tokens
    if stage != FIT and longest is not None and longest < trained:
        yield "model.generation.max_new_tokens", longest, longest, trained


def _locations(data: Any, stage: str) -> list[str]:
    """The local shard folders that a stage reads and that are there."""
    found: list[str] = []
    for split in SPLITS[stage]:
        given = data.get(split)
        found += [str(source.shards) for source in given] if isinstance(given, list) else [str(given)] if given else []
    return [location for location in found if (Path(location) / MANIFEST).is_file()]
