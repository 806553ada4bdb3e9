"""What the retriever does with a document: embedder, chunk size, threshold, length of the retrieved context."""

from __future__ import annotations

import dataclasses

from models.fields import shown
from rapid_jax.config.checks import is_integer, is_number, require

HASHING = "hashing"
ENCODER = "encoder"
BELOW_THRESHOLD = ("best", "empty")
COUNT_FROM = ("retrieved", "truncated")
MIN_CHUNK_TOKENS = 16
MAX_CHUNK_TOKENS = 2**20
MAX_CHUNKS = 2**20
MAX_PROMPT_CHARACTERS = 10_000


def parse_embedder(spec: str) -> tuple[str, str]:
    """Splits an embedder's specification into (kind, path); the path is empty for `hashing`.

    Raises:
      ValueError: `spec` is neither "hashing" nor "encoder:<path>".
    """
    kind, _, path = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    if spec == HASHING or (kind == ENCODER and path and not {"\n", "\0"} & set(path)):
        return kind, path
    raise ValueError(
        f"unknown embedder {shown(spec)}: known are {HASHING!r} and '{ENCODER}:<path of a sentence encoder>'"
    )


@dataclasses.dataclass(frozen=True)
class RetrievalConfig:
    """Settings of the retrieved context C^S (RAPID, arXiv 2502.20330, section 4.1).

    Attributes:
      embedder: "hashing" (lexical, no weights) or "encoder:<path>" (a BERT or XLM-RoBERTa sentence encoder).
      query_prompt, passage_prompt: text before each question and each chunk that a sentence encoder reads, such as
        "query: "; None takes the checkpoint's own, "" is none.
      chunk_tokens: tokens a chunk may hold, counted with the target's tokenizer, from 16 to 2**20.
      threshold: lowest cosine of question and chunk that is kept; None takes the embedder's own for the document
        (`EmbeddedChunks.default_threshold`).
      below_threshold: what is retrieved where no chunk reaches the threshold, "best" (the best chunk all the same) or
        "empty" (nothing, as in the published evaluation of RAPID).
      max_chunks: chunks to keep, from 1 to 2**20; None computes the number from the document's length
        (`retriever.num_chunks`).
      from_truncated: retrieve from the document as truncated to the target's limit, so that the drafter never
        reads what the target cannot; False retrieves from the whole document.
      count_from: the length that the number of chunks is computed from, of the text that is retrieved from
        ("retrieved") or of the document as truncated to the target's limit ("truncated"). They differ only where
        from_truncated is False.

    Raises:
      ValueError: a field is out of range.
    """

    embedder: str = HASHING
    query_prompt: str | None = None
    passage_prompt: str | None = None
    chunk_tokens: int = 512
    threshold: float | None = None
    below_threshold: str = "best"
    max_chunks: int | None = None
    from_truncated: bool = True
    count_from: str = "retrieved"

    def __post_init__(self) -> None:
        require(isinstance(self.embedder, str), f"embedder must be a string, got {shown(self.embedder)}")
        kind, _ = parse_embedder(self.embedder)
        for name in ("query_prompt", "passage_prompt"):
            value = getattr(self, name)
            require(
                value is None or (isinstance(value, str) and len(value) <= MAX_PROMPT_CHARACTERS),
                f"{name} must be a text of at most {MAX_PROMPT_CHARACTERS} characters or None, got {shown(value)}",
            )
            require(
                not value or kind == ENCODER, f"{name} {shown(value)} needs a sentence encoder: embedder=encoder:<path>"
            )
        require(
            is_integer(self.chunk_tokens) and MIN_CHUNK_TOKENS <= self.chunk_tokens <= MAX_CHUNK_TOKENS,
            f"chunk_tokens must be at least {MIN_CHUNK_TOKENS} and at most {MAX_CHUNK_TOKENS} tokens, got "
            f"{shown(self.chunk_tokens)}",
        )
        require(
            self.threshold is None or (is_number(self.threshold) and -1 <= self.threshold <= 1),
            f"threshold must be a cosine in [-1, 1] or None, got {shown(self.threshold)}",
        )
        require(
            self.max_chunks is None or (is_integer(self.max_chunks) and 1 <= self.max_chunks <= MAX_CHUNKS),
            f"max_chunks must be at least 1 and at most {MAX_CHUNKS}, or None, got {shown(self.max_chunks)}",
        )
        require(
            isinstance(self.from_truncated, bool),
            f"from_truncated must be True or False, got {shown(self.from_truncated)}",
        )
        for name, known in (("below_threshold", BELOW_THRESHOLD), ("count_from", COUNT_FROM)):
            value = getattr(self, name)
            require(
                isinstance(value, str) and value in known,
                f"{name} must be one of {', '.join(known)}, got {shown(value)}",
            )
