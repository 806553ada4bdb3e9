"""Tokenizers of both kinds, on tiny ones trained here: offsets, streaming text, chat, stop ids, vocabularies."""

from __future__ import annotations

import pytest
import sentencepiece
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, pre_tokenizers, trainers
from tokenizers import models as backends

from models.tokenizer import IncrementalDecoder, load_tokenizer, same_vocabulary
from tests.tokenizers_made import CHATML, SENTENCES, train_sentencepiece, write_json

TEXT = "Mira stood in the harbour; 日本 ☃  two  spaces\nnaïve 🙂🙂 end."
BRIEF = [{"role": "system", "content": "Brief."}, {"role": "user", "content": "Who?"}]


def train_byte_level(directory, sentences=SENTENCES):
    """A directory with tokenizer.json, as LLaMA-3 and Qwen have it."""
    directory.mkdir()
    backend = Backend(backends.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    backend.train_from_iterator(sentences, trainer)
    backend.save(str(directory / "tokenizer.json"))
    write_json(directory / "config.json", {"model_type": "qwen2", "eos_token_id": 0})
    write_json(directory / "generation_config.json", {"eos_token_id": [2, 0]})
    settings = dict(tokenizer_class="PreTrainedTokenizerFast", eos_token="<|endoftext|>", chat_template=CHATML)
    write_json(directory / "tokenizer_config.json", settings)
    return directory


@pytest.fixture(scope="module")
def sentencepiece_dir(tmp_path_factory):
    return train_sentencepiece(tmp_path_factory.mktemp("sp") / "bpe", "bpe")


@pytest.fixture(scope="module")
def byte_level_dir(tmp_path_factory):
    return train_byte_level(tmp_path_factory.mktemp("bl") / "qwen")


@pytest.fixture(scope="module", params=["sentencepiece_dir", "byte_level_dir"])
def tokenizer(request):
    return load_tokenizer(request.getfixturevalue(request.param))


def test_sentencepiece_ids_are_sentencepieces(sentencepiece_dir):
    """A prompt would be split otherwise than in training."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_dir / "tokenizer.model"))
    assert load_tokenizer(sentencepiece_dir).encode(TEXT) == model.encode(TEXT)


def test_text_survives(tokenizer):
    """An answer would come back with other spaces, or with bos and eos written out."""
    ids = tokenizer.encode(TEXT)
    assert tokenizer.decode(ids) == TEXT
    assert not set(ids) & set(tokenizer.stop_ids)
    assert tokenizer.decode([*ids, tokenizer.stop_ids[0]]) == TEXT
    assert tokenizer.encode("") == []
    assert tokenizer.decode([]) == ""


def test_offsets_cover_the_text_in_order(tokenizer):
    """Retrieved passages would be cut at the wrong characters."""
    ids, offsets = tokenizer.encode_with_offsets(TEXT)
    assert ids == tokenizer.encode(TEXT)
    assert all(0 <= start <= end <= len(TEXT) for start, end in offsets)
    assert offsets == sorted(offsets)
    covered = {i for start, end in offsets for i in range(start, end)}
    assert {i for i, c in enumerate(TEXT) if not c.isspace()} <= covered


def test_long_texts_are_neither_cut_nor_warned_about(tokenizer, caplog):
    """A document longer than the tokenizer's own limit would be read in part."""
    assert len(tokenizer.encode("Mira stood. " * 2000)) >= 2000 * len(tokenizer.encode("Mira stood.")) / 2
    assert not caplog.records


@pytest.mark.parametrize("burst", [1, 2, 3, 11])
def test_streamed_text_is_the_decoded_text(tokenizer, burst):
    """Streaming would drop spaces, show half characters, or end otherwise than the answer."""
    for text in (TEXT, " leading", "\n\n- a\n", "☃☃", *SENTENCES[:5]):
        ids = [*tokenizer.encode(text), tokenizer.stop_ids[0]]
        stream = IncrementalDecoder(tokenizer)
        pieces = [stream.push(ids[i : i + burst]) for i in range(0, len(ids), burst)]
        assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces)
        assert "".join(pieces) + stream.flush() == tokenizer.decode(ids)
        assert stream.flush() == ""


def test_half_a_character_waits_and_is_shown_at_the_end(tokenizer):
    """An emoji cut off by max_new_tokens would vanish, or break the terminal in mid-stream."""
    ids = tokenizer.encode("a🙂")
    stream = IncrementalDecoder(tokenizer)
    assert "".join(stream.push([i]) for i in ids[:-1]) == "a"
    assert "\N{REPLACEMENT CHARACTER}" in stream.flush()


def test_streaming_shows_each_word_at_once(tokenizer):
    """Text would arrive late."""
    stream = IncrementalDecoder(tokenizer)
    shown = [stream.push([i]) for i in tokenizer.encode("Mira stood in the harbour")]
    assert all(shown[1:])


def test_chat_template(byte_level_dir):
    """A chat model would be asked in a form that it was not trained on."""
    tokenizer = load_tokenizer(byte_level_dir)
    start = "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.render_chat("Who?") == start
    assert tokenizer.render_chat(BRIEF) == "<|im_start|>system\nBrief.<|im_end|>\n" + start
    assert tokenizer.encode(start, special_tokens=True)[0] == 1


def test_chat_without_template(sentencepiece_dir):
    """A base model would get no beginning-of-sequence token."""
    tokenizer = load_tokenizer(sentencepiece_dir)
    assert tokenizer.render_chat("Who?") == "<s>Who?"
    assert tokenizer.render_chat(BRIEF) == "<s>Brief.\n\nWho?"
    assert tokenizer.encode("<s>Who?", special_tokens=True)[0] == tokenizer.bos_id == 1


def test_chat_template_that_refuses(byte_level_dir):
    tokenizer = load_tokenizer(byte_level_dir)
    tokenizer.hf.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(ValueError, match="the chat template refused the messages: no system role"):
        tokenizer.render_chat(BRIEF)


def test_stop_ids_are_gathered(byte_level_dir, sentencepiece_dir):
    """An instruction-tuned model, whose end-of-turn id is in generation_config.json alone, would never stop."""
    assert load_tokenizer(byte_level_dir).stop_ids == (0, 2)
    assert load_tokenizer(sentencepiece_dir).stop_ids == (2,)


def test_vocabularies(byte_level_dir, sentencepiece_dir, tmp_path):
    """A drafter with other ids would propose other words than it means."""
    tokenizer = load_tokenizer(byte_level_dir)
    assert same_vocabulary(tokenizer, load_tokenizer(byte_level_dir)) is None
    reason = same_vocabulary(tokenizer, load_tokenizer(sentencepiece_dir))
    assert "tokens differ, the first is '<|endoftext|>': id 0 and absent" in reason
    larger = load_tokenizer(byte_level_dir)
    larger.hf.add_tokens(["<|extra|>"])
    assert larger.vocab_size == tokenizer.vocab_size + 1
    assert same_vocabulary(tokenizer, larger) == f"vocabularies have {len(tokenizer.hf)} and {len(larger.hf)} tokens"
    assert "'<|extra|>'" in same_vocabulary(larger, tokenizer)


def test_fingerprints_tell_vocabularies_apart(byte_level_dir, sentencepiece_dir):
    """What was stored as ids must not be read with another tokenizer's; where it was loaded from does not matter."""
    tokenizer = load_tokenizer(byte_level_dir)
    assert load_tokenizer(byte_level_dir).fingerprint == tokenizer.fingerprint
    larger = load_tokenizer(byte_level_dir)
    larger.hf.add_tokens(["<|extra|>"])
    assert len({tokenizer.fingerprint, larger.fingerprint, load_tokenizer(sentencepiece_dir).fingerprint}) == 3


def test_unigram_model_that_transformers_would_misread(tmp_path):
    """A SentencePiece unigram model would be split as if it were byte-pair encoding."""
    with pytest.raises(
        ValueError, match=r"is split otherwise by transformers than by sentencepiece; add a tokenizer.js"
    ):
        load_tokenizer(train_sentencepiece(tmp_path / "unigram", "unigram"))


def test_directory_without_tokenizer(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no tokenizer; it needs one of tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_broken_tokenizer_file(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    write_json(tmp_path / "config.json", {"model_type": "llama"})
    with pytest.raises(ValueError, match="the tokenizer cannot be read") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
