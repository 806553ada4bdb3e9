"""Retrieval on the host: document -> chunks -> vectors -> the passages that a question needs."""

from rapid_jax.config.retrieval import RetrievalConfig
from rapid_jax.retrieval.chunking import Chunk, Chunker, split
from rapid_jax.retrieval.embedding import EmbeddedChunks, Embedder, make_embedder
from rapid_jax.retrieval.retriever import IndexedDocument, KnownIndex, Passage, RetrievedContext, Retriever, num_chunks

__all__ = [
    "Chunk",
    "Chunker",
    "EmbeddedChunks",
    "Embedder",
    "IndexedDocument",
    "KnownIndex",
    "Passage",
    "RetrievalConfig",
    "RetrievedContext",
    "Retriever",
    "make_embedder",
    "num_chunks",
    "split",
]
