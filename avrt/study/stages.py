"""From a study's declaration to its stages: `avrt` commands that need one another; equal ones are one stage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avrt.data.shards.manifest import MANIFEST
from avrt.evaluation.protocol import cell_command
from avrt.evaluation.result import RESULT
from avrt.study.declaration import REFERENCE, Declaration, StudentSpec
from avrt.study.order import needed_first

_OUT, _LABEL = "{out}", "--model.label"


@dataclass(frozen=True)
class Stage:
    """One command.

    Attributes:
        name: Its folder's name below that of the study.
        folder: What it fills.
        command: Arguments of `avrt`.
        needs: Names of the stages before it.
        leaves: A file or folder that is there when it is done.
        kind: What it does, in the words of the overview, such as `fit grpo`.
        like: The name of stages that take as long: those of the other seeds.
        process: Stages of the same process may run in one, one after another, once what they need is there.
        goes_on: Whether the same command goes on with what an interrupted one has left.
        beside: Further folders that it fills, which are emptied with its own before it runs anew.
        alone: Whether nothing long runs beside it, so that it may use more threads than one.
    """

    name: str
    folder: Path
    command: tuple[str, ...]
    needs: tuple[str, ...]
    leaves: Path
    kind: str
    like: str
    process: str
    goes_on: bool = False
    beside: tuple[Path, ...] = ()
    alone: bool = False

    @property
    def configs(self) -> list[str]:
        """The configurations that it reads."""
        return [word for option, word in zip(self.command, self.command[1:], strict=False) if option == "--config"]


@dataclass(frozen=True)
class Twin:
    """A folder whose stage would be the same as another's, so that it only refers to that.

    Attributes:
        folder: The folder.
        of: The folder that has been made.
        stage: The stage that makes it.
        label: The student's label in the result of a benchmark; None where the folder is that of a student.
    """

    folder: Path
    of: Path
    stage: str
    label: str | None = None


@dataclass
class Plan:
    """A study's stages in order, each after those that it needs.

    Attributes:
        stages: Name -> stage.
        twins: Folders that refer to others.
    """

    stages: dict[str, Stage] = field(default_factory=dict)
    twins: list[Twin] = field(default_factory=list)

    def dependents(self, name: str) -> set[str]:
        """The stages that need a stage, directly or not."""
        found = {name}
        for stage in self.stages.values():
            if found.intersection(stage.needs):
                found.add(stage.name)
        return found - {name}


def plan(study: Declaration, out: Path) -> Plan:
    """The stages of a study.

    Args:
        study: The declaration.
        out: The study's folder.

    Raises:
        AvrtError: If shards, traces and students need each other in a circle.
    """
    return _Planner(study, out).plan()


class _Planner:
    def __init__(self, study: Declaration, out: Path) -> None:
        self.study = study
        self.out = out
        self.made = Plan()
        self._alike: dict[tuple[str, ...], Stage] = {}
        self._models: dict[tuple[str, int], tuple[Path, str]] = {}
        self._shards: dict[str, tuple[Path, str]] = {}
        self._traces: dict[str, tuple[Path, str]] = {}

    def plan(self) -> Plan:
        for name in needed_first(self.study):
            section, _, name = name.partition(".")
            if section == "shards":
                self._add_shards(name)
            elif section == "traces":
                self._add_traces(name)
            else:
                for seed in self.study.seeds_of(name):
                    self._add_student(name, seed)
        for student, benchmark, mask in self.study.cells():
            for seed in self.study.seeds_of(student):
                self._add_cell(student, benchmark, mask, seed)
        return self.made

    def _add(self, stage: Stage, *folders: Path) -> Stage:
        """Add a stage, unless there is one that differs only in where it writes; returns the one that is run."""
        own = sorted(map(str, (stage.folder, *folders)), key=len, reverse=True)
        words: list[str] = []
        for word in stage.command:
            label = bool(words) and words[-1] == _LABEL
            words.append("" if label else next((_OUT for folder in own if word == folder), word))
        same = self._alike.setdefault(tuple(words), stage)
        if same is stage:
            self.made.stages[stage.name] = stage
        return same

    def _add_shards(self, name: str) -> None:
        spec, folder = self.study.shards[name], self.out / "shards" / name
        root = self.out / "clips" / name
        given, needs = self._options(spec.arguments, None)
        own_root = () if "root" in spec.arguments else ("--root", str(root))
        command = ("shards", spec.recipe, *own_root, "--out", str(folder), *given)
        made = self._add(
            Stage(
                f"shards/{name}",
                folder,
                command,
                needs,
                folder / MANIFEST,
                "shards",
                f"shards {name}",
                f"shards/{name}",
                beside=(root,),
            ),
            root,
        )
        self._shards[name] = (made.folder, made.name)

    def _add_traces(self, name: str) -> None:
        spec = self.study.traces[name]
        folder = self.out / "traces" / spec.folder
        data, made = self._shards[spec.data]
        given, needs = self._options(spec.arguments, None)
        configs = tuple(word for config in spec.config for word in ("--config", config))
        command = ("traces", "run", *configs, "--data", str(data), "--out", str(folder), *given)
        names = list(self.study.traces)
        before = [n for n in names[: names.index(name)] if self.study.traces[n].folder == spec.folder]
        earlier = [self._traces[before[-1]][1]] if before else []
        stage = Stage(
            f"traces/{name}", folder, command, _once(made, *earlier, *needs), folder / spec.shards, "traces",
            f"traces {name}", f"traces/{name}", goes_on=True,
        )  # fmt: skip
        # Not shared with another of the same command: what it leaves depends on the calls in its folder.
        self.made.stages[stage.name] = stage
        self._traces[name] = (folder / spec.shards, stage.name)

    def _add_student(self, name: str, seed: int) -> None:
        spec, first = self.study.students[name], self.study.seeds[0]
        home = self.out / "students" / name / f"seed-{seed}"
        if spec.once and seed != first:
            made, stage = self._models[name, first]
            self._models[name, seed] = made, stage
            self.made.twins.append(Twin(home, made.parent, stage))
            return
        data, of_data = {**self._shards, **self._traces}[spec.data]
        source, needs = spec.source, [of_data]
        if source in self.study.students:
            model, stage = self._models[source, seed]
            source = str(model)
            needs.append(stage)
        command, further = self._fit(spec, seed, home / "run", data, source)
        run = Stage(
            f"students/{name}/seed-{seed}/run", home / "run", command, _once(*needs, *further),
            home / "run" / "checkpoints", f"fit {spec.stage}", f"fit {name}", f"students/{name}/{seed}", goes_on=True,
        )  # fmt: skip
        made_run = self._add(run)
        model = made_run.folder.parent / "model"
        export = ("export", "--ckpt_path", str(made_run.folder), "--out", str(model))
        if made_run is run:
            self.made.stages[f"students/{name}/seed-{seed}/model"] = Stage(
                f"students/{name}/seed-{seed}/model", model, export, (run.name,), model / "config.json", "export",
                "export", run.process,
            )  # fmt: skip
        else:
            self.made.twins.append(Twin(home, made_run.folder.parent, made_run.name))
        self._models[name, seed] = model, made_run.name.removesuffix("run") + "model"

    def _fit(
        self, spec: StudentSpec, seed: int, run: Path, data: Path, source: str
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The command that trains a student, and what its arguments need."""
        common = self.study.training.get(spec.stage)
        configs = [f"{spec.stage}.yaml", *(common.config if common else ()), *spec.config]
        given, needs = self._options({**(common.arguments if common else {}), **spec.arguments}, seed)
        seeds = ["--seed_everything", str(seed), "--data.seed", str(seed)]
        if spec.stage == "grpo":
            seeds += ["--model.seed", str(seed)]
        if spec.source not in self.study.students:
            seeds += ["--model.student.seed", str(seed)]  # of a preset without weights
        command = (
            *("fit", *(word for config in configs for word in ("--config", config))),
            *("--model.student.source", source, "--data.train", str(data)),
            *("--trainer.default_root_dir", str(run), "--ckpt_path", "last_or_new", *seeds, *given),
        )
        return command, needs

    def _add_cell(self, student: str, benchmark: str, mask: str, seed: int) -> None:
        spec = self.study.benchmarks[benchmark]
        model, trained = self._models[student, seed]
        shards, made = self._shards[spec.shards]
        folder = self.out / "benchmarks" / student / f"seed-{seed}" / benchmark / mask
        given, needs = self._options(spec.arguments, seed)
        source = ("--model.student.source", str(model))
        asked = cell_command(spec.config, source, str(shards), str(folder), student, benchmark, mask)
        command = (*asked, *given)
        name = f"benchmarks/{student}/seed-{seed}/{benchmark}/{mask}"
        stage = Stage(
            name, folder, command, _once(trained, made, *needs), folder / RESULT, "test", f"test {benchmark}/{mask}",
            f"benchmarks/{student}/{seed}", goes_on=True,
        )  # fmt: skip
        same = self._add(stage)
        if same is not stage:
            self.made.twins.append(Twin(folder, same.folder, same.name, student))

    def _options(self, arguments: Mapping[str, Any], seed: int | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Arguments as they are typed, with the folders of the study, and the stages that make those."""
        needs: list[str] = []

        def place(section: str, name: str) -> str:
            if section == "students":
                path, stage = self._models[name, self.study.seeds[0] if seed is None else seed]
            else:
                path, stage = (self._shards if section == "shards" else self._traces)[name]
                if section == "traces" and len(Path(self.study.traces[name].shards).parts) > 1:
                    path = path.parent.parent  # the trace folder, rather than the shards in it
            needs.append(stage)
            return str(path)

        words: list[str] = []
        for key, value in arguments.items():
            text = value if isinstance(value, str) else json.dumps(value)
            words += [f"--{key}", REFERENCE.sub(lambda found: place(found[1], found[2]), text)]
        return tuple(words), _once(*needs)


def _once(*names: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
