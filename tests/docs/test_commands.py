"""Every command of README.md and docs/, typed in order from an empty folder: what one reads, an earlier one made."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Step, steps
from tests.docs.stand_ins import data_sets, released_students
from tests.traces.servers import serving
from tests.warm import WarmCommands

# The README comes first: other pages may go on with what it makes.
# `test_own_data` follows own_data.md, whose reader brings other clips.
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").glob("*.md") if p.name != "own_data.md")]
ROLES = ("visual", "audio", "merger")
# On the path of the pages' commands. `avrt` is run by forks of `tests.warm`, since it is typed often. `make` starts
# what takes longer than this test, or is what runs it.
TOOLS = {
    "avrt": '#!/bin/sh\nexec "{warm}" -m tests.docs.laptop "$@"\n',
    "python": '#!/bin/sh\nexec "{python}" "$@"\n',
    "make": '#!/bin/sh\nexec /usr/bin/env -i PATH="$OLD_PATH" make --no-print-directory --dry-run -C "{root}" "$@"\n',
}


def teachers_and_mergers() -> list[str]:
    """The models that the packaged configurations of stage 0 name."""
    texts = [path.read_text() for path in [ROOT / "configs" / "traces.yaml", *ROOT.glob("configs/ablations/*.yaml")]]
    return sorted({name for text in texts for name in re.findall(r"^ +model: (\S+)$", text, re.MULTILINE)})


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """(folder, environment) of a reader: an empty folder but for the data sets, and the commands on the path."""
    home = tmp_path_factory.mktemp("reader")
    tools, folder, hub = home / "bin", home / "work", home / "hub"
    for made in (tools, folder, hub):
        made.mkdir()
    data_sets(folder)
    released_students(hub)
    environment = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "OLD_PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "HF_HUB_CACHE": str(hub),
        "HF_HUB_OFFLINE": "1",
    }
    warm = WarmCommands(environment)  # its own, since imports read where the hub's cache is
    for name, script in TOOLS.items():
        (tools / name).write_text(script.format(python=sys.executable, warm=warm.python, root=ROOT))
        (tools / name).chmod(0o755)
    with serving(home, "--models", *teachers_and_mergers()) as server:
        yield folder, {**environment, "AVRT_DOCS_SERVERS": json.dumps(dict.fromkeys(ROLES, server.url))}
    warm.close()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_a_reader_can_type_every_command(page, desk):
    folder, environment = desk
    for step in steps(page):
        if step.file is not None:
            (folder / step.file).write_text(step.text)
        else:
            run(step, folder, environment)


def run(step: Step, folder: Path, environment: dict[str, str]) -> None:
    if step.needs:
        environment = {**environment, "AVRT_DOCS_PARSE_ONLY": "1"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-x", "-c", step.text],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{step.place}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
