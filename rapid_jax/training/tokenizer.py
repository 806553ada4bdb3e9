"""The tokenizer of the embedded model: SentencePiece unigram pieces, saved for Hugging Face's tokenizers as well.

Every made-up name is one piece, digits stand alone, newlines and unknown characters fall back to bytes, and nothing is
normalised, so that any text comes back exactly as it went in.
"""

import io
import math
import re
import string
from collections import Counter
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from models.transformers_import import PreTrainedTokenizerFast
from rapid_jax.evaluation import archive_text
from rapid_jax.evaluation.archive import make_archive, with_choices

BOS, EOS, UNK, ANSWER = "<s>", "</s>", "<unk>", "<answer>"
_SPACE = "\u2581"
_LEAST_SHARE = (
    1e-3  # a whole word counts as at least this frequent, so that a rare name is not split into common pieces
)
_WORD = re.compile(f"{_SPACE}?[A-Za-z]+")

# A user message is "{document}\n\n{question}"; after an answer the next question follows as a new paragraph.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    "{% else %}{% if not loop.first %}{{ '\n\n' }}{% endif %}{{ message['content'] + '<answer>' }}{% endif %}"
    "{% endfor %}"
)


def train_sentencepiece(vocab_size: int, seed: int = 0) -> bytes:
    """Train on generated archives and return the serialised SentencePiece model of about `vocab_size` pieces or fewer.

    Sub-word pieces come from SentencePiece's unigram training; then every whole word of the archives, names included,
    joins as a piece of its own with its log frequency as score, so that a name or a value is one token.
    """
    lines = _training_lines(seed)
    counts = Counter(word for line in lines for word in _WORD.findall(_SPACE.join(line.split(" "))))
    for group in (archive_text.FIRST_NAMES, archive_text.SURNAMES, archive_text.TOWNS, archive_text.VESSELS):
        counts.update(_SPACE + name for name in group)
    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=writer,
        model_type="unigram",
        vocab_size=vocab_size - len(counts),
        hard_vocab_limit=False,
        byte_fallback=True,
        split_digits=True,
        character_coverage=1.0,
        required_chars=string.ascii_letters + string.digits + string.punctuation,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        control_symbols=[ANSWER],
        unk_piece=UNK,
        bos_piece=BOS,
        eos_piece=EOS,
        num_threads=2,
        minloglevel=2,
    )
    model = sentencepiece_model_pb2.ModelProto.FromString(writer.getvalue())
    present = {piece.piece: piece for piece in model.pieces}
    total = sum(counts.values())
    for word, count in sorted(counts.items()):
        piece = present.get(word) or model.pieces.add(piece=word)
        piece.score = math.log(max(count / total, _LEAST_SHARE))
    return model.SerializeToString()


def _training_lines(seed: int) -> list[str]:
    lines = []
    for offset in range(10):
        archive = make_archive(20_000, seed + offset, lambda part: len(part.split()))
        lines += archive.document.split("\n")
        lines += [line for question in archive.questions for line in with_choices(question).split("\n")]
        lines += [" " + q.working + q.answer for q in archive.questions if q.task != "dossier"]
    return [line for line in lines if line]


def to_transformers(model: bytes, max_length: int) -> PreTrainedTokenizerFast:
    """The same tokenizer for Hugging Face: it puts BOS in front and knows the chat template of the archive."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    vocabulary = [(piece.piece, piece.score) for piece in proto.pieces]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme="never", split=True)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in (UNK, BOS, EOS, ANSWER)])
    bos_id = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, bos_id)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=max_length,
    )


def save_tokenizer(model: bytes, directory: Path, max_length: int) -> None:
    """Write tokenizer.model, tokenizer.json, tokenizer_config.json and the chat template."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.model").write_bytes(model)
    to_transformers(model, max_length).save_pretrained(directory)
