"""What a training run records of how it asks its student, in its checkpoints, and how that is read back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from avrt.data.loading.datamodule import AVDataModule
from avrt.policy.input_settings import InputSettings, TrainingStage, clip_spec, settings_of
from avrt.training.evaluation_module import EvaluationModule
from avrt.training.trained_policy import checkpoint_record


def settings_of_run(module: EvaluationModule, data: AVDataModule) -> InputSettings:
    """How a run asks its student: the prompt of its data module and the clips of its largest training set."""
    assert data.mixture is not None
    named = {source.label: shards for source, shards in zip(data.mixture.sources, data.mixture.sets, strict=True)}
    largest = max(named.values(), key=len)
    source = module.student_options.source
    stage = TrainingStage(
        stage=type(module).__name__.removesuffix("Module").lower(),
        source=Path(source).name if Path(source).is_dir() else source,
        data={name: len(shards) for name, shards in named.items()},
    )
    before = replace(settings_of(source), generation=module.generation, family=module.policy.family.name)
    return before.after(stage, data.prompt, clip_spec(largest.manifest.spec))


def settings_of_checkpoint(checkpoint: Path) -> InputSettings | None:
    """How the student of a checkpoint is asked; None for a checkpoint of an earlier avrt, which does not say."""
    record = checkpoint_record(checkpoint).get("input_settings")
    return None if record is None else InputSettings.from_record(record, checkpoint)
