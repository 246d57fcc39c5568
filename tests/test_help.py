"""Help on one screen, with the values of the chosen configurations, and everything behind `--help all`."""

import re
import subprocess
import sys

import pytest

from avrt.commands.help_page import LISTED, REST, page
from avrt.commands.option_table import MODULES, chosen, find, leaves, option_table, optional_groups
from avrt.configurations import find_config
from tests.conftest import avrt

HEAVY = "('torch', 'lightning', 'transformers', 'numpy', 'jsonargparse')"


def configs(*names):
    return [word for name in names for word in ("--config", str(find_config(name)))]


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("fit", ()), ("fit", ("sft.yaml",)), ("fit", ("grpo.yaml", "nano/grpo.yaml")), ("validate", ()), ("test", ()),
        ("predict", ()),
    ],
)  # fmt: skip
def test_a_page_is_one_screen(command, names, width):
    lines = page(command, configs(*names), width)
    assert len(lines) <= 52
    assert max(map(len, lines)) <= width
    assert "--help all" in lines[-2]


def test_values_are_those_of_the_configurations_and_overrides_the_later_ones_winning():
    told = "\n".join(page("fit", [*configs("grpo.yaml", "nano/grpo.yaml"), "--model.loss.beta", "0.5"]))
    assert "--model.group_size 8 " in told  # nano/grpo.yaml
    assert "--model.student.source nano " in told
    assert "--model.loss.epsilon 0.2 " in told  # grpo.yaml
    assert "--model.loss.beta 0.5 " in told  # the command line
    assert "--trainer.default_root_dir runs/nano/grpo" in told
    assert re.search(r"--model.group_size 8 +G, completions per question", told)


def test_what_is_listed_exists():
    for path in MODULES:
        table = option_table(chosen("fit", ["--model", path]))
        for name in LISTED[path.rpartition(".")[2]]:
            assert find(table, f"model.{name}"), name
    for command, sections in REST.items():
        table = option_table(chosen(command, []))
        for section, names in sections.items():
            assert all(find(table, f"{section}.{name}") for name in names)


def test_pages_import_nothing_heavy():
    code = (
        "import sys; from avrt.cli import main\n"
        "for line in ('fit --help', 'test --config omnibench.yaml --help'):\n"
        "    sys.argv = ['avrt', *line.split()]; main()\n"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", ["fit", "predict"])
def test_the_table_and_the_parsers_own_listing_have_the_same_options(command):
    told = avrt(command, "--help", "all", "--config", "grpo.yaml").stdout
    listed = {re.sub(r"(\.help|\+)$", "", name) for name in re.findall(r"^  (?:-\w, )?--([\w.+]+)", told, re.MULTILINE)}

    def names(option):
        yield option.name
        for child in (option.children or {}).values():
            yield from names(child)

    table = option_table(chosen(command, configs("grpo.yaml")))
    known = {name for option in table.values() for name in names(option)}
    below = {leaf.name for o in table.values() for group in optional_groups(o) for leaf in leaves(group)}
    assert listed <= known
    assert {leaf.name for option in table.values() for leaf in leaves(option)} - {"config"} <= listed
    assert below
    parser = told[: told.index("\n--data.")]  # what it does not list by itself comes behind it
    assert not any(f"--{name} " in parser for name in below)


def test_the_parser_takes_what_it_does_not_list():
    done = avrt(
        "fit", "--config", "grpo.yaml", "--data.dropout.audio", "0.25", "--model.student.lora.rank", "3",
        "--model.vllm.sleep", "true", "--data.ask.spec.frames", "2", "--data.ask.clip", "a.mp4", "--data.ask.question",
        "Which?", "--data.ask.choices", "[a, b]", "--print_config",
    )  # fmt: skip
    for line in ("audio: 0.25", "rank: 3", "sleep: true", "frames: 2"):
        assert line in done.stdout


def test_doctor_prints_its_help_without_what_it_checks():
    code = (
        "import sys; from avrt.cli import main; sys.argv = ['avrt', 'doctor', '--help']; main()\n"
        "print([m for m in ('torch', 'lightning', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--ckpt_path" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
