"""How much of a clip is taken: sound to the end or cut with a note, frames by number or by rate, sizes for whom."""

import copy
import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from transformers import WhisperFeatureExtractor

from avrt.arguments import OneLineErrors
from avrt.commands import shards as shards_command
from avrt.commands.clip_options import add_clip_options, clip_spec
from avrt.commands.recipe_names import recipes
from avrt.data.inputs.preprocessor import Preprocessor
from avrt.data.inputs.prompt_options import PromptOptions
from avrt.data.media.clip import ClipSpec, FrameBudget
from avrt.data.media.decode import decode_still, decode_video
from avrt.data.media.student_frames import STUDENTS
from avrt.data.sample import Modality
from avrt.data.shards.conversion import load_clip
from avrt.data.shards.manifest import Manifest, check_patch_size
from avrt.data.shards.members import decode_members, encode_clip
from avrt.data.shards.reader import ShardSet
from avrt.errors import AvrtError, BadSampleError
from avrt.models.qwen2_5_omni.media_inputs import QwenOmniInputs
from avrt.models.qwen2_5_omni.positions import SpecialTokens
from tests.conftest import make_clip, make_sample

SMALL = FrameBudget(56 * 56, 56 * 56)


def seconds(clip):
    return len(clip.audio) / 16_000


@pytest.mark.parametrize(
    ("limit", "heard", "notes"),
    [(None, 4.0, []), (4.0, 4.0, []), (3.95, 3.95, []), (1.5, 1.5, ["audio cut at 1.5 s of 4.0"])],
)
def test_sound_is_whole_or_cut_with_a_note(tmp_path, limit, heard, notes):
    """The last stretch of an AAC frame, 0.02 s, is no cut; nor is anything below a tenth of a second."""
    make_clip(tmp_path / "a.mp4")
    for kind in (Modality.VIDEO, Modality.AUDIO):
        clip = load_clip({kind: tmp_path / "a.mp4"}, ClipSpec(audio_seconds=limit, budget=SMALL))
        assert seconds(clip) == pytest.approx(heard, abs=0.03)
        assert [note for note in clip.info["notes"] if "sound" in note or "audio" in note] == notes


def test_a_cut_is_noted_where_the_file_does_not_tell_its_length(tmp_path):
    """A raw stream of AAC has no header that says how long it is."""
    import av

    make_clip(tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as source, av.open(str(tmp_path / "a.aac"), "w", format="adts") as out:
        stream = out.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    clip = load_clip({Modality.AUDIO: tmp_path / "a.aac"}, ClipSpec(audio_seconds=1.0))
    assert seconds(clip) == 1.0
    assert len(clip.info["notes"]) == 1
    assert clip.info["notes"][0].startswith("audio cut at 1 s of ")


def test_more_sound_than_any_reader_takes_is_cut_with_a_note(tmp_path):
    soundfile.write(tmp_path / "long.flac", np.zeros(16_000 * 1900, np.int16), 16_000)
    clip = load_clip({Modality.AUDIO: tmp_path / "long.flac"}, ClipSpec(audio_seconds=None))
    assert seconds(clip) == 1800
    assert clip.info["notes"] == ["audio cut at 1800 s of 1900.0"]
    members = {**encode_clip(clip), "json": make_sample(media=("audio",)).to_json()}
    assert seconds(decode_members(members)[1]) == 1800


@pytest.mark.parametrize(
    ("fps", "most", "duration", "frames"),
    [
        (2.0, 768, 60.0, 120),
        (2.0, 768, 59.999_999, 120),  # a length is a sum of binary fractions
        (2.0, 768, 30.03, 60),
        (2.0, 768, 10.7, 20),  # 21 would leave half a step
        (2.0, 768, 1.0, 4),  # at least 4
        (2.0, 32, 60.0, 32),
        (2.0, 31, 60.0, 30),
        (2.0, 2, 60.0, 2),
        (0.1, 768, 60.0, 6),
        (2.0, 768, 3600.0, 768),
        (None, 768, 60.0, 7),
    ],
)
def test_frames_by_rate_are_even_and_bounded(fps, most, duration, frames):
    assert ClipSpec(frames=7, fps=fps, max_frames=most).frame_count(duration) == frames


def test_frames_by_rate_have_their_times_and_spacing(tmp_path):
    """Frame i of a clip at 5 a second has brightness 5 * i; two a second are frames 0, 2.5, 5, ... as last shown."""
    path = make_clip(tmp_path / "a.mp4", frames=50, fps=5, sound_seconds=None)
    clip = decode_video(path, ClipSpec(fps=2.0, budget=SMALL))
    assert len(clip.frames) == 20
    assert [round(f.float().mean().item() / 5) for f in clip.frames] == [math.floor(i * 2.5) for i in range(20)]
    assert clip.timestamps == pytest.approx([math.floor(i * 2.5) / 5 for i in range(20)])
    assert clip.seconds_per_frame == pytest.approx(0.5)


@pytest.mark.parametrize(("frames", "tokens"), [(8, 256), (120, 256), (1200, 192), (100_000, 134)])
def test_a_total_makes_many_frames_smaller(frames, tokens):
    """The rule of qwen_omni_utils: total / frames * 2, but never below 1.05 times the least."""
    spec = ClipSpec(total_pixels=115_200 * 784)
    expected = min(256 * 784, max(115_200 * 784 / frames * 2, int(128 * 784 * 1.05)))
    budget = spec.frame_budget(frames)
    assert budget.max_pixels == pytest.approx(expected, abs=1)
    assert budget.max_pixels // 784 == tokens
    assert budget.min_pixels == 128 * 784
    assert ClipSpec().frame_budget(frames) == ClipSpec().budget


def test_a_total_is_kept_by_a_decoded_video(tmp_path):
    path = make_clip(tmp_path / "a.mp4", frames=40, size=(640, 352), sound_seconds=None)
    free = decode_video(path, ClipSpec(frames=40, budget=FrameBudget(28 * 28, 10**6)))
    bound = decode_video(path, ClipSpec(frames=40, budget=FrameBudget(28 * 28, 10**6), total_pixels=20 * 100 * 784))
    assert free.frames.shape[-2:] == (364, 644)
    height, width = bound.frames.shape[-2:]
    assert 80 * 784 < height * width <= 100 * 784


@pytest.mark.parametrize("frames", [1, 3, 7, 9])
def test_an_odd_number_of_frames_keeps_the_clock(nano, tmp_path, frames):
    """The last frame is shown twice; each step still stands for two frames' time, as transformers has it."""
    path = make_clip(tmp_path / "a.mp4", frames=40, sound_seconds=4.0)
    clip = load_clip({Modality.VIDEO: path}, ClipSpec(frames=frames, budget=SMALL))
    steps = (frames + 1) // 2
    row = Preprocessor(nano.inputs, PromptOptions(audio_in_video=True)).row(make_sample(media=("video", "audio")), clip)
    assert row.grids.tolist() == [[steps, 2, 4]]
    assert torch.equal(row.prompt_positions[0], stock_positions(nano, row))


def stock_positions(nano, row):
    """Positions of a row with interleaved sound by transformers' own function."""
    tokens = row.prompt_ids[0]
    expected, _ = nano.model.get_rope_index(
        tokens[None],
        None,
        row.grids,
        torch.ones(1, len(tokens)),
        True,
        row.mel_lengths,
        torch.tensor([2 * row.clips[0].seconds_per_frame]),
    )
    return expected[:, 0]


@pytest.mark.parametrize("length", [30.5, 60.0, 299.97, 299.993, 300.0, 300.013, 300.02, 320.0])
def test_log_mel_of_long_sounds_is_the_stock_processors(nano, length):
    """The released one pads to 300 s; beyond that it has to be told not to cut, and mirrors the end."""
    processor = copy.copy(nano.inputs.processor)
    processor.feature_extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=300)
    sound = torch.randn(int(length * 16_000), generator=torch.Generator().manual_seed(0)) * 0.1
    sound[: len(sound) // 2] *= 0.01
    stock = processor.feature_extractor(
        sound.numpy(), sampling_rate=16_000, padding="max_length", truncation=False,
        return_attention_mask=True, return_tensors="pt",
    )  # fmt: skip
    count = int(stock["attention_mask"].sum())
    ours = QwenOmniInputs(processor, SpecialTokens(0, 1, 2, 3, 4)).log_mel(sound)
    assert ours.shape == (128, count)
    assert torch.equal(ours, stock["input_features"][0, :, :count])


@pytest.mark.parametrize("size", [(40, 30), (1920, 1080), (4000, 3000)])
def test_stills_have_the_size_that_the_stock_processor_gives_them(nano, tmp_path, size):
    """The released processor's limits, 4 to 16,384 tokens, not those of a video's frames."""
    Image.new("RGB", size, "red").save(tmp_path / "a.png")
    picture = decode_still(tmp_path / "a.png", ClipSpec())
    stock = nano.inputs.processor.image_processor(
        images=[Image.open(tmp_path / "a.png")], min_pixels=3136, max_pixels=12_845_056, return_tensors="pt"
    )
    _, rows, columns = stock["image_grid_thw"][0].tolist()
    assert picture.shape == (3, rows * 14, columns * 14)
    small = decode_still(tmp_path / "a.png", ClipSpec(still_budget=SMALL))
    assert small.shape[-1] * small.shape[-2] <= 56 * 56 * 1.5


def folder_of(root, **media):
    """A question of one's own about each file."""
    rows = [
        {"id": name, "question": "What is it?", "choices": ["a dog", "a drum"], "answer": 1, "media": file}
        for name, file in media.items()
    ]
    (root / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["folder", "--root", str(root), "--out", str(root / "shards"), "--workers", "1"]


def test_cuts_are_counted_in_the_manifest_and_told(tmp_path, capsys):
    make_clip(tmp_path / "long.mp4")
    make_clip(tmp_path / "short.mp4", frames=10, sound_seconds=1.0)
    arguments = folder_of(tmp_path, one="long.mp4", two="short.mp4")
    shards_command.main([*arguments, "--audio-seconds", "2", "--max_pixels", "112896"])
    assert "the sound of 1 samples is cut (take all of it with --audio_seconds whole)" in capsys.readouterr().out
    manifest = Manifest.load(tmp_path / "shards")
    assert manifest.audio_cut == 1
    assert json.loads((tmp_path / "shards" / "manifest.json").read_text())["audio_cut"] == 1
    assert manifest.notes == {"one": ["audio cut at 2 s of 4.0"]}
    assert manifest.spec["audio_seconds"] == 2.0


@pytest.mark.parametrize("said", [[], ["--audio_seconds", "whole"], ["--audio_seconds=null"], ["--audio-seconds=4.1"]])
def test_whole_is_said_in_any_of_these_ways(tmp_path, capsys, said):
    make_clip(tmp_path / "long.mp4")
    shards_command.main([*folder_of(tmp_path, one="long.mp4"), "--max_pixels", "112896", *said])
    shards = ShardSet(tmp_path / "shards")
    assert seconds(decode_members(shards.read(0))[1]) == pytest.approx(4.0, abs=0.03)
    assert shards.manifest.spec["audio_seconds"] == (4.1 if said == ["--audio-seconds=4.1"] else None)
    assert "cut" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (["--max_pixels", "50000"], "needs 1 <= min_pixels <= max_pixels, got 100352 and 50000"),
        (["--audio_seconds", "0.01"], "needs audio_seconds from 0.1 to 1800, or none for all of the sound"),
        (["--audio_seconds", "7200"], "needs audio_seconds from 0.1 to 1800"),
        (["--fps", "inf"], "fps > 0"),
        (["--max_frames", "1"], "max_frames >= 2"),
        (["--frames", "8", "--fps", "2"], "give only one of them"),
    ],
)
def test_impossible_options_are_refused_in_a_sentence(tmp_path, said, told):
    with pytest.raises(AvrtError, match=r"options of the clip|--frames and --fps") as refused:
        shards_command.main([*folder_of(tmp_path), *said])
    assert told in str(refused.value)


@pytest.mark.parametrize("said", ["min_pixels", "still_min_pixels"])
def test_a_smallest_picture_is_refused_where_there_is_none(tmp_path, said):
    with pytest.raises(AvrtError, match=rf"^--{said}: gemma4 has no smallest picture"):
        shards_command.main([*folder_of(tmp_path), "--student", "gemma4", f"--{said}", "50000"])


@pytest.mark.parametrize("student", [None, *STUDENTS])
def test_a_total_is_as_many_tokens_for_every_student(student):
    """A recipe's 1,000 tokens of 28 x 28 pixels; 50 frames are 25 steps for the Qwen families, and 50 for Gemma 4."""
    parser, own = OneLineErrors(), ClipSpec(budget=FrameBudget(4 * 784, 256 * 784), total_pixels=1000 * 784)
    add_clip_options(parser, own)
    spec = clip_spec(parser.parse_args([] if student is None else [f"--student={student}"]), own)
    assert spec.total_pixels == 1000 * spec.patch_size**2
    budget = spec.frame_budget(50)
    height, width = spec.size(720, 1280, budget)
    tokens = (height // spec.patch_size) * (width // spec.patch_size) * (50 if student == "gemma4" else 25)
    assert 700 < tokens <= 1000
    assert clip_spec(parser.parse_args(["--total_pixels=784"]), own).total_pixels == 784


@pytest.mark.parametrize(
    ("said", "own", "taken"),
    [
        ({}, ClipSpec(frames=6), (6, None)),
        ({}, ClipSpec(fps=2.0), (8, 2.0)),
        ({"frames": 4}, ClipSpec(fps=2.0), (4, None)),
        ({"fps": 1.0}, ClipSpec(frames=6), (6, 1.0)),
    ],
)
def test_who_asks_for_frames_gets_them_whatever_the_recipe_takes(said, own, taken):
    parser = OneLineErrors()
    add_clip_options(parser, own)
    options = parser.parse_args([f"--{name}={value}" for name, value in said.items()])
    spec = clip_spec(options, own)
    assert (spec.frames, spec.fps) == taken
    assert replace(spec, frames=own.frames, fps=own.fps) == own


def test_recipes_take_what_their_authors_take():
    taken = {name: kind.clip for name, kind in recipes().items()}
    whole = {name for name, clip in taken.items() if clip.audio_seconds is None}
    assert whole >= {"dailyomni", "mmar", "mmau", "omnibench", "worldsense", "music_avqa", "folder"}
    assert {name: taken[name].audio_seconds for name in ("avqa", "avqa_r1", "nano_world")} == dict.fromkeys(
        ("avqa", "avqa_r1", "nano_world"), 10.0
    )
    assert {taken[name].frames for name in ("dailyomni", "avqa")} == {8}
    still = FrameBudget(4 * 28 * 28, 16384 * 28 * 28)
    assert {clip.still_budget for name, clip in taken.items() if not name.startswith("nano_")} == {still}


def test_teachers_pictures_lie_beside_the_students(tmp_path):
    make_clip(tmp_path / "a.mp4", size=(640, 352))
    Image.new("RGB", (1200, 900), "blue").save(tmp_path / "b.png")
    options = ["--still_max_pixels", "200704", "--teacher_max_pixels", "802816"]
    shards_command.main([*folder_of(tmp_path, clip="a.mp4", still="b.png"), *options])
    shards = ShardSet(tmp_path / "shards")
    assert shards.manifest.spec["teacher_budget"] == {"min_pixels": 3136, "max_pixels": 802_816}
    assert not [name for i in range(2) for name in shards.read(i) if name.startswith("teacher.")]
    from avrt.data.media.codecs import from_jpeg

    video, still = shards.read(0, teachers=True), shards.read(1, teachers=True)
    assert {name for name in video if name.startswith("teacher.")} == {f"teacher.{i}.jpg" for i in range(8)}
    assert from_jpeg(video["teacher.3.jpg"]).shape == (3, 364, 644)
    assert from_jpeg(video["3.jpg"]).shape[-2] * from_jpeg(video["3.jpg"]).shape[-1] <= 200_704
    assert from_jpeg(still["teacher.image.jpg"]).shape == (3, 756, 1008)
    assert from_jpeg(still["image.jpg"]).shape == (3, 364, 504)
    for raw in (video, still):
        assert decode_members(raw)[1].for_teachers is None
    assert asdict(ClipSpec())["teacher_budget"] is None


def test_older_shards_are_read_and_say_what_held_then(tmp_path):
    """Stills had the size of frames, and there was no rate."""
    make_clip(tmp_path / "a.mp4", sound_seconds=None)
    shards_command.main([*folder_of(tmp_path, one="a.mp4"), "--max_pixels", "112896"])
    path = tmp_path / "shards" / "manifest.json"
    record = json.loads(path.read_text())
    budget = {"min_pixels": 100_352, "max_pixels": 200_704}
    del record["audio_cut"]
    record["spec"] = {"frames": 8, "audio_seconds": 10.0, "budget": budget}
    path.write_text(json.dumps(record))
    shards = ShardSet(tmp_path / "shards")
    assert len(decode_members(shards.read(0))[1].frames) == 8
    assert shards.manifest.spec == {
        **ClipSpec().to_record(), "budget": budget, "still_budget": budget,
    }  # fmt: skip


def test_shards_of_another_patch_size_are_refused_in_one_line(tmp_path):
    make_clip(tmp_path / "a.mp4", sound_seconds=None, size=(640, 352))
    Image.new("RGB", (1200, 900), "blue").save(tmp_path / "b.png")
    shards_command.main([*folder_of(tmp_path, clip="a.mp4", still="b.png"), "--patch_size", "32"])
    shards = ShardSet(tmp_path / "shards")
    video, still = (decode_members(shards.read(i))[1].pictures for i in range(2))
    assert all(side % 32 == 0 for pictures in (video, still) for side in pictures.shape[-2:])
    assert any(side % 28 for side in video.shape[-2:])
    check_patch_size(shards.manifest, 32)
    with pytest.raises(AvrtError) as refused:
        check_patch_size(shards.manifest, 28, shards.folder)
    assert str(refused.value) == (
        f"{shards.folder}: pictures are resized for a patch size of 32 pixels, the model needs 28 "
        "(make the shards again with --patch_size 28, as --student qwen2.5-omni does)"
    )
    older = Manifest(spec={"frames": 8})
    check_patch_size(older, 28)
    with pytest.raises(AvrtError, match="patch size of 28 pixels, the model needs 32"):
        check_patch_size(older, 32)


def test_a_prompt_that_does_not_fit_says_what_to_do(nano, tmp_path):
    clip = load_clip({Modality.VIDEO: make_clip(tmp_path / "a.mp4")}, ClipSpec(fps=5.0, budget=SMALL))
    builder = Preprocessor(nano.inputs, PromptOptions(max_prompt_tokens=100))
    with pytest.raises(BadSampleError, match=r"limit 100 \(make shards with fewer frames, smaller ones or less sound"):
        builder.row(make_sample(media=("video", "audio")), clip)
    assert len(Preprocessor(nano.inputs, PromptOptions()).row(make_sample(), clip).prompt_ids[0]) > 100
