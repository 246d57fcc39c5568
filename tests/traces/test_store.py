"""The store: claims between processes, durability, and what happens when it cannot be written."""

import asyncio
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from avrt.errors import AvrtError
from avrt.traces.database import connect, rows
from avrt.traces.outcomes import Outcome
from avrt.traces.postgres_store import _HELD
from avrt.traces.requests import Media, Reply, Request, Sampling
from avrt.traces.store import CallStore
from avrt.traces.store_errors import UnstorableError
from avrt.traces.store_place import read_place, written


def request(sample="q1", **changes):
    return Request(
        **{"role": "visual", "sample_id": sample, "system": "", "prompt": "p", "sampling": Sampling(), **changes}
    )


def test_a_finished_call_is_kept(place):
    async def first():
        store = CallStore(place)
        assert (await store.claim("k", request(), "m")).state == "mine"
        await store.finish("k", Reply("text", "thought", "stop", 3, 4, 0.5, 2))
        store.close()

    async def second():
        store = CallStore(place)
        claim = await store.claim("k", request(), "m")
        store.close()
        return claim

    asyncio.run(first())
    claim = asyncio.run(second())
    assert claim.state == "done"
    assert claim.reply == Reply("text", "thought", "stop", 3, 4, 0.5, 2)


def test_a_store_of_sqlite_is_written_ahead(tmp_path):
    CallStore(tmp_path).close()
    with connect(tmp_path) as db:
        assert db.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        assert db.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2


def test_claims_of_a_living_process_are_respected_and_those_of_a_dead_one_are_not(place):
    script = (
        "import asyncio, sys, time\nfrom avrt.traces.store_place import read_place\n"
        "from avrt.traces.requests import Request, Sampling\nfrom avrt.traces.store import CallStore\n"
        "async def go():\n    store = CallStore(read_place(sys.argv[1]))\n"
        "    await store.claim('k', Request('visual', 'q1', '', 'p', Sampling()), 'm')\n"
        "    print('claimed', flush=True)\n    time.sleep(60)\nasyncio.run(go())\n"
    )
    other = subprocess.Popen([sys.executable, "-c", script, written(place)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "claimed\n"

        async def ask():
            store = CallStore(place)
            state = (await store.claim("k", request(), "m")).state
            store.close()
            return state

        assert asyncio.run(ask()) == "elsewhere"
    finally:
        other.kill()
        other.wait()
    deadline = time.monotonic() + 30
    while (state := asyncio.run(ask())) != "mine" and time.monotonic() < deadline:
        time.sleep(0.05)  # the server notices at once that a process is gone, but not before it
    assert state == "mine"


def test_the_next_run_retries_failed_calls_unless_switched_off(place):
    async def state(**options):
        store = CallStore(place, **options)
        claim = await store.claim("k", request(), "m")
        again = await store.claim("k", request(), "m") if claim.state == "mine" else claim
        await store.fail("k", "broken")
        third = await store.claim("k", request(), "m")
        close(store)
        return claim.state, again.state, third.state

    assert asyncio.run(state()) == ("mine", "mine", "failed")
    assert asyncio.run(state(retry_failed=False))[0] == "failed"
    assert asyncio.run(state())[0] == "mine"


def test_what_fails_in_a_run_is_not_repeated_by_its_other_workers(place):
    async def go():
        one, two, late = CallStore(place), CallStore(place), None
        await one.claim("k", request(), "m")
        await one.fail("k", "broken")
        states = [(await two.claim("k", request(), "m")).state]
        late = CallStore(place)  # a worker that begins while the others still run
        one.close()
        states += [(await store.claim("k", request(), "m")).state for store in (two, late)]
        two.close()
        late.close()
        return states

    assert asyncio.run(go()) == ["failed"] * 3


def test_a_failed_call_that_is_claimed_again_and_given_up_has_still_failed(place):
    async def go():
        first = CallStore(place)
        await first.claim("k", request(), "m")
        await first.fail("k", "broken")
        close(first)
        second, third = CallStore(place), CallStore(place)
        states = [(await second.claim("k", request(), "m")).state]
        await second.release("k")
        found = [(row["status"], row["error"]) for row in rows(place, "SELECT * FROM calls")]
        states.append((await third.claim("k", request(), "m")).state)  # nobody has made it in this run
        second.close()
        third.close()
        return states, found

    assert asyncio.run(go()) == (["mine", "mine"], [("failed", "broken")])


def close(store):
    """Close a store, and wait until its owner is gone: a server notices at once that a session ends, not before."""
    place, name = store._place, store._owner.name
    store.close()
    deadline = time.monotonic() + 30
    with connect(place) as db:
        while not isinstance(place, Path) and time.monotonic() < deadline:
            db.rollback()
            if (name.rpartition(":")[2]) not in {f"{key & (1 << 64) - 1:016x}" for key in db.scalars(_HELD)}:
                return
            time.sleep(0.02)


def test_a_key_depends_on_everything_that_a_reply_depends_on():
    base = request().key("m")
    shown = Media({"0.jpg": b"a", "clip.json": b"{}"})
    others = [
        request("q2"), request(role="audio"), request(system="s"), request(prompt="q"), request(media=shown),
        request(sampling=Sampling(temperature=1.0)), request(sampling=Sampling(extra={"top_k": 3})), request(number=1),
    ]  # fmt: skip
    keys = {base, request().key("m2"), *(other.key("m") for other in others)}
    assert len(keys) == len(others) + 2
    assert request().key("m") == base


def test_media_are_split_by_sense():
    raw = {
        "__key__": "0",
        "0.jpg": b"a",
        "10.jpg": b"c",
        "2.jpg": b"b",
        "image.jpg": b"d",
        "flac": b"s",
        "clip.json": b"{}",
        "json": b"",
    }
    assert Media.of(raw, ("vision",)).images == [b"a", b"b", b"c", b"d"]
    assert Media.of(raw, ("vision",)).audio is None
    assert Media.of(raw, ("audio",)).images == []
    assert Media.of(raw, ("audio",)).audio == b"s"
    assert not Media.of({"clip.json": b"{}"}, ("audio",))


def test_a_full_disk_ends_with_a_clear_message_and_keeps_what_was_done(tmp_path):
    async def fill():
        store = CallStore(tmp_path)
        await store.claim("k0", request("q0"), "m")
        await store.finish("k0", Reply("kept"))
        with connect(tmp_path) as db:
            pages = db.exec_driver_sql("PRAGMA page_count").scalar_one()
        # SQLite itself refuses to grow the file, as it does where the disk is full.
        await store._writer.do(
            lambda db, numbers: [db.exec_driver_sql(f"PRAGMA max_page_count = {n}") for n in numbers], pages + 2
        )
        try:
            for i in range(1, 50):
                await store.claim(f"k{i}", request(f"q{i}", prompt="long " * 2000), "m")
        finally:
            store.close()

    with pytest.raises(AvrtError, match=r"store\.sqlite3.*full.*finished calls are kept"):
        asyncio.run(fill())
    assert [row["text"] for row in rows(tmp_path, "SELECT text FROM calls WHERE key = 'k0'")] == ["kept"]


def test_outcomes_replace_those_of_an_earlier_run(place):
    async def go():
        store = CallStore(place)
        verdict = {"teacher": "audio", "letter": "A", "votes": '["A"]', "answer": "A", "correct": 1, "call": "k"}
        await store.record_outcome("one", Outcome("q1", 0, "dropped", "filter: audio wrong", "hard", "c"), [verdict])
        await store.record_outcome("two", Outcome("q1", 0, "kept", None, "easy", "c", "trace", "k"), [verdict])
        store.close()

    asyncio.run(go())
    assert [dict(r) for r in rows(place, "SELECT run, status FROM outcomes")] == [{"run": "two", "status": "kept"}]
    assert len(list(rows(place, "SELECT * FROM verdicts"))) == 1


def test_files_that_are_not_a_store_are_refused(tmp_path):
    with pytest.raises(AvrtError, match="holds no traces"):
        connect(tmp_path)
    (tmp_path / "store.sqlite3").write_text("not a database, but long enough to be looked at as one" * 50)
    with pytest.raises(AvrtError, match="not a database"):
        connect(tmp_path)
    (tmp_path / "store.sqlite3").unlink()
    with sqlite3.connect(tmp_path / "store.sqlite3") as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(AvrtError, match="version 99"):
        connect(tmp_path)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_processes_that_start_together_create_one_store(kind, tmp_path, request):
    program = """
import sys, time
from avrt.traces.store import CallStore
from avrt.traces.store_place import read_place
print("ready", flush=True)
begin = float(sys.stdin.readline())
for i, place in enumerate(sys.argv[1:]):
    while time.time() < begin + 0.05 * i:
        pass
    CallStore(read_place(place)).close()
"""
    if kind == "sqlite":
        places = [str(tmp_path / str(i)) for i in range(40)]
    else:
        places = [request.getfixturevalue("cluster").new() for _ in range(5)]
    command = [sys.executable, "-c", program, *places]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write(f"{time.time() + 0.2}\n")
        process.stdin.flush()
    for process in processes:
        assert process.communicate(timeout=120)[1] == ""
        assert process.returncode == 0


ODD = "half \ud83d nul \0 pair \ud83e\udd41 line \u2028"
CLEAN = "half \ufffd nul \ufffd pair \U0001f941 line \u2028"


def test_texts_are_cleaned_before_they_are_kept(place):
    async def go():
        store = CallStore(place)
        odd = request(ODD, role=ODD, system=ODD, prompt=ODD)
        await store.claim("k", odd, ODD)
        kept = await store.finish("k", Reply(ODD, ODD, ODD))
        await store.claim("f", odd, ODD)
        await store.fail("f", ODD)
        verdict = {"teacher": ODD, "letter": "A", "votes": "[]", "answer": "A", "correct": 1, "call": "k"}
        for _ in range(2):  # the second time in place of the first
            await store.record_outcome("run", Outcome(ODD, 0, "kept", ODD, "easy", "c", ODD), [verdict])
        found = (await store.claim("k", odd, ODD)).reply
        store.close()
        return kept, found

    kept, found = asyncio.run(go())
    assert kept == found == Reply(CLEAN, CLEAN, CLEAN)
    done, failed = rows(place, "SELECT * FROM calls ORDER BY status")
    for row in (done, failed):
        assert [row[name] for name in ("sample", "role", "model", "system", "prompt")] == [CLEAN] * 5
    assert failed["error"] == CLEAN
    (outcome,) = rows(place, "SELECT * FROM outcomes")
    assert (outcome["sample"], outcome["reason"], outcome["trace"]) == (CLEAN, CLEAN, CLEAN)
    (verdict,) = rows(place, "SELECT * FROM verdicts")
    assert (verdict["sample"], verdict["teacher"]) == (CLEAN, CLEAN)


def test_a_record_that_the_database_refuses_does_not_fail_its_group(place):
    async def go():
        store = CallStore(place)
        for i in range(6):
            await store.claim(f"k{i}", request(f"q{i}"), "m")
        replies = [Reply(f"text {i}", prompt_tokens=10**30 if i == 3 else i) for i in range(6)]
        # Queued at once, so that they are written in one group.
        done = await asyncio.gather(
            *(store.finish(f"k{i}", reply) for i, reply in enumerate(replies)), return_exceptions=True
        )
        await store.fail("k3", "cannot be kept")
        store.close()
        return done

    done = asyncio.run(go())
    assert [type(answer) for answer in done] == [Reply] * 3 + [UnstorableError] + [Reply] * 2
    kept = {row["key"]: row["status"] for row in rows(place, "SELECT * FROM calls")}
    assert kept == {f"k{i}": "failed" if i == 3 else "done" for i in range(6)}


def test_two_owners_never_both_get_a_call(place):
    """Many calls at once, in opposite orders, half of them left by an owner that is gone."""

    async def go():
        keys = [f"k{i:04d}" for i in range(600)]
        gone = CallStore(place)
        await asyncio.gather(*(gone.claim(key, request(key), "m") for key in keys[::2]))
        gone.close()
        stores = [CallStore(place) for _ in range(3)]
        orders = [keys, keys[::-1], keys[300:] + keys[:300]]
        claims = await asyncio.gather(
            *(
                store.claim(key, request(key), "m")
                for step in zip(*orders, strict=True)
                for store, key in zip(stores, step, strict=True)
            )
        )
        again = await asyncio.gather(*(stores[0].claim(key, request(key), "m") for key in keys))
        for store in stores:
            store.close()
        asked = [key for step in zip(*orders, strict=True) for key in step]
        return keys, list(zip(asked, claims, strict=True)), again

    keys, claims, again = asyncio.run(go())
    states = {key: sorted(claim.state for asked, claim in claims if asked == key) for key in keys}
    assert set(map(tuple, states.values())) == {("elsewhere", "elsewhere", "mine")}
    mine = sum(claim.state == "mine" for (_, claim) in claims[::3])
    assert sum(claim.state == "mine" for claim in again) == mine


def test_a_worker_that_loses_the_database_ends_and_its_claims_go_to_others(cluster):
    address = cluster.new()
    place = read_place(address)

    async def go():
        store, other = CallStore(place), CallStore(place)
        await store.claim("k", request(), "m")
        assert (await other.claim("k", request(), "m")).state == "elsewhere"
        me = store._owner.name
        cluster.run(
            address,
            f"SELECT pg_terminate_backend(pid) FROM pg_locks WHERE objid = (x'{me[-8:]}'::bit(32)::bigint)::oid",
        )
        with pytest.raises(AvrtError, match=r"the store cannot be used: .*; finished calls are kept") as lost:
            await store.finish("k", Reply("too late"))
        with pytest.raises(AvrtError, match="the store cannot be used"):
            await store.claim("other", request("q2"), "m")
        state = (await other.claim("k", request(), "m")).state
        for each in (store, other):
            each.close()
        return state, str(lost.value)

    state, told = asyncio.run(go())
    assert state == "mine"
    assert "\n" not in told
    assert [row["text"] for row in rows(place, "SELECT text FROM calls")] == [None]


def test_texts_are_sorted_alike_by_both_databases(cluster, tmp_path):
    names = ["b", "B", "a", "\u00e9", "z", "_", "\U0001f941", "a b", "ab"]

    async def go(place):
        store = CallStore(place)
        for name in names:
            await store.claim(name, request(name), "m")
        store.close()
        return [row["sample"] for row in rows(place, "SELECT sample FROM calls ORDER BY sample")]

    assert asyncio.run(go(cluster.new_place())) == asyncio.run(go(tmp_path)) == sorted(names)
