"""What is built from the repository: an sdist with everything in it, and a wheel with nothing but the package."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINKED = ("configs", "data_recipes")


def call(*command: object, cwd: Path | None = None) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def tracked() -> list[str]:
    """The repository's files, new ones included."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs the repository: what an sdist must hold is what git tracks")
    listed = call("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    return [name for name in listed if (ROOT / name).exists()]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(files of the sdist, its wheel, the repository's wheel), built in a copy, as `make build` builds them."""
    folder = tmp_path_factory.mktemp("built")
    copy = folder / "repository"
    for name in tracked():
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target, follow_symlinks=False)
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", copy)
    call(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", folder / "direct", copy)
    with tarfile.open(next((folder / "dist").glob("*.tar.gz"))) as sdist:
        files = {name.partition("/")[2] for name in sdist.getnames()}
    return files, next((folder / "dist").glob("*.whl")), next((folder / "direct").glob("*.whl"))


def contents(wheel: Path) -> dict[str, int]:
    with zipfile.ZipFile(wheel) as archive:
        return {entry.filename: entry.CRC for entry in archive.infolist()}


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def test_the_sdist_holds_the_repository_and_builds_the_same_wheel(built):
    files, from_sdist, from_repository = built
    assert set(tracked()) - {f"avrt/{name}" for name in LINKED} - files == set()
    assert contents(from_sdist) == contents(from_repository)


def test_the_wheel_holds_the_package_with_what_its_links_lead_to_and_nothing_else(built):
    files = set(contents(built[2]))
    assert {name.split("/")[0] for name in files} == {"avrt", next(n for n in files if "dist-info" in n).split("/")[0]}
    wanted = {name for name in tracked() if name.startswith("avrt/") and (ROOT / name).is_file()}
    wanted |= {f"avrt/{name}" for name in tracked() if name.split("/")[0] in LINKED}
    assert {name for name in files if name.startswith("avrt/")} == wanted


def test_the_description_has_no_relative_link_and_none_that_leads_nowhere(built):
    project = metadata(built[2])
    text = project.get_payload()
    assert project["Description-Content-Type"] == "text/markdown"
    assert re.findall(r"\]\((?!\w+://|#)[^)]*\)", text) == []
    assert re.findall(r"""(?:src|href)=["'](?!\w+://)[^"']*""", text) == []
    home = dict(url.split(", ") for url in project.get_all("Project-URL"))["Repository"]
    ours = re.findall(rf"{re.escape(home)}/(blob|tree|raw)/main/([^)#\s\"]+)", text)
    assert len(ours) >= text.count("](docs/") + 10
    for kind, name in ours:
        assert (ROOT / name).is_dir() if kind == "tree" else (ROOT / name).is_file(), name


def test_the_metadata_say_who_what_and_where(built):
    project = metadata(built[2])
    assert project["Author"] == "The avrt authors"
    pythons = {name.split(" :: ")[-1] for name in project.get_all("Classifier") if "Python :: 3." in name}
    assert pythons == {"3.11", "3.12", "3.13", "3.14"}
    extras = set(project.get_all("Provides-Extra"))
    wanted = {re.split("[<>=]", line)[0] for line in project.get_all("Requires-Dist") if "extra == 'all'" in line
              or 'extra == "all"' in line}  # fmt: skip
    [everything] = [re.search(r"\[(.*)\]", name)[1].split(",") for name in wanted]
    assert set(everything) == extras - {"all", "dev", "docs"}, "`all` is every extra but those for developers"
