"""Reads back what each logger was given, by the libraries' own readers: kind -> name -> the steps it was written at."""

from __future__ import annotations

import csv
import json
import struct
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import soundfile
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

Log = dict[str, dict[str, set[int]]]
"""`scalar`, `text`, `picture`, `sound` and `histogram` -> name -> steps."""


def _log() -> Log:
    return defaultdict(lambda: defaultdict(set))


def read_tensorboard(root: Path) -> Log:
    [events] = root.rglob("events.out.tfevents.*")
    board = EventAccumulator(
        str(events), size_guidance={"images": 0, "audio": 0, "tensors": 0, "scalars": 0, "histograms": 0}
    )
    board.Reload()
    tags, found = board.Tags(), _log()
    for kind, name, values in (
        ("scalar", "scalars", board.Scalars), ("text", "tensors", board.Tensors), ("picture", "images", board.Images),
        ("sound", "audio", board.Audio), ("histogram", "histograms", board.Histograms),
    ):  # fmt: skip
        for tag in tags[name]:
            found[kind][tag.removesuffix("/text_summary")] |= {event.step for event in values(tag)}
    return found


def tensorboard_options(root: Path) -> dict[str, object]:
    from tensorboard.plugins.hparams import metadata

    [events] = root.rglob("events.out.tfevents.*")
    board = EventAccumulator(str(events))
    board.Reload()
    content = board.summary_metadata[metadata.SESSION_START_INFO_TAG].plugin_data.content
    options = metadata.parse_session_start_info_plugin_data(content).hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in options.items()}


def read_csv(root: Path) -> Log:
    [metrics] = root.rglob("metrics.csv")
    found = _log()
    with metrics.open() as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value and name != "step":
                    found["scalar"][name].add(int(row["step"]))
    media = metrics.parent / "media"
    for path in media.rglob("*.csv"):
        with path.open() as file:
            rows = list(csv.DictReader(file))
        kind = "histogram" if set(rows[0]) == {"step", "value"} else "text"
        found[kind][str(path.relative_to(media).with_suffix(""))] |= {int(row["step"]) for row in rows}
    for kind, suffix in (("picture", "png"), ("sound", "wav")):
        for path in media.rglob(f"*.{suffix}"):
            opened(path)
            found[kind][str(path.parent.relative_to(media))].add(int(path.stem.removeprefix("step-")))
    return found


def opened(path: Path) -> None:
    """Fails if it is no picture or sound."""
    if path.suffix == ".wav":
        samples, rate = soundfile.read(path)
        assert rate == 16_000
        assert abs(samples).max() > 0.01
    else:
        Image.open(path).load()


def read_wandb(root: Path) -> tuple[Log, dict[str, object]]:
    """The history and the config of an offline run."""
    kinds = {"table-file": "text", "images/separated": "picture", "audio-file": "sound", "histogram": "histogram"}
    [path] = root.rglob("*.wandb")
    found, config = _log(), {}
    for record in wandb_records(path):
        for update in record.config.update:
            config[".".join(update.nested_key) or update.key] = json.loads(update.value_json)
        if record.WhichOneof("record_type") != "history":
            continue
        row = {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        step = row.pop("trainer/global_step")
        for name, value in row.items():
            if name.startswith("_"):
                continue
            value = value[0] if isinstance(value, list) else value
            kind = kinds[value["_type"]] if isinstance(value, dict) else "scalar"
            found[kind][name].add(step)
            if isinstance(value, dict) and "path" in value:
                assert (path.parent / "files" / value["path"]).is_file()
    return found, config


def wandb_records(path: Path) -> Iterator:
    """The records of a `.wandb` file: LevelDB's log format, in blocks of 32 KiB behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    block, header = 32_768, 7
    data = path.read_bytes()
    place, parts = header, b""
    while place + header <= len(data):
        if (left := block - place % block) < header:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        parts += data[place + header : place + header + length]
        place += header + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def read_mlflow(address: str) -> tuple[Log, dict[str, str]]:
    """Metrics, artifacts and parameters of the one run."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(address)
    [experiment] = [e for e in client.search_experiments() if e.name != "Default"]
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    found = _log()
    for name in run.data.metrics:
        steps = {metric.step for metric in client.get_metric_history(run.info.run_id, name)}
        stem, _, quantile = name.rpartition("/")
        kind, name = ("histogram", stem) if quantile in ("p05", "p25", "p50", "p75", "p95") else ("scalar", name)
        found[kind][name] |= steps
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    for path in folder.rglob("*.json"):
        table = json.loads(path.read_text())
        assert all(len(row) == len(table["columns"]) for row in table["data"])
        found["text"][str(path.parent.relative_to(folder))].add(int(path.stem.removeprefix("step-")))
    for path in folder.rglob("*.wav"):
        opened(path)
        found["sound"][str(path.parent.relative_to(folder))].add(int(path.stem.removeprefix("step-")))
    for path in (folder / "images").glob("*.png"):
        opened(path)
        name, _, step, *_ = path.name.replace("~", "/").split("+")
        found["picture"][name].add(int(step))
    return found, run.data.params
