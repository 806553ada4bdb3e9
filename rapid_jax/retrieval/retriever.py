"""From a document and a question to the retrieved context that the drafter reads (RAPID, arXiv 2502.20330)."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from rapid_jax.config import retrieval as config_lib
from rapid_jax.config.checks import is_integer
from rapid_jax.retrieval import chunking, embedding
from rapid_jax.retrieval import index as index_lib

_DOCUMENT_SHARE = 24
_MIN_RETRIEVED_TOKENS = 4096


@dataclasses.dataclass(frozen=True)
class Passage:
    """A chunk that was retrieved: `document[start:end] == text`, but that U+FFFD stands for a lone surrogate.

    Attributes:
      text: the characters.
      start: offset of the first character in the document.
      end: offset behind the last character.
      num_tokens: tokens of `text` alone, without special tokens.
      score: cosine of question and chunk.
    """

    text: str
    start: int
    end: int
    num_tokens: int
    score: float


@dataclasses.dataclass(frozen=True)
class RetrievedContext:
    """The retrieved context C^S of one question.

    Attributes:
      text: the passages joined in document order; a blank line stands where text was left out between them.
      passages: the passages in document order. There are none, and `text` is "", where no chunk reached the
        threshold and the config's `below_threshold` is "empty".
      below_threshold: no chunk reached the threshold.
      num_tokens: tokens of `text`, without special tokens.
    """

    text: str
    passages: tuple[Passage, ...]
    below_threshold: bool
    num_tokens: int


def num_chunks(document_tokens: int, chunk_tokens: int = 512) -> int:
    """Chunks to retrieve: ceil(max(L/24, min(4096, L)) / chunk_tokens) for a document of L tokens, at least 1."""
    tokens = max(document_tokens / _DOCUMENT_SHARE, min(_MIN_RETRIEVED_TOKENS, document_tokens))
    return max(math.ceil(tokens / chunk_tokens), 1)


class Retriever:
    """Indexes documents.

    Args:
      tokenizer: the target's; counts the tokens of chunks (see `chunking.Chunker`).
      embedder: from `embedding.make_embedder(config)`.
      config: chunk size, threshold and number of chunks.
    """

    def __init__(self, tokenizer: Any, embedder: embedding.Embedder, config: config_lib.RetrievalConfig):
        self._chunker = chunking.Chunker(tokenizer, config.chunk_tokens)
        self._embedder = embedder
        self._config = config

    def index(
        self, document: str, *, truncated_tokens: int | None = None, known: "KnownIndex | None" = None
    ) -> "IndexedDocument":
        """Chunks and embeds a document, once for all its questions.

        Args:
          document: what passages come from.
          truncated_tokens: tokens of the document as truncated to the target's limit, which the number of chunks is
          computed from where the config's `count_from` is "truncated"; None where nothing was truncated.
          known: what an earlier index of the same document, with the same settings, has left.

        Raises:
          ValueError: the document is empty or no text.
        """
        if not isinstance(document, str):
            raise ValueError(f"the document must be a text, got {type(document).__name__}")
        if not document.strip():
            raise ValueError("the document is empty: there is nothing to retrieve from")
        config = self._config
        if known is None:
            chunks = self._chunker.split(document)
        else:
            chunks = [chunking.Chunk(document[a:b], a, b, tokens) for a, b, tokens in known.bounds.tolist()]
        vectors = None if known is None else known.vectors
        embedded = self._embedder.embed_chunks([chunk.text for chunk in chunks], vectors)
        tokens = sum(chunk.num_tokens for chunk in chunks)
        if config.count_from == "truncated" and truncated_tokens is not None:
            tokens = min(tokens, truncated_tokens)
        resolved = dict(
            self._embedder.settings,
            threshold=embedded.default_threshold if config.threshold is None else config.threshold,
            max_chunks=config.max_chunks or num_chunks(tokens, config.chunk_tokens),
        )
        return IndexedDocument(
            chunker=self._chunker,
            chunks=chunks,
            embedded=embedded,
            settings=dataclasses.asdict(config) | resolved,
        )


@dataclasses.dataclass(frozen=True)
class KnownIndex:
    """What of an index is worth keeping.

    Attributes:
      bounds: int32 [chunks, 3], each one's first character, the one behind its last, and its tokens.
      vectors: float32 [chunks, dim]; None where they are quickly made again.
    """

    bounds: np.ndarray
    vectors: np.ndarray | None


class IndexedDocument:
    """A document whose chunks are embedded; made by `Retriever.index`.

    Attributes:
      chunks: all chunks in document order.
      settings: the RetrievalConfig that was in force, with the prompts, threshold and number of chunks that came of
          its None.
    """

    def __init__(
        self,
        *,
        chunker: chunking.Chunker,
        chunks: Sequence[chunking.Chunk],
        embedded: embedding.EmbeddedChunks,
        settings: dict[str, Any],
    ):
        self.chunks = tuple(chunks)
        self.settings = settings
        self._chunker = chunker
        self._embedded = embedded
        self._index = index_lib.InnerProductIndex(embedded.vectors)

    @property
    def known(self) -> KnownIndex:
        """What another index of this document is quickly made of."""
        bounds = np.asarray([(chunk.start, chunk.end, chunk.num_tokens) for chunk in self.chunks], np.int32)
        return KnownIndex(bounds, self._embedded.vectors if self._embedded.costly else None)

    def retrieve(self, question: str, *, max_chunks: int | None = None) -> RetrievedContext:
        """The best chunks for a question.

        Args:
          question: the question alone, without answer choices.
          max_chunks: chunks to keep; None takes the config's number.

        Raises:
          ValueError: the question is empty or no text, or `max_chunks` is no whole number of at least 1.
        """
        if not isinstance(question, str):
            raise ValueError(f"the question must be a text, got {type(question).__name__}")
        if not question.strip():
            raise ValueError("the question is empty: retrieval needs its words")
        k = self.settings["max_chunks"] if max_chunks is None else max_chunks
        if not is_integer(k) or k < 1:
            raise ValueError(f"max_chunks is {k!r}: it must be a whole number of at least 1")
        threshold = self.settings["threshold"]
        scores, indices = self._index.search(self._embedded.embed_query(question), k)
        kept = int((scores >= threshold).sum())
        below_threshold = not kept
        if below_threshold and self.settings["below_threshold"] == "best":
            kept = 1
        passages = tuple(
            Passage(**dataclasses.asdict(self.chunks[index]), score=float(score))
            for index, score in sorted(zip(indices[:kept].tolist(), scores[:kept].tolist(), strict=True))
        )
        text = _join(passages)
        return RetrievedContext(text, passages, below_threshold, self._chunker.count_tokens(text))


def _join(passages: Sequence[Passage]) -> str:
    """Texts in document order, neighbours seamlessly, others with a blank line between."""
    text = passages[0].text if passages else ""
    for previous, passage in itertools.pairwise(passages):
        if previous.end == passage.start:
            text += passage.text
        else:
            text = text.rstrip() + "\n\n" + passage.text.lstrip()
    return text
