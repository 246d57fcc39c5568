"""Files about the project: that they say the same, and that scripts can be read by what runs them."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import yaml

import avrt

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_addresses_version_and_pythons_are_the_same_everywhere():
    home, site = PROJECT["urls"]["Repository"], PROJECT["urls"]["Documentation"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["repository-code"], citation["url"], citation["version"]) == (home, site, avrt.__version__)
    settings = (ROOT / "mkdocs.yaml").read_text()
    assert f"site_url: {site}\n" in settings
    assert f"repo_url: {home}\n" in settings
    assert site in (ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml").read_text()
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yaml").read_text())
    tried = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert tried == [name.split(" :: ")[-1] for name in PROJECT["classifiers"] if "Python :: 3." in name]


def test_the_workflow_runs_what_the_makefile_has():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yaml").read_text())
    runs = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {run.removeprefix("make ") for run in runs if run.startswith("make ")}
    assert named == {"lint", "test", "docs", "build"}
    assert named <= targets


def test_every_package_that_an_extra_needs_was_tried():
    """A name in pyproject.toml that constraints.txt does not have is one whose version nobody chose."""
    tried = {re.sub("[-_.]+", "-", line.split("==")[0].lower())
             for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}  # fmt: skip
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    needed = {
        re.sub("[-_.]+", "-", re.split(r"[\[<>=!; ]", line)[0].lower()) for line in PROJECT["dependencies"] + extras
    }
    assert needed - tried == {"avrt"}


def test_make_says_when_python_is_too_old(tmp_path):
    old = tmp_path / "python3"
    code = "import sys; sys.version_info = (3, 9, 2, 'final', 0); exec(sys.argv[2])"
    old.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{code}" "$@"\n')
    old.chmod(0o755)
    done = subprocess.run(
        ["make", "install", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "is Python 3.9" in done.stderr
    assert "make PYTHON=" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_whatever_the_package_imports_is_a_dependency_or_in_an_extra():
    """An environment for development has more than a user's: what only it has would be missed nowhere but there."""
    of = metadata.packages_distributions()
    extras = PROJECT["optional-dependencies"]
    users = (line for name in extras.keys() - {"dev", "docs"} for line in extras[name])
    lines = [*PROJECT["dependencies"], *users]
    named = {re.sub("[-_.]+", "-", re.split(r"[\[<>=!; ]", line)[0].lower()) for line in lines}
    imported: set[str] = set()
    for file in [*ROOT.glob("avrt/**/*.py"), *ROOT.glob("data_recipes/*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
    # vLLM is built for its machine, by hand; what is not installed here at all is its own or such a one.
    others = {name for name in imported - set(sys.stdlib_module_names) - {"avrt", "vllm"} if name in of}
    assert {n for n in others if not {re.sub("[-_.]+", "-", d.lower()) for d in of[n]} & named} == set()
