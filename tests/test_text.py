"""Odd characters are kept, joined or replaced, and never end a reader or a writer."""

import json

import pytest

from avrt.text import clean, clean_all, did_you_mean, json_lines, read_json_lines, to_json


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a dog", "a dog"),
        ("half \ud83d", "half \ufffd"),
        ("\udd25 half", "\ufffd half"),
        ("\ud83d\ude00", "😀"),
        ("😀 Grüße\u2028\u0085", "😀 Grüße\u2028\u0085"),
        ("nul\0byte", "nul\ufffdbyte"),
        ("ascii\0", "ascii\ufffd"),
        ("\ufeffmark", "\ufeffmark"),
        ("", ""),
    ],
)
def test_a_cleaned_text_can_be_encoded(given, expected):
    assert clean(given) == expected
    clean(given).encode()


def test_values_are_cleaned_all_the_way_down():
    dirty = {"a\ud83d": ["b\0", {"c": ("d\udd25", 1, None)}]}
    assert clean_all(dirty) == {"a\ufffd": ["b\ufffd", {"c": ["d\ufffd", 1, None]}]}


def test_json_keeps_what_can_be_written():
    written = to_json({"text": "é\u2028\ud83d\0"})
    assert json.loads(written.encode().decode()) == {"text": "é\u2028\ufffd\0"}
    assert "é" in written


def test_lines_end_at_newlines_only(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"q": "one\u2028two"}, {"q": "x\u0085y\u2029"}]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n\n".join(to_json(row) for row in rows).encode())
    assert read_json_lines(path) == rows
    assert [number for number, _ in json_lines(path.read_bytes())] == [1, 3]


@pytest.mark.parametrize("data", [b'{"a": 1}\n{"b": \n', b'{"a": 1}\n' + b"[" * 100_000])
def test_a_broken_line_is_named(data):
    with pytest.raises(ValueError, match="line 2 is not JSON"):
        list(json_lines(data))


def test_the_nearest_known_name_is_offered_and_none_that_is_far():
    known = ["fit", "validate", "sft.yaml", "nano/sft.yaml", "model.student.source"]
    assert did_you_mean("fti", known) == "did you mean fit?"
    assert did_you_mean("SFFT.yaml", known) == "did you mean sft.yaml?"
    assert did_you_mean("modle.student.sourc", known) == "did you mean model.student.source?"
    assert did_you_mean("qqq", known) is None
