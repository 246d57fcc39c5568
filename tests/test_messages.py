"""Foreign texts on a terminal: no character acts on it, and lines stay where they may."""

import shlex
from pathlib import Path

from avrt.messages import print_results, printable, quoted


def test_control_characters_are_escaped():
    assert printable("a\x1b[2Jb\u202ec\td\n") == "a\\x1b[2Jb\\u202ec\\x09d\\x0a"


def test_lines_and_tabs_may_stay():
    assert printable("a\tb\r\nc\x07\u2028d\n", keep_lines=True) == "a\tb\nc\\x07\\u2028d\n"


def test_results_are_two_lines(capsys):
    print_results("checkpoint", "runs/sft", "avrt export --ckpt_path runs/sft --out model")
    assert capsys.readouterr().out == "checkpoint: runs/sft\nnext: avrt export --ckpt_path runs/sft --out model\n"
    print_results("report", "r.html")
    assert capsys.readouterr().out == "report: r.html\n"


def test_a_quoted_word_is_one_word_without_active_characters():
    assert quoted(Path("runs/sft")) == "runs/sft"
    assert shlex.split(quoted("my runs' $HOME")) == ["my runs' $HOME"]
    assert quoted("a\x1b[2J") == "'a\\x1b[2J'"
