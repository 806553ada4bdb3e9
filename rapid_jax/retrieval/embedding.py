"""Embedders: a document's chunks and a question as vectors whose inner product is their cosine."""

import functools
import re
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rapid_jax.config import retrieval as config_lib
from rapid_jax.retrieval import thresholds

if TYPE_CHECKING:
    from models.encoder import SentenceEncoder

_WORD = re.compile(r"\w+")
_GRAM_SIZES = (3, 4, 5)
_GRAM_WEIGHT = 0.3  # a word of usual length has about 1/0.3**2 character n-grams: together they weigh what it does
_GRAM = 1 << 32  # set in the ids of character n-grams
_SIGN = 1 << 31
_PAIR_MULTIPLIER = np.uint64(2654435761)
_UINT32 = np.uint64(0xFFFFFFFF)


class EmbeddedChunks(Protocol):
    """The chunks of one document as vectors.

    Attributes:
      vectors: float32 [chunks, dim], unit norm; zero for a chunk without words.
      costly: whether making them takes long enough to keep them.
    """

    vectors: np.ndarray
    costly: bool

    @property
    def default_threshold(self) -> float:
        """Cosine of question and chunk below which a chunk counts as unrelated."""

    def embed_query(self, question: str) -> np.ndarray:
        """The question among the chunks: float32 [dim], whose inner product with a chunk is their cosine."""


class Embedder(Protocol):
    """Makes vectors of texts.

    Attributes:
      settings: what is recorded of it beside its name.
    """

    settings: dict[str, Any]

    def embed_chunks(self, chunks: Sequence[str], vectors: np.ndarray | None = None) -> EmbeddedChunks:
        """Embeds all chunks of one document, at least one; `vectors` are those of an earlier call with them."""


def make_embedder(config: config_lib.RetrievalConfig) -> Embedder:
    """The embedder that the configuration names, with its prompts.

    Raises:
      ValueError: the encoder's checkpoint does not fit.
      FileNotFoundError: the encoder's directory or a file of it is missing.
    """
    kind, path = config_lib.parse_embedder(config.embedder)
    if kind == config_lib.HASHING:
        return HashingEmbedder()
    from models.encoder import load_encoder  # brings JAX, which configurations and lexical retrieval do without

    return EncoderEmbedder(load_encoder(path), config.query_prompt, config.passage_prompt)


class HashingEmbedder:
    """Lexical vectors without weights: words, pairs of neighbouring words, and character 3- to 5-grams of words.

    A feature weighs (1 + ln tf) * idf, where idf = ln(1 + (n - df + 1/2) / (df + 1/2)) is BM25's over the n chunks of
    the document, and is added with a random sign to one of `dim` buckets (feature hashing, arXiv 0902.2206): inner
    products stay unbiased with an error of about 1/sqrt(dim). Pairs find names of two words whose words are shared
    with other names; character n-grams find inflected and misspelt words.

    A short question has few of a chunk's many features, so cosines are small: on archives of 2K to 32K tokens in chunks
    of 512, the chunk with the answer reached 0.03 to 0.05 (median) and 0.007 or more in 95 of 100 questions, the best
    chunk for an unrelated question 0.005 to 0.007 (median). The threshold prefers a chunk too many to the answer lost.
    """

    def __init__(self, dim: int = 8192):
        self.settings: dict[str, Any] = {}
        self._dim = dim

    def embed_chunks(self, chunks: Sequence[str], vectors: np.ndarray | None = None) -> "HashedChunks":
        return HashedChunks(chunks, self._dim)


class HashedChunks:
    """The chunks of one document as hashed features; see `HashingEmbedder`."""

    default_threshold = 0.006
    costly = False

    def __init__(self, chunks: Sequence[str], dim: int):
        self._dim = dim
        self._num_chunks = len(chunks)
        self._word_features: dict[str, list[int]] = {}
        counted = [self._count(chunk) for chunk in chunks]
        self._known, self._df = np.unique(np.concatenate([features for features, _ in counted]), return_counts=True)
        self.vectors = np.stack([self._vector(features, tf) for features, tf in counted])

    def embed_query(self, question: str) -> np.ndarray:
        """The question as a vector [dim]. Features that no chunk has take part in its norm only."""
        return self._vector(*self._count(question))

    def _count(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Distinct features of a text and how often each occurs: [n], [n]."""
        words = _WORD.findall(text.casefold())
        for word in set(words).difference(self._word_features):
            self._word_features[word] = _word_features(word)
        per_word = [self._word_features[word] for word in words]
        heads = np.array([features[0] for features in per_word], np.uint64)
        pairs = (heads[:-1] * _PAIR_MULTIPLIER + heads[1:]) & _UINT32
        singles = np.array([feature for features in per_word for feature in features], np.int64)
        return np.unique(np.concatenate([singles, pairs.astype(np.int64)]), return_counts=True)

    def _vector(self, features: np.ndarray, tf: np.ndarray) -> np.ndarray:
        """Weighs features [n] of frequencies [n] and hashes them into a vector [dim]; the zero vector where n is 0."""
        if not len(features) or not len(self._known):  # no word in the text, or in any chunk
            return np.zeros(self._dim, np.float32)
        at = np.searchsorted(self._known, features).clip(max=len(self._known) - 1)
        df = np.where(self._known[at] == features, self._df[at], 0)
        idf = np.log1p((self._num_chunks - df + 0.5) / (df + 0.5))
        weights = (1 + np.log(tf)) * idf * np.where(features & _GRAM, _GRAM_WEIGHT, 1.0)
        norm = np.linalg.norm(weights)
        weights *= np.where(df > 0, 1.0, 0.0) * np.where(features & _SIGN, -1.0, 1.0)
        vector = np.bincount(features % self._dim, weights, minlength=self._dim)
        return (vector / max(norm, np.finfo(np.float32).tiny)).astype(np.float32)


class EncoderEmbedder:
    """Vectors of a sentence encoder, scaled to unit norm.

    Args:
      encoder: reads a chunk of any length, in windows where it must (`SentenceEncoder.encode`).
      query_prompt, passage_prompt: text before each question and each chunk; None takes the checkpoint's own.
    """

    def __init__(self, encoder: "SentenceEncoder", query_prompt: str | None = None, passage_prompt: str | None = None):
        own = encoder.config
        self.settings: dict[str, Any] = {
            "query_prompt": own.query_prompt if query_prompt is None else query_prompt,
            "passage_prompt": own.passage_prompt if passage_prompt is None else passage_prompt,
        }
        self._encoder = encoder
        for prompt in self.settings.values():  # a prompt that leaves no room is found before a document is read
            encoder.check_prompt(prompt)

    def embed_chunks(self, chunks: Sequence[str], vectors: np.ndarray | None = None) -> "EncodedChunks":
        return EncodedChunks(chunks, self._encoder, vectors, **self.settings)


class EncodedChunks:
    """The chunks of one document as a sentence encoder sees them, under its prompts."""

    costly = True

    def __init__(
        self,
        chunks: Sequence[str],
        encoder: "SentenceEncoder",
        vectors: np.ndarray | None,
        query_prompt: str,
        passage_prompt: str,
    ):
        self._encoder = encoder
        self._query_prompt = query_prompt
        own = encoder.config
        self._own_prompts = (query_prompt, passage_prompt) == (own.query_prompt, own.passage_prompt)
        self.vectors = _unit(encoder.encode(list(chunks), prompt=passage_prompt)) if vectors is None else vectors

    @functools.cached_property
    def default_threshold(self) -> float:
        """A published encoder's threshold under its own prompts, else calibrated on the document; see `thresholds`."""
        known = thresholds.known_threshold(self._encoder.config) if self._own_prompts else None
        if known is not None:
            return known
        probes = _unit(self._encoder.encode(thresholds.PROBES, prompt=self._query_prompt))
        return thresholds.calibrated_threshold(probes @ self.vectors.T)

    def embed_query(self, question: str) -> np.ndarray:
        """The question as a unit vector [dim]."""
        return _unit(self._encoder.encode([question], prompt=self._query_prompt))[0]


def _word_features(word: str) -> list[int]:
    """Ids of a word, first, and of its character n-grams with the word's ends marked."""
    marked = f" {word} "
    grams = (marked[i : i + n] for n in _GRAM_SIZES for i in range(len(marked) - n + 1))
    return [zlib.crc32(word.encode()), *(_GRAM | zlib.crc32(gram.encode()) for gram in grams)]


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Scales rows [n, dim] to unit norm."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), np.finfo(np.float32).tiny)
