"""Foreign texts on a terminal: no character acts on it, and lines stay where they may."""

from avrt.messages import printable


def test_control_characters_are_escaped():
    assert printable("a\x1b[2Jb\u202ec\td\n") == "a\\x1b[2Jb\\u202ec\\x09d\\x0a"


def test_lines_and_tabs_may_stay():
    assert printable("a\tb\r\nc\x07\u2028d\n", keep_lines=True) == "a\tb\nc\\x07\\u2028d\n"
