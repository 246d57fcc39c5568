"""Files that are meant by a path or by the name of a packaged one."""

from configparser import ConfigParser
from pathlib import Path

from avrt.packaged import find_packaged, model_source, packaged, packaged_models


def test_a_path_comes_before_a_packaged_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    configs = packaged("avrt.configs")
    assert find_packaged("nano/grpo.yaml", configs) == configs / "nano" / "grpo.yaml"
    (tmp_path / "nano").mkdir()
    (tmp_path / "nano" / "grpo.yaml").write_text("mine: 1")
    assert find_packaged("nano/grpo.yaml", configs) == Path("nano/grpo.yaml")


def test_files_and_folders_are_looked_up_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    configs = packaged("avrt.configs")
    assert find_packaged("nano", configs) is None
    assert find_packaged("nano", configs, Path.is_dir) == configs / "nano"
    assert find_packaged("nowhere", configs, Path.is_dir) is None


def test_a_packaged_file_below_a_folder():
    assert packaged("avrt.traces", "templates", "visual.txt").read_text().startswith("[system]")


def test_every_package_is_installed():
    """An editable install, as these tests have it, does not notice one that `setup.cfg` leaves out."""
    root = Path(__file__).parents[1]
    parser = ConfigParser()
    parser.read(root / "setup.cfg")
    listed = set(parser["options"]["packages"].split())
    found = {
        ".".join(path.parent.relative_to(root).parts)
        for package in (root / "avrt", root / "avrt" / "configs", root / "avrt" / "data_recipes")
        for path in package.rglob("__init__.py")
    }
    assert found == listed


def test_a_model_that_comes_with_the_package_goes_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert model_source("nano/student") == str(packaged("avrt.configs", "nano", "student"))
    assert [model_source(name) for name in ("nano", "Qwen/Qwen2.5-Omni-3B", "./models/sft")] == [
        "nano", "Qwen/Qwen2.5-Omni-3B", "./models/sft"
    ]  # fmt: skip
    assert packaged_models() == ["nano/student", "nano/teachers/audio", "nano/teachers/visual"]
    (tmp_path / "nano" / "student").mkdir(parents=True)
    assert model_source("nano/student") == "nano/student"
