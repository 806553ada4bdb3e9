"""What the retriever does with a document: embedder, chunk size, threshold, length of the retrieved context."""

import dataclasses

HASHING = "hashing"
ENCODER = "encoder"
MIN_CHUNK_TOKENS = 16


def parse_embedder(spec: str) -> tuple[str, str]:
    """Splits an embedder's specification into (kind, path); the path is empty for `hashing`.

    Raises:
        ValueError: `spec` is neither "hashing" nor "encoder:<path>".
    """
    kind, _, path = spec.partition(":")
    if spec == HASHING or (kind == ENCODER and path):
        return kind, path
    raise ValueError(f"unknown embedder {spec!r}: known are {HASHING!r} and '{ENCODER}:<path of a sentence encoder>'")


@dataclasses.dataclass(frozen=True)
class RetrievalConfig:
    """Settings of the retrieved context C^S (RAPID, arXiv 2502.20330, section 4.1).

    Attributes:
        embedder: "hashing" (lexical, no weights) or "encoder:<path>" (a BERT or XLM-RoBERTa sentence encoder).
        chunk_tokens: tokens a chunk may hold, counted with the target's tokenizer.
        threshold: lowest cosine of question and chunk that is kept; None takes the embedder's own
            (`Embedder.default_threshold`).
        max_chunks: chunks to keep; None takes the length rule (`retriever.num_chunks`).
        from_truncated: retrieve from the document as truncated to the target's limit, so that the drafter never
            reads what the target cannot; False retrieves from the whole document.

    Raises:
        ValueError: a field is out of range.
    """

    embedder: str = HASHING
    chunk_tokens: int = 512
    threshold: float | None = None
    max_chunks: int | None = None
    from_truncated: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.embedder, str):
            raise ValueError(f"embedder must be a string, got {self.embedder!r}")
        parse_embedder(self.embedder)
        if not isinstance(self.chunk_tokens, int) or self.chunk_tokens < MIN_CHUNK_TOKENS:
            raise ValueError(f"chunk_tokens must be at least {MIN_CHUNK_TOKENS} tokens, got {self.chunk_tokens}")
        if self.threshold is not None and not (isinstance(self.threshold, int | float) and -1 <= self.threshold <= 1):
            raise ValueError(f"threshold must be a cosine in [-1, 1] or None, got {self.threshold}")
        if self.max_chunks is not None and not (isinstance(self.max_chunks, int) and self.max_chunks >= 1):
            raise ValueError(f"max_chunks must be at least 1 or None, got {self.max_chunks}")
