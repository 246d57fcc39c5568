"""Merging a LoRA adapter of a teacher's release into its weights, so that any server loads it as one plain model.

Audio Flamingo 3 needs the folder `think` of its release to think: a LoRA, and `non_lora_trainables.bin` with weights
that replace those of the base model. Weight names differ between releases of transformers, and its loaders ignore an
unknown name; here every weight of the adapter matches one of the model, or nothing is written.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from avrt.errors import AvrtError

EXTRA = "non_lora_trainables.bin"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
# Parts of weight names that only some releases of transformers have.
_WRAPPERS = {"base_model", "model", "language_model", "module", "modules_to_save", "default"}
_PLAIN: dict[str, object] = {"use_dora": False, "fan_in_fan_out": False, "rank_pattern": {}, "alpha_pattern": {}}


@dataclass(frozen=True)
class MergeCounts:
    """Numbers of weights.

    Attributes:
        changed: Weights to which the LoRA adds a product.
        replaced: Weights that the adapter replaces.
        kept: Weights of the base model.
    """

    changed: int
    replaced: int
    kept: int


@dataclass
class _Adapter:
    """An adapter by bare weight name: the two factors of each LoRA weight, and whole weights."""

    pairs: dict[str, dict[str, torch.Tensor]]
    whole: dict[str, torch.Tensor]
    scale: float

    def apply(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """The merged value of the model's weight of that bare name."""
        if name in self.whole:
            weight = self.whole[name].to(weight.dtype).contiguous()
        if name in self.pairs:
            delta = self.pairs[name]["B"].float() @ self.pairs[name]["A"].float() * self.scale
            weight = (weight.float() + delta).to(weight.dtype)
        return weight


def merge_adapter(source: Path, out: Path, adapter: str = "think") -> MergeCounts:
    """Write a model with its adapter merged in; all other files are copied.

    Args:
        source: The release's folder, with `*.safetensors`.
        out: A new folder.
        adapter: The adapter's folder, by its name in `source` or by path.

    Raises:
        AvrtError: If a file is missing or damaged, or a weight of the adapter does not match the model.
    """
    shards = sorted(source.glob("*.safetensors"))
    if not shards:
        raise AvrtError("holds no *.safetensors", where=source, remedy="download the whole release into a folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise AvrtError("exists already", where=out, remedy="give a new folder to --out")
    folder = next((path for path in (source / adapter, Path(adapter)) if path.is_dir()), None)
    if folder is None:
        raise AvrtError(f"has no folder {adapter}", where=source, remedy="download the whole release, with its adapter")
    found = _read(folder)
    _check_places(found, shards, folder)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    total = 0
    for shard in shards:
        with safe_open(shard, framework="pt") as file:
            metadata = file.metadata()
        weights = load_file(shard)
        for name, weight in weights.items():
            weights[name] = found.apply(_bare(name), weight)
        total += len(weights)
        save_file(weights, partial / shard.name, metadata)
    for file in source.iterdir():
        if file.is_file() and file.suffix not in (".safetensors", ".bin", ".pt"):
            shutil.copy2(file, partial / file.name)
    if out.exists():
        out.rmdir()
    partial.rename(out)
    return MergeCounts(len(found.pairs), len(found.whole), total - len({*found.pairs, *found.whole}))


def _read(folder: Path) -> _Adapter:
    """Read an adapter's folder; only plain LoRAs, which add the product of two factors, can be merged."""
    try:
        config = json.loads((folder / "adapter_config.json").read_bytes())
        scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
    except OSError:
        raise AvrtError("holds no adapter_config.json", where=folder, remedy="give the adapter's folder") from None
    except (ValueError, KeyError, TypeError, ZeroDivisionError):
        raise AvrtError(
            "is not the configuration of a LoRA", where=folder / "adapter_config.json", remedy="download it again"
        ) from None
    for field, plain in _PLAIN.items():
        if config.get(field) not in (None, plain):
            raise AvrtError(f"uses {field}, which a plain LoRA does not", where=folder, remedy="merge it with peft")
    path = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise AvrtError(f"holds no {' or '.join(_WEIGHTS)}", where=folder, remedy="download the whole adapter")
    whole = {} if not (folder / EXTRA).is_file() else _load(folder / EXTRA)
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    for name, weight in _load(path).items():
        stem, factor = _factor(name)
        if factor is None:
            whole[name] = weight
        elif factor in ("A", "B"):
            pairs.setdefault(_bare(f"{stem}.weight"), {})[factor] = weight
        else:
            raise AvrtError(f"has {name}, which a plain LoRA does not", where=path, remedy="merge it with peft")
    if incomplete := sorted(name for name, pair in pairs.items() if set(pair) != {"A", "B"}):
        what = f"has one of the two factors of {incomplete[0]}"
        raise AvrtError(what, where=path, remedy="download the whole adapter")
    return _Adapter(pairs, {_bare(name): weight for name, weight in whole.items()}, scale)


def _check_places(found: _Adapter, shards: list[Path], folder: Path) -> None:
    """Check that every weight of the adapter matches exactly one weight of the model, of the same shape."""
    shapes: dict[str, tuple[int, ...]] = {}
    for shard in shards:
        try:
            with safe_open(shard, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - a file cannot be iterated over
                    bare = _bare(name)
                    if bare in shapes and (bare in found.whole or bare in found.pairs):
                        what = f"two weights match the adapter's {bare}"
                        raise AvrtError(what, where=shard.parent, remedy="merge it with peft")
                    shapes[bare] = tuple(file.get_slice(name).get_shape())
        except SafetensorError as error:
            raise AvrtError(f"cannot be read: {error}", where=shard, remedy="download it again") from None
    wanted: Mapping[str, tuple[int, ...]] = {
        **{name: tuple(weight.shape) for name, weight in found.whole.items()},
        **{name: (pair["B"].shape[0], pair["A"].shape[1]) for name, pair in found.pairs.items()},
    }
    if not wanted:
        raise AvrtError("holds no weights", where=folder, remedy="download the whole adapter")
    for name, shape in wanted.items():
        if name not in shapes:
            raise AvrtError(f"has {name}, which the model does not", where=folder, remedy="use the model's own adapter")
        if shapes[name] != shape:
            what = f"{name} has shape {shape}, in the model {shapes[name]}"
            raise AvrtError(what, where=folder, remedy="use the model's own adapter")


def _factor(name: str) -> tuple[str, str | None]:
    """(the changed weight's name, factor): `A`, `B`, `other` if it cannot be merged, None for a whole weight."""
    stem, mark, rest = name.partition(".lora_")
    if not mark:
        return name, None
    return stem, rest[0] if rest.removesuffix(".weight").removesuffix(".default") in ("A", "B") else "other"


def _bare(name: str) -> str:
    """A weight's name without the parts that differ between releases."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _load(path: Path) -> dict[str, torch.Tensor]:
    try:
        loaded = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # the two loaders raise many kinds of errors for a damaged file
        what = (str(error) or type(error).__name__).split("\n")[0]
        raise AvrtError(f"cannot be read: {what}", where=path, remedy="download it again") from None
    if not isinstance(loaded, dict) or not all(isinstance(weight, torch.Tensor) for weight in loaded.values()):
        raise AvrtError("holds no weights", where=path, remedy="download it again")
    return loaded
