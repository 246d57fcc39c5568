"""Folders whose stage would be the same as another's: they refer to that, so that all is found by its own name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from dataclasses import replace

from avrt.evaluation.predictions import PREDICTIONS
from avrt.evaluation.result import RESULT, Result
from avrt.study.stages import Plan, Twin


def make_twins(plan: Plan, finished: Collection[str]) -> None:
    """Make the folders that refer to others whose stage is finished, and remove those of stages that are not.

    Args:
        plan: The plan.
        finished: Names of the finished stages.
    """
    for twin in plan.twins:
        if twin.folder.is_symlink():
            twin.folder.unlink()
        if twin.folder.is_dir():
            shutil.rmtree(twin.folder)  # of an earlier declaration, in which it was made
        if twin.stage in finished:
            twin.folder.parent.mkdir(parents=True, exist_ok=True)
            _make(twin)


def _make(twin: Twin) -> None:
    if twin.label is None:
        twin.folder.symlink_to(os.path.relpath(twin.of, twin.folder.parent), target_is_directory=True)
        return
    twin.folder.mkdir()
    replace(Result.load(twin.of / RESULT), student=twin.label).save(twin.folder)
    os.link(twin.of / PREDICTIONS, twin.folder / PREDICTIONS)
