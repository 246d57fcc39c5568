"""Models in this process: tiny random ones of real architectures through transformers, and the nano teachers."""

import asyncio

import pytest
import torch
import transformers

from avrt.data.shards.reader import ShardSet
from avrt.errors import AvrtError
from avrt.models.qwen2_5_omni.nano import nano_processor
from avrt.policy.vllm.options import VLLMOptions
from avrt.traces.analysis import read_analysis
from avrt.traces.batching_backend import decode_reply
from avrt.traces.requests import CallFailedError, Media, Request, Sampling
from avrt.traces.student_backend import StudentBackend
from avrt.traces.templates import teacher_template
from avrt.traces.trace_options import TeacherOptions, asked_otherwise, template_of
from avrt.traces.transformers_backend import TransformersBackend
from tests.policy.standing_in import stand_in

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_bos|><|IMAGE|><|vision_eos|>"
    "{% elif part['type'] == 'audio' %}<|AUDIO|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = nano_processor().tokenizer
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def ids(tokenizer, *names):
    return [tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in names]


@pytest.fixture(scope="module")
def text_model(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    torch.manual_seed(0)
    config = transformers.Qwen2Config(**TEXT, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    transformers.Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def image_model(tokenizer, tmp_path_factory):
    """A Qwen2.5-VL."""
    folder = tmp_path_factory.mktemp("image")
    torch.manual_seed(0)
    image, begin, end = ids(tokenizer, "IMAGE", "vision_bos", "vision_eos")
    size = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    config = transformers.Qwen2_5_VLConfig(
        text_config={**TEXT, **size, "rope_parameters": rope},
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32,
            "fullatt_block_indexes": [1], "window_size": 56,
        },
        image_token_id=image, video_token_id=ids(tokenizer, "VIDEO")[0], vision_start_token_id=begin,
        vision_end_token_id=end,
    )  # fmt: skip
    transformers.Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    for name, token in (("image_token", "<|IMAGE|>"), ("video_token", "<|VIDEO|>")):
        setattr(tokenizer, name, token)
    transformers.Qwen2_5_VLProcessor(
        transformers.Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=112 * 112), tokenizer,
        transformers.Qwen2VLVideoProcessor(), chat_template=TEMPLATE,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def audio_model(tokenizer, tmp_path_factory):
    """An Audio Flamingo 3."""
    folder = tmp_path_factory.mktemp("audio")
    torch.manual_seed(0)
    size = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    config = transformers.AudioFlamingo3Config(
        audio_config={
            "num_mel_bins": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
            "hidden_size": 32, "max_source_positions": 1500,
        },
        text_config={**TEXT, **size, "model_type": "qwen2"},
        audio_token_id=ids(tokenizer, "AUDIO")[0],
    )  # fmt: skip
    transformers.AudioFlamingo3ForConditionalGeneration(config).save_pretrained(folder)
    transformers.AudioFlamingo3Processor(
        transformers.WhisperFeatureExtractor(feature_size=128),
        tokenizer,
        chat_template=TEMPLATE,
        audio_token="<|AUDIO|>",
    ).save_pretrained(folder)
    return folder


def ask(backend, requests):
    async def go():
        await backend.open()
        try:
            return await asyncio.gather(*(backend.complete(r) for r in requests), return_exceptions=True)
        finally:
            await backend.close()

    return asyncio.run(go())


def requests(world, senses, **sampling):
    shards = ShardSet(world / "train")
    options = Sampling(**{"max_tokens": 12, **sampling})
    return [
        Request("t", f"q{i}", "Be brief.", f"Which {'sound ' * i}is it?", options, Media.of(shards.read(i), senses))
        for i in range(5)
    ]


@pytest.mark.parametrize(("takes", "senses"), [("text", ()), ("image", ("vision",)), ("audio", ("audio",))])
def test_batches_equal_single_requests(takes, senses, world, request):
    folder = request.getfixturevalue(f"{takes}_model")
    asked = requests(world, senses)
    together = ask(TransformersBackend(str(folder), takes, batch_size=5, dtype="float32"), asked)
    alone = ask(TransformersBackend(str(folder), takes, batch_size=1, dtype="float32"), asked)
    assert [r.text for r in together] == [r.text for r in alone]
    assert [r.prompt_tokens for r in together] == [r.prompt_tokens for r in alone]
    assert all(r.text for r in together)
    assert len({r.prompt_tokens for r in together}) == 5
    if senses:  # the media are part of the prompt
        plain = ask(TransformersBackend(str(folder), takes, dtype="float32"), requests(world, ()))
        assert all(p.prompt_tokens < r.prompt_tokens for p, r in zip(plain, together, strict=True))


def test_seeds_decide_samples(text_model, world):
    def drawn(seed):
        return ask(
            TransformersBackend(str(text_model), "text", dtype="float32"),
            requests(world, (), temperature=1.0, seed=seed),
        )

    assert [r.text for r in drawn(1)] == [r.text for r in drawn(1)] != [r.text for r in drawn(2)]


@pytest.mark.parametrize("marks", [("<think>", "</think>"), ("◁think▷", "◁/think▷")])
@pytest.mark.parametrize("special", [True, False])
def test_thinking_tags_that_are_special_tokens_are_kept(marks, special):
    own = nano_processor().tokenizer
    own.add_tokens([transformers.AddedToken(mark, special=special, normalized=False) for mark in marks])
    begin, end = marks
    written = own.encode(f"{begin}a ball{end}a box", add_special_tokens=False)
    text = decode_reply(own, [*written, own.eos_token_id])
    read = read_analysis(text, ("a ball", "a box"))
    assert (read.thinking, read.text, read.letter) == ("a ball", "a box", "B")
    assert own.eos_token not in text
    plain = own.encode("a box", add_special_tokens=False)
    assert decode_reply(own, [*plain, own.eos_token_id]) == "a box"


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(AvrtError, match="cannot be loaded"):
        ask(TransformersBackend(str(tmp_path), "text"), [])
    with pytest.raises(AvrtError, match="no such folder"):
        StudentBackend("nowhere")


@pytest.mark.parametrize(("teacher", "sense", "field"), [("visual", "vision", "thing"), ("audio", "audio", "sound")])
def test_the_nano_teachers_perceive_clips_that_they_were_not_trained_on(teacher, sense, field, world):
    shards = ShardSet(world / "train")
    samples = [shards.sample(i) for i in range(40)]
    asked = []
    for i, sample in enumerate(samples):
        choices = "\n".join(f"({letter}) {choice}" for letter, choice in zip("ABCD", sample.choices, strict=False))
        prompt = f"{sample.question}\n{choices}\nFirst think, then answer."
        asked.append(
            Request(teacher, sample.id, "", prompt, Sampling(max_tokens=128), Media.of(shards.read(i), (sense,)))
        )
    backend = StudentBackend(f"nano/teachers/{teacher}")
    replies = ask(backend, asked)
    right = sum(f" a {sample.metadata[field]}." in reply.text for sample, reply in zip(samples, replies, strict=True))
    assert right >= 36
    assert all(reply.finish_reason == "stop" for reply in replies)
    letters = [read_analysis(r.text, s.choices).letter for r, s in zip(replies, samples, strict=True)]
    assert sum(letter is not None for letter in letters) >= 20
    assert backend.model.startswith(f"{teacher}@")


def test_a_student_answers_by_vllm_as_natively(world, tmp_path, monkeypatch):
    engine = stand_in(tmp_path, monkeypatch)
    asked = requests(world, ("audio",))
    native, by_vllm = (
        StudentBackend("nano/teachers/audio", batch_size=3, vllm=vllm)
        for vllm in (None, VLLMOptions(python=str(engine.python)))
    )
    expected = ask(native, asked)
    replies = ask(by_vllm, asked)
    assert [(r.text, r.finish_reason, r.prompt_tokens) for r in replies] == [
        (r.text, r.finish_reason, r.prompt_tokens) for r in expected
    ]
    assert all(reply.text for reply in replies)
    assert engine.names() == ["start", "load", "sample", "sample"]
    assert engine.gone()
    assert by_vllm.model == f"{native.model}+vllm"  # its calls are other calls in the store


def test_one_damaged_sample_does_not_fail_the_others(world):
    good, bad = requests(world, ("audio",))[:2]
    broken = Request("t", "bad", "", "p", Sampling(max_tokens=5), Media({**bad.media.members, "flac": b"no flac"}))
    replies = ask(StudentBackend("nano/teachers/audio"), [good, broken])
    assert replies[0].text
    assert isinstance(replies[1], CallFailedError)
    assert "not a FLAC" in str(replies[1])


def test_a_student_is_asked_as_it_was_trained_unless_a_template_is_named(tmp_path):
    backend = StudentBackend("nano/teachers/visual")
    own = template_of("visual", TeacherOptions(backend))
    assert own == teacher_template("nano.txt")
    assert template_of("visual", TeacherOptions(backend, "nano.txt")) == own
    assert asked_otherwise("visual", TeacherOptions(backend, "nano.txt")) is None
    other = TeacherOptions(backend, "visual.txt")
    assert template_of("visual", other) != own
    assert "visual.template: visual.txt asks otherwise than visual@" in asked_otherwise("visual", other)
    with pytest.raises(AvrtError, match=r"visual.template: is not set"):
        template_of("visual", TeacherOptions(TransformersBackend(str(tmp_path), "text")))
    assert backend.warn_of_shards("shards", {}) is not None
    assert TransformersBackend(str(tmp_path), "text").warn_of_shards("shards", {}) is None
