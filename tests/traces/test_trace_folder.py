"""Trace folders and their stores: names in a database, which store a record may lead to, and the draw of traces."""

import asyncio
import json
from collections import Counter

import pytest

from avrt.errors import AvrtError
from avrt.traces.outcomes import Outcome
from avrt.traces.selection import draw_traces
from avrt.traces.store import CallStore
from avrt.traces.store_place import read_place, written
from avrt.traces.trace_folder import TraceFolder


def test_folders_of_one_name_about_other_questions_have_outcomes_of_their_own(place, tmp_path):
    async def go(folder, status):
        store = CallStore(place, results=folder.name)
        await store.record_outcome("run", Outcome("q1", 0, status, None, "easy", "c"), [])
        store.close()
        return [row["status"] for row in folder.rows("outcomes", "run")]

    found = [
        TraceFolder.of_run(str(tmp_path / out / "traces"), None, written(place)).of_questions(out * 32)
        for out in ("a1", "b2")
    ]
    for folder, status in zip(found, ("kept", "dropped"), strict=True):
        assert asyncio.run(go(folder, status)) == [status]
    assert [row["status"] for row in found[0].rows("outcomes", "run")] == ["kept"]


def test_a_draw_in_either_database_keeps_as_many_as_wanted_and_can_be_repeated(place, tmp_path):
    folder = TraceFolder.of_run(str(tmp_path / "traces"), None, written(place))

    async def go():
        store = CallStore(place, results=folder.name)
        for i in range(9):
            await store.record_outcome("run", Outcome(f"q{i}", i, "kept" if i else "failed", None, "easy", f"c{i}"), [])
        store.close()

    def draw(number):
        missing = draw_traces(folder, "run", Counter(train=number), 0, 0.0)
        found = folder.rows("outcomes", "run")
        return missing, {row["sample"] for row in found if row["status"] == "kept"}, found[0]["status"]

    asyncio.run(go())
    three, five = draw(3), draw(5)
    assert (len(three[1]), len(five[1]), three[2]) == (3, 5, "failed")
    assert three[1] < five[1]
    assert draw(3) == three
    assert draw(20)[0] == {"train": 12}


@pytest.mark.parametrize(
    ("store", "told"),
    [
        ("postgresql://me@db.example/traces", "of another machine"),
        ("postgresql:///traces?host=localhost,db.example", "of another machine"),
        ("postgresql://localhost/traces?service=theirs", "of another machine"),
        ("../../../calls", "far from this folder"),
        ("/calls", "far from this folder"),
        ("postgresql://localhost:5433/traces", None),
        ("postgresql:///traces?host=/run/postgresql", None),
        ("../../calls", None),
        (".", None),
    ],
)
def test_a_record_of_somebody_else_does_not_decide_where_one_connects(tmp_path, store, told):
    folder = tmp_path / "a" / "b" / "traces"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"run": "r", "data": "d", "store": store, "folder": "traces"}))
    if told is None:
        assert TraceFolder.find(folder).name == "traces"
        return
    with pytest.raises(AvrtError, match=rf"{told}.*--store") as refused:
        TraceFolder.find(folder)
    assert "\n" not in str(refused.value)
    named = TraceFolder.find(folder, "postgresql://me@mine.example/traces")
    assert (named.name, written(named.store)) == ("traces", "postgresql://me@mine.example/traces")


@pytest.mark.parametrize("query", ["password=geheim", "sslpassword=geheim", "SSLPassword=geheim"])
def test_an_address_with_a_password_is_refused(query):
    with pytest.raises(AvrtError, match="has a password in it") as refused:
        read_place(f"postgresql://me@host/db?{query}")
    assert "geheim" not in str(refused.value)
