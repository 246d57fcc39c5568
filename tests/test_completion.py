"""Tab completion in the shells themselves."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from avrt.configurations import packaged_configs

ROOT = Path(__file__).parents[1]
BASH = """
eval "$(avrt completion bash)"
function_of_avrt=$(complete -p avrt | sed 's/.*-F \\([^ ]*\\).*/\\1/')
ask() {
  COMP_LINE="$1" COMP_POINT=${#1} COMP_TYPE=9 COMP_KEY=9 COMPREPLY=()
  read -ra COMP_WORDS <<< "$1"
  [[ "$1" == *" " ]] && COMP_WORDS+=("")
  COMP_CWORD=$((${#COMP_WORDS[@]}-1))
  $function_of_avrt avrt "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
  echo "${COMPREPLY[*]}"
}
"""
ASKED = {
    "avrt va": "validate",
    "avrt fit --config nano/g": "nano/grpo.yaml",
    "avrt fit --config mi": "mine.yaml",
    "avrt fit --config grpo.yaml --model.loss.b": "--model.loss.beta",
    "avrt fit --config sft.yaml --model.loss.b": "",
    "avrt fit --config grpo.yaml --model.reference ": "device host",
    "avrt fit --trainer.default_root_dir cli": "clips/",
    "avrt fit --config sft.yaml --ckpt_path last_": "last_or_new",
    "avrt test --ckpt_path la": "last",
    "avrt shards dailyo": "dailyomni",
    "avrt shards ver": "verify",
    "avrt shards show --i": "--id",
    "avrt shards nano_world --questions_per": "--questions_per_clip",
    "avrt traces merge": "merge_adapter",
    "avrt traces run --merger.att": "--merger.attempts",
    "avrt export --lay": "--layout",
    "avrt doctor --config grpo.yaml --pl": "--plan",
    "avrt completion f": "fish",
}


@pytest.fixture
def desk(tmp_path):
    """(folder with clips and a configuration, environment with `avrt` on its path)."""
    tools = tmp_path / "bin"
    for folder in (tools, tmp_path / "work" / "clips"):
        folder.mkdir(parents=True)
    (tmp_path / "work" / "mine.yaml").write_text("{}")
    command = tools / "avrt"
    command.write_text(f'#!/bin/sh\nexec env PYTHONPATH={ROOT} {sys.executable} -m avrt "$@"\n')
    command.chmod(0o755)
    return tmp_path / "work", {"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}


def shell(command, script, desk):
    folder, environment = desk
    done = subprocess.run(
        [*command, script], cwd=folder, env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stderr == ""
    return done.stdout


def test_bash_completes_commands_options_values_configurations_and_folders(desk):
    script = BASH + "complete -p avrt\n" + "".join(f'ask "{line}"\n' for line in ASKED)
    registered, *told = [line.strip() for line in shell(["bash", "--norc", "-c"], script, desk).splitlines()]
    assert dict(zip(ASKED, told, strict=True)) == ASKED
    assert "-o default " in registered  # where nothing is offered bash itself offers files and folders


def test_bash_lists_every_packaged_configuration(desk):
    told = shell(["bash", "--norc", "-c"], BASH + 'ask "avrt fit --config "\n', desk).split()
    assert set(packaged_configs()) <= set(told)


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
def test_fish_completes(desk):
    script = "avrt completion fish | source; complete -C 'avrt fit --config nano/g'; complete -C 'avrt shards dailyo'"
    assert shell(["fish", "--no-config", "-c"], script, desk).split() == ["nano/grpo.yaml", "dailyomni"]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_registers_its_completion(desk):
    script = 'autoload -U compinit; compinit -u; eval "$(avrt completion zsh)"; print $_comps[avrt]'
    assert shell(["zsh", "-f", "-c"], script, desk).strip().startswith("_python_argcomplete")


def test_nothing_heavy_is_imported_at_a_tab(desk):
    folder, environment = desk
    for line in (
        "avrt fit --config grpo.yaml --model.",
        "avrt shards nano_world --",
        "avrt traces run --",
        "avrt doctor --",
    ):
        asked = {**environment, "_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line))}
        asked |= {"PYTHONPATH": str(ROOT), "_ARGCOMPLETE_STDOUT_FILENAME": str(folder / "offered")}
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "avrt"], cwd=folder, env=asked, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        imported = {row.rpartition("|")[2].strip() for row in done.stderr.splitlines()}
        assert imported.isdisjoint(("torch", "lightning", "transformers"))
        assert "argcomplete" in imported
        assert "--" in (folder / "offered").read_text()
