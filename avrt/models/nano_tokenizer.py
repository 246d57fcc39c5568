"""The tokenizer of the nano presets: made of a word list, without downloads; a family gives its own special tokens."""

from __future__ import annotations

from collections.abc import Mapping

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

MAX_VOCABULARY = 1024
WORDS = (
    "You are an assistant that watches and listens. Reason about what you see and hear, then choose one option. "
    "First think about the evidence inside, then give only the letter of your choice inside answer think system user "
    "(A) (B) (C) (D) (E) (F) A B C D E F A: B: C: D: a the The is it It this This in on of with to and or not no yes "
    "frames show sound sounds seen heard sees hears shows see hear looks Looking picture audio video clip scene while "
    "which Which what What where Where how does come from happening matches match description option Option says "
    "names name wrong right fits fit best so So answer both only but neither first second there There appears moves "
    "plays playing left side middle across left. right. thing object dark background listening compare each against "
    "red green blue yellow white purple ball box triangle star ring cross ball. box. triangle. star. ring. cross. "
    "low high rising steady quick slow hum whistle siren hiss clicks warble hum. whistle. siren. hiss. clicks. warble. "
    "ball, box, triangle, star, ring, cross, hum, whistle, siren, hiss, clicks, warble, yes. no. seen. heard. clip? "
    "Visual Audio Description Reasoning Answer: Reasoning: Description: Listening options are about this. "
    "from? heard? seen? Which What Where Who Why When How many person man woman people before after during music voice"
)


def nano_tokenizer(special: Mapping[str, str]) -> PreTrainedTokenizerFast:
    """A tokenizer of the word list, equal in every process that makes it.

    Args:
        special: The special tokens by the names that the family's processor has for them, `pad_token` and `eos_token`
            among them, in the order of their ids.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_VOCABULARY,
        min_frequency=1,
        special_tokens=list(special.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS, *WORDS.split()], trainer)
    named = {key: special[key] for key in ("pad_token", "eos_token")}
    extra = {key: token for key, token in special.items() if key not in named}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, extra_special_tokens=extra, **named)
    # One token each, but text like any other. An option is easily found if its letter is the token before it.
    letters = [mark for letter in "ABCDEF" for mark in (f"({letter})", f" {letter}:")]
    fast.add_tokens(["<think>", "</think>", "<answer>", "</answer>", *letters])
    return fast


def chat_template(begin: str, end: str, media: Mapping[str, str], *, answers: str = "assistant") -> str:
    """A chat template for messages whose content is a list of parts.

    Args:
        begin: Begins a turn, before the name of its role.
        end: Ends it.
        media: What is written for a part of each type: `video`, `image` and `audio`.
        answers: The role that answers.
    """
    first, *others = [f"if part['type'] == '{kind}' %}}{text}{{%" for kind, text in media.items()]
    parts = f"{{% {first} " + "".join(f"el{other} " for other in others) + "else %}{{ part['text'] }}{% endif %}"
    return (
        f"{{% for message in messages %}}{begin}{{{{ message['role'] }}}}\n"
        f"{{% for part in message['content'] %}}{parts}{{% endfor %}}{end}\n{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{begin}{answers}\n{{% endif %}}"
    )
