"""The tokenizer: text must come back as it was, and names must be single tokens, or nothing can be looked up."""

import pytest
import sentencepiece
from transformers import AutoTokenizer

from rapid_jax.evaluation import archive_text as text
from rapid_jax.evaluation.archive import make_archive
from rapid_jax.training.recipe import VOCAB_SIZE
from rapid_jax.training.tokenizer import save_tokenizer, train_sentencepiece

TEXTS = [
    make_archive(300, 7, lambda part: len(part.split())).document,
    "  two  spaces,\ttab\r\n\n\n \u00e9\u00e8 \u6f22\u5b57 \U0001f600 end ",
    "digits 1234567890 and CamelCase_words; {code} <tags>",
    "",
    " ",
    "\n\n",
    "x" * 60,
]


@pytest.fixture(scope="module")
def model():
    return train_sentencepiece(VOCAB_SIZE)


@pytest.fixture(scope="module")
def tokenizer(model, tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(model, directory, 131_072)
    return AutoTokenizer.from_pretrained(directory)


@pytest.mark.parametrize("original", TEXTS)
def test_any_text_comes_back_exactly(tokenizer, original):
    assert tokenizer.decode(tokenizer.encode(original, add_special_tokens=False)) == original


@pytest.mark.parametrize("original", TEXTS)
def test_sentencepiece_and_transformers_give_the_same_ids(model, tokenizer, original):
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert tokenizer.encode(original, add_special_tokens=False) == pieces.encode(original)


def test_the_vocabulary_fits_the_model(tokenizer):
    assert len(tokenizer) <= VOCAB_SIZE


def test_every_name_and_value_is_one_token_within_a_sentence(tokenizer):
    words = text.FIRST_NAMES + text.SURNAMES + text.TOWNS + text.VESSELS + text.MATERIALS + text.THINGS
    words += tuple(v for a in text.PERSON_ATTRIBUTES + text.TOWN_ATTRIBUTES for v in a.values)
    split = [word for word in words if len(tokenizer.encode(" " + word, add_special_tokens=False)) != 1]
    assert split == []


def test_bos_comes_first_and_once(tokenizer):
    assert tokenizer.encode("The tide")[0] == tokenizer.bos_token_id == 1
    assert tokenizer.encode("The tide").count(1) == 1
    assert tokenizer.eos_token_id == 2


def test_chat_template_puts_the_question_after_the_document_and_then_the_answer_mark(tokenizer):
    turns = [{"role": "user", "content": "The document.\n\nWho?"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False) == "<s>The document.\n\nWho?<answer>"
    turns += [{"role": "assistant", "content": "Nobody"}, {"role": "user", "content": "Why?"}]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False)
    assert rendered == "<s>The document.\n\nWho?<answer> Nobody</s>\n\nWhy?<answer>"


def test_a_document_split_at_its_end_tokenises_as_a_whole_one(tokenizer):
    """The document is prefilled apart from the question; the ids must not depend on where it was cut."""

    def encode(part):
        return tokenizer.encode(part, add_special_tokens=False)

    document, question = TEXTS[0], "\n\nWhat does Mirel Tavos play?<answer>"
    assert encode(document) + encode(question) == encode(document + question)
