"""The protocol of a score: everything that decides the score, as a flat record with a fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from avrt.text import to_json

NANO_WORLD = "nano_world"
"""The recipe of the miniature data set; results on it always carry this name, never that of a real benchmark."""

NATIVE, VLLM = "native", "vllm"
"""The engines that answer."""
ASSUMED = {"engine.name": NATIVE}
"""Fields that results of earlier versions lack, with what they stood for; in a fingerprint they count as lacking."""

MASKS: dict[str, dict[str, str]] = {
    "av": {},
    "a": {"data.prompt.senses": "audio"},
    "v": {"data.prompt.senses": "vision"},
    "a_blank": {"data.prompt.senses": "audio", "data.prompt.masked": "blank"},
    "v_silent": {"data.prompt.senses": "vision", "data.prompt.masked": "blank"},
    "text": {"data.prompt.senses": "none"},
    "shuffled": {"data.shuffle_audio": "true"},
}
"""Modality mask -> the options of `avrt test` that set it: audio-visual; audio only (frames absent, or black); vision
only (audio absent, or silent); text only; and audio-visual with the audio of another clip."""


def cell_command(
    configs: Iterable[str],
    model: tuple[str, str],
    shards: str,
    folder: str,
    label: str,
    benchmark: str,
    mask: str,
    further: Sequence[str] = (),
) -> tuple[str, ...]:
    """The arguments of `avrt` that ask one student one benchmark under one mask.

    Args:
        configs: Configurations of `avrt test`, which are merged in this order.
        model: The option that takes the student, and the student.
        shards: The benchmark's shards.
        folder: Where the result goes.
        label: The student's name in the result.
        benchmark: The benchmark's.
        mask: One of `MASKS`.
        further: Further options.
    """
    return (
        *("test", *(word for config in configs for word in ("--config", config))),
        *(*model, "--data.test", shards, *further, "--trainer.default_root_dir", folder),
        *("--model.label", label, "--model.benchmark.name", benchmark),
        *(word for key, value in MASKS[mask].items() for word in (f"--{key}", value)),
    )


def in_mask_order(names: Iterable[str]) -> list[str]:
    """Names of masks, each once, in the order of `MASKS`; others follow in alphabetical order."""
    order = list(MASKS)
    return sorted(set(names), key=lambda name: (order.index(name) if name in MASKS else len(order), name))


def mask_name(protocol: Mapping[str, Any]) -> str:
    """The mask that a protocol's options set."""
    found = {
        "data.prompt.senses": protocol["prompt.senses"],
        "data.prompt.masked": protocol["prompt.masked"],
        "data.shuffle_audio": str(protocol["shuffle_audio"]).lower(),
    }
    defaults = {"data.prompt.senses": "both", "data.prompt.masked": "absent", "data.shuffle_audio": "false"}
    for name, options in MASKS.items():
        if {**defaults, **options} == found:
            return name
    return "/".join(value for value in found.values() if value not in defaults.values()) or "av"


def flatten(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def fingerprint(protocol: Mapping[str, Any]) -> str:
    """A short hash of a protocol: equal exactly if nothing differs."""
    text = to_json({k: v for k, v in protocol.items() if ASSUMED.get(k, ...) != v}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def engine_name(protocol: Mapping[str, Any]) -> str:
    """The engine that answered, with its version: `native` or, for example, `vllm 0.32.0`."""
    version = protocol.get("engine.version")
    name = str(protocol.get("engine.name", NATIVE))
    return name if version is None else f"{name} {version}"


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The fields in which two protocols differ: field -> both values."""
    first, second = {**ASSUMED, **first}, {**ASSUMED, **second}
    keys = sorted({*first, *second})
    return {key: (first.get(key), second.get(key)) for key in keys if first.get(key) != second.get(key)}
