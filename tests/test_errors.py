"""Errors carry place and remedy, in one line, also across processes."""

import pickle

from avrt.errors import AvrtError, BadSampleError


def test_one_line_with_place_and_remedy():
    assert str(AvrtError("no shards here", where="dir", remedy="make some")) == "dir: no shards here (make some)"
    assert str(AvrtError("broken")) == "broken"


def test_survives_pickling():
    copy = pickle.loads(pickle.dumps(BadSampleError("too long", where="sample 'x'", remedy="raise it")))
    assert type(copy) is BadSampleError
    assert str(copy) == "sample 'x': too long (raise it)"
