"""Files that appear whole or not at all, and checksums of several files."""

import hashlib

import pytest

from avrt.files import blake2b, open_whole, write_whole


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "a.txt"
    with open_whole(path) as stream:
        stream.write(b"one ")
        assert not path.exists()
        stream.write(b"two")
    assert path.read_bytes() == b"one two"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_keeps_the_earlier_file(tmp_path):
    path = tmp_path / "a.txt"
    write_whole(path, b"before")

    def fail_half_way():
        with open_whole(path) as stream:
            stream.write(b"half")
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        fail_half_way()
    assert path.read_bytes() == b"before"


def test_one_checksum_of_several_files(tmp_path):
    for name, data in (("a", b"12"), ("b", b"345")):
        (tmp_path / name).write_bytes(data)
    expected = hashlib.blake2b(b"12345", digest_size=6).hexdigest()
    assert blake2b([tmp_path / "a", tmp_path / "b"], digest_size=6) == expected
    assert blake2b([tmp_path / "b", tmp_path / "a"], digest_size=6) != expected
