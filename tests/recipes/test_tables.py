"""Annotation files of every format: odd texts, odd encodings, odd rows; each row is used, or left out by its name."""

import json
import os
import sys

import pyarrow
import pyarrow.parquet
import pytest

from avrt.commands import shards as shards_command
from avrt.data.shards.conversion import SourceItem
from avrt.data.shards.manifest import Manifest
from avrt.data.shards.reader import ShardSet
from avrt.data_recipes.folder import Folder
from avrt.data_recipes.mmar import MMAR
from avrt.errors import AvrtError, BadSampleError, NothingUsableError
from avrt.messages import printable, short
from tests.recipes.test_benchmarks import sound
from tests.recipes.test_own_data import music

ROW = {"question": "What is it?", "choices": ["a dog", "a cat", "a car"], "answer": "B", "media": "s.wav"}
OPTIONS = ("--frames", "2", "--audio-seconds", "1", "--min-pixels", "3136", "--max-pixels", "6272", "--workers", "1")


@pytest.fixture
def root(tmp_path):
    sound(tmp_path / "s.wav")
    return tmp_path


def write(root, rows):
    (root / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))


def convert(root, *extra):
    shards_command.main(["folder", "--root", str(root), "--out", str(root / "out"), *OPTIONS, *extra])
    return ShardSet(root / "out")


def reasons(items):
    return [str(item) for item in items if isinstance(item, BadSampleError)]


def used(items):
    return [item.sample for item in items if isinstance(item, SourceItem)]


def test_odd_texts_are_used_in_every_field_and_can_be_read_again(root, capsys):
    half, lines, nul, bom = "\ud83d", "\u2028\u2029\x85", "\0", "\ufeff"
    rows = [
        {**ROW, "id": f"half {half}", "question": f"what {half}?", "choices": [f"x{half}", "y"], "answer": f"x{half}"},
        {**ROW, "id": f"lines {lines}", "question": f"what {lines}?", "choices": [f"x{lines}z", "y"], "answer": "y"},
        {**ROW, "id": f"nul {nul}", "note": nul, nul: "key", "trace": f"<think>{nul}</think><answer>B</answer>"},
        {**ROW, "id": f"bom {bom}", "question_type": f"{bom}{half}", "relation": "audio"},
        {**ROW, "id": "media", "media": f"s{half}.wav"},
        {**ROW, "id": "\x1b[2J\nnew line/../.."},
        {**ROW, "id": "long" * 5000},
    ]
    write(root, [{**row, "video_id": "one"} for row in rows])
    shards = convert(root)
    samples = {s.id: s for s in shards.samples()}
    assert set(samples) == {
        "half \ufffd", f"lines {lines}", "nul \ufffd", f"bom {bom}", "\x1b[2J\nnew line/../..", "long" * 5000
    }  # fmt: skip
    assert samples["half \ufffd"].choices == ("x\ufffd", "y")
    assert samples["half \ufffd"].answer == 0
    assert samples[f"lines {lines}"].question == f"what {lines}?"
    assert samples["nul \ufffd"].trace == "<think>\ufffd</think><answer>B</answer>"
    assert [name for name in shards.manifest.skipped if "media" in shards.manifest.skipped[name]] == ["media"]
    assert shards.manifest.notes.keys() == {"half \ufffd", "nul \ufffd", f"bom {bom}"}
    assert all("U+FFFD" in note for [note, *_] in shards.manifest.notes.values())
    shards_command.main(["verify", str(root / "out")])
    for sample in samples.values():
        shards_command.main(["show", str(root / "out"), "--id", sample.id, "--out", str(root / "look")])
    with pytest.raises(SystemExit):
        shards_command.main(["overlap", str(root / "out"), str(root / "out"), "--out", str(root / "pairs.jsonl")])
    told = capsys.readouterr().out
    assert "6 of 6 samples are intact" in told
    assert not set(told) & set("\x1b\x85\u2028\u2029\ufeff\0")
    pairs = [json.loads(line) for line in (root / "pairs.jsonl").read_bytes().split(b"\n") if line]
    assert {pair["test"] for pair in pairs} == set(samples)


def test_resumed_shards_with_odd_texts_are_the_same(root, tmp_path):
    write(root, [{**ROW, "id": f"{i}\ud83d"} for i in range(5)] + [{**ROW, "id": "x", "answer": "\ud83d"}] * 2)
    from avrt.data.media.clip import ClipSpec
    from avrt.data.shards.conversion import write_shards

    def stopped():
        yield from list(Folder().items(root))[:5]
        raise KeyboardInterrupt

    whole = write_shards(Folder().items(root), root / "whole", ClipSpec(), samples_per_shard=2)
    with pytest.raises(KeyboardInterrupt):
        write_shards(stopped(), root / "cut", ClipSpec(), samples_per_shard=2)
    resumed = write_shards(Folder().items(root), root / "cut", ClipSpec(), samples_per_shard=2, resume=True)
    assert (root / "whole" / "manifest.json").read_bytes() == (root / "cut" / "manifest.json").read_bytes()
    assert resumed.labels == whole.labels == {"answer": 5, "trace": 0}
    assert len(whole.skipped) == 2


def test_a_line_that_is_no_json_costs_itself_alone(root):
    lines = [json.dumps(ROW).encode(), b'{"question": ', b"\xe9\xff", json.dumps({**ROW, "id": 1e999}).encode(),
             b"[" * 100_000, b'{"n": ' + b"1" * 5000 + b"}", b"null", b'{"question": "a", "question": "b"}',
             json.dumps({**ROW, "question": "a\u2028b"}, ensure_ascii=False).encode()]  # fmt: skip
    (root / "questions.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    found = list(Folder().items(root))
    assert [s.question for s in used(found)] == [ROW["question"], "a\u2028b"]
    told = sorted(reasons(found))
    assert len(told) == 7
    assert all(reason.startswith("q-0000") and len(reason) < 200 for reason in told)
    for part, number in (("line 2 is not JSON", 1), ("line 3 is not UTF-8", 1), ("field 'question' twice", 1)):
        assert sum(part in reason for reason in told) == number


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("q.jsonl", json.dumps(ROW).encode("utf-16"), "UTF-16"),
        ("q.json", json.dumps([ROW]).encode("utf-16-be"), "UTF-16"),
        ("q.json", b'[{"question": "caf\xe9"}]', "line 1 is not UTF-8"),
        ("q.csv", b"question,answer\ncaf\xe9,B\n", "line 2 is not UTF-8"),
        ("q.jsonl", b"caf\xe9\n", "line 1 is not UTF-8"),
        ("q.json", b"[" * 100_000, "not JSON"),
        ("q.json", b'{"rows": []}', "not a list of questions"),
        ("q.csv", b"a,a\n1,2\n", "same name"),
        ("q.csv", b'question\n"' + b"x" * 200_000 + b'"\n', "field larger"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(root, name, data, told):
    (root / name).write_bytes(data)
    with pytest.raises(AvrtError, match=told) as error:
        list(Folder(name).items(root))
    assert name in str(error.value)
    assert len(str(error.value)) < 300 + len(str(root))


def test_tables(root):
    header = "id,question,A,B,C,answer,media,source\n"
    (root / "q.csv").write_text(
        "\ufeff" + header + 'one,"What, is\nit?",a dog,a cat,,B,s.wav,me\ntwo,Which?,a dog,a cat,a car,2,s.wav,\n'
        "three,Which?,1,2,3,2,s.wav,\nfour,Which?,a,b,c,,s.wav,\nfive,Which?,a dog,b,c,AB,s.wav,,,\n"
    )
    found = list(Folder("q.csv").items(root))
    samples = {s.id: s for s in used(found)}
    assert {i: (s.choices, s.answer) for i, s in samples.items()} == {
        "one": (("a dog", "a cat"), 1), "two": (("a dog", "a cat", "a car"), 2), "four": (("a", "b", "c"), None)
    }  # fmt: skip
    assert samples["one"].question == "What, is\nit?"
    assert samples["one"].metadata == {"source": "me"}
    assert len(reasons(found)) == 2
    assert any("'answer' is 2, which may be an index or the text of choice B" in reason for reason in reasons(found))
    assert any("line 7 has more cells than the header" in reason for reason in reasons(found))
    listed = 'question\tchoices\tanswer\tmedia\nWhich?\t["a dog", "a cat"]\ta cat\ts.wav\n'
    (root / "q.tsv").write_text(listed.replace('["a dog", "a cat"]', '"[""a dog"", ""a cat""]"'))
    [sample] = used(Folder("q.tsv").items(root))
    assert (sample.choices, sample.answer) == (("a dog", "a cat"), 1)
    (root / "s.csv").write_text("question;A;B;answer;media\nWhich, then?;x;y;y;s.wav\n")
    [sample] = used(Folder("s.csv").items(root))
    assert (sample.question, sample.choices, sample.answer) == ("Which, then?", ("x", "y"), 1)


def test_bytes_reach_neither_manifest_nor_terminal(root, capsys):
    """As `datasets` saves pictures and sound, in every field that a row has."""
    secret = bytes(range(256)) * 40
    media = {"bytes": secret, "path": None}
    base = {key: value for key, value in ROW.items() if key != "media"}
    kinds = ("image", "audio", "media")
    for field in (*kinds, "question", "choices", "answer", "id", "relation", "question_type", "trace", "extra"):
        for value in (media, secret, [media]):
            row = {**base, **({} if field in ("image", "audio") else {"media": "s.wav"}), field: value}
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row, row]), root / "q.parquet")
            for item in Folder("q.parquet").items(root):
                if field == "extra":
                    assert item.sample.metadata == {}
                else:
                    assert f"'{field}'" in str(item)
                    assert len(str(item)) < 200
    rows = [{**base, "image": media}, {**base, "image": {"bytes": None, "path": "s.wav"}}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), root / "q.parquet")
    with pytest.raises(NothingUsableError, match="none of 2"):
        convert(root, "--questions", "q.parquet")
    assert len(capsys.readouterr().out) < 600
    assert (root / "out" / "manifest.json").stat().st_size < 3000
    assert "holds bytes; recipes read files by path" in Manifest.load(root / "out").skipped["q-00000"]


def test_repeated_ids_are_used_once_where_they_agree_and_never_where_they_do_not(root, capsys):
    rows = [{**ROW, "id": "same", "source": i} for i in range(3)]
    rows += [{**ROW, "id": "other", "answer": letter} for letter in "BBC"]
    rows += [{**ROW, "id": 7, "answer": None}, {**ROW, "id": "7"}, {**ROW, "id": "alone"}]
    write(root, rows)
    shards = convert(root)
    assert {s.id for s in shards.samples()} == {"same", "alone"}
    assert len(shards) + len(shards.manifest.skipped) == len(rows)
    told = list(shards.manifest.skipped.values())
    assert sum("repeats q-00000" in reason for reason in told) == 2
    assert sum("id 'other' occurs again with other contents" in reason for reason in told) == 3
    assert sum("id '7' occurs again with other contents" in reason for reason in told) == 2
    assert "7 left out" in capsys.readouterr().out
    shards_command.main(["folder", "--root", str(root), "--out", "unused", "--dry-run"])
    printed = capsys.readouterr().out
    assert "2 questions, 2 of them with their media" in printed
    assert "7 rows cannot be used" in printed


def test_a_dry_run_counts_each_row_once(tmp_path, capsys):
    rows = [music(7, "v", "How many?", "one"), music(7, "v", "How many?", "two"), music(8, "v", "How many?", "one")]
    (tmp_path / "avqa-val.json").write_text(json.dumps(rows))
    with pytest.raises(NothingUsableError, match="none of 3 questions"):
        shards_command.main(["music_avqa", "--root", str(tmp_path), "--split", "val", "--out", "x", "--dry-run"])
    printed = capsys.readouterr().out
    assert "1 questions, 0 of them with their media" in printed
    assert "2 rows cannot be used" in printed


def test_nothing_used_is_status_1_and_leaves_a_manifest(root):
    import subprocess

    write(root, [{**ROW, "answer": "BC"}] * 3)
    for extra, status in (((), 1), (("--resume",), 1), (("--dry-run",), 1)):
        command = [sys.executable, "-m", "avrt", "shards", "folder", "--root", root, "--out", root / "out", *OPTIONS]
        done = subprocess.run([*command, *extra], capture_output=True, text=True, env=os.environ, check=False)
        assert done.returncode == status
        assert done.stderr.count("\n") == 1
        assert "none of 3 questions can be used" in done.stderr
    assert len(Manifest.load(root / "out").skipped) == 3
    (root / "questions.jsonl").write_text("")
    with pytest.raises(NothingUsableError, match="there are no questions"):
        shards_command.main(["folder", "--root", str(root), "--out", str(root / "empty"), *OPTIONS])


def test_indexes_that_look_as_if_they_counted_from_one_are_not_guessed(root):
    write(root, [{**ROW, "answer": i} for i in (1, 2, 3, "c", "3")])
    found = list(Folder().items(root))
    assert [s.answer for s in used(found)] == [2]
    assert sum("--count_from 1" in reason for reason in reasons(found)) == 4
    assert [s.answer for s in used(Folder(count_from=1).items(root))] == [0, 1, 2, 2, 2]
    assert [s.answer for s in used(Folder(count_from=0).items(root))] == [1, 2, 2]
    write(root, [{**ROW, "answer": i} for i in (0, 1, 2, 3)])
    assert [s.answer for s in used(Folder().items(root))] == [0, 1, 2]


def test_a_trace_goes_where_its_letters_are_wrong(root):
    trace = "<think>.</think><answer>C</answer>"
    write(root, [{**ROW, "choices": ["x", "x", "y"], "answer": "C", "trace": trace},
                 {**ROW, "choices": ["x", "y", "y"], "answer": "A", "trace": trace.replace("C", "A")}])  # fmt: skip
    first, second = Folder().items(root)
    assert (first.sample.choices, first.sample.answer, first.sample.trace) == (("x", "y"), 1, None)
    assert "trace is left out" in first.notes[-1]
    assert second.sample.trace == trace.replace("C", "A")


def test_a_link_out_of_the_folder_is_one_hint_for_all_and_followed_where_it_is_allowed(root, tmp_path_factory, capsys):
    outside = tmp_path_factory.mktemp("outside")
    for i in range(4):
        sound(outside / f"{i}.wav")
    (root / "linked").symlink_to(outside)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    media = [*(f"linked/{i}.wav" for i in range(3)), str(outside / "3.wav"), f"../{outside.name}/3.wav"]
    write(root, [ROW, *({**ROW, "media": name} for name in media)])
    convert(root)
    printed = capsys.readouterr().out
    assert printed.count("through a link") == printed.count("--media_root") == 1
    assert (
        f"5 rows name media outside of --root; if you trust these annotations, allow it with --media_root {outside}"
        in (printed)
    )
    assert len(used(Folder(media_root=str(outside)).items(root))) == 6
    assert len(used(Folder(media_root=str(elsewhere)).items(root))) == 1
    with pytest.raises(AvrtError, match="no such folder"):
        Folder(media_root=str(outside / "gone"))
    # a data set of another layout, whose folder of media is a link
    (elsewhere / "audio").symlink_to(outside)
    row = {"id": "1", "audio_path": "audio/0.wav", "question": "?", "choices": ["x", "y"], "answer": "x"}
    (elsewhere / "MMAR-meta.jsonl").write_text(json.dumps({**row, "category": "c"}))
    assert "through a link" in reasons(MMAR().items(elsewhere))[0]
    assert len(used(MMAR(media_root=str(outside)).items(elsewhere))) == 1


def test_paths_that_no_file_system_takes_cost_their_row(root):
    write(root, [{**ROW, "media": media} for media in ("x" * 300, "a/" * 3000, " ", "s.wav/", "\ud83d" * 200)])
    assert len(list(Folder().items(root))) == 5
    assert sum("too long" in reason for reason in reasons(Folder().items(root))) == 3


def test_real_mmar_notes_its_empty_choices(shared_data):
    items = list(MMAR().items(shared_data / "mmar"))
    noted = [item.notes for item in items if item.notes]
    assert len(noted) == 4
    assert all("null or empty" in note for [note] in noted)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (b"x" * 5000, "5,000 bytes"), ("it's", '"it\'s"'), ("x" * 500, "'" + "x" * 77 + "...'"),
        ("\x1b[2J", "'\\x1b[2J'"),
        ({"bytes": b"x" * 99, "path": None}, "an object of 2 fields (bytes, path)"), ([b"x" * 9, 1], "[9 bytes, 1]"),
        (10**5000, "a very long int"), (None, "None"), ("\ud83d", "'\ufffd'"),
    ],
    ids=range(9),
)  # fmt: skip
def test_values_are_shown_short(value, told):
    assert short(value) == told
    assert printable("a\u202eb\x07") == "a\\u202eb\\x07"
