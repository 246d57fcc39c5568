"""A student goes to the Hub with its settings and card, and comes back from there; the Hub is a server of our own."""

import json
import os
import subprocess
import sys

import pytest
import yaml

import avrt
from avrt.commands import push
from avrt.errors import AvrtError
from avrt.packaged import packaged
from tests.evaluation.made import make_run, questions
from tests.hub import Hub

MODEL = packaged("avrt.configs", "nano", "student")
NAME = "someone/nano-avrt"


@pytest.fixture
def model(tmp_path):
    """A copy of the packaged student, with a file that must not leave this machine."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in MODEL.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / ".secret").write_text("mine")
    return folder


@pytest.fixture
def hub():
    hub = Hub()
    yield hub
    hub.close()


def online(hub, cache, *command, token="hf_test"):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
    environment |= {"HF_ENDPOINT": hub.address, "HF_HOME": str(cache), "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [sys.executable, *map(str, command)], env=environment, capture_output=True, text=True, check=False
    )


def front_matter(card: str):
    return yaml.safe_load(card.split("---\n")[1])


def test_push_and_load(hub, model, tmp_path):
    done = online(hub, tmp_path / "cache", "-m", "avrt", "push", model, NAME, "--private", "true", "--license", "mit")
    assert done.returncode == 0, done.stderr
    assert f"uploaded: {hub.address}/{NAME}\nnext: python -c" in done.stdout
    assert hub.repositories == {NAME: True}
    uploaded = {path for _, path in hub.files}
    assert uploaded == {path.name for path in model.iterdir()} - {".secret"}
    assert hub.files[NAME, "model.safetensors"] == (model / "model.safetensors").read_bytes()
    card = hub.files[NAME, "README.md"].decode()
    assert front_matter(card)["license"] == "mit"
    assert f'avrt.load("{NAME}")' in card
    script = f"""
import avrt
student = avrt.load('{NAME}', 'cpu')
print(student.settings.prompt.instruction, student.settings.clip.budget)
print(repr(student.ask(None, 'Which?', ['a', 'b']).text))
try:
    avrt.load('someone/else')
except Exception as error:
    print(type(error).__name__, error)
"""
    asked = online(hub, tmp_path / "elsewhere", "-c", script)
    assert asked.returncode == 0, asked.stderr
    first, second, third = asked.stdout.splitlines()
    assert first == "First think, then answer. FrameBudget(min_pixels=3136, max_pixels=3136)"
    assert second == repr(avrt.load(MODEL, "cpu").ask(None, "Which?", ["a", "b"]).text)
    assert third.startswith("AvrtError someone/else: is neither a folder nor a model that the Hub gives")


def test_a_dry_run_lists_what_would_go_and_writes_the_card(model, tmp_path, capsys):
    right = {i: f"<think>Seen.</think><answer>{'BA'[i % 2]}</answer>" for i in range(3)}
    make_run(tmp_path / "run", "sft_rl", lambda i, s: right.get(i, "none"), samples=questions(4), headline="strict")
    results = json.dumps([str(tmp_path / "run" / "result.json")])
    push.main([str(model), NAME, "--dry_run", "true", "--results", results])
    told = capsys.readouterr().out
    assert "model.safetensors" in told
    assert ".secret" not in told
    card = (model / "README.md").read_text()
    head = front_matter(card)
    assert head["library_name"] == "transformers"
    assert {"avrt", "sft", "grpo"} <= set(head["tags"])
    assert head["model-index"][0]["results"][0]["metrics"][0]["value"] == 75.0
    assert "| dailyomni | av | avrt | strict | 75.0 " in card
    assert "First think, then answer." in card
    (model / "README.md").write_text("my own words")
    push.main([str(model), NAME, "--dry_run", "true"])
    assert (model / "README.md").read_text() == "my own words"
    with pytest.raises(AvrtError, match="holds no exported model"):
        push.main([str(tmp_path), NAME])
