"""Small tokenizers of the kinds that checkpoints have, trained here: SentencePiece and byte-level, old and new."""

from __future__ import annotations

import json
import random

import sentencepiece
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

WORDS = ["the", "lamp", "of", "Mira", "stood", "in", "harbour", "Tolev", "keeps", "a", "blue", "stone", "near", "it's"]
SENTENCES = [" ".join(random.Random(i).choices(WORDS, k=9)) + "." for i in range(200)]
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}" + (
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content | trim }} [/INST]"
    "{% else %} {{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)
HEADERS = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
# Qwen3's way with an assistant's thoughts, and its switch.
THINKING = (
    "{%- for m in messages %}{%- set content = m.content %}{%- if m.role == 'assistant' and '</think>' in content %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}"
    "{{- '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>\\n' }}{%- endfor %}"
    "{{- '<|im_start|>assistant\\n' }}{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
)


def write_json(path, value):
    path.write_text(json.dumps(value), encoding="utf-8")


def train_sentencepiece(directory, model_type="bpe", **settings):
    """A directory with tokenizer.model, as LLaMA-2 has it; `settings` go to tokenizer_config.json."""
    directory.mkdir()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_prefix=str(directory / "tokenizer"),
        vocab_size=300 if model_type == "unigram" else 330,
        hard_vocab_limit=False,
        model_type=model_type,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    write_json(directory / "config.json", {"model_type": "llama", "eos_token_id": 2})
    own = dict(tokenizer_class="LlamaTokenizer", bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    write_json(directory / "tokenizer_config.json", {**own, **settings})
    return directory


def train_llama2(directory):
    """A directory with tokenizer.json as LLaMA-2 ships it: a blank is put before every text, also behind <s>."""
    from transformers import AutoTokenizer

    source = train_sentencepiece(directory)
    backend = AutoTokenizer.from_pretrained(source).backend_tokenizer
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    backend.pre_tokenizer = None
    backend.save(str(directory / "tokenizer.json"))
    settings = dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template=INST)
    write_json(directory / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer", **settings})
    return directory


def train_byte_level(
    directory, *, special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"), added=(), split=None, template=CHATML
):
    """A directory with tokenizer.json, as LLaMA-3 and Qwen have it.

    Args:
      special: special tokens from id 0, the first of which ends a text.
      added: added tokens behind them that are not special, as <think> is.
      split: regular expression of the pre-tokenizer; None is GPT-2's.
      template: of the chat.
    """
    directory.mkdir()
    backend = Backend(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    if split is not None:
        from tokenizers import Regex

        byte_level = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(split), "isolated"), byte_level])
    backend.pre_tokenizer = byte_level
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330 + len(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(special),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES, trainer)
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in added])
    backend.save(str(directory / "tokenizer.json"))
    write_json(directory / "config.json", {"model_type": "qwen2", "eos_token_id": 0})
    settings = dict(tokenizer_class="PreTrainedTokenizerFast", eos_token=special[0], chat_template=template)
    write_json(directory / "tokenizer_config.json", settings)
    return directory


LLAMA3_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def kinds(root):
    """A directory for each kind of tokenizer, by name.

    Args:
      root: an empty directory for them.
    """
    from pathlib import Path

    llama3 = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    made = {
        "llama2": train_llama2(root / "llama2"),
        "sentencepiece": train_sentencepiece(root / "sentencepiece", chat_template=INST),
        "sentencepiece_legacy": train_sentencepiece(root / "legacy", legacy=True, chat_template=INST),
        "qwen": train_byte_level(
            root / "qwen", added=("<think>", "</think>", "<tool_call>"), split=LLAMA3_SPLIT, template=THINKING
        ),
        "llama3": train_byte_level(root / "llama3", special=llama3, split=LLAMA3_SPLIT, template=HEADERS),
        "unigram": Path(__file__).parents[1] / "assets" / "archivist",
    }
    settings = json.loads((made["llama3"] / "tokenizer_config.json").read_text())
    ends = dict(bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")
    write_json(made["llama3"] / "tokenizer_config.json", {**settings, **ends})
    return made


NAMES = ("llama2", "sentencepiece", "sentencepiece_legacy", "qwen", "llama3", "unigram")
