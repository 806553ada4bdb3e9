"""From a document and a question to the retrieved context that the drafter reads (RAPID, arXiv 2502.20330)."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

from rapid_jax.config import retrieval as config_lib
from rapid_jax.retrieval import chunking, embedding
from rapid_jax.retrieval import index as index_lib

_DOCUMENT_SHARE = 24
_MIN_RETRIEVED_TOKENS = 4096


@dataclasses.dataclass(frozen=True)
class Passage:
    """A chunk that was retrieved: `document[start:end] == text`.

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
        passages: the passages in document order, at least one.
        below_threshold: no chunk reached the threshold; the best one was kept all the same.
        num_tokens: tokens of `text`, without special tokens.
    """

    text: str
    passages: tuple[Passage, ...]
    below_threshold: bool
    num_tokens: int


def num_chunks(document_tokens: int, chunk_tokens: int = 512) -> int:
    """Chunks to retrieve: ceil(max(L/24, min(4096, L)) / chunk_tokens) for a document of L tokens."""
    tokens = max(document_tokens / _DOCUMENT_SHARE, min(_MIN_RETRIEVED_TOKENS, document_tokens))
    return math.ceil(tokens / chunk_tokens)


class Retriever:
    """Indexes documents.

    Args:
        tokenizer: the target's; counts the tokens of chunks (see `chunking.Chunker`).
        embedder: from `embedding.make_embedder(config.embedder)`.
        config: chunk size, threshold and number of chunks.
    """

    def __init__(self, tokenizer: Any, embedder: embedding.Embedder, config: config_lib.RetrievalConfig):
        self._chunker = chunking.Chunker(tokenizer, config.chunk_tokens)
        self._embedder = embedder
        self._config = config

    def index(self, document: str) -> "IndexedDocument":
        """Chunks and embeds a document, once for all its questions.

        Raises:
            ValueError: the document is empty.
        """
        if not document.strip():
            raise ValueError("the document is empty: there is nothing to retrieve from")
        chunks = self._chunker.split(document)
        embedded = self._embedder.embed_chunks([chunk.text for chunk in chunks])
        config = self._config
        length_rule = num_chunks(sum(chunk.num_tokens for chunk in chunks), config.chunk_tokens)
        return IndexedDocument(
            chunker=self._chunker,
            chunks=chunks,
            embedded=embedded,
            threshold=self._embedder.default_threshold if config.threshold is None else config.threshold,
            max_chunks=config.max_chunks or length_rule,
        )


class IndexedDocument:
    """A document whose chunks are embedded; made by `Retriever.index`.

    Attributes:
        chunks: all chunks in document order.
    """

    def __init__(
        self,
        *,
        chunker: chunking.Chunker,
        chunks: Sequence[chunking.Chunk],
        embedded: embedding.EmbeddedChunks,
        threshold: float,
        max_chunks: int,
    ):
        self.chunks = tuple(chunks)
        self._chunker = chunker
        self._embedded = embedded
        self._index = index_lib.InnerProductIndex(embedded.vectors)
        self._threshold = threshold
        self._max_chunks = max_chunks

    def retrieve(self, question: str, *, max_chunks: int | None = None) -> RetrievedContext:
        """The best chunks for a question.

        Args:
            question: the question alone, without answer choices.
            max_chunks: chunks to keep; None takes the config's number.

        Raises:
            ValueError: the question is empty or `max_chunks` is below 1.
        """
        if not question.strip():
            raise ValueError("the question is empty: retrieval needs its words")
        k = self._max_chunks if max_chunks is None else max_chunks
        if k < 1:
            raise ValueError(f"max_chunks is {k}: it must be at least 1")
        scores, indices = self._index.search(self._embedded.embed_query(question), k)
        below_threshold = bool(scores[0] < self._threshold)
        kept = 1 if below_threshold else int((scores >= self._threshold).sum())
        passages = tuple(
            Passage(**dataclasses.asdict(self.chunks[index]), score=float(score))
            for index, score in sorted(zip(indices[:kept].tolist(), scores[:kept].tolist(), strict=True))
        )
        text = _join(passages)
        return RetrievedContext(text, passages, below_threshold, self._chunker.count_tokens(text))


def _join(passages: Sequence[Passage]) -> str:
    """Texts in document order, neighbours seamlessly, others with a blank line between."""
    text = passages[0].text
    for previous, passage in itertools.pairwise(passages):
        if previous.end == passage.start:
            text += passage.text
        else:
            text = text.rstrip() + "\n\n" + passage.text.lstrip()
    return text
