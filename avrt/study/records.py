"""What is known of a study's stages from earlier: which are finished, by which command, and how long they took."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from avrt.configurations import find_config
from avrt.files import sha256, write_whole
from avrt.packaged import packaged
from avrt.run_folder import complete_checkpoints
from avrt.study.stages import Plan, Stage
from avrt.text import json_lines

STAGES, LOGS = "stages.jsonl", "logs"


@dataclass(frozen=True)
class Record:
    """A finished stage.

    Attributes:
        name: Its name.
        command: Its command.
        seconds: How long it took.
        cpu_seconds: Processor time of it and of the processes that it had started.
        like: The stages that take as long.
        identity: See `Records.identify`.
    """

    name: str
    command: list[str]
    seconds: float
    cpu_seconds: float
    like: str = ""
    identity: str = ""


class Records:
    """The records of a study's folder.

    Args:
        out: The study's folder.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._digests: dict[Path, str] = {}
        self._identities: dict[str, str] = {}
        self.found: dict[str, Record] = {}
        path = out / STAGES
        if path.is_file():
            text = path.read_bytes()
            for _, record in json_lines(text[: text.rfind(b"\n") + 1]):  # a kill may have cut the last one short
                known = {key: value for key, value in record.items() if key in Record.__dataclass_fields__}
                self.found[record["name"]] = Record(**known)

    def log(self, stage: Stage) -> Path:
        """The file with what a stage printed."""
        return self.out / LOGS / f"{stage.name.replace('/', '.')}.log"

    def identify(self, plan: Plan) -> None:
        """Take the plan whose stages are meant from now on.

        A stage's identity is that of its command, of the content of its configurations and recipe, and of the stages
        that it needs. The study's folder may get another name.
        """
        out = re.compile(rf"(?<![\w./-]){re.escape(str(self.out))}(?=/|$)")
        for stage in plan.stages.values():
            words = [out.sub("{out}", word) for word in stage.command]
            read = [find_config(config) for config in stage.configs]
            if stage.command[0] == "shards":
                # With all of them: a recipe uses others' media and words.
                read += sorted(packaged("avrt.data_recipes", "recipe.py").parent.glob("*.py"))
            for path in read:
                if path not in self._digests:
                    self._digests[path] = sha256(path)
                words.append(self._digests[path])
            words += (self._identities[name] for name in stage.needs)
            self._identities[stage.name] = hashlib.blake2b(json.dumps(words).encode(), digest_size=8).hexdigest()

    def finished(self, plan: Plan) -> tuple[set[str], list[str]]:
        """The stages that need not be repeated, and in words why others that were finished have to be.

        What has to be repeated is not known as finished any more, and what it has left is not gone on with.
        """
        kept: set[str] = set()
        told: list[str] = []
        again: set[str] = set()
        for stage in plan.stages.values():
            record = self.found.get(stage.name)
            if record is None:
                # What it may have left was made from what is made anew.
                if again.intersection(stage.needs):
                    again.add(stage.name)
                continue
            same = record.identity == self._identities[stage.name]
            there = stage.leaves.exists() and not any(folder.is_symlink() for folder in self._own(stage))
            if same and there and not again.intersection(stage.needs):
                kept.add(stage.name)
                continue
            again.add(stage.name)
            if not again.intersection(stage.needs):
                why = "its command, a configuration or its recipe has changed" if there else "what it made is gone"
                needing = sum(name in self.found for name in plan.dependents(stage.name))
                also = f", with {needing} finished ones that need it" if needing else ""
                told.append(f"{stage.name}: {why}; repeated{also}")
        for name in again:
            self.found.pop(name, None)
            self._started(plan.stages[name]).unlink(missing_ok=True)
        self.out.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(asdict(record)) + "\n" for record in self.found.values()]
        write_whole(self.out / STAGES, "".join(lines).encode())
        return kept, told

    def _started(self, stage: Stage) -> Path:
        return self.log(stage).with_suffix(".json")

    def _own(self, stage: Stage) -> list[Path]:
        """A stage's folder and those above it in the study's, the innermost first."""
        return [stage.folder, *(folder for folder in stage.folder.parents if self.out in folder.parents)]

    def begin(self, stage: Stage) -> None:
        """Make room for a stage; what an interrupted one has left stays if the same command goes on with it."""
        started, log, identity = self._started(stage), self.log(stage), self._identities[stage.name]
        record: dict[str, Any] = json.loads(started.read_bytes()) if started.is_file() else {}
        for folder in self._own(stage):
            if folder.is_symlink():  # an earlier declaration had only referred to another folder here
                folder.unlink()
        goes_on = record.get("identity") == identity and stage.goes_on
        if stage.command[0] == "fit":  # Lightning makes the folder of checkpoints before there is one
            goes_on = goes_on and bool(complete_checkpoints(stage.folder))
        if not goes_on and stage.command[0] != "traces":  # whose calls serve other commands too
            for folder in (stage.folder, *stage.beside):  # recipes leave clips alone that are there
                shutil.rmtree(folder, ignore_errors=True)
        stage.folder.parent.mkdir(parents=True, exist_ok=True)
        started.parent.mkdir(parents=True, exist_ok=True)
        write_whole(started, json.dumps({"identity": identity, "command": stage.command}).encode())
        if not goes_on:
            log.unlink(missing_ok=True)

    def add(self, stage: Stage, seconds: float, cpu_seconds: float) -> None:
        """Note that a stage is finished; on disk when this returns."""
        record = Record(
            stage.name,
            list(stage.command),
            round(seconds, 2),
            round(cpu_seconds, 2),
            stage.like,
            self._identities[stage.name],
        )
        self.found[stage.name] = record
        with (self.out / STAGES).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(record)) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
